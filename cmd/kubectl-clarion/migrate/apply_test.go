package migrate

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	k8stesting "k8s.io/client-go/testing"

	"github.com/clarion-lb/clarion/config"
)

// progress is "write-pools=done install-clarion=by hand …".
func progress(p Plan) string {
	var words []string
	for _, s := range p.Steps {
		words = append(words, fmt.Sprintf("%s=%s", s.Kind, s.Progress))
	}
	return strings.Join(words, " ")
}

func applied(t *testing.T, w *world, p Plan) string {
	t.Helper()
	done, err := Apply(t.Context(), w.client, p)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, s := range done {
		kinds = append(kinds, string(s.Kind))
	}
	changed, err := Check(t.Context(), w.client, p)
	if err != nil || len(changed) > 0 {
		t.Errorf("Services have changed: %v, %v", changed, err)
	}
	return strings.Join(kinds, " ")
}

// A whole take-over, with a person doing what is by hand.
func TestApplyGoesAsFarAsItCanAndOnFromThere(t *testing.T) {
	w := newWorld(append(metalLBWorkloads(), service("web", "192.0.2.200 2001:db8:1::1"), service("far", "203.0.113.9"),
		service("old", "192.0.2.201", port(1)), service("older", "192.0.2.201", port(2)))...).metalLB(t, onePool)
	plan := func(want string) Plan {
		t.Helper()
		p := w.plan(t, MetalLBName)
		if got := progress(p); got != want {
			t.Fatalf("progress is\n%s, want\n%s", got, want)
		}
		return p
	}
	p := plan("write-pools=ready share-addresses=ready share-addresses=ready stop-controller=ready install-clarion=by hand stop-speakers=waits remove-peer=by hand")
	if got := applied(t, w, p); got != "write-pools share-addresses share-addresses stop-controller" {
		t.Errorf("did %s", got)
	}
	p = plan("write-pools=done stop-controller=done install-clarion=by hand stop-speakers=waits remove-peer=by hand")
	if got := applied(t, w, p); got != "" {
		t.Errorf("before Clarion was there it did %s", got)
	}

	// Clarion is installed: its agents are ready before its controller has
	// looked at everything.
	agents := &apps.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "clarion-system", Name: "clarion-agent"}, Status: apps.DaemonSetStatus{DesiredNumberScheduled: 3, NumberReady: 3}}
	if err := w.client.Tracker().Add(agents); err != nil {
		t.Fatal(err)
	}
	plan("write-pools=done stop-controller=done install-clarion=by hand stop-speakers=waits remove-peer=by hand")
	services, err := w.client.CoreV1().Services("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, svc := range services.Items {
		svc.Status.Conditions = []metav1.Condition{{Type: "clarion.dev/Assigned", Status: "True"}}
		if _, err := w.client.CoreV1().Services("shop").UpdateStatus(t.Context(), &svc, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// A Service that was created meanwhile has its address from Clarion; nothing
	// of the plan is undone by it.
	if err := w.client.Tracker().Add(service("new", "192.0.2.209")); err != nil {
		t.Fatal(err)
	}
	plan("write-pools=done stop-controller=done install-clarion=by hand stop-speakers=waits remove-peer=by hand")
	fresh := service("new", "192.0.2.209")
	fresh.Status.Conditions = []metav1.Condition{{Type: "clarion.dev/Assigned", Status: "True"}}
	if err := w.client.Tracker().Update(v1.SchemeGroupVersion.WithResource("services"), fresh, "shop"); err != nil {
		t.Fatal(err)
	}
	p = plan("write-pools=done stop-controller=done install-clarion=done stop-speakers=ready remove-peer=by hand")
	if got := applied(t, w, p); got != "stop-speakers" {
		t.Errorf("did %s", got)
	}
	plan("write-pools=done stop-controller=done install-clarion=done stop-speakers=done remove-peer=by hand")

	d, err := w.client.AppsV1().Deployments("metallb-system").Get(t.Context(), "controller", metav1.GetOptions{})
	if err != nil || *d.Spec.Replicas != 0 || d.Annotations[replicasBefore] != "1" {
		t.Errorf("the controller: %+v, %v", d, err)
	}
	s, err := w.client.AppsV1().DaemonSets("metallb-system").Get(t.Context(), "speaker", metav1.GetOptions{})
	if err != nil || s.Spec.Template.Spec.NodeSelector[retired] != "true" {
		t.Errorf("the speakers: %+v, %v", s, err)
	}
	old, err := w.client.CoreV1().Services("shop").Get(t.Context(), "old", metav1.GetOptions{})
	if err != nil || old.Annotations["clarion.dev/share"] != "shared-192.0.2.201" {
		t.Errorf("old: %v, %v", old.Annotations, err)
	}
}

func TestPlanningWritesNothing(t *testing.T) {
	w := newWorld(append(metalLBWorkloads(), service("web", "192.0.2.200 2001:db8:1::1"))...).metalLB(t, onePool)
	w.plan(t, MetalLBName)
	for _, a := range w.client.Actions() {
		if a.GetVerb() != "get" && a.GetVerb() != "list" {
			t.Errorf("%s %s", a.GetVerb(), a.GetResource().Resource)
		}
	}
}

func TestApplyStopsAtWhatFails(t *testing.T) {
	w := newWorld(append(metalLBWorkloads(), service("web", "192.0.2.200 2001:db8:1::1"))...).metalLB(t, onePool)
	refuse := true
	w.client.PrependReactor("patch", "deployments", func(k8stesting.Action) (bool, runtime.Object, error) {
		return refuse, nil, errors.New("etcd is full")
	})
	done, err := Apply(t.Context(), w.client, w.plan(t, MetalLBName))
	if err == nil || !strings.Contains(err.Error(), "scale the Deployment to 0 (metallb-system/controller): etcd is full; nothing after it was done") || len(done) != 1 {
		t.Fatalf("did %v, %v", done, err)
	}
	refuse = false
	if got := applied(t, w, w.plan(t, MetalLBName)); got != "stop-controller" {
		t.Errorf("did %s", got)
	}
}

func TestPoolsOfAUserAreNotOverwritten(t *testing.T) {
	user := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "clarion-system", Name: "clarion-pools"}, Data: map[string]string{"mine": "198.51.100.0/28, 2001:db8:7::/64"}}
	w := newWorld(append(metalLBWorkloads(), user, service("web", "192.0.2.200 2001:db8:1::1"))...).metalLB(t, onePool)
	p := w.plan(t, MetalLBName)
	if got := progress(p); got != "write-pools=by hand stop-controller=waits install-clarion=by hand stop-speakers=waits remove-peer=by hand" {
		t.Errorf("progress is %s", got)
	}
	if got := applied(t, w, p); got != "" {
		t.Errorf("did %s", got)
	}
	user.Data["first-pool"] = p.Pools["first-pool"]
	if err := w.client.Tracker().Update(v1.SchemeGroupVersion.WithResource("configmaps"), user, "clarion-system"); err != nil {
		t.Fatal(err)
	}
	if got := progress(w.plan(t, MetalLBName)); !strings.HasPrefix(got, "write-pools=done stop-controller=ready") {
		t.Errorf("with the pools added: %s", got)
	}
}

