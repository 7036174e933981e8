package speaker

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// on returns a node with one link for each list of prefixes and gateways.
func on(links ...string) *cluster.Node {
	n := &cluster.Node{}
	for i, text := range links {
		l := cluster.Link{Name: fmt.Sprintf("eth%d", i), MAC: cluster.MAC{2, byte(i + 1)}}
		for _, word := range strings.Fields(text) {
			if p, err := netip.ParsePrefix(word); err == nil {
				l.Prefixes = append(l.Prefixes, p)
			} else {
				l.Gateways = append(l.Gateways, addr(word))
			}
		}
		n.Links = append(n.Links, l)
	}
	return n
}

func local(s *cluster.Service, endpoints ...cluster.Endpoint) *cluster.Service {
	s.ExternalLocal = true
	s.Ports = []cluster.Port{{Endpoints: endpoints}}
	return s
}

func ready(node string) cluster.Endpoint {
	return cluster.Endpoint{Node: node, Ready: true, Serving: true}
}

func TestPlan(t *testing.T) {
	const flat4, flat6 = "192.0.2.0/24", "2001:db8:1::/64"
	flat := func(names ...string) map[string]*cluster.Node {
		nodes := map[string]*cluster.Node{}
		for _, name := range names {
			nodes[name] = on(flat4 + " " + flat6 + " 192.0.2.1 fe80::1")
		}
		return nodes
	}
	with := func(nodes map[string]*cluster.Node, name string, change func(*cluster.Node)) map[string]*cluster.Node {
		change(nodes[name])
		return nodes
	}
	routed := map[string]*cluster.Node{
		"a": on(flat4 + " " + flat6 + " 192.0.2.1 fe80::1"), "b": on(flat4 + " " + flat6 + " 192.0.2.1 fe80::1"),
		"far": on("198.51.100.0/24 2001:db8:2::/64 198.51.100.1 fe80::1"),
	}
	for _, tt := range []struct {
		name     string
		nodes    map[string]*cluster.Node
		services []*cluster.Service
		rule     Rule
		vips     []string                   // every case stands for both families
		want     map[string][]string        // segment → candidates in any order
		why      map[string]cluster.Refusal // of the first unit
	}{
		{name: "every node on the segment may", nodes: flat("a", "b"), vips: []string{"192.0.2.200", "2001:db8:1::200"},
			want: map[string][]string{flat4: {"a", "b"}, flat6: {"a", "b"}}},
		{name: "a node of another segment may not, though its default route would reach", nodes: routed, vips: []string{"192.0.2.200", "2001:db8:1::200"},
			want: map[string][]string{flat4: {"a", "b"}, flat6: {"a", "b"}}, why: map[string]cluster.Refusal{"far": OffSegment}},
		{name: "a VIP in no prefix of any node goes to the segments of the default gateways", nodes: routed, vips: []string{"203.0.113.1", "2001:db8:9::1"},
			want: map[string][]string{flat4: {"a", "b"}, "198.51.100.0/24": {"far"}, flat6: {"a", "b"}, "2001:db8:2::/64": {"far"}}},
		{name: "a VIP in no prefix and without a gateway has no unit", nodes: map[string]*cluster.Node{"a": on(flat4 + " " + flat6)}, vips: []string{"203.0.113.1", "2001:db8:9::1"},
			want: map[string][]string{}},
		{name: "a VIP whose prefix is on two segments has two owners", vips: []string{"192.0.2.200", "2001:db8:1::200"},
			nodes: map[string]*cluster.Node{"a": on(flat4 + " " + flat6), "b": on("192.0.2.128/25 2001:db8:1::/65")},
			want:  map[string][]string{flat4: {"a"}, "192.0.2.128/25": {"b"}, flat6: {"a"}, "2001:db8:1::/65": {"b"}}},
		{name: "refused nodes are out, with the API's reason", vips: []string{"192.0.2.200", "2001:db8:1::200"},
			nodes: with(flat("a", "b"), "b", func(n *cluster.Node) { n.Refused = cluster.Cordoned }),
			want:  map[string][]string{flat4: {"a"}, flat6: {"a"}}, why: map[string]cluster.Refusal{"a": "", "b": cluster.Cordoned}},
		{name: "a node that publishes nothing is out", vips: []string{"192.0.2.200", "2001:db8:1::200"},
			nodes: with(flat("a", "b"), "b", func(n *cluster.Node) { n.Links = nil }),
			want:  map[string][]string{flat4: {"a"}, flat6: {"a"}}, why: map[string]cluster.Refusal{"b": NoAgent}},
		{name: "the pool's selector chooses", vips: []string{"192.0.2.200", "2001:db8:1::200"},
			nodes: with(flat("a", "b"), "b", func(n *cluster.Node) { n.Labels = map[string]string{"edge": "true"} }),
			rule:  Rule{Selects: func(l map[string]string) bool { return l["edge"] == "true" }},
			want:  map[string][]string{flat4: {"b"}, flat6: {"b"}}, why: map[string]cluster.Refusal{"a": NotSelected}},
		{name: "the pool's interfaces choose, by glob", vips: []string{"192.0.2.200", "2001:db8:1::200"},
			nodes: map[string]*cluster.Node{"a": on(flat4 + " " + flat6), "b": on("198.51.100.0/24 2001:db8:2::/64", flat4+" "+flat6)},
			rule:  Rule{Interfaces: []string{"bond*", "?th1"}},
			want:  map[string][]string{flat4: {"b"}, flat6: {"b"}}, why: map[string]cluster.Refusal{"a": OtherLinks}},
		{name: "Local: only nodes with ready endpoints", nodes: flat("a", "b", "c"), vips: []string{"192.0.2.200", "2001:db8:1::200"},
			services: []*cluster.Service{local(service("s"), ready("a"), ready("b"), cluster.Endpoint{Node: "c", Serving: true, Terminating: true})},
			want:     map[string][]string{flat4: {"a", "b"}, flat6: {"a", "b"}}, why: map[string]cluster.Refusal{"c": NoEndpoint}},
		{name: "Local with nothing but terminating endpoints stays where they serve", nodes: flat("a", "b"), vips: []string{"192.0.2.200", "2001:db8:1::200"},
			services: []*cluster.Service{local(service("s"), cluster.Endpoint{Node: "b", Serving: true, Terminating: true})},
			want:     map[string][]string{flat4: {"b"}, flat6: {"b"}}},
		{name: "Local without any endpoint stays announced, to be refused at once", nodes: flat("a", "b"), vips: []string{"192.0.2.200", "2001:db8:1::200"},
			services: []*cluster.Service{local(service("s"))}, want: map[string][]string{flat4: {"a", "b"}, flat6: {"a", "b"}}},
		{name: "Cluster without any endpoint stays announced", nodes: flat("a"), vips: []string{"192.0.2.200", "2001:db8:1::200"},
			want: map[string][]string{flat4: {"a"}, flat6: {"a"}}},
		{name: "Local sharers: the nodes that serve all", nodes: flat("a", "b", "c"), vips: []string{"192.0.2.200", "2001:db8:1::200"},
			services: []*cluster.Service{local(service("s"), ready("a"), ready("b")), service("t"), local(service("u"), ready("b"), ready("c"))},
			want:     map[string][]string{flat4: {"b"}, flat6: {"b"}}},
		{name: "Local sharers without a common node: the elder is served", nodes: flat("a", "b"), vips: []string{"192.0.2.200", "2001:db8:1::200"},
			services: []*cluster.Service{local(service("s"), ready("a")), local(service("u"), ready("b"))},
			want:     map[string][]string{flat4: {"a"}, flat6: {"a"}}},
		{name: "no Service, no plan", nodes: flat("a"), services: []*cluster.Service{}, vips: []string{"192.0.2.200", "2001:db8:1::200"}, want: map[string][]string{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			topology, services := NewTopology(tt.nodes), tt.services
			if services == nil {
				services = []*cluster.Service{service("s")}
			}
			got := map[string][]string{}
			for i, text := range tt.vips {
				plans := topology.Plan(addr(text), services, tt.rule)
				for _, p := range plans {
					got[p.Unit.Segment.String()] = slices.Sorted(slices.Values(p.Candidates))
				}
				if i == 0 && len(plans) > 0 {
					all := topology.Refusals(plans[0].Unit, services, tt.rule)
					for node, why := range tt.why {
						if all[node] != why {
							t.Errorf("%s is refused because %q, want %q", node, all[node], why)
						}
					}
				}
			}
			if !maps.EqualFunc(got, tt.want, slices.Equal) {
				t.Errorf("candidates %v, want %v", got, tt.want)
			}
		})
	}
}

