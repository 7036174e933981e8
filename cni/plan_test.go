package cni

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

var update = flag.Bool("update", false, "write the golden files anew")

func addrs(text string) (out []netip.Addr) {
	for w := range strings.FieldsSeq(text) {
		out = append(out, netip.MustParseAddr(w))
	}
	return out
}

func prefixes(text string) (out []netip.Prefix) {
	for w := range strings.FieldsSeq(text) {
		out = append(out, netip.MustParsePrefix(w))
	}
	return out
}

// world describes nodes, one per line: name, addresses, pod CIDRs.
func world(lines ...string) map[string]*cluster.Node {
	nodes := map[string]*cluster.Node{}
	for _, line := range lines {
		name, rest, _ := strings.Cut(line, ": ")
		a, c, _ := strings.Cut(rest, "|")
		nodes[name] = &cluster.Node{Name: name, Addresses: addrs(a), PodCIDRs: prefixes(c)}
	}
	return nodes
}

// link makes an uplink with addresses; what they share is on it.
func link(index int, name, has string, gateways string) rtnl.Link {
	l := rtnl.Link{Index: index, Name: name, Kind: "device", MTU: 1500, Ethernet: true, Up: true, Carrier: true, Addrs: prefixes(has), Gateways: addrs(gateways)}
	for _, p := range l.Addrs {
		if !p.IsSingleIP() {
			l.OnLink = append(l.OnLink, p.Masked())
		}
	}
	return l
}

var lo = rtnl.Link{Index: 1, Name: "lo", Up: true, Carrier: true, Loopback: true, MTU: 65536, Addrs: prefixes("127.0.0.1/8")}

func with(l rtnl.Link, change func(*rtnl.Link)) rtnl.Link { change(&l); return l }

const (
	n1 = "n1: 192.0.2.1 2001:db8:1::1|10.244.1.0/24 fd44:0:0:1::/64"
	n2 = "n2: 192.0.2.2 2001:db8:1::2|10.244.2.0/24 fd44:0:0:2::/64"
	r1 = "r1: 198.51.100.1 2001:db8:2::1|10.244.3.0/24 fd44:0:0:3::/64" // behind a router
)

var eth0 = link(2, "eth0", "192.0.2.1/24 2001:db8:1::1/64", "192.0.2.254 fe80::1")

var planCases = []struct {
	name  string
	nodes map[string]*cluster.Node
	links []rtnl.Link
	opts  Options
	paths map[netip.Addr]int
}{
	{name: "alone", nodes: world(n1), links: []rtnl.Link{lo, eth0}},
	{name: "a neighbour", nodes: world(n1, n2), links: []rtnl.Link{lo, eth0}},
	{name: "a neighbour and one behind a router", nodes: world(n1, n2, r1), links: []rtnl.Link{lo, eth0}},
	{name: "jumbo frames", nodes: world(n1, n2, r1), links: []rtnl.Link{lo, with(eth0, func(l *rtnl.Link) { l.MTU = 9000 })}},
	{name: "a chosen MTU and tunnel", nodes: world(n1, r1), links: []rtnl.Link{lo, eth0}, opts: Options{MTU: 1400, VNI: 7, Port: 8472}},
	{name: "IPv6 only behind a router", nodes: world("n1: 2001:db8:1::1|fd44:0:0:1::/64", "r1: 2001:db8:2::1|fd44:0:0:3::/64"), links: []rtnl.Link{lo, eth0}},
	{name: "IPv6 pods between nodes with IPv4 addresses only", nodes: world("n1: 192.0.2.1|10.244.1.0/24 fd44:0:0:1::/64", "n2: 192.0.2.2|10.244.2.0/24 fd44:0:0:2::/64"), links: []rtnl.Link{lo, link(2, "eth0", "192.0.2.1/24", "192.0.2.254")}},
	{name: "a narrow path", nodes: world(n1, n2, r1), links: []rtnl.Link{lo, eth0}, paths: map[netip.Addr]int{netip.MustParseAddr("198.51.100.1"): 1400, netip.MustParseAddr("192.0.2.2"): 1300}},
	{name: "a path said to be narrower than IPv6 allows", nodes: world(n1, r1), links: []rtnl.Link{lo, eth0}, paths: map[netip.Addr]int{netip.MustParseAddr("198.51.100.1"): 600}},
	{name: "two segments, one shared", nodes: world("n1: 192.0.2.1|10.244.1.0/24", "n2: 203.0.113.2|10.244.2.0/24", "n3: 192.0.2.3|10.244.3.0/24"),
		links: []rtnl.Link{lo, link(2, "eth0", "192.0.2.1/24", "192.0.2.254"), link(3, "eth1", "203.0.113.1/24", "")}},
	{name: "two links on one segment, one without carrier", nodes: world("n1: 192.0.2.1|10.244.1.0/24", "n2: 192.0.2.2|10.244.2.0/24"),
		links: []rtnl.Link{lo, with(link(2, "eth0", "192.0.2.1/24", ""), func(l *rtnl.Link) { l.Carrier = false }), link(3, "eth1", "192.0.2.101/24", "192.0.2.254")}},
	{name: "the link is down", nodes: world(n1, n2), links: []rtnl.Link{lo, with(eth0, func(l *rtnl.Link) { l.Up = false })}},
	{name: "a peer with a pod CIDR of another", nodes: world(n1, n2, "n3: 192.0.2.3|10.244.0.0/16"), links: []rtnl.Link{lo, eth0}},
	{name: "a peer without addresses and one without pod CIDRs", nodes: world(n1, "n2: |10.244.2.0/24", "n3: 192.0.2.3|"), links: []rtnl.Link{lo, eth0}},
	{name: "the node is translated", nodes: world("n1: 203.0.113.7|10.244.1.0/24", r1), links: []rtnl.Link{lo, link(2, "eth0", "10.0.0.5/24", "10.0.0.1")}},
	{name: "pod CIDRs of one address", nodes: world("n1: 192.0.2.1|10.244.1.0/31", "r1: 198.51.100.1|10.244.3.7/32"), links: []rtnl.Link{lo, eth0}},
	{name: "the pod CIDR is also the network of a link", nodes: world("n1: 10.244.1.9|10.244.1.0/24"), links: []rtnl.Link{lo, link(2, "eth0", "10.244.1.9/16", "")}},
	{name: "no pod CIDR yet", nodes: world("n1: 192.0.2.1|", n2), links: []rtnl.Link{lo, eth0}},
	{name: "no such node", nodes: world(n2), links: []rtnl.Link{lo, eth0}},
	{name: "links of pods and tunnels are no way out", nodes: world(n1, r1),
		links: []rtnl.Link{lo, with(link(2, "clpabc", "198.51.100.9/24", ""), func(l *rtnl.Link) {}), link(3, "clarion-vx4", "198.51.100.8/24", ""), with(eth0, func(l *rtnl.Link) { l.Index = 4 })}},
}