func TestWhatBelongsToAnOperatorIsStoppedByHand(t *testing.T) {
	objects := metalLBWorkloads()
	owner := []metav1.OwnerReference{{Kind: "MetalLB", Name: "metallb"}}
	objects[0].(*apps.Deployment).OwnerReferences = owner
	objects[1].(*apps.DaemonSet).OwnerReferences = owner
	p := newWorld(append(objects, service("web", "192.0.2.200 2001:db8:1::1"))...).metalLB(t, onePool).plan(t, MetalLBName)
	if got := progress(p); !strings.Contains(got, "stop-controller=by hand") || !strings.Contains(got, "stop-speakers=by hand") || !strings.Contains(p.Steps[1].Why, "MetalLB metallb, which would start it again") {
		t.Errorf("%s: %+v", got, p.Steps)
	}
}

func TestReadSaysWhatIsMissing(t *testing.T) {
	tests := []struct {
		name, from string
		world      *world
		want       string
	}{
		{"no MetalLB", MetalLBName, newWorld(), "there is no MetalLB: neither IPAddressPools nor the ConfigMap metallb-system/config"},
		{"no pools", MetalLBName, newWorld().metalLB(t, "kind: L2Advertisement"), "there is no IPAddressPool in the namespace metallb-system"},
		{"an old ConfigMap without its key", MetalLBName, newWorld(&v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: "config"}}), "no key «config»"},
		{"an old ConfigMap that cannot be read", MetalLBName, newWorld(&v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: "config"}, Data: map[string]string{"config": "address-pools: 7"}}), "cannot be read"},
		{"an old ConfigMap with a pool twice", MetalLBName, newWorld(&v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: "config"}, Data: map[string]string{"config": "address-pools: [{name: a}, {name: a}]"}}), "stands twice"},
		{"no kube-vip", KubeVIP, newWorld(service("of-another", "192.0.2.200 2001:db8:1::1")), "there is no kube-vip"},
		{"another one", "cilium", newWorld(), `"cilium" cannot be taken over`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, _, err := tt.world.reader().Read(t.Context(), tt.from); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// Whatever Services there are, each keeps its addresses or the plan says that
// it does not, and a plan in which all keep them is right by another way of
// counting: no two Services that stand on one address may collide.
func TestNoServiceLosesItsAddressUnseen(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	for range 300 {
		var objects []runtime.Object
		n := 1 + random.IntN(6)
		for i := range n {
			addrs := pick("192.0.2.200", "192.0.2.201", "203.0.113.1", "") + " " + pick("2001:db8:1::1", "2001:db8:1::2", "2001:db8:9::1", "")
			objects = append(objects, service(fmt.Sprintf("s%d", i), addrs, port(int32(80+random.IntN(4))),
				annotated(pick("x", "metallb.io/allow-shared-ip", "clarion.dev/share"), pick("a", "b"))))
		}
		p := newWorld(append(metalLBWorkloads(), objects...)...).metalLB(t, onePool).plan(t, MetalLBName)
		if len(p.Services) != n {
			t.Fatalf("%d Services of %d", len(p.Services), n)
		}
		c, err := config.Parse(p.Pools, config.Config{})
		if err != nil {
			t.Fatal(err)
		}
		taken := map[string]bool{} // address and port, of those who keep
		for i, s := range p.Services {
			if !s.Keeps && s.Why == "" {
				t.Errorf("%s loses an address without a word", s.Service)
			}
			for _, a := range s.Addresses {
				found := false
				for _, pool := range c.Pools {
					found = found || pool.Addresses.Contains(a)
				}
				at := fmt.Sprintf("%v port %d", a, objects[i].(*v1.Service).Spec.Ports[0].Port)
				if !found || s.Keeps && taken[at] {
					t.Errorf("%s: %s, in a pool %v, taken %v\n%+v", s.Service, at, found, taken[at], p)
				}
				taken[at] = taken[at] || s.Keeps
			}
		}
	}
}

func FuzzMetalLB(f *testing.F) {
	f.Add(`{"items":[{"metadata":{"name":"a"},"spec":{"addresses":["192.0.2.0/24","2001:db8::1-2001:db8::9"],"serviceAllocation":{"priority":3,"namespaceSelectors":[{"matchLabels":{"a":"b"}}]}}}]}`, `{"items":[{"spec":{"interfaces":["eth0"],"nodeSelectors":[null]}}]}`)
	f.Add(`{"items":null}`, `[]`)
	f.Fuzz(func(t *testing.T, pools, ads string) {
		p, err := parseList[ipAddressPool]([]byte(pools))
		a, err2 := parseList[advertisement]([]byte(ads))
		if err != nil || err2 != nil {
			return
		}
		MetalLB{pools: p, l2: a, bgp: a}.Convert(nil).accepted(t)
	})
}

func FuzzLegacy(f *testing.F) {
	f.Add("address-pools:\n- {name: a, protocol: layer2, addresses: [192.0.2.0/24, \"2001:db8::/64\"], auto-assign: false}\n")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseLegacy(&v1.ConfigMap{Data: map[string]string{"config": text}})
		if err == nil {
			m.Convert(nil).accepted(t)
		}
	})
}

func FuzzKubeVIP(f *testing.F) {
	f.Add("cidr-global", "192.0.2.0/29, 2001:db8::/64", "range-shop", "192.0.2.1-192.0.2.3", true)
	f.Add("interface-global", "eth0", "cidr-a", "0.0.0.0/32", false)
	f.Fuzz(func(t *testing.T, k1, v1text, k2, v2text string, skip bool) {
		data := map[string]string{k1: v1text, k2: v2text, "skip-end-ips-in-cidr": fmt.Sprint(skip)}
		FromKubeVIP(&v1.ConfigMap{Data: data}).accepted(t)
	})
}

// accepted fails the test when Clarion takes another set of addresses out of
// the pools than went in, without a problem that would be told.
func (c Converted) accepted(t *testing.T) {
	t.Helper()
	out, err := config.Parse(c.Data(), config.Config{})
	if err != nil {
		return // PlanOf makes a note of each
	}
	for _, p := range c.Pools {
		if got, ok := out.Pool(p.Name); !ok || !got.Addresses.Equal(p.Addresses) || got.AutoAssign == p.ByNameOnly {
			t.Errorf("pool %q: %v became %+v", p.Name, p.Addresses, got)
		}
	}
}
