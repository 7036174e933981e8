package provider

import (
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func inForce(a *api) map[string]string {
	if cm := a.configMap(InForceName); cm != nil {
		return cm.Data
	}
	return nil
}

func poolEvents(a *api) []string { return a.eventsOn(PoolsName) }

// told waits for the n-th Event about the pools and returns it.
func told(t *testing.T, a *api, n int) string {
	t.Helper()
	eventually(t, "an Event about the pools", func() bool { return len(poolEvents(a)) >= n })
	return poolEvents(a)[n-1]
}

func TestAMistakeInOnePoolTouchesNothingElse(t *testing.T) {
	tests := []struct {
		name     string
		key      string
		mistake  string
		wantTold []string
	}{
		{"a typo", "default", "192.0.2.3oo", []string{"default", `"192.0.2.3oo"`}},
		{"an inverted range", "default", "192.0.2.207-192.0.2.200", []string{"default", "192.0.2.207-192.0.2.200"}},
		{"an unknown key in the long form", "default", "addresses: [192.0.2.200]\npriorty: 3", []string{"default", "priorty"}},
		{"a new pool that overlaps", "second", "192.0.2.205-192.0.2.215", []string{"second", "default", "192.0.2.205"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newAPI()
			good := []string{"default", pool8, "public", "198.51.100.0/28"}
			setPools(a, good...)
			one := lead(t, a, "one")
			web := create(a, "web")
			gets(t, a, web, "192.0.2.200")
			before := said(a, web)

			setPools(a, append(slices.Clone(good), "public", "198.51.100.0/29", tt.key, tt.mistake)...)
			event := told(t, a, 1)
			if !strings.HasPrefix(event, "Warning PoolsRefused: ") {
				t.Errorf("Event %q", event)
			}
			for _, word := range tt.wantTold {
				if !strings.Contains(event, word) {
					t.Errorf("Event %q does not mention %s", event, word)
				}
			}
			if strings.Contains(event, "public") {
				t.Errorf("the good pool is blamed: %q", event)
			}
			if !strings.Contains(one.log.String(), "a mistake in the pools") {
				t.Error("the log says nothing")
			}
			if n := testutil.ToFloat64(one.stats.problems); n != 1 {
				t.Errorf("clarion_pools_problems is %v", n)
			}
			if got := inForce(a); got["default"] != pool8 || got["public"] != "198.51.100.0/29" || got["second"] != "" {
				t.Errorf("in force: %v", got)
			}
			settled(t, a, one)
			if got := said(a, web); got != before || statusOf(a, web) != "192.0.2.200" {
				t.Errorf("web says %q", got)
			}
			gets(t, a, create(a, "later"), "192.0.2.201") // the last good form still gives

			setPools(a, good...)
			if event := told(t, a, 2); !strings.HasPrefix(event, "Normal PoolsAccepted") {
				t.Errorf("after the repair: %q", event)
			}
		})
	}
}

func TestTheLastGoodFormSurvivesARestart(t *testing.T) {
	a := newAPI()
	setPools(a, "default", pool8)
	one := lead(t, a, "one")
	setPools(a, "default", "192.0.2.200-192.0.2.300")
	told(t, a, 1)
	one.end()

	two := lead(t, a, "two")
	gets(t, a, create(a, "web"), "192.0.2.200")
	settled(t, a, two)
	if got := inForce(a); got["default"] != pool8 {
		t.Errorf("in force: %v", got)
	}
	if events := poolEvents(a); len(events) != 1 {
		t.Errorf("the same mistake was told again after a restart: %q", events)
	}
}

func TestDeletingThePoolsStrandsAndTakesNothing(t *testing.T) {
	a := newAPI()
	setPools(a, "default", pool8)
	lead(t, a, "one")
	web := create(a, "web")
	gets(t, a, web, "192.0.2.200")

	a.remove("configmaps", "clarion-system/"+PoolsName)
	says(t, a, web, "True Stranded", "192.0.2.200", "no pool")
	if statusOf(a, web) != "192.0.2.200" {
		t.Errorf("web lost its address: %s", statusOf(a, web))
	}
	says(t, a, create(a, "later"), "False NoPools")
	if got := inForce(a); len(got) != 0 {
		t.Errorf("in force: %v", got)
	}

	setPools(a, "again", pool8)
	says(t, a, web, "True Assigned: 192.0.2.200 from pool again")
	gets(t, a, "shop/later", "192.0.2.201")
	noDoubles(t, a)
}

func TestALiveEditServesWhoWaits(t *testing.T) {
	a := newAPI()
	lead(t, a, "one")
	first := create(a, "first")
	says(t, a, first, "False NoPools")
	second := create(a, "second")
	says(t, a, second, "False NoPools")
	setPools(a, "default", "192.0.2.200-192.0.2.201")
	gets(t, a, first, "192.0.2.200") // the oldest first
	gets(t, a, second, "192.0.2.201")
	says(t, a, first, "True Assigned")
	eventually(t, "one Event for each step", func() bool { return len(a.eventsOn("first")) == 2 })
	if events := a.eventsOn("first"); !strings.HasPrefix(events[0], "Warning NoPools: ") || !strings.HasPrefix(events[1], "Normal Assigned: ") {
		t.Errorf("Events %q", events)
	}
}

func TestWhatSomebodyWritesIntoThePoolsInForceIsUndone(t *testing.T) {
	a := newAPI()
	setPools(a, "default", pool8)
	lead(t, a, "one")
	eventually(t, "the pools are published", func() bool { return inForce(a)["default"] == pool8 })
	cm := a.configMap(InForceName)
	cm.Data = map[string]string{"default": "203.0.113.0/24"}
	a.put("configmaps", cm)
	eventually(t, "they are published again", func() bool { return inForce(a)["default"] == pool8 })
	a.remove("configmaps", "clarion-system/"+InForceName)
	eventually(t, "and again", func() bool { return inForce(a)["default"] == pool8 })
}

func TestAddressesOfTheClusterAreNotGiven(t *testing.T) {
	tests := []struct {
		name, pool, ask, why string
	}{
		{"a node", "192.0.2.10-192.0.2.20", "192.0.2.11", "the address of node n1"},
		{"a pod CIDR", "10.244.0.8-10.244.0.9", "10.244.0.8", "in the pod CIDR 10.244.0.0/24 of node n1"},
		{"a service CIDR", "10.96.1.0/24", "10.96.1.1", "in the service CIDR 10.96.0.0/16"},
		{"a service CIDR of IPv6", "fd96::1000/124", "fd96::1001", "in the service CIDR fd96::/112"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newAPI()
			setPools(a, "default", tt.pool)
			lead(t, a, "one")
			if event := told(t, a, 1); !strings.Contains(event, tt.why) || !strings.Contains(event, "default") {
				t.Errorf("the pool's Event does not say why: %q", event)
			}
			key := create(a, "web", annotate("clarion.dev/addresses", tt.ask), dualStack(v1.IPFamilyPolicyPreferDualStack))
			says(t, a, key, "False Reserved", tt.ask, tt.why)
		})
	}
}

