package cni

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/nstest"
)

// three starts two nodes on one segment and one behind a router, each with a
// pod.
func three(t *testing.T) (l *lab, n [3]*labNode, p [3]*labPod) {
	t.Helper()
	l = newLab(t)
	n = [3]*labNode{l.node("a1", 1, false), l.node("a2", 2, false), l.node("b1", 3, true)}
	l.publish()
	l.ready()
	for i := range n {
		p[i] = n[i].pod(fmt.Sprint("pod", i))
	}
	return l, n, p
}

// The three commandments (invariant N1), as a matrix: pod and node to pod and
// node, same node, same segment and behind the router, both families.
func TestEverybodyReachesEverybodyWithoutTranslation(t *testing.T) {
	l, nodes, pods := three(t)
	type end struct {
		name  string
		place place
		addrs []netip.Addr
		also  []netip.Addr // other sources that are right: the node's end of the tunnels
	}
	var ends []end
	for i := range nodes {
		desc := l.nodes[nodes[i].Name]
		var also []netip.Addr
		for _, c := range desc.PodCIDRs {
			also = append(also, endpoint(c))
		}
		ends = append(ends, end{"node " + nodes[i].Name, nodes[i], desc.Addresses, also},
			end{"pod on " + nodes[i].Name, pods[i], pods[i].addrs, nil})
	}
	for _, from := range ends {
		for _, to := range ends {
			for family, dst := range to.addrs {
				t.Run(fmt.Sprintf("%s to %s %s", from.name, to.name, dst), func(t *testing.T) {
					src, err := talk(from.place, to.place, dst, 1000)
					if err != nil {
						t.Fatal(err)
					}
					right := from.addrs[family]
					if from.name == to.name {
						right = dst
					}
					if src != right && !(strings.HasPrefix(to.name, "pod") && slices.Contains(from.also, src)) {
						t.Errorf("seen as %s, want %s", src, right)
					}
				})
			}
		}
	}
	for i, n := range nodes {
		for _, peer := range n.agent.Status().Peers {
			want := Direct
			if (peer.Node == "b1") != (i == 2) {
				want = Tunnel
			}
			if peer.Path != want {
				t.Errorf("%s reaches %s by %s, want %s", n.Name, peer.Node, peer.Path, want)
			}
		}
	}
}

// No packet of a pod is too big for its path, and none depends on ICMP.
func TestLargeTransfersOnBothPaths(t *testing.T) {
	l, _, pods := three(t)
	l.router.Run("nft", "add rule inet f c icmp type destination-unreachable drop; add rule inet f c icmpv6 type packet-too-big drop")
	for _, to := range []*labPod{pods[1], pods[2]} {
		for _, dst := range to.addrs {
			if _, err := talk(pods[0], to, dst, 5<<20); err != nil {
				t.Errorf("5 MiB each way from %v to %s: %v", pods[0].addrs, dst, err)
			}
		}
	}
	if got := pods[0].mtu(); got != 1450 {
		t.Errorf("the pod has MTU %d, want 1450: a VXLAN path takes no more", got)
	}
}

// The way between the segments is narrower than both ends know. Packets in the
// tunnel are then fragmented, never dropped for good.
func TestANarrowLinkInTheMiddle(t *testing.T) {
	for _, outer := range []ipfam.Family{ipfam.V4, ipfam.V6} {
		t.Run("outer packets of "+outer.String(), func(t *testing.T) { narrow(t, outer) })
	}
}