func TestBothFamiliesOfAServiceHaveOneOwner(t *testing.T) {
	nodes := map[string]*cluster.Node{}
	for i := range 7 {
		nodes[fmt.Sprintf("n%d", i)] = on("192.0.2.0/24 2001:db8:1::/64")
	}
	topology := NewTopology(nodes)
	for i := range 50 {
		s := service(fmt.Sprintf("s%d", i))
		v4, v6 := topology.Plan(addr("192.0.2.200"), []*cluster.Service{s}, Rule{}), topology.Plan(addr("2001:db8:1::200"), []*cluster.Service{s}, Rule{})
		if !slices.Equal(v4[0].Candidates, v6[0].Candidates) {
			t.Fatalf("IPv4 prefers %v, IPv6 %v", v4[0].Candidates, v6[0].Candidates)
		}
	}
}

func TestWeightsSpreadEvenlyAndMoveLittle(t *testing.T) {
	nodes, keys := []string{}, 10_000
	for i := range 10 {
		nodes = append(nodes, fmt.Sprintf("node-%d.rack.example", i))
	}
	first := func(key string, of []string) string {
		of = slices.Clone(of)
		SortByWeight(key, of)
		return of[0]
	}
	count := map[string]int{}
	for i := range keys {
		key := fmt.Sprintf("uid/%d", i)
		owner := first(key, nodes)
		count[owner]++
		if without := first(key, nodes[1:]); owner != nodes[0] && without != owner {
			t.Fatalf("%s moved from %s to %s because another node left", key, owner, without)
		}
	}
	for _, n := range nodes {
		if share := float64(count[n]) / float64(keys) * float64(len(nodes)); share < 0.85 || share > 1.15 {
			t.Errorf("%s owns %.2f of the mean", n, share)
		}
	}
}