func TestANodeThatComesAfterItsAddressWasGiven(t *testing.T) {
	a := newAPI()
	setPools(a, "default", pool8)
	lead(t, a, "one")
	web := create(a, "web")
	gets(t, a, web, "192.0.2.200")
	a.put("nodes", &v1.Node{ObjectMeta: objectMeta("", "n2"), Status: v1.NodeStatus{
		Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "192.0.2.200"}, {Type: v1.NodeHostName, Address: "n2"}}}})
	says(t, a, web, "True Collides", "192.0.2.200", "the address of node n2")
	if statusOf(a, web) != "192.0.2.200" {
		t.Errorf("the address was taken away: %s", statusOf(a, web))
	}
	a.remove("nodes", "/n2")
	says(t, a, web, "True Assigned")
}

func TestAPoolForSomeNamespaces(t *testing.T) {
	a := newAPI()
	setPools(a, "default", "addresses: [192.0.2.200]\nnamespaceSelector: {matchLabels: {team: one}}\n")
	lead(t, a, "one")
	web := create(a, "web")
	says(t, a, web, "False NamespaceNotAllowed")
	a.put("namespaces", &v1.Namespace{ObjectMeta: func() (m metaObject) { m.Name, m.Labels = "shop", map[string]string{"team": "one"}; return }()})
	gets(t, a, web, "192.0.2.200")
}

func TestAPoolForSomeServices(t *testing.T) {
	a := newAPI()
	setPools(a, "default", "addresses: [192.0.2.200]\nserviceSelector: {matchLabels: {tier: front}}\n")
	lead(t, a, "one")
	web := create(a, "web")
	says(t, a, web, "False SelectorMismatch")
	a.edit(web, func(svc *v1.Service) { svc.Labels = map[string]string{"tier": "front"} })
	gets(t, a, web, "192.0.2.200")
}

func TestShorten(t *testing.T) {
	for _, text := range []string{"short", strings.Repeat("x", 50), "one line\nanother line that is long", strings.Repeat("é", 30), strings.Repeat("…\n", 20)} {
		got := shorten(text, 20)
		if len(got) > 20 || len(text) <= 20 && got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}
