package provider

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestAWishThatCannotBeMet(t *testing.T) {
	tests := []struct {
		name   string
		option option
		says   []string
	}{
		{"an address outside every pool", annotate("clarion.dev/addresses", "203.0.113.9"), []string{"False OutsidePools", "203.0.113.9"}},
		{"an address that is taken", annotate("metallb.io/loadBalancerIPs", "192.0.2.200"), []string{"False Taken", "192.0.2.200", "shop/web"}},
		{"a malformed address", annotate("kube-vip.io/loadbalancerIPs", "192.0.2.2oo"), []string{"False Malformed", "kube-vip.io/loadbalancerIPs", `"192.0.2.2oo"`}},
		{"a malformed loadBalancerIP", func(svc *v1.Service) { svc.Spec.LoadBalancerIP = "any" }, []string{"False Malformed", "spec.loadBalancerIP", `"any"`}},
		{"a pool that does not exist", annotate("clarion.dev/pool", "publik"), []string{"False NoSuchPool", "publik"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newAPI()
			setPools(a, "default", pool8)
			one := lead(t, a, "one")
			gets(t, a, create(a, "web"), "192.0.2.200")
			key := create(a, "wish", tt.option)
			says(t, a, key, tt.says...)
			if got := statusOf(a, key); got != "" || hasFinalizer(a, key) {
				t.Errorf("it has %q", got)
			}
			gets(t, a, create(a, "later"), "192.0.2.201") // all others go on
			settled(t, a, one)
			eventually(t, "one Event", func() bool { return len(a.eventsOn("wish")) > 0 })
			if events := a.eventsOn("wish"); len(events) != 1 || !strings.HasPrefix(events[0], "Warning ") {
				t.Errorf("Events %q", events)
			}
		})
	}
}

func TestAWishThatCannotBeReadLeavesTheServiceAsItWas(t *testing.T) {
	a := newAPI()
	setPools(a, "default", pool8)
	one := lead(t, a, "one")
	web := create(a, "web")
	gets(t, a, web, "192.0.2.200")
	a.edit(web, annotate("clarion.dev/addresses", "192.0.2.2O5"))
	says(t, a, web, "True Malformed", "keeps 192.0.2.200 from pool default", `"192.0.2.2O5"`)
	a.edit(web, annotate("clarion.dev/addresses", "203.0.113.9"))
	says(t, a, web, "True RequestRefused", "192.0.2.200 from pool default", "203.0.113.9")
	settled(t, a, one)
	if got := statusOf(a, web); got != "192.0.2.200" {
		t.Errorf("it has %q", got)
	}
	a.edit(web, func(svc *v1.Service) { delete(svc.Annotations, "clarion.dev/addresses") })
	says(t, a, web, "True Assigned")
	if events := a.eventsOn("web"); len(events) > 3 {
		t.Errorf("more Events than steps: %q", events)
	}
}

func TestAServiceMovesWhenItAsksTo(t *testing.T) {
	a := newAPI()
	setPools(a, "default", pool8, "public", "198.51.100.0/28")
	one := lead(t, a, "one")
	web := create(a, "web")
	gets(t, a, web, "192.0.2.200")
	full := create(a, "wants-it", annotate("clarion.dev/addresses", "192.0.2.200"))
	says(t, a, full, "False Taken")

	a.edit(web, annotate("clarion.dev/addresses", "192.0.2.205"))
	gets(t, a, web, "192.0.2.205")
	gets(t, a, full, "192.0.2.200") // what it left is given at once
	a.edit(web, func(svc *v1.Service) {
		svc.Annotations = map[string]string{"metallb.universe.tf/address-pool": "public"}
	})
	gets(t, a, web, "198.51.100.0")
	says(t, a, web, "True Assigned: 198.51.100.0 from pool public")
	settled(t, a, one)
	noDoubles(t, a)
	p := one.stats.provider.Load()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.leaving) > 0 {
		t.Errorf("still held back: %v", p.leaving)
	}
}

