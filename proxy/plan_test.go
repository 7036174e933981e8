package proxy

import (
	"fmt"

	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/nft"
)

// ep makes an endpoint of words: a state (ready, serving, ending, down), a node,
// and hints as zone=… and node=….
func ep(i int, words string) cluster.Endpoint {
	e := cluster.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 80)}
	for _, w := range strings.Fields(words) {
		switch w {
		case "ready":
			e.Ready, e.Serving = true, true
		case "ending": // it ends and still serves
			e.Serving, e.Terminating = true, true
		case "gone": // it ends and serves no more
			e.Terminating = true
		case "down":
		case "here":
			e.Node = "here"
		default:
			if z, ok := strings.CutPrefix(w, "zone="); ok {
				e.ForZones = append(e.ForZones, z)
			} else if n, ok := strings.CutPrefix(w, "node="); ok {
				e.ForNodes = append(e.ForNodes, n)
			}
		}
	}
	return e
}

// The cases follow what is documented for traffic policies, topology hints
// (KEP-2433, KEP-3015) and terminating endpoints (KEP-1669). Endpoints are
// named by their place in the list.
func TestCategorize(t *testing.T) {
	both := Policy{External: true}
	local := Policy{ExternalLocal: true, External: true}
	for _, tt := range []struct {
		name           string
		eps            []string
		policy         Policy
		zone           string
		cluster, local []int
		reachable      []int
		elsewhere      bool // nothing is reachable and yet there is something
	}{
		{name: "no endpoint", policy: both},
		{name: "ready ones are used", eps: []string{"ready", "down", "ready here"}, policy: both, cluster: []int{0, 2}},
		{name: "hints for my zone are kept", zone: "z", policy: both,
			eps: []string{"ready zone=z", "ready zone=y", "ready zone=z"}, cluster: []int{0, 2}},
		{name: "an endpoint may be hinted for several zones", zone: "z", policy: both,
			eps: []string{"ready zone=y zone=z", "ready zone=y"}, cluster: []int{0}},
		{name: "hints do not count when one endpoint has none", zone: "z", policy: both,
			eps: []string{"ready zone=z", "ready"}, cluster: []int{0, 1}},
		{name: "hints do not count when none is for my zone", zone: "x", policy: both,
			eps: []string{"ready zone=z", "ready zone=y"}, cluster: []int{0, 1}},
		{name: "hints do not count when my zone is not known", policy: both,
			eps: []string{"ready zone=z", "ready zone=y"}, cluster: []int{0, 1}},
		{name: "an endpoint that is not ready needs no hint", zone: "z", policy: both,
			eps: []string{"ready zone=z", "down", "ready zone=y"}, cluster: []int{0}},
		{name: "a hint on an endpoint that is not ready does not count", zone: "z", policy: both,
			eps: []string{"down zone=z", "ready zone=y"}, cluster: []int{1}},
		{name: "hints for my node win over those for my zone", zone: "z", policy: both,
			eps: []string{"ready zone=z node=here", "ready zone=z node=there"}, cluster: []int{0}},
		{name: "without an endpoint for my node the zone counts", zone: "z", policy: both,
			eps: []string{"ready zone=z node=there", "ready zone=y node=far"}, cluster: []int{0}},
		{name: "a node hint is missing, so the zone counts", zone: "z", policy: both,
			eps: []string{"ready zone=z node=here", "ready zone=z", "ready zone=y"}, cluster: []int{0, 1}},
		{name: "Local ignores hints", zone: "z", policy: local,
			eps: []string{"ready here zone=z", "ready here zone=y", "ready zone=z", "ready zone=y"}, cluster: []int{0, 2}, local: []int{0, 1}, reachable: []int{0, 1, 2}},
		{name: "internal Local alone uses nothing else", policy: Policy{InternalLocal: true},
			eps: []string{"ready here", "ready"}, local: []int{0}, reachable: []int{0}},
		{name: "internal Local with external traffic uses both", policy: Policy{InternalLocal: true, External: true},
			eps: []string{"ready here", "ready"}, cluster: []int{0, 1}, local: []int{0}},
		{name: "external Local means nothing without external traffic", policy: Policy{ExternalLocal: true},
			eps: []string{"ready here", "ready"}, cluster: []int{0, 1}},
		{name: "Local with endpoints elsewhere only", policy: Policy{InternalLocal: true},
			eps: []string{"ready", "ready"}, elsewhere: true},
		{name: "Local with ending endpoints elsewhere only", policy: Policy{InternalLocal: true},
			eps: []string{"ending"}, elsewhere: true},
		{name: "Local with nothing anywhere", policy: Policy{InternalLocal: true}, eps: []string{"down", "gone here"}},
		{name: "those that end serve when none is ready", policy: both,
			eps: []string{"ending", "down", "gone", "ending here"}, cluster: []int{0, 3}},
		{name: "those that end do not serve beside ready ones", policy: both,
			eps: []string{"ending", "ready"}, cluster: []int{1}},
		{name: "each group falls back by itself", policy: local,
			eps: []string{"ending here", "ready"}, cluster: []int{1}, local: []int{0}, reachable: []int{0, 1}},
		{name: "a ready one here ends the fallback here", policy: local,
			eps: []string{"ending here", "ready here", "ready"}, cluster: []int{1, 2}, local: []int{1}},
		{name: "hints do not narrow those that end", zone: "z", policy: both,
			eps: []string{"ending zone=z", "ending zone=y"}, cluster: []int{0, 1}},
		{name: "all end, here and elsewhere", policy: local,
			eps: []string{"ending here", "ending"}, cluster: []int{0, 1}, local: []int{0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var eps []cluster.Endpoint
			for i, words := range tt.eps {
				eps = append(eps, ep(i, words))
			}
			names := func(list []cluster.Endpoint) []int {
				out := []int{}
				for _, e := range list {
					out = append(out, int(e.Addr.Addr().As4()[3]))
				}
				slices.Sort(out)
				return out
			}
			if tt.reachable == nil {
				tt.reachable = tt.cluster
			}
			r := rand.New(rand.NewPCG(1, 2))
			for range 5 { // the order in which endpoints are listed does not matter
				c := Categorize(eps, tt.policy, "here", tt.zone)
				if got := names(c.Cluster); !slices.Equal(got, tt.cluster) && len(got)+len(tt.cluster) > 0 {
					t.Errorf("cluster %v, want %v", got, tt.cluster)
				}
				if got := names(c.Local); !slices.Equal(got, tt.local) && len(got)+len(tt.local) > 0 {
					t.Errorf("local %v, want %v", got, tt.local)
				}
				if got := names(c.Reachable); !slices.Equal(got, tt.reachable) && len(got)+len(tt.reachable) > 0 {
					t.Errorf("reachable %v, want %v", got, tt.reachable)
				}
				if any := tt.elsewhere || len(tt.reachable) > 0; c.Any != any {
					t.Errorf("any = %v, want %v", c.Any, any)
				}
				r.Shuffle(len(eps), func(i, j int) { eps[i], eps[j] = eps[j], eps[i] })
			}
		})
	}
}