func TestSharers(t *testing.T) {
	at := func(name string, age int, share string) *cluster.Service {
		s := service(name)
		s.Created, s.ShareKey = time.Unix(int64(age), 0), share
		return s
	}
	for _, tt := range []struct {
		name            string
		services        []*cluster.Service
		announced, kept string
	}{
		{"one alone", []*cluster.Service{at("a", 1, "")}, "a", ""},
		{"the same key", []*cluster.Service{at("a", 2, "k"), at("b", 1, "k")}, "b a", ""},
		{"no key: the elder keeps it", []*cluster.Service{at("a", 2, ""), at("b", 1, "")}, "b", "a"},
		{"another key", []*cluster.Service{at("a", 2, "x"), at("b", 1, "k"), at("c", 3, "k")}, "b c", "a"},
		{"of one age the first by name", []*cluster.Service{at("b", 1, ""), at("a", 1, "")}, "a", "b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 10 {
				rand.Shuffle(len(tt.services), func(i, j int) { tt.services[i], tt.services[j] = tt.services[j], tt.services[i] })
				announced, refused := Sharers(tt.services)
				if a, r := names(announced), names(refused); a != tt.announced || r != tt.kept {
					t.Fatalf("announced for %q, refused for %q", a, r)
				}
			}
		})
	}
}

func names(services []*cluster.Service) (out string) {
	for i, s := range services {
		if i > 0 {
			out += " "
		}
		out += s.UID
	}
	return out
}

// Whatever the cluster looks like, every node computes the same candidates in
// the same order, all of them on the segment and none of them refused: seen
// from everywhere, a unit has at most one owner.
func FuzzPlanIsTheSameEverywhere(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Add(uint64(7), uint64(1<<60))
	f.Fuzz(func(t *testing.T, seed1, seed2 uint64) {
		r := rand.New(rand.NewPCG(seed1, seed2))
		prefixes := []string{"192.0.2.0/24", "2001:db8:1::/64", "198.51.100.0/24", "2001:db8:2::/64", "192.0.2.192/26", "192.0.2.1", "fe80::1"}
		nodes := map[string]*cluster.Node{}
		for i := range 1 + r.IntN(6) {
			text := ""
			for _, p := range prefixes {
				if r.IntN(2) == 0 {
					text += p + " "
				}
			}
			n := on(text)
			n.Refused = []cluster.Refusal{"", "", cluster.NotReady}[r.IntN(3)]
			nodes[fmt.Sprintf("n%d", i)] = n
		}
		var services []*cluster.Service
		for i := range 1 + r.IntN(3) {
			s := service(fmt.Sprintf("s%d", i))
			s.ShareKey = "k"
			if r.IntN(2) == 0 {
				local(s, ready(fmt.Sprintf("n%d", r.IntN(6))))
			}
			services = append(services, s)
		}
		vip := []netip.Addr{addr("192.0.2.200"), addr("2001:db8:1::200"), addr("203.0.113.7")}[r.IntN(3)]
		want := NewTopology(nodes).Plan(vip, services, Rule{})
		again := NewTopology(maps.Clone(nodes)).Plan(vip, services, Rule{})
		units := map[Unit]bool{}
		for i, p := range want {
			if units[p.Unit] {
				t.Fatalf("%v is planned twice", p.Unit)
			}
			units[p.Unit] = true
			if !slices.Equal(p.Candidates, again[i].Candidates) || p.Unit != again[i].Unit {
				t.Fatalf("%v and %v", p, again[i])
			}
			refusals := NewTopology(nodes).Refusals(p.Unit, services, Rule{})
			for name, n := range nodes {
				onSegment := slices.ContainsFunc(n.Links, func(l cluster.Link) bool { return slices.Contains(l.Prefixes, p.Unit.Segment) })
				switch candidate := slices.Contains(p.Candidates, name); {
				case candidate && (!onSegment || n.Refused != ""):
					t.Fatalf("%s may not be a candidate of %v", name, p.Unit)
				case candidate != (refusals[name] == ""):
					t.Fatalf("%s is a candidate: %v, but refused because %q", name, candidate, refusals[name])
				}
			}
		}
	})
}