func TestAWaitingMoveHappensWhenItCan(t *testing.T) {
	a := newAPI()
	setPools(a, "default", pool8)
	one := lead(t, a, "one")
	first := create(a, "first")
	gets(t, a, first, "192.0.2.200")
	second := create(a, "second")
	gets(t, a, second, "192.0.2.201")
	third := create(a, "third", annotate("clarion.dev/addresses", "192.0.2.201"))
	says(t, a, third, "False Taken")

	a.edit(second, annotate("clarion.dev/addresses", "192.0.2.200")) // waits for first, keeps its own
	says(t, a, second, "True RequestRefused", "192.0.2.200")
	a.remove("services", first)
	gets(t, a, second, "192.0.2.200")
	gets(t, a, third, "192.0.2.201") // only once second no longer shows it
	settled(t, a, one)
	noDoubles(t, a)
}

func TestFamilyPolicies(t *testing.T) {
	const v4, v6 = "192.0.2.200-192.0.2.201", "2001:db8:1::200-2001:db8:1::201"
	t.Run("both families in one step", func(t *testing.T) {
		a := newAPI()
		setPools(a, "default", v4+","+v6)
		lead(t, a, "one")
		web := create(a, "web", dualStack(v1.IPFamilyPolicyRequireDualStack))
		gets(t, a, web, "192.0.2.200 2001:db8:1::200")
		if n := a.count("patch services"); n != 1 {
			t.Errorf("%d writes", n)
		}
	})
	t.Run("required: both or none", func(t *testing.T) {
		a := newAPI()
		setPools(a, "default", v4)
		one := lead(t, a, "one")
		web := create(a, "web", dualStack(v1.IPFamilyPolicyRequireDualStack))
		says(t, a, web, "False", "IPv6")
		settled(t, a, one)
		if got := statusOf(a, web); got != "" {
			t.Errorf("it has %q", got)
		}
		setPools(a, "default", v4+","+v6)
		gets(t, a, web, "192.0.2.200 2001:db8:1::200")
	})
	t.Run("preferred: what there is, and the rest later", func(t *testing.T) {
		a := newAPI()
		setPools(a, "default", v4)
		lead(t, a, "one")
		web := create(a, "web", dualStack(v1.IPFamilyPolicyPreferDualStack))
		gets(t, a, web, "192.0.2.200")
		says(t, a, web, "True FamilyMissing", "192.0.2.200 from pool default", "no IPv6 address")
		setPools(a, "default", v4, "six", v6)
		gets(t, a, web, "192.0.2.200 2001:db8:1::200")
		says(t, a, web, "True Assigned: 192.0.2.200 from pool default, 2001:db8:1::200 from pool six")
	})
	t.Run("a living Service changes its policy", func(t *testing.T) {
		a := newAPI()
		setPools(a, "default", v4+","+v6)
		one := lead(t, a, "one")
		web := create(a, "web")
		gets(t, a, web, "192.0.2.200")
		a.edit(web, dualStack(v1.IPFamilyPolicyRequireDualStack))
		gets(t, a, web, "192.0.2.200 2001:db8:1::200")
		a.edit(web, func(svc *v1.Service) {
			single := v1.IPFamilyPolicySingleStack
			svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies = &single, svc.Spec.IPFamilies[:1]
		})
		gets(t, a, web, "192.0.2.200")
		gets(t, a, create(a, "six", func(svc *v1.Service) { svc.Spec.IPFamilies = []v1.IPFamily{v1.IPv6Protocol} }), "2001:db8:1::200")
		settled(t, a, one)
		noDoubles(t, a)
	})
}

func TestSharing(t *testing.T) {
	a := newAPI()
	setPools(a, "default", "192.0.2.200-192.0.2.201")
	one := lead(t, a, "one")
	web := create(a, "web", annotate("clarion.dev/share", "k"), withPort(80))
	gets(t, a, web, "192.0.2.200")
	tls := create(a, "tls", annotate("clarion.dev/share", "k"), withPort(443))
	gets(t, a, tls, "192.0.2.200")
	same := create(a, "same-port", annotate("clarion.dev/share", "k"), annotate("clarion.dev/addresses", "192.0.2.200"), withPort(443))
	says(t, a, same, "False PortTaken", "shop/tls")
	other := create(a, "other-key", annotate("clarion.dev/share", "x"), annotate("clarion.dev/addresses", "192.0.2.200"), withPort(8080))
	says(t, a, other, "False ShareKeyDiffers")

	// The one that shares no more moves; the other keeps the address.
	a.edit(tls, func(svc *v1.Service) { delete(svc.Annotations, "clarion.dev/share") })
	gets(t, a, tls, "192.0.2.201")
	settled(t, a, one)
	gets(t, a, web, "192.0.2.200")
	noDoubles(t, a)
}