func port(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 80)
}

func ports(ns ...int) (out []netip.AddrPort) {
	for _, n := range ns {
		out = append(out, port(n))
	}
	return out
}

func TestPlaceMovesOnlyWhatItMust(t *testing.T) {
	for _, tt := range []struct {
		name             string
		have, want, then []int
	}{
		{"the first time they stand in order", nil, []int{1, 2, 3}, []int{1, 2, 3}},
		{"nothing changes", []int{3, 1, 2}, []int{1, 2, 3}, []int{3, 1, 2}},
		{"one is exchanged", []int{3, 1, 2}, []int{2, 3, 4}, []int{3, 4, 2}},
		{"the last one goes into the hole", []int{3, 1, 2}, []int{1, 2}, []int{2, 1}},
		{"the last one goes", []int{3, 1, 2}, []int{1, 3}, []int{3, 1}},
		{"one comes", []int{3, 1}, []int{1, 2, 3}, []int{3, 1, 2}},
		{"slots that are about to be removed are used again", []int{1, 2, 3}, []int{1, 4, 3}, []int{1, 4, 3}},
		{"one that has two slots keeps one", []int{1, 1, 2}, []int{1, 2}, []int{1, 2}},
		{"all go", []int{1, 2}, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := ports(tt.want...)
			slices.SortFunc(want, netip.AddrPort.Compare)
			if got := place(ports(tt.have...), want); !slices.Equal(got, ports(tt.then...)) {
				t.Errorf("got %v, want %v", got, ports(tt.then...))
			}
		})
	}
}

func FuzzPlace(f *testing.F) {
	f.Add([]byte{1, 2, 3}, []byte{2, 3, 4})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		list := func(b []byte) (out []netip.AddrPort) {
			for _, x := range b {
				out = append(out, port(int(x)))
			}
			return out
		}
		have, want := list(a), list(b)
		slices.SortFunc(want, netip.AddrPort.Compare)
		want = slices.Compact(want)
		got := place(have, want)
		sorted := slices.Clone(got)
		slices.SortFunc(sorted, netip.AddrPort.Compare)
		if !slices.Equal(sorted, want) {
			t.Fatalf("%v has not the endpoints %v", got, want)
		}
		if again := place(got, want); !slices.Equal(again, got) {
			t.Fatalf("placed again: %v, then %v", got, again)
		}
	})
}