func narrow(t *testing.T, outer ipfam.Family) {
	l := newLab(t)
	second := nstest.NewHost(t, "router2")
	second.Sysctl("net.ipv4.ip_forward", "1")
	second.Sysctl("net.ipv6.conf.all.forwarding", "1")
	l.router.IP("link del eth1") // what was the second segment's router
	l.b.Plug(second, "eth1")
	second.Addr("eth1", "198.51.100.254/24", "2001:db8:2::fe/64")
	nstest.Connect(l.router, "mid", second, "mid")
	l.router.Addr("mid", "203.0.113.1/30", "2001:db8:3::1/126")
	second.Addr("mid", "203.0.113.2/30", "2001:db8:3::2/126")
	for _, r := range []struct {
		*nstest.Host
		v4, v6, via4, via6 string
	}{{l.router, "198.51.100.0/24", "2001:db8:2::/64", "203.0.113.2", "2001:db8:3::2"}, {second, "192.0.2.0/24", "2001:db8:1::/64", "203.0.113.1", "2001:db8:3::1"}} {
		r.IP("link set mid mtu 1400")
		r.IP("route add %s via %s", r.v4, r.via4)
		r.IP("-6 route add %s via %s", r.v6, r.via6)
	}
	a, b := l.node("a1", 1, false), l.node("b1", 3, true)
	for _, n := range l.nodes {
		n.Addresses = slices.DeleteFunc(n.Addresses, func(a netip.Addr) bool { return ipfam.Of(a) != outer })
	}
	l.publish()
	l.ready()
	p, q := a.pod("p"), b.pod("q")
	for _, dst := range q.addrs {
		if _, err := talk(p, q, dst, 1<<20); err != nil {
			t.Errorf("1 MiB each way to %s: %v", dst, err)
		}
	}
}

// Whatever somebody takes away is back within a second of the event
// (invariant N3), and what is whole is not touched.
func TestWhatIsBrokenIsRepaired(t *testing.T) {
	_, nodes, pods := three(t)
	n := nodes[0]
	hostIf := strings.Fields(n.Run("sh", "-c", "ls /proc/sys/net/ipv4/conf | grep ^clp"))[0]
	tests := []struct {
		name string
		do   func()
		dst  *labPod // who must be reached again
	}{
		{"a direct route is deleted", func() { n.IP("route del 10.244.2.0/24"); n.IP("-6 route del fd44:0:0:2::/64") }, pods[1]},
		{"all our routes are flushed", func() { n.IP("route flush proto 67"); n.IP("-6 route flush proto 67") }, pods[2]},
		{"the main table is flushed", func() {
			n.IP("route flush table main")
			n.IP("route add 192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.1")
			n.IP("route add default via 192.0.2.254")
		}, pods[2]},
		{"the VXLAN device is deleted", func() { n.IP("link del clarion-vx4") }, pods[2]},
		{"the VXLAN device is set down", func() { n.IP("link set clarion-vx4 down") }, pods[2]},
		{"the VXLAN device loses its addresses", func() { n.IP("addr flush dev clarion-vx4") }, pods[2]},
		{"a forwarding entry is deleted", func() {
			n.Run("sh", "-c", "bridge fdb show dev clarion-vx4 | while read mac rest; do bridge fdb del $mac dev clarion-vx4 self; done")
		}, pods[2]},
		{"the neighbours of the tunnel are deleted", func() {
			n.IP("neigh flush dev clarion-vx4 nud permanent")
			n.IP("-6 neigh flush dev clarion-vx4 nud permanent")
		}, pods[2]},
		{"the VXLAN device gets another MAC", func() { n.IP("link set clarion-vx4 address 02:00:00:00:00:01") }, pods[2]},
		{"the uplink bounces", func() {
			n.IP("link set eth0 down")
			n.IP("link set eth0 up")
			n.Addr("eth0", "2001:db8:1::1/64") // as a network manager does
			n.IP("route add default via 192.0.2.254")
			n.IP("-6 route add default via 2001:db8:1::fe")
		}, pods[2]},
		{"a pod's cable bounces", func() { n.IP("link set %s down", hostIf); n.IP("link set %s up", hostIf) }, pods[1]},
		{"a pod's cable is set down", func() { n.IP("link set %s down", hostIf) }, pods[1]},
		{"a pod's cable loses its addresses", func() { n.IP("addr flush dev %s", hostIf) }, pods[1]},
		{"the routes to pods are deleted", func() { n.IP("route del %s", pods[0].addrs[0]); n.IP("-6 route del %s", pods[0].addrs[1]) }, pods[1]},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := snapshot(n)
			tt.do()
			defer func() {
				if t.Failed() {
					after := snapshot(n)
					for line := range strings.Lines(before) {
						if !strings.Contains(after, line) {
							t.Logf("lost: %s", line)
						}
					}
					for line := range strings.Lines(after) {
						if !strings.Contains(before, line) {
							t.Logf("new: %s", line)
						}
					}
				}
			}()
			nstest.Wait(t, 5*time.Second, "everything is as it was", func() bool { return snapshot(n) == before })
			for _, dst := range tt.dst.addrs {
				nstest.Wait(t, 5*time.Second, "the other pod is reached at "+dst.String(), func() bool {
					_, err := talk(pods[0], tt.dst, dst, 10)
					return err == nil
				})
			}
		})
	}
	t.Run("a run with nothing to do does nothing", func(t *testing.T) {
		monitor := n.Start("ip", "monitor", "link", "address", "route", "rule")
		seen := func(mark string) func() bool {
			return func() bool {
				n.IP("link add %s type bridge", mark)
				n.IP("link del %s", mark)
				return strings.Contains(monitor.Output(), mark)
			}
		}
		nstest.Wait(t, 5*time.Second, "the monitor listens", seen("mark1"))
		n.agent.loop.Kick()
		nstest.Wait(t, 5*time.Second, "the monitor has seen all up to now", seen("mark2"))
		for line := range strings.Lines(monitor.Output()) {
			if strings.Contains(line, "clarion") || strings.Contains(line, "proto 67") || strings.Contains(line, "clp") {
				t.Errorf("touched: %s", line)
			}
		}
	})
}

