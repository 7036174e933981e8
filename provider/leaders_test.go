package provider

import (
	"errors"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
)

// A gate stops one client in front of the store, as SIGSTOP would: its
// request is made, and arrives when the gate opens.
type gate struct {
	client, verb, resource string

	mu      sync.Mutex
	closed  bool
	reached chan struct{} // closed when somebody stands in front of it
	open    chan struct{}
}

func newGate(client, verb, resource string) *gate {
	return &gate{client: client, verb: verb, resource: resource, reached: make(chan struct{}), open: make(chan struct{})}
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

func (g *gate) before(client string, a clienttesting.Action) error {
	g.mu.Lock()
	stop := g.closed && client == g.client && a.GetVerb() == g.verb && a.GetResource().Resource == g.resource
	if stop {
		g.closed = false
		close(g.reached)
	}
	g.mu.Unlock()
	if stop {
		<-g.open
	}
	return nil
}

// The old leader has reserved an address and is stopped in front of the write
// that shows it. Whatever happens then, the address is not given twice.
func TestALeaderThatIsStoppedBeforeItsWriteCannotGiveTheAddressTwice(t *testing.T) {
	tests := []struct {
		name      string
		verb      string // what the old leader is about to do
		resource  string
		meanwhile func(t *testing.T, a *api, late string) // while the new one leads
		want      string                                  // what the Service that it was about to write shows in the end
	}{
		{"it has written the intent; the new leader carries it out", "patch", "services",
			func(t *testing.T, a *api, late string) {
				gets(t, a, late, "192.0.2.200")
				gets(t, a, create(a, "other"), "192.0.2.201")
			}, "192.0.2.200"},
		{"it has written the intent; its Service is created again meanwhile", "patch", "services",
			func(t *testing.T, a *api, late string) {
				gets(t, a, late, "192.0.2.200")
				a.remove("services", late)
				gets(t, a, late, "gone")
				other := create(a, "other", annotate("clarion.dev/addresses", "192.0.2.200"))
				gets(t, a, other, "192.0.2.200")
				create(a, "late")
				gets(t, a, late, "192.0.2.201")
			}, "192.0.2.201"},
		{"it has written the intent; its Service moves meanwhile", "patch", "services",
			func(t *testing.T, a *api, late string) {
				gets(t, a, late, "192.0.2.200")
				a.edit(late, annotate("clarion.dev/addresses", "192.0.2.207"))
				gets(t, a, late, "192.0.2.207")
				gets(t, a, create(a, "other", annotate("clarion.dev/addresses", "192.0.2.200")), "192.0.2.200")
			}, "192.0.2.207"},
		{"it has not yet written the intent", "update", "configmaps",
			func(t *testing.T, a *api, late string) {
				gets(t, a, late, "192.0.2.200")
				gets(t, a, create(a, "other"), "192.0.2.201")
			}, "192.0.2.200"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newAPI()
			setPools(a, "default", pool8)
			g := newGate("old", tt.verb, tt.resource)
			a.before = g.before
			old := lead(t, a, "old")
			gets(t, a, create(a, "first"), "192.0.2.200")
			a.remove("services", "shop/first")
			gets(t, a, "shop/first", "gone")

			g.close()
			late := create(a, "late")
			<-g.reached // the old leader is stopped here
			young := lead(t, a, "young")
			tt.meanwhile(t, a, late)
			close(g.open) // and goes on here
			// Whatever it does next, it has to ask the ledger first.
			create(a, "wakes-it")
			if err := old.ended.wait(); !errors.Is(err, ErrDeposed) {
				t.Errorf("the old leader ended with %v", err)
			}
			settled(t, a, young)
			gets(t, a, late, tt.want)
			noDoubles(t, a)
		})
	}
}

func TestARestartAdoptsEverything(t *testing.T) {
	a := newAPI()
	setPools(a, "default", pool8)
	one := lead(t, a, "one")
	want := map[string]string{}
	for _, name := range []string{"a", "b", "c", "d"} {
		key := create(a, name, dualStack(v1.IPFamilyPolicyPreferDualStack))
		eventually(t, "an address", func() bool { return statusOf(a, key) != "" })
		want[key] = statusOf(a, key)
	}
	waiting := create(a, "waiting", annotate("clarion.dev/addresses", "192.0.2.200"))
	says(t, a, waiting, "False Taken")
	settled(t, a, one)
	one.end()
	a.remove("services", "shop/b") // its finalizer keeps it until somebody leads again
	setPools(a, "default", "192.0.2.201-192.0.2.207")

	writes := a.count("patch services")
	two := lead(t, a, "two")
	gets(t, a, "shop/b", "gone")
	settled(t, a, two)
	for key, addresses := range want {
		if key != "shop/b" && statusOf(a, key) != addresses {
			t.Errorf("%s had %s and has %s", key, addresses, statusOf(a, key))
		}
	}
	says(t, a, "shop/a", "True Stranded")
	// b cleared, a marked as stranded (and c and d for their IPv6), the marker.
	if n := a.count("patch services") - writes; n > 6 {
		t.Errorf("%d writes at the restart", n)
	}
	noDoubles(t, a)
}