func TestPlanGoldens(t *testing.T) {
	for _, tt := range planCases {
		t.Run(tt.name, func(t *testing.T) {
			got := text(Plan(View{Nodes: tt.nodes, Self: "n1", Links: tt.links, Paths: tt.paths, Options: tt.opts}))
			path := filepath.Join("testdata", "plan", strings.ReplaceAll(tt.name, " ", "-")+".txt")
			if *update {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// text writes a state as a person would with ip and bridge.
func text(s State) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	for _, t := range s.Tunnels {
		line("link %s vxlan id %d dstport %d local %s address %s mtu %d", t.Name, t.VNI, t.Port, t.Local, net.HardwareAddr(t.MAC[:]), t.MTU)
	}
	for _, a := range s.Addresses {
		line("addr %s dev %s quiet %v", a.Prefix, a.Dev, a.Quiet)
	}
	for _, r := range s.Routes {
		words := []string{"route"}
		if r.Kind == rtnl.Unreachable {
			words = append(words, "unreachable")
		}
		words = append(words, r.Dst.String())
		if r.Via.IsValid() {
			words = append(words, "via", r.Via.String())
		}
		if r.Dev != "" {
			words = append(words, "dev", r.Dev)
		}
		if r.OnLink {
			words = append(words, "onlink")
		}
		if r.Src.IsValid() {
			words = append(words, "src", r.Src.String())
		}
		if r.Table != 0 {
			words = append(words, "table", fmt.Sprint(r.Table))
		}
		line("%s", strings.Join(words, " "))
	}
	for _, r := range s.Rules {
		line("rule %s", r)
	}
	for _, e := range s.Entries {
		verb := "neigh"
		if e.Forward {
			verb = "fdb"
		}
		line("%s %s lladdr %s dev %s", verb, e.Addr, net.HardwareAddr(e.MAC[:]), e.Dev)
	}
	line("pods: CIDRs %v excluded %v mtu %d", s.Node.PodCIDRs, s.Node.Excluded, s.Node.MTU)
	if s.Node.NotReady != "" {
		line("not ready: %s", s.Node.NotReady)
	}
	for _, p := range s.Peers {
		if p.Path == Nowhere {
			line("peer %s %s: none, %s", p.Node, p.CIDR, p.Why)
			continue
		}
		line("peer %s %s: %s via %s dev %s mtu %d", p.Node, p.CIDR, p.Path, p.Via, p.Link, p.MTU)
	}
	for _, p := range s.Problems {
		line("problem: %s", p)
	}
	return b.String()
}

// The properties that hold for every cluster: one place per route and entry,
// nothing for the node's own pods but the refusal, no route without its link
// or its entries, and no dependence on the order in which things are listed.
func TestPlanProperties(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		nodes := map[string]*cluster.Node{}
		for i := range 2 + rng.IntN(8) {
			n := &cluster.Node{Name: fmt.Sprint("n", i)}
			segment := rng.IntN(3)
			if rng.IntN(5) > 0 {
				n.Addresses = append(n.Addresses, netip.AddrFrom4([4]byte{192, 0, byte(segment), byte(i + 1)}))
			}
			if rng.IntN(5) > 0 {
				n.Addresses = append(n.Addresses, netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::%d", segment, i+1)))
			}
			if rng.IntN(6) > 0 {
				n.PodCIDRs = append(n.PodCIDRs, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(rng.IntN(12)), 0}), 24))
			}
			if rng.IntN(6) > 0 {
				n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix(fmt.Sprintf("fd44:0:0:%d::/64", i)))
			}
			nodes[n.Name] = n
		}
		var has []string
		for _, a := range nodes["n0"].Addresses {
			bits := 24
			if a.Is6() {
				bits = 64
			}
			has = append(has, netip.PrefixFrom(a, bits).String())
		}
		links := []rtnl.Link{lo, link(2, "eth0", strings.Join(has, " "), "")}
		s := Plan(View{Nodes: nodes, Self: "n0", Links: links})
		check := func(ok bool, format string, args ...any) {
			t.Helper()
			if !ok {
				t.Fatalf("round %d: %s\n%s", round, fmt.Sprintf(format, args...), text(s))
			}
		}
		devs := map[string]bool{"eth0": true}
		for _, tun := range s.Tunnels {
			devs[tun.Name] = true
		}
		seen := map[rtnl.RouteKey]bool{}
		for _, r := range s.Routes {
			check(!seen[r.Key()], "two routes to %s", r.Dst)
			seen[r.Key()] = true
			check(r.Kind == rtnl.Unreachable || devs[r.Dev], "route %v has no link", r)
			for _, own := range nodes["n0"].PodCIDRs {
				check(r.Kind == rtnl.Unreachable || !r.Dst.Overlaps(own), "route %v takes away the node's own pods", r)
			}
			if r.OnLink {
				check(slices.ContainsFunc(s.Entries, func(e Entry) bool { return !e.Forward && e.Addr == r.Via && e.Dev == r.Dev }), "route %v has no neighbour", r)
			}
		}
		for _, e := range s.Entries {
			check(e.Forward || slices.ContainsFunc(s.Entries, func(f Entry) bool { return f.Forward && f.MAC == e.MAC && f.Dev == e.Dev }), "%v is not forwarded", e)
		}
		for _, p := range s.Peers {
			check(p.Path != Nowhere || p.Why != "", "no reason for %v", p)
			check(p.Path == Nowhere || s.Node.MTU <= p.MTU, "pods' packets do not fit %v", p)
		}
		shuffled := slices.Clone(links)
		slices.Reverse(shuffled)
		again := Plan(View{Nodes: maps.Clone(nodes), Self: "n0", Links: shuffled})
		check(reflect.DeepEqual(s, again), "another order gives\n%s", text(again))
	}
}

