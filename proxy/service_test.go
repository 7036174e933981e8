package proxy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A question is one packet's story: who asks where, and who answers whom.
type question struct {
	from string
	to   string
	port uint16
	want string
}

func (l *lab) check(t *testing.T, network string, fam int, questions []question) {
	t.Helper()
	for _, q := range questions {
		wait := patience
		if q.want == "silence" {
			wait = brief
		}
		got := l.asksFor(q.from, network, q.to, fam, q.port, wait)
		if got == "refused" && q.want == "silence" && q.from == "a" && network == "udp" {
			continue // the host is told at once that its own packet was dropped
		}
		if got != q.want {
			t.Errorf("%s → %s:%d: %s, want %s", q.from, q.to, q.port, got, q.want)
		}
	}
}

// onEvery sets up a lab once and asks in both families and transports.
func onEvery(t *testing.T, services []*cluster.Service, questions ...question) *lab {
	t.Helper()
	l := newLab(t)
	l.set(services...)
	everywhere(t, func(t *testing.T, network string, fam int) { l.check(t, network, fam, questions) })
	return l
}

func TestClusterIP(t *testing.T) {
	onEvery(t, []*cluster.Service{service("svc", "a1"), service("svc2", "b1")},
		question{"a2", "svc", 80, "a1 sees a2"},
		question{"a2", "svc2", 80, "b1 sees a2"},
		question{"a", "svc", 80, "a1 sees a"},
		question{"a", "svc2", 80, "b1 sees a"},
		question{"client", "svc", 80, "a1 sees client"}, // an endpoint here: the answer passes this node anyway
		question{"client", "svc2", 80, "b1 sees a"},     // an endpoint elsewhere: it must answer by way of this node
	)
}

// A pod that asks its own Service may be given itself; it must not see its own
// address as the source, or it would answer itself.
func TestHairpin(t *testing.T) {
	l := newLab(t)
	l.set(service("svc", "a1"))
	everywhere(t, func(t *testing.T, network string, fam int) {
		got := l.asks("a1", network, "svc", fam, 80)
		if !strings.HasPrefix(got, "a1 sees ") || got == "a1 sees a1" {
			t.Errorf("a1 → svc: %s", got)
		}
	})
}

func nodePort(s *cluster.Service, port uint16) *cluster.Service {
	for i := range s.Ports {
		s.Ports[i].NodePort = port
	}
	return s
}

func TestNodePort(t *testing.T) {
	onEvery(t, []*cluster.Service{nodePort(service("svc", "a1"), 30080), nodePort(service("svc2", "b1"), 30081)},
		question{"client", "a", 30080, "a1 sees client"},
		question{"client", "a", 30081, "b1 sees a"},
		question{"a2", "a", 30081, "b1 sees a2"},
		question{"a", "a", 30081, "b1 sees a"},
		question{"a", "a", 30080, "a1 sees a"},
		question{"b", "a", 30081, "b1 sees a"},
	)
}

func withVIP(s *cluster.Service, vip string) *cluster.Service {
	s.VIPs, s.Ours = both(vip), true
	return s
}

func TestVIP(t *testing.T) {
	onEvery(t, []*cluster.Service{withVIP(service("svc", "a1"), "vip"), withVIP(service("svc2", "b1"), "vip2")},
		question{"client", "vip", 80, "a1 sees client"},
		question{"client", "vip2", 80, "b1 sees a"},
		question{"a2", "vip2", 80, "b1 sees a2"},
		question{"a", "vip2", 80, "b1 sees a"},
		question{"client", "vip", 81, "refused"}, // a VIP is the Services' alone
		question{"a2", "svc", 81, "refused"},
	)
}

func TestExternalIP(t *testing.T) {
	s := service("svc", "b1")
	s.ExternalIPs = both("ext")
	onEvery(t, []*cluster.Service{s},
		question{"client", "ext", 80, "b1 sees a"},
		question{"a2", "ext", 80, "b1 sees a2"},
	)
}

func TestNoEndpointIsRefusedAndNotDropped(t *testing.T) {
	onEvery(t, []*cluster.Service{withVIP(nodePort(service("svc"), 30080), "vip")},
		question{"client", "vip", 80, "refused"},
		question{"client", "a", 30080, "refused"},
		question{"a2", "svc", 80, "refused"},
		question{"a", "svc", 80, "refused"},
		question{"a", "vip", 80, "refused"},
	)
}

func TestExternalPolicyLocal(t *testing.T) {
	s := withVIP(nodePort(service("svc", "a1", "b1"), 30080), "vip")
	s.ExternalLocal = true
	far := withVIP(nodePort(service("svc2", "b1"), 30081), "vip2")
	far.ExternalLocal = true
	onEvery(t, []*cluster.Service{s, far},
		question{"client", "vip", 80, "a1 sees client"},
		question{"client", "a", 30080, "a1 sees client"},
		question{"client", "vip2", 80, "silence"},   // not refused: another node may have an endpoint
		question{"client", "a", 30081, "silence"},   //
		question{"a2", "vip2", 80, "b1 sees a2"},    // pods and nodes reach every endpoint
		question{"a", "vip2", 80, "b1 sees a"},      //
		question{"a2", "a", 30081, "b1 sees a2"},    //
		question{"client", "svc2", 80, "b1 sees a"}, // the cluster IP has the policy Cluster
	)
}

