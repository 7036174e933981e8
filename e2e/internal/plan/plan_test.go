package plan

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

func settings(topology Topology, profile Profile) Settings {
	return Settings{Nodes: 3, Profile: profile, Topology: topology}
}

func TestAddressesAreTheContract(t *testing.T) {
	for _, tc := range []struct{ host, v4, v6, port string }{
		{"cp", "192.0.2.10", "2001:db8:1::10", "v-cp"},
		{"node1", "192.0.2.11", "2001:db8:1::11", "v-node1"},
		{"node2", "192.0.2.12", "2001:db8:1::12", "v-node2"},
		{"node3", "192.0.2.13", "2001:db8:1::13", "v-node3"},
		{"client", "192.0.2.100", "2001:db8:1::100", "v-client"},
	} {
		h, ok := settings(Flat, LB).Host(Prefix + tc.host)
		if !ok {
			t.Fatalf("no host %s", tc.host)
		}
		if h.V4().String() != tc.v4 || h.V6().String() != tc.v6 || h.Links[0].Port != tc.port || h.Netns() != "clarion-"+tc.host {
			t.Errorf("%s has %s, %s and port %s", h.Netns(), h.V4(), h.V6(), h.Links[0].Port)
		}
	}
}

func TestTheLastNodeIsBehindTheRouter(t *testing.T) {
	s := settings(Routed, LB)
	last, _ := s.Host("node3")
	if last.V4() != netip.MustParseAddr("198.51.100.13") || last.V6() != netip.MustParseAddr("2001:db8:2::13") {
		t.Errorf("node3 has %s and %s", last.V4(), last.V6())
	}
	router, ok := s.Host("router")
	if !ok || len(router.Links) != 2 || router.V4() != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("the router is %+v", router)
	}
	if _, ok := settings(Flat, LB).Host("router"); ok {
		t.Error("the flat topology has a router")
	}
}

// Every address and every port is there once, nothing is in the range that pools use, for any number of nodes.
func TestHostsDoNotCollide(t *testing.T) {
	for nodes := 1; nodes <= MaxNodes; nodes++ {
		for _, topology := range []Topology{Flat, Routed} {
			s := Settings{Nodes: nodes, Profile: LB, Topology: topology}
			if s.Check() != nil {
				continue
			}
			seen := map[string]string{}
			for _, h := range s.Hosts() {
				for _, l := range h.Links {
					for _, key := range []string{l.V4.String(), l.V6.String(), l.MAC, "port " + l.Port} {
						if other, taken := seen[key]; taken {
							t.Fatalf("%d nodes, %s: %s and %s both have %s", nodes, topology, other, h.Name, key)
						}
						seen[key] = h.Name
					}
					if n := l.V4.As4()[3]; n >= 200 && n <= 250 {
						t.Fatalf("%s has %s, which is for pools", h.Name, l.V4)
					}
					if len(l.Port) > 15 {
						t.Fatalf("port name %s is too long for a device", l.Port)
					}
					if !l.Segment.V4.Contains(l.V4) || !l.Segment.V6.Contains(l.V6) {
						t.Fatalf("%s is outside its segment", h.Name)
					}
				}
			}
		}
	}
}

func TestLinksAsCommands(t *testing.T) {
	for _, topology := range []Topology{Flat, Routed} {
		s := settings(topology, Upstream)
		var b strings.Builder
		section := func(title, text string) { fmt.Fprintf(&b, "# %s\n%s\n", title, text) }
		section("clarion-lan", s.SwitchLinks())
		for _, h := range s.Hosts() {
			for _, l := range h.Links {
				section("clarion-lan, cable of "+h.Name, h.Cable(l))
			}
		}
		cidrs := podCIDRs()
		for _, h := range s.Hosts() {
			if h.Role != Switch {
				section(h.Netns(), s.HostLinks(h))
				section(h.Netns()+", routes to pods", s.PodRoutes(h, cidrs))
			}
		}
		section("nft of every node", s.Masquerade())
		golden(t, string(topology)+".txt", b.String())
	}
}

func podCIDRs() map[string][]netip.Prefix {
	cidrs := map[string][]netip.Prefix{}
	for i, name := range []string{"node1", "node2", "node3"} {
		cidrs[name] = []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)),
			netip.MustParsePrefix(fmt.Sprintf("fd44:0:0:%d::/64", i)),
		}
	}
	return cidrs
}

// With Clarion's pod network only the control plane gets routes from the lab, and the router learns nothing of pods.
func TestClarionsPodNetworkBringsItsOwnRoutes(t *testing.T) {
	s := settings(Routed, Full)
	for _, h := range s.Hosts() {
		routes := s.PodRoutes(h, podCIDRs())
		if (h.Role == ControlPlane) != (routes != "") {
			t.Errorf("%s gets %q", h.Name, routes)
		}
		if h.Role == ControlPlane && !strings.Contains(routes, "route replace 10.244.2.0/24 via 192.0.2.11 ") {
			t.Errorf("the control plane does not reach pods behind the router through node1:\n%s", routes)
		}
	}
}

func TestSettingsFromTheEnvironment(t *testing.T) {
	for _, tc := range []struct {
		name string
		env  map[string]string
		want Settings
		dir  string
		err  []string
	}{
		{name: "nothing is set", want: Settings{3, LB, Flat, false}, dir: "/repo/.lab"},
		{name: "everything is set",
			env:  map[string]string{"LAB_NODES": "2", "LAB_PROFILE": "full", "LAB_TOPOLOGY": "routed", "LAB_DIR": "/x/y/", "LAB_SKIP_CLARION": "1"},
			want: Settings{2, Full, Routed, true}, dir: "/x/y"},
		{name: "every problem is told",
			env: map[string]string{"LAB_NODES": "0", "LAB_PROFILE": "half", "LAB_TOPOLOGY": "ring"},
			err: []string{"LAB_NODES", `"half"`, `"ring"`}},
		{name: "a number that is none", env: map[string]string{"LAB_NODES": "three"}, err: []string{`"three" is not a number`}},
		{name: "too few for a router", env: map[string]string{"LAB_NODES": "1", "LAB_TOPOLOGY": "routed"}, err: []string{"must be 2 or more"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, dir, err := FromEnv(func(key string) string { return tc.env[key] }, "/repo")
			if len(tc.err) > 0 {
				for _, part := range tc.err {
					if err == nil || !strings.Contains(err.Error(), part) {
						t.Errorf("the error %v does not tell %s", err, part)
					}
				}
				return
			}
			if err != nil || got != tc.want || dir != tc.dir {
				t.Errorf("got %+v in %s (%v)", got, dir, err)
			}
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what it was (go test -update writes it anew):\n%s", path, got)
	}
}
