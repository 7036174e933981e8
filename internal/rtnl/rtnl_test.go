package rtnl

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func open(t *testing.T, h *nstest.Host) *Reader {
	t.Helper()
	var r *Reader
	var err error
	h.Do(func() { r, err = Open() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func links(t *testing.T, r *Reader) map[string]Link {
	t.Helper()
	all, err := r.Links()
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]Link{}
	for _, l := range all {
		byName[l.Name] = l
	}
	return byName
}

func prefixes(text ...string) (out []netip.Prefix) {
	for _, s := range text {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestLinksSayWhatCanCarryVIPs(t *testing.T) {
	lan := nstest.NewSwitch(t, "lan")
	h := lan.Attach("node", "192.0.2.11/24", "2001:db8:1::11/64")
	lan.Plug(h, "eth1")                                        // no address
	lan.Plug(h, "eth2")                                        // will lose its carrier
	lan.Plug(h, "eth3")                                        // will be a bridge port
	lan.Plug(h, "eth4")                                        // will not resolve neighbours
	lan.Plug(h, "eth5")                                        // set down
	lan.Plug(h, "eth6")                                        // DHCPv6: a single address and an on-link route
	nstest.Connect(h, "pod", nstest.NewHost(t, "pod"), "eth0") // the host's end of a cable to a pod
	h.Addr("eth2", "198.51.100.1/24")
	h.Addr("eth4", "203.0.113.1/24")
	h.Addr("eth5", "203.0.113.129/25")
	h.Addr("eth6", "2001:db8:6::1/128")
	h.Addr("pod", "10.244.0.1/32", "169.254.1.1/16")
	h.IP("-6 route add 2001:db8:6::/64 dev eth6 proto ra")
	h.IP("route add default via 192.0.2.1")
	h.IP("-6 route add default via fe80::1 dev eth0")
	h.IP("link add br0 type bridge")
	h.IP("link set eth3 master br0")
	h.IP("link set eth4 arp off")
	h.IP("link set eth5 down")
	lan.IP("link set v-node-eth2 down")

	got := links(t, open(t, h))
	for name, want := range map[string]Skip{
		"lo": IsLoopback, "eth0": Usable, "eth1": NoPrefix, "eth2": NoCarrier, "eth3": "it is part of br0, which speaks for it",
		"eth4": IsNoARP, "eth5": IsDown, "eth6": Usable, "pod": NoPrefix, "br0": IsDown,
	} {
		if l, ok := got[name]; !ok || l.Skip() != want {
			t.Errorf("%s is skipped because %q, want %q", name, l.Skip(), want)
		}
	}
	eth0 := got["eth0"]
	if want := prefixes("192.0.2.0/24", "2001:db8:1::/64"); !slices.Equal(eth0.OnLink, want) {
		t.Errorf("eth0 is on %v, want %v", eth0.OnLink, want)
	}
	if want := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1")}; !slices.Equal(eth0.Gateways, want) {
		t.Errorf("gateways of eth0 are %v, want %v", eth0.Gateways, want)
	}
	if want := prefixes("2001:db8:6::/64"); !slices.Equal(got["eth6"].OnLink, want) {
		t.Errorf("eth6 is on %v, want %v", got["eth6"].OnLink, want)
	}

	var names []string
	for _, l := range Publish([]Link{got["lo"], got["eth0"], got["eth2"], got["pod"]}) {
		names = append(names, l.Name)
		if (l.Name == "eth2") != (len(l.Prefixes) == 0) || l.MAC == (cluster.MAC{}) {
			t.Errorf("published %+v", l)
		}
	}
	if want := []string{"eth0", "eth2"}; !slices.Equal(names, want) {
		t.Errorf("published %v, want %v: a link without carrier keeps its MAC listed", names, want)
	}
}

func TestWatchSignalsEachKindOfChange(t *testing.T) {
	lan := nstest.NewSwitch(t, "lan")
	h := lan.Attach("node", "192.0.2.11/24")
	r := open(t, h)
	var w *Watch
	var err error
	h.Do(func() { w, err = Subscribe() })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for _, tt := range []struct {
		change string
		do     func()
		seen   func(Link) bool
	}{
		{"an address comes", func() { h.Addr("eth0", "2001:db8::1/64") }, func(l Link) bool { return len(l.OnLink) == 2 }},
		{"a default route comes", func() { h.IP("route add default via 192.0.2.1") }, func(l Link) bool { return len(l.Gateways) == 1 }},
		{"the MAC changes", func() { h.IP("link set eth0 address 02:00:00:00:00:99") }, func(l Link) bool { return l.MAC[5] == 0x99 }},
		{"the carrier goes", func() { lan.IP("link set v-node down") }, func(l Link) bool { return !l.Carrier }},
	} {
		before := links(t, r)["eth0"]
		if tt.seen(before) {
			t.Fatalf("%s: true before", tt.change)
		}
		tt.do()
		for deadline := time.After(10 * time.Second); !tt.seen(links(t, r)["eth0"]); {
			select {
			case <-w.Changed():
			case <-deadline:
				t.Fatalf("%s: no signal", tt.change)
			}
		}
		if after := links(t, r)["eth0"]; after.Equal(before) {
			t.Errorf("%s: equal before and after", tt.change)
		}
	}
}

func TestMatters(t *testing.T) {
	route := func(bits, protocol byte) []byte { return []byte{2, bits, 0, 0, 254, protocol, 0, 0, 0, 0, 0, 0} }
	for _, tt := range []struct {
		name string
		kind uint16
		data []byte
		want bool
	}{
		{"a link", 16, nil, true},
		{"a default route", 24, route(0, 4), true},
		{"an on-link route of the kernel", 24, route(24, 2), true},
		{"a route to a pod", 24, route(32, 4), false},
		{"a torn message", 25, []byte{2}, false},
	} {
		if got := matters(tt.kind, tt.data); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