func TestInternalPolicyLocal(t *testing.T) {
	near, far := service("svc", "a1", "b1"), withVIP(service("svc2", "b1"), "vip2")
	near.InternalLocal, far.InternalLocal = true, true
	onEvery(t, []*cluster.Service{near, far},
		question{"a2", "svc", 80, "a1 sees a2"},
		question{"a2", "svc", 80, "a1 sees a2"},
		question{"a2", "svc2", 80, "silence"},
		question{"a", "svc2", 80, "silence"},
		question{"client", "vip2", 80, "b1 sees a"}, // only the cluster IP has the policy
	)
}

func TestSourceRanges(t *testing.T) {
	s := withVIP(nodePort(service("svc", "a1", "b1"), 30080), "vip")
	for _, p := range []string{"192.0.2.0/29", "192.0.2.0/30", "10.244.1.2/32", "2001:db8::/125", "fd44:1::2/128"} {
		s.SourceRanges = append(s.SourceRanges, netip.MustParsePrefix(p))
	}
	s.ExternalLocal = true
	onEvery(t, []*cluster.Service{s},
		question{"client", "vip", 80, "a1 sees client"},
		question{"a1", "vip", 80, "silence"},
		question{"a", "vip", 80, "silence"},
		question{"client", "a", 30080, "a1 sees client"}, // ranges are the VIP's alone
	)
}

func TestTerminatingEndpointsServeWhenThereAreNoOthers(t *testing.T) {
	s := withVIP(service("svc", "a1", "b1"), "vip")
	for i := range s.Ports {
		for j := range s.Ports[i].Endpoints {
			e := &s.Ports[i].Endpoints[j]
			e.Ready, e.Terminating = false, true
			e.Serving = e.Node == "a"
		}
	}
	onEvery(t, []*cluster.Service{s},
		question{"client", "vip", 80, "a1 sees client"},
		question{"a2", "svc", 80, "a1 sees a2"},
	)
}

// spread asks n times and counts who answered.
func (l *lab) spread(from, network, name string, fam int, port uint16, n int) map[string]int {
	count := map[string]int{}
	for range n {
		pod, _, _ := strings.Cut(l.asks(from, network, name, fam, port), " ")
		count[pod]++
	}
	return count
}

func TestConnectionsAreSpreadOverAllEndpoints(t *testing.T) {
	l := newLab(t)
	l.set(service("svc", "a1", "a2", "b1"))
	everywhere(t, func(t *testing.T, network string, fam int) {
		const n = 120
		got := l.spread("client", network, "svc", fam, 80, n)
		for _, pod := range []string{"a1", "a2", "b1"} {
			// 40 expected, standard deviation 5.2: a false alarm every 10^8 runs.
			if got[pod] < 10 || got[pod] > 70 {
				t.Errorf("%d questions: %v", n, got)
			}
		}
	})
}

func TestAffinity(t *testing.T) {
	l := newLab(t)
	s := withVIP(service("svc", "a1", "a2", "b1", "b2"), "vip")
	s.Affinity = 3 * time.Hour
	l.set(s)
	everywhere(t, func(t *testing.T, network string, fam int) {
		l.set(s)
		for _, name := range []string{"svc", "vip"} {
			got := l.spread("client", network, name, fam, 80, 20)
			if len(got) != 1 {
				t.Fatalf("%s: one client was given to %v", name, got)
			}
			for pod := range got {
				// Without that endpoint the client goes to another one and stays there,
				// and when it comes back it stays still.
				less := *s
				less.Ports = nil
				for _, p := range s.Ports {
					var eps []cluster.Endpoint
					for _, e := range p.Endpoints {
						if who(e.Addr.Addr().String()) != pod {
							eps = append(eps, e)
						}
					}
					p.Endpoints = eps
					less.Ports = append(less.Ports, p)
				}
				l.set(&less)
				second := l.spread("client", network, name, fam, 80, 10)
				if len(second) != 1 || second[pod] > 0 {
					t.Errorf("%s: after %s was gone: %v", name, pod, second)
				}
				l.set(s)
				if third := l.spread("client", network, name, fam, 80, 10); fmt.Sprint(third) != fmt.Sprint(second) {
					t.Errorf("%s: moved from %v to %v when %s came back", name, second, third, pod)
				}
			}
		}
	})
}

func TestPingOnVIPs(t *testing.T) {
	l := newLab(t)
	l.set(withVIP(service("svc"), "vip"))
	for fam := range 2 {
		for _, from := range []string{"client", "a2", "a"} {
			if out, err := l.host(from).Command("ping", "-c1", "-W1", addrs["vip"][fam]); err != nil {
				t.Errorf("%s pings the VIP: %v\n%s", from, err, out)
			}
		}
	}
}

func TestServicesOfOtherFamilyOnly(t *testing.T) {
	s := service("svc", "a1")
	s.ClusterIPs = s.ClusterIPs[:1]
	l := newLab(t)
	l.set(s)
	if got := l.asks("a2", "tcp", "svc", 0, 80); got != "a1 sees a2" {
		t.Errorf("IPv4: %s", got)
	}
	if out := l.a.Run("nft", "list", "map", "inet", Table, "class6"); strings.Contains(out, "fd96") {
		t.Errorf("IPv6 is served too:\n%s", out)
	}
}
