package rtnl

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/nstest"
)

func handle(t *testing.T, h *nstest.Host) *Handle {
	t.Helper()
	var out *Handle
	var err error
	h.Do(func() { out, err = OpenAt("/proc/thread-self/ns/net") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := out.Close(); err != nil {
			t.Error(err)
		}
	})
	return out
}

// What is written is read back as it was, so that a second run finds nothing
// to do.
func TestWhatIsSetIsReadBack(t *testing.T) {
	lan := nstest.NewSwitch(t, "lan")
	n := lan.Attach("node", "192.0.2.1/24", "2001:db8:1::1/64")
	h := handle(t, n)
	eth0, err := h.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	vxlan := VXLAN{Name: "vx", VNI: 7, Port: 4789, MAC: cluster.MAC{2, 0, 0, 0, 0, 7}, Local: netip.MustParseAddr("192.0.2.1"), MTU: 1450}
	if err := h.AddVXLAN(vxlan); err != nil {
		t.Fatal(err)
	}
	got, vx, up, err := h.GetVXLAN("vx")
	if err != nil || got != vxlan || !up {
		t.Errorf("VXLAN %+v, up %v, %v; want %+v", got, up, err, vxlan)
	}
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	for _, addr := range []Address{{Prefix: p("10.244.1.1/32"), Scope: ScopeLink, Quiet: true}, {Prefix: p("fd44::1/128"), Quiet: true}} {
		for range 2 {
			if err := h.AddAddr(vx, addr); err != nil {
				t.Fatal(err)
			}
		}
	}
	routes := []Route{
		{Dst: p("10.244.2.0/24"), Link: eth0.Index, Via: a("192.0.2.2")},
		{Dst: p("fd44:2::/64"), Link: eth0.Index, Via: a("2001:db8:1::2")},
		{Dst: p("10.244.3.0/24"), Link: vx, Via: a("10.244.3.1"), OnLink: true, Src: a("10.244.1.1"), MTU: 1400},
		{Dst: p("fd44:3::/64"), Link: vx, Via: a("fd44:3::1"), OnLink: true, Src: a("fd44::1")},
		{Dst: p("10.244.9.9/32"), Link: vx},
		{Dst: p("fd44:9::9/128"), Link: vx, Table: 67},
		{Dst: p("10.244.1.0/24"), Kind: Unreachable},
		{Dst: p("fd44::/64"), Kind: Unreachable},
		{Dst: p("0.0.0.0/0"), Link: eth0.Index, Via: a("192.0.2.254"), Metric: 9},
		{Dst: p("::/0"), Link: eth0.Index, Via: a("2001:db8:1::fe"), Metric: 9},
	}
	for range 2 {
		for _, r := range routes {
			if err := h.SetRoute(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	have, err := h.Routes()
	if err != nil || len(have) != len(routes) {
		t.Errorf("%d routes, %v", len(have), err)
	}
	for _, r := range routes {
		if !slices.Contains(have, r) {
			t.Errorf("%+v is not in %+v", r, have)
		}
	}
	neighbours := []Neighbour{
		{Link: vx, Addr: a("10.244.3.1"), MAC: cluster.MAC{2, 1}}, {Link: vx, Addr: a("fd44:3::1"), MAC: cluster.MAC{2, 1}},
		{Link: vx, Forward: true, Addr: a("198.51.100.3"), MAC: cluster.MAC{2, 1}},
	}
	for range 2 {
		for _, e := range neighbours {
			if err := h.SetNeighbour(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	moved := neighbours[2]
	moved.Addr = a("198.51.100.4")
	if err := h.SetNeighbour(moved); err != nil {
		t.Fatal(err)
	}
	neighbours[2] = moved
	if got, err := h.Neighbours(vx); err != nil || !slices.Equal(got, neighbours) {
		t.Errorf("neighbours %v, %v; want %v", got, err, neighbours)
	}
	rule := Rule{Priority: 30067, From: p("fd44::/64"), Table: 67}
	for range 2 {
		if err := h.AddRule(rule); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := h.Rules(67); err != nil || !slices.Equal(got, []Rule{rule}) {
		t.Errorf("rules %v, %v", got, err)
	}
	for range 2 { // absence is no error
		var errs []error
		for _, r := range routes {
			errs = append(errs, h.DelRoute(r))
		}
		for _, e := range neighbours {
			errs = append(errs, h.DelNeighbour(e))
		}
		errs = append(errs, h.DelRule(rule), h.DelAddr(vx, p("10.244.1.1/32")), h.DelLink("vx"))
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := h.Routes(); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestARouteOfSomebodyElseIsNotReplaced(t *testing.T) {
	lan := nstest.NewSwitch(t, "lan")
	n := lan.Attach("node", "192.0.2.1/24", "2001:db8:1::1/64")
	n.IP("route add 10.244.2.0/24 via 192.0.2.9")
	n.IP("-6 route add fd44:2::/64 via 2001:db8:1::9")
	h := handle(t, n)
	eth0, err := h.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	for dst, via := range map[string]string{"10.244.2.0/24": "192.0.2.2", "fd44:2::/64": "2001:db8:1::2"} {
		r := Route{Dst: netip.MustParsePrefix(dst), Link: eth0.Index, Via: netip.MustParseAddr(via)}
		if err := h.SetRoute(r); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v", dst, err)
		}
	}
	if ours, err := h.Routes(); err != nil || len(ours) > 0 {
		t.Errorf("%v, %v", ours, err)
	}
}

func TestNamespacesThatAreNone(t *testing.T) {
	for path, want := range map[string]error{"/nowhere": ErrNoNS, "/dev/null/x": ErrNoNS, "/proc/self/status": ErrNotNS, "/proc/self/ns/uts": ErrNotNS} {
		if h, err := OpenAt(path); !errors.Is(err, want) {
			t.Errorf("%s: %v, %v", path, h, err)
		}
	}
}

func TestBreaks(t *testing.T) {
	route := func(bits, protocol byte) []byte { return []byte{2, bits, 0, 0, 254, protocol, 0, 0, 0, 0, 0, 0} }
	neighbour := []byte{2, 0, 0, 0, 5, 0, 0, 0, 0x80, 0, 0, 0}
	for _, tt := range []struct {
		name     string
		kind     uint16
		data     []byte
		followed []int
		want     bool
	}{
		{"a link", unix.RTM_NEWLINK, nil, nil, true},
		{"a rule", unix.RTM_DELRULE, nil, nil, true},
		{"a route of ours goes", unix.RTM_DELROUTE, route(24, Protocol), nil, true},
		{"a route of ours comes", unix.RTM_NEWROUTE, route(24, Protocol), nil, false},
		{"a route of a routing daemon", unix.RTM_DELROUTE, route(24, 186), nil, false},
		{"a default route", unix.RTM_NEWROUTE, route(0, 16), nil, true},
		{"a torn route", unix.RTM_DELROUTE, []byte{2}, nil, false},
		{"a neighbour goes", unix.RTM_DELNEIGH, neighbour, []int{4}, false},
		{"a neighbour on a tunnel goes", unix.RTM_DELNEIGH, neighbour, []int{4, 5}, true},
		{"a neighbour on a tunnel comes", unix.RTM_NEWNEIGH, neighbour, []int{5}, false},
		{"a torn neighbour", unix.RTM_DELNEIGH, []byte{2}, []int{0}, false},
	} {
		if got := breaks(tt.kind, tt.data, tt.followed); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