// snapshot is what Clarion has on a node, without indexes that a new device
// changes.
func snapshot(n *labNode) string {
	var b strings.Builder
	for _, c := range []string{
		"-4 route show table all proto 67", "-6 route show table all proto 67",
		"-4 rule show", "-6 rule show", "-br link show up type vxlan",
		"-4 neigh show nud permanent dev clarion-vx4", "-6 neigh show nud permanent dev clarion-vx4",
	} {
		out, err := n.Command(append([]string{"ip"}, strings.Fields(c)...)...)
		fmt.Fprintln(&b, c, out, err)
	}
	fdb, err := n.Command("bridge", "fdb", "show", "dev", "clarion-vx4")
	fmt.Fprintln(&b, fdb, err)
	for line := range strings.Lines(n.IP("-o addr show")) {
		if strings.Contains(line, "clp") || strings.Contains(line, TunnelPrefix) {
			_, rest, _ := strings.Cut(line, ": ")
			fmt.Fprint(&b, rest, "\n")
		}
	}
	lines := strings.Split(b.String(), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// The topology changes while pods talk: a peer moves behind the router and
// back.
func TestThePathIsChosenAgainWhenTheTopologyChanges(t *testing.T) {
	l, nodes, pods := three(t)
	nodes[2].stop()
	delete(l.hosts, "b1")
	l.nodes["b1"] = nil
	l.publish()
	l.ready()
	nstest.Wait(t, 5*time.Second, "without a peer behind a router there is no tunnel", func() bool {
		return !strings.Contains(nodes[0].IP("link"), TunnelPrefix) && !strings.Contains(nodes[0].IP("rule"), "lookup 67")
	})
	nstest.Wait(t, 5*time.Second, "living pods get the MTU of the direct path", func() bool { return pods[0].mtu() == 1500 })
	if _, err := talk(pods[0], pods[1], pods[1].addrs[0], 1<<20); err != nil {
		t.Error(err)
	}

	// a2 gets addresses on the other segment.
	a2 := nodes[1]
	l.a.IP("link del v-a2")
	l.b.Plug(a2.Host, "eth0")
	a2.Addr("eth0", "198.51.100.2/24", "2001:db8:2::2/64")
	a2.IP("route add default via 198.51.100.254")
	a2.IP("-6 route add default via 2001:db8:2::fe")
	moved := *l.nodes["a2"]
	moved.Addresses = addrs("198.51.100.2 2001:db8:2::2")
	l.nodes["a2"] = &moved
	l.publish()
	nstest.Wait(t, 5*time.Second, "a1 reaches a2 by VXLAN", func() bool {
		s := nodes[0].agent.Status()
		return len(s.Peers) == 2 && s.Peers[0].Path == Tunnel && s.Peers[1].Path == Tunnel
	})
	nstest.Wait(t, 5*time.Second, "living pods get the MTU of the tunnel", func() bool { return pods[0].mtu() == 1450 && pods[1].mtu() == 1450 })
	for _, dst := range pods[1].addrs {
		nstest.Wait(t, 5*time.Second, "the moved pod is reached at "+dst.String(), func() bool {
			_, err := talk(pods[0], pods[1], dst, 1<<20)
			return err == nil
		})
	}
}

func TestWhatIsNotYetKnownIsNotRemoved(t *testing.T) {
	l, nodes, pods := three(t)
	n := nodes[0]
	before := snapshot(n)
	n.stop()
	n.start()
	n.feed.Put(cluster1(l, "a1")) // the API server is down: only the view on disk, and an old one
	nstest.Wait(t, 5*time.Second, "the new agent has run", func() bool { return n.agent.Status().MTU != 0 })
	if got := snapshot(n); got != before {
		t.Errorf("an agent that knows nothing yet changed\n%s\ninto\n%s", before, got)
	}
	if _, err := talk(pods[0], pods[2], pods[2].addrs[0], 10); err != nil {
		t.Error(err)
	}
	late := n.pod("late") // the plugin goes on
	if _, err := talk(late, pods[2], pods[2].addrs[1], 10); err != nil {
		t.Error(err)
	}
	l.publish()
	l.ready()
	// The Node of this agent vanishes, as in `kubectl delete node` by mistake.
	n.feed.Put(gone("a1"))
	nstest.Wait(t, 5*time.Second, "the agent has noticed", func() bool { return n.agent.Status().NotReady != "" })
	if _, err := talk(pods[0], pods[2], pods[2].addrs[0], 10); err != nil {
		t.Errorf("a living pod was cut off: %v", err)
	}
}

// An agent that is killed and started again disturbs nobody.
func TestTheAgentRestartsDuringATransfer(t *testing.T) {
	l, nodes, pods := three(t)
	done := make(chan error, 1)
	go func() {
		_, err := talk(pods[0], pods[2], pods[2].addrs[0], 256<<20)
		done <- err
	}()
	for range 5 {
		nodes[0].stop()
		nodes[0].start()
		l.publish()
		l.ready()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestOffRemovesAllOfOursAndNothingElse(t *testing.T) {
	_, nodes, _ := three(t)
	n := nodes[0]
	n.IP("route add 10.99.0.0/16 via 192.0.2.254")
	n.IP("route add 10.98.0.0/16 via 192.0.2.254 proto 80")
	n.IP("rule add from 10.97.0.0/16 lookup 99")
	n.stop()
	h := n.handle()
	defer h.Close()
	if err := Off(Config{Handle: h}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{"link show", "route show table all", "-6 route show table all", "rule", "-6 rule"} {
		out := n.IP("%s", c)
		for _, ours := range []string{"clarion", "clp", "proto 67", "lookup 67", "10.244", "fd44"} {
			if strings.Contains(out, ours) {
				t.Errorf("ip %s still has %q:\n%s", c, ours, out)
			}
		}
	}
	routes := n.IP("route")
	for _, theirs := range []string{"10.99.0.0/16", "10.98.0.0/16", "default via"} {
		if !strings.Contains(routes, theirs) {
			t.Errorf("the route %s of somebody else is gone", theirs)
		}
	}
	if !strings.Contains(n.IP("rule"), "10.97.0.0/16") {
		t.Error("the rule of somebody else is gone")
	}
}

func TestARouteOfSomebodyElseIsLeftAloneAndTold(t *testing.T) {
	l := newLab(t)
	n := l.node("a1", 1, false)
	l.node("a2", 2, false)
	n.IP("route add 10.244.2.0/24 via 192.0.2.254 proto static")
	l.publish()
	nstest.Wait(t, 5*time.Second, "it is told", func() bool {
		return slices.ContainsFunc(n.agent.Status().Problems, func(p string) bool {
			return strings.Contains(p, "10.244.2.0/24") && strings.Contains(p, "somebody else")
		})
	})
	if got := n.IP("route show 10.244.2.0/24"); !strings.Contains(got, "via 192.0.2.254 dev eth0 proto static") {
		t.Errorf("the route became %s", got)
	}
	n.IP("route del 10.244.2.0/24")
	nstest.Wait(t, 5*time.Second, "ours is there once the other is gone", func() bool { return strings.Contains(n.IP("route show 10.244.2.0/24"), "proto 67") })
}