func TestIDsAreStableAndDiffer(t *testing.T) {
	var eps []netip.AddrPort
	for n := range 3000 {
		eps = append(eps, port(n))
	}
	all := ids(eps, false)
	seen := map[uint32]bool{}
	for _, id := range all {
		if seen[id] || id&idBit == 0 || id&innerID != 0 {
			t.Fatalf("id %#x", id)
		}
		seen[id] = true
	}
	fewer := ids(eps[1000:], false)
	for e, id := range fewer {
		if all[e] != id {
			t.Errorf("%v: id %#x became %#x when others went", e, all[e], id)
		}
	}
	if inner := ids(eps[:1], true); inner[eps[0]]&innerID == 0 {
		t.Error("inner ids are not set apart")
	}
}

func TestClassesComeBackAsTheyWent(t *testing.T) {
	names := map[string]Class{}
	for _, n := range []int{1, 2, 255, 256, maxSlots} {
		for _, affinity := range []time.Duration{0, time.Second, 3 * time.Hour, maxAffinity} {
			for _, inner := range []bool{false, true} {
				c := balance(n, affinity, inner)
				gotN, gotA, gotI, ok := c.parts()
				if !ok || gotN != n || gotA != affinity || gotI != inner || !c.valid() {
					t.Errorf("%#x: %d %v %v %v", uint32(c), gotN, gotA, gotI, ok)
				}
				if other, taken := names[c.chain()]; taken {
					t.Errorf("%#x and %#x have the chain %s", uint32(c), uint32(other), c.chain())
				}
				names[c.chain()] = c
			}
		}
	}
	for _, c := range []Class{ClassReject, ClassDrop, ClassRanged, ClassSplit} {
		if _, _, _, ok := c.parts(); ok || !c.valid() {
			t.Errorf("%#x is taken for a number of slots", uint32(c))
		}
	}
	for _, c := range []Class{0, 0xffffffff, 1 << 31, Class(maxAffinity/time.Second+1)<<14 | 1} {
		if c.valid() {
			t.Errorf("%#x is taken for a class", uint32(c))
		}
	}
}

func TestTheOlderServiceHasAFrontAndTheClusterIPAlways(t *testing.T) {
	thief := service("svc2", "b1")
	thief.Key, thief.Created, thief.ClusterIPs = "evil/thief", time.Unix(0, 0), both("ext")
	thief.ExternalIPs = append(both("svc"), both("vip")...)
	owner := service("svc", "a1")
	first := service("svc2", "a2")
	first.ExternalIPs = both("vip")
	first.Created = time.Unix(-1, 0)
	services := []*cluster.Service{thief, owner, first}
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		r.Shuffle(len(services), func(i, j int) { services[i], services[j] = services[j], services[i] })
		b := newBook()
		for _, s := range services {
			b.put(map[cluster.Key]*cluster.Service{s.Key: s})
		}
		for f, want := range map[Front]cluster.Key{
			{at("svc", 0), cluster.TCP, 80}: "default/svc",
			{at("vip", 1), cluster.UDP, 80}: "default/svc2",
			{at("ext", 0), cluster.TCP, 80}: "evil/thief",
		} {
			if got, _ := b.winner(f); got != want {
				t.Errorf("%v belongs to %s, want %s", f, got, want)
			}
		}
		// When the owner goes, the next one has it, and when all went nothing is left.
		cs := b.put(map[cluster.Key]*cluster.Service{"default/svc2": nil})
		f := Front{at("vip", 1), cluster.UDP, 80}
		if got, _ := b.winner(f); got != "evil/thief" || cs.fronts[f] == nil || cs.fronts[f].Service != "evil/thief:udp" {
			t.Errorf("after the owner went %v belongs to %s", f, got)
		}
		b.put(map[cluster.Key]*cluster.Service{"default/svc": nil, "evil/thief": nil})
		if len(b.claims)+len(b.rivals)+len(b.refs)+len(b.services) > 0 {
			t.Errorf("left: %v %v %v", b.claims, b.rivals, b.refs)
		}
	}
}