func TestASettledClusterCostsNoWriteAtARestart(t *testing.T) {
	a := newAPI()
	setPools(a, "default", "192.0.2.200-192.0.2.250")
	one := lead(t, a, "one")
	for i := range 30 {
		create(a, string(rune('a'+i%26))+string(rune('a'+i/26)))
	}
	create(a, "waits", annotate("clarion.dev/addresses", "203.0.113.1"))
	says(t, a, "shop/waits", "False OutsidePools")
	settled(t, a, one)
	one.end()
	writes, events := a.count("patch services"), len(a.events)
	two := lead(t, a, "two")
	settled(t, a, two)
	if n := a.count("patch services") - writes; n != 1 { // the marker's own
		t.Errorf("%d writes, want 1", n)
	}
	if n := len(a.events) - events; n > 1 {
		t.Errorf("%d Events", n)
	}
}

// A Service that another implementation, or a Clarion without the condition,
// gave its address keeps it and gets finalizer and condition.
func TestAnAddressFromElsewhereIsAdopted(t *testing.T) {
	a := newAPI()
	setPools(a, "default", pool8)
	web := create(a, "web")
	a.setStatus(web, func(svc *v1.Service) {
		svc.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "192.0.2.205"}}
	})
	far := create(a, "far")
	a.setStatus(far, func(svc *v1.Service) {
		svc.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "203.0.113.7"}}
	})
	one := lead(t, a, "one")
	says(t, a, web, "True Assigned: 192.0.2.205")
	says(t, a, far, "True Stranded", "203.0.113.7")
	settled(t, a, one)
	if statusOf(a, web) != "192.0.2.205" || statusOf(a, far) != "203.0.113.7" || !hasFinalizer(a, web) {
		t.Errorf("%v %v", statusOf(a, web), statusOf(a, far))
	}
}

// Two Services that carry one address, from before Clarion: the elder keeps it.
func TestAnOldDoubleIsEnded(t *testing.T) {
	a := newAPI()
	setPools(a, "default", pool8)
	elder, younger := create(a, "zz-elder"), create(a, "aa-younger")
	for _, key := range []string{younger, elder} {
		a.setStatus(key, func(svc *v1.Service) {
			svc.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "192.0.2.205"}}
		})
	}
	lead(t, a, "one")
	gets(t, a, younger, "192.0.2.200")
	gets(t, a, elder, "192.0.2.205")
}

func TestCaughtUp(t *testing.T) {
	svc := func(name, version string) v1.Service {
		return v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, ResourceVersion: version}}
	}
	list := &v1.ServiceList{ListMeta: metav1.ListMeta{ResourceVersion: "100"}, Items: []v1.Service{svc("a", "10"), svc("b", "99")}}
	tests := []struct {
		name    string
		version string
		has     []v1.Service
		want    bool
	}{
		{"the same", "99", []v1.Service{svc("a", "10"), svc("b", "99")}, true},
		{"an old form of one", "50", []v1.Service{svc("a", "10"), svc("b", "50")}, false},
		{"one is not here yet", "50", []v1.Service{svc("a", "10")}, false},
		{"one has gone since", "120", []v1.Service{svc("a", "10")}, true},
		{"one has gone since, and only that is known of it", "99", []v1.Service{svc("a", "10")}, true},
		{"one has changed since", "110", []v1.Service{svc("a", "110"), svc("b", "99")}, true},
		{"one that was gone is still here", "98", []v1.Service{svc("a", "10"), svc("b", "99"), svc("c", "40")}, false},
		{"one has come since", "101", []v1.Service{svc("a", "10"), svc("b", "99"), svc("c", "101")}, true},
		{"longer numbers are later", "1000", []v1.Service{svc("a", "10")}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			store := cache.NewStore(cache.MetaNamespaceKeyFunc)
			for _, s := range tt.has {
				if err := store.Add(&s); err != nil {
					t.Fatal(err)
				}
			}
			if got := caughtUp(list, store, tt.version); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