// Both ends of a tunnel must agree without a word between them.
func TestTunnelEndsAgree(t *testing.T) {
	nodes := world(n1, r1)
	here := Plan(View{Nodes: nodes, Self: "n1", Links: []rtnl.Link{lo, eth0}})
	there := Plan(View{Nodes: nodes, Self: "r1", Links: []rtnl.Link{lo, link(2, "eth0", "198.51.100.1/24 2001:db8:2::1/64", "")}})
	for _, side := range []struct{ a, b State }{{here, there}, {there, here}} {
		for _, e := range side.a.Entries {
			tun := side.b.Tunnels[0]
			if e.MAC != tun.MAC || e.Forward && e.Addr != tun.Local {
				t.Errorf("entry %v, but the far end is %v", e, tun)
			}
			if !e.Forward && !slices.ContainsFunc(side.b.Addresses, func(a TunnelAddr) bool { return a.Addr() == e.Addr }) {
				t.Errorf("entry %v, but the far end has %v", e, side.b.Addresses)
			}
		}
	}
	if here.Tunnels[0].VNI != there.Tunnels[0].VNI || here.Tunnels[0].Port != there.Tunnels[0].Port {
		t.Error("the tunnels have different settings")
	}
}

func TestEveryPlannedNodeCanBeWritten(t *testing.T) {
	for _, tt := range planCases {
		s := Plan(View{Nodes: tt.nodes, Self: "n1", Links: tt.links, Paths: tt.paths, Options: tt.opts})
		s.Node.MTU = cmp.Or(s.Node.MTU, leastMTU)
		if err := store.WriteNode(t.TempDir(), s.Node); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