func TestPlanOfServicesThatWantNothing(t *testing.T) {
	headless := service("svc", "a1")
	headless.ClusterIPs = nil
	foreign := service("svc", "a1")
	foreign.OtherProxy = true
	for name, s := range map[string]*cluster.Service{"gone": nil, "headless": headless, "another proxy's": foreign} {
		if p := PlanService(s, View{Node: "a"}); len(p.Fronts)+len(p.entries()) > 0 {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

func TestSources(t *testing.T) {
	for _, tt := range []struct {
		name   string
		in     []string
		v4, v6 string // "nil" is everybody
	}{
		{"none", nil, "nil", "nil"},
		{"masked, in order, each once", []string{"10.1.2.3/16", "192.0.2.1/32", "10.1.0.0/16", "2001:db8::1/32"},
			"[10.1.0.0/16 192.0.2.1/32]", "[2001:db8::/32]"},
		{"one family only lets nobody in by the other", []string{"10.0.0.0/8"}, "[10.0.0.0/8]", "[]"},
		{"everybody of a family", []string{"10.0.0.0/8", "0.0.0.0/0"}, "nil", "[]"},
		{"one that is not valid lets nobody in", []string{""}, "[]", "[]"},
	} {
		var in []netip.Prefix
		for _, p := range tt.in {
			prefix, err := netip.ParsePrefix(p)
			if err != nil && p != "" {
				t.Fatal(err)
			}
			in = append(in, prefix)
		}
		text := func(p []netip.Prefix) string {
			if p == nil {
				return "nil"
			}
			return fmt.Sprint(p)
		}
		if v4, v6 := text(sources(in, true)), text(sources(in, false)); v4 != tt.v4 || v6 != tt.v6 {
			t.Errorf("%s: %s and %s, want %s and %s", tt.name, v4, v6, tt.v4, tt.v6)
		}
	}
}

// One changed endpoint is a handful of elements, however many there are.
func TestOneEndpointChangesAHandfulOfElements(t *testing.T) {
	for _, n := range []int{2, 20, 500} {
		l := newBareLab(t)
		var services []*cluster.Service
		for i := range n {
			s := many(n, 2)[i]
			services = append(services, s)
		}
		big := many(1, n)[0]
		big.Key, big.ClusterIPs = "default/big", []netip.Addr{netip.MustParseAddr("10.97.255.1")}
		l.set(append(services, big)...)
		for _, s := range []*cluster.Service{services[0], big} {
			k := &counting{kernel: l.engine.conn}
			l.engine.kernel = k
			if err := l.engine.change(map[cluster.Key]*cluster.Service{s.Key: swap(s, 1)}, l.now); err != nil {
				t.Fatal(err)
			}
			// One transaction that takes an element of 56 bytes away and adds another.
			if k.commits != 1 || k.bytes > 400 {
				t.Errorf("%d Services, %s: %d transactions, %d bytes", n, s.Key, k.commits, k.bytes)
			}
		}
	}
}

type counting struct {
	kernel
	commits, bytes int
}

func (c *counting) Commit(b *nft.Batch) error {
	c.commits++
	c.bytes += b.Len()
	return c.kernel.Commit(b)
}

func TestAChangeToNothingWritesNothing(t *testing.T) {
	l := newBareLab(t)
	s := withVIP(nodePort(service("svc", "a1", "b1"), 30080), "vip")
	s.Affinity, s.ExternalLocal = time.Hour, true
	l.set(s)
	k := &counting{kernel: l.engine.conn}
	l.engine.kernel = k
	same := *s
	same.Ports = slices.Clone(s.Ports)
	for i := range same.Ports {
		same.Ports[i].Endpoints = slices.Clone(s.Ports[i].Endpoints)
		slices.Reverse(same.Ports[i].Endpoints)
	}
	if err := l.engine.change(map[cluster.Key]*cluster.Service{s.Key: &same}, l.now); err != nil {
		t.Fatal(err)
	}
	if k.commits > 0 {
		t.Errorf("%d transactions, %d bytes", k.commits, k.bytes)
	}
}

func TestSetsGrowBeforeTheyAreFull(t *testing.T) {
	l := newBareLab(t)
	services := many(3*minElements, 1)
	for part := range slices.Chunk(services, minElements/2) {
		changed := map[cluster.Key]*cluster.Service{}
		for _, s := range part {
			changed[s.Key] = s
		}
		if err := l.engine.change(changed, l.now); err != nil {
			t.Fatal(err)
		}
	}
	if l.engine.failed > 0 || len(l.kernelMirror(t)[mapClass(0)]) != len(services) {
		t.Errorf("%d of %d fronts are there", len(l.kernelMirror(t)[mapClass(0)]), len(services))
	}
}
