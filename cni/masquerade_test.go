package cni

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/cni/nat"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/nstest"
)

func TestTraffic(t *testing.T) {
	nodes := world(n1, n2)
	services := map[cluster.Key]*cluster.Service{"shop/web": {VIPs: addrs("192.0.2.200 2001:db8:1::200"), ExternalIPs: addrs("192.0.2.201")}, "shop/gone": nil}
	s := Traffic(nodes, services, "n1", Options{NonMasquerade: prefixes("172.16.0.0/12")})
	if !slices.Equal(s.Pods, nodes["n1"].PodCIDRs) {
		t.Errorf("pods %v", s.Pods)
	}
	for _, p := range prefixes("10.244.1.0/24 10.244.2.0/24 fd44:0:0:2::/64 172.16.0.0/12 224.0.0.0/4") {
		if !slices.Contains(s.Near, p) {
			t.Errorf("%s is translated", p)
		}
	}
	if want := addrs("192.0.2.1 192.0.2.2 192.0.2.200 192.0.2.201 2001:db8:1::1 2001:db8:1::2 2001:db8:1::200"); !slices.Equal(s.Hosts, want) {
		t.Errorf("hosts %v, want %v", s.Hosts, want)
	}
	if s := Traffic(nodes, services, "n1", Options{NoMasquerade: true}); s.Pods != nil {
		t.Errorf("switched off, but %v", s)
	}
	if s := Traffic(nodes, services, "other", Options{}); s.Pods != nil {
		t.Errorf("not in the cluster, but %v", s)
	}
}

func TestWhatLeavesTheClusterIsTranslatedAndNothingElse(t *testing.T) {
	l := newLab(t)
	world := l.b.Attach("world", "198.51.100.99/24", "2001:db8:2::99/64")
	office := l.b.Attach("office", "198.51.100.98/24", "2001:db8:2::98/64")
	for _, h := range []*nstest.Host{world, office} {
		h.IP("route add default via 198.51.100.254")
		h.IP("-6 route add default via 2001:db8:2::fe")
	}
	a1, a2 := l.node("a1", 1, false), l.node("a2", 2, false)
	a1.stop()
	a1.opts.NonMasquerade = prefixes("198.51.100.98/32 2001:db8:2::98/128")
	a1.start()
	l.publish()
	l.ready()
	p, q := a1.podWith("p", `{"portMappings":[{"hostPort":8080,"containerPort":80}]}`), a2.pod("q")
	// The office knows the way to the pods, by a router that lets them pass.
	l.router.Run("nft", "flush", "chain", "inet", "f", "c")
	l.router.IP("route add 10.244.1.0/24 via 192.0.2.1")
	l.router.IP("-6 route add fd44:0:0:1::/64 via 2001:db8:1::1")
	l.router.Sysctl("net.ipv4.conf.all.rp_filter", "0")

	node := l.nodes["a1"].Addresses
	both := func(t *testing.T, to place, dst, want []netip.Addr) {
		t.Helper()
		for i := range dst {
			if got, err := talk(p, to, dst[i], 100); err != nil || got != want[i] {
				t.Errorf("to %s: seen as %s, %v; want %s", dst[i], got, err, want[i])
			}
		}
	}
	t.Run("to the world", func(t *testing.T) { both(t, world, addrs("198.51.100.99 2001:db8:2::99"), node) })
	t.Run("where the user says not to", func(t *testing.T) { both(t, office, addrs("198.51.100.98 2001:db8:2::98"), p.addrs) })
	t.Run("to another pod", func(t *testing.T) { both(t, q, q.addrs, p.addrs) })
	t.Run("to another node", func(t *testing.T) { both(t, a2, l.nodes["a2"].Addresses, p.addrs) })
	t.Run("to a VIP", func(t *testing.T) {
		vips := addrs("198.51.100.200 2001:db8:2::200")
		world.Addr("eth0", "198.51.100.200/32", "2001:db8:2::200/128") // somebody has it, nobody here changes it
		both(t, world, vips, node)
		a1.feed.Put(cluster.Delta{Services: map[cluster.Key]*cluster.Service{"shop/web": {VIPs: vips}}})
		nstest.Wait(t, 5*time.Second, "the table knows the VIP", func() bool {
			return strings.Contains(a1.Run("nft", "list", "table", "inet", nat.Table), "2001:db8:2::200")
		})
		both(t, world, vips, p.addrs)
	})
	for _, damage := range []string{"delete table inet " + nat.Table, "flush ruleset", "flush table inet " + nat.Table,
		fmt.Sprintf("flush set inet %s pods4; flush set inet %s near6", nat.Table, nat.Table), "flush chain inet " + nat.Table + " source",
		"flush map inet " + nat.Table + " anyports6"} {
		t.Run("after "+damage, func(t *testing.T) {
			before := a1.Run("nft", "list", "table", "inet", nat.Table)
			if !strings.Contains(before, "tcp . 8080") {
				t.Fatalf("the pod's host port is not in\n%s", before)
			}
			a1.Run("nft", damage)
			nstest.Wait(t, 5*time.Second, "the table is as it was", func() bool {
				after, err := a1.Command("nft", "list", "table", "inet", nat.Table)
				return err == nil && after == before
			})
			both(t, world, addrs("198.51.100.99 2001:db8:2::99"), node)
		})
	}
	t.Run("an agent that knows only itself yet", func(t *testing.T) {
		a1.stop()
		before := a1.Run("nft", "list", "table", "inet", nat.Table)
		a1.start()
		a1.feed.Put(cluster1(l, "a1"))
		nstest.Wait(t, 5*time.Second, "the new agent has run", func() bool { return a1.agent.Status().MTU != 0 })
		if after := a1.Run("nft", "list", "table", "inet", nat.Table); after != before {
			t.Errorf("was\n%s\nis\n%s", before, after)
		}
		both(t, q, q.addrs, p.addrs)
	})
}
