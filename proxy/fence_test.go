package proxy

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/nstest"
)

var (
	vip4 = netip.MustParseAddr("192.0.2.200")
	vip6 = netip.MustParseAddr("2001:db8::200")
)

// fenceLab is a client and a node that forwards; the client sends what is for
// the VIPs to the node, as if the speaker had answered for them.
type fenceLab struct {
	lan          *nstest.Switch
	client, node *nstest.Host
	mac          string
	fence        *Fence
}

func newFenceLab(t *testing.T) *fenceLab {
	l := &fenceLab{lan: nstest.NewSwitch(t, "lan")}
	l.client = l.lan.Attach("client", "192.0.2.1/24", "2001:db8::1/64")
	l.node = l.lan.Attach("node", "192.0.2.2/24", "2001:db8::2/64")
	l.node.Sysctl("net.ipv4.ip_forward", "1")
	l.node.Sysctl("net.ipv6.conf.all.forwarding", "1")
	l.mac = macOf(t, l.node)
	l.node.Do(func() {
		var err error
		if l.fence, err = NewFence(); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { l.fence.Close() })
	return l
}

func macOf(t *testing.T, h *nstest.Host) (mac string) {
	t.Helper()
	h.Do(func() {
		i, err := net.InterfaceByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		mac = i.HardwareAddr.String()
	})
	return mac
}

func (l *fenceLab) neighbour(vip netip.Addr, state string) {
	l.client.IP("neigh replace %s lladdr %s dev eth0 nud %s", vip, l.mac, state)
}

func (l *fenceLab) set(t *testing.T, vips ...netip.Addr) {
	t.Helper()
	if err := l.fence.Set(vips); err != nil {
		t.Fatal(err)
	}
}

func TestFenceAnswersPingForItsVIPs(t *testing.T) {
	l := newFenceLab(t)
	for _, vip := range []netip.Addr{vip4, vip6} {
		l.neighbour(vip, "permanent")
		ping := func(from *nstest.Host) error {
			_, err := from.Command("ping", "-c1", "-W1", vip.String())
			return err
		}
		if ping(l.client) == nil {
			t.Fatalf("%s answers before the fence is there: the test cannot fail", vip)
		}
		l.set(t, vip4, vip6)
		if err := ping(l.client); err != nil {
			t.Errorf("ping %s from outside: %v", vip, err)
		}
		if err := ping(l.node); err != nil {
			t.Errorf("ping %s from the node itself: %v", vip, err)
		}
		l.set(t)
		if ping(l.client) == nil {
			t.Errorf("%s still answers after it was taken away", vip)
		}
	}
}

// frames collects what reaches a host. heard counts the ICMP messages of a type
// that speak of an address.
func frames(t *testing.T, h *nstest.Host) (heard func(icmpType byte, about netip.Addr) int) {
	t.Helper()
	var fd int
	h.Do(func() {
		all := int(uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8)
		var err error
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, all); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { unix.Close(fd) })
	return func(icmpType byte, about netip.Addr) (n int) {
		b := make([]byte, 2048)
		for {
			got, from, err := unix.Recvfrom(fd, b, 0)
			if err != nil {
				return n
			}
			ll, ok := from.(*unix.SockaddrLinklayer)
			if !ok || ll.Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			p := b[:got]
			switch {
			case got > 40 && p[0]>>4 == 6 && p[6] == unix.IPPROTO_ICMPV6 && p[40] == icmpType && bytes.Contains(p[40:], about.AsSlice()),
				got > 20 && p[0]>>4 == 4 && p[9] == unix.IPPROTO_ICMP && p[20] == icmpType && bytes.Contains(p[20:], about.AsSlice()):
				n++
			}
		}
	}
}

// A client checks that its neighbour is still there by a solicitation to the
// VIP itself. A node that forwards would look for the VIP on the link.
func TestFenceKeepsTheKernelFromForwardingSolicitations(t *testing.T) {
	for _, fenced := range []bool{false, true} {
		l := newFenceLab(t)
		// One probe after another without a second's pause, then the entry fails:
		// that is when the test knows that all has happened.
		l.client.Sysctl("net.ipv6.neigh.eth0.retrans_time_ms", "100")
		l.client.Sysctl("net.ipv6.neigh.eth0.mcast_solicit", "0")
		l.node.Sysctl("net.ipv6.neigh.eth0.retrans_time_ms", "10")
		if fenced {
			l.set(t, vip4, vip6)
		}
		heard := frames(t, l.client)
		l.neighbour(vip6, "probe")
		nstest.Wait(t, 10*time.Second, "the client's probes end", func() bool {
			return strings.Contains(l.client.IP("-6 neigh show %s", vip6), "FAILED")
		})
		if n := heard(135, vip6); fenced && n > 0 {
			t.Errorf("the node solicited the VIP %d times", n)
		} else if !fenced && n == 0 {
			t.Error("without a fence nothing was heard: the test cannot fail")
		}
	}
}

// A node that sends a packet back out of the link it came from tells the
// sender of the better way.
func TestFenceSendsNoRedirectsForItsVIPs(t *testing.T) {
	for _, vip := range []netip.Addr{vip4, vip6} {
		f := ipfam.Of(vip)
		for _, fenced := range []bool{false, true} {
			l := newFenceLab(t)
			holder := l.lan.Attach("holder", vip.String()+map[ipfam.Family]string{ipfam.V4: "/24", ipfam.V6: "/64"}[f])
			l.node.Sysctl("net.ipv4.conf.all.send_redirects", "1")
			if fenced {
				l.set(t, vip4, vip6)
			}
			heard := frames(t, l.client)
			l.neighbour(vip, "permanent")
			// The client would answer the holder's question for its MAC by way of the
			// node, and a neighbour advertisement may not be forwarded.
			holder.IP("neigh replace %s lladdr %s dev eth0 nud permanent",
				[...]string{ipfam.V4: "192.0.2.1", ipfam.V6: "2001:db8::1"}[f], macOf(t, l.client))
			listen(t, holder, "udp", netip.AddrPortFrom(vip, 9), "holder")
			// The first packet must arrive so that the redirect, sent before it is
			// forwarded, has been sent too.
			nstest.Wait(t, 10*time.Second, "a packet reaches the VIP's holder", func() bool {
				who, _ := ask(l.client, "udp", netip.AddrPortFrom(vip, 9))
				return strings.HasPrefix(who, "holder ")
			})
			typ := map[ipfam.Family]byte{ipfam.V4: 5, ipfam.V6: 137}[f]
			if n := heard(typ, vip); fenced && n > 0 {
				t.Errorf("%s: the node sent %d redirects", f, n)
			} else if !fenced && n == 0 {
				t.Errorf("%s: without a fence no redirect was sent: the test cannot fail", f)
			}
		}
	}
}

func TestFenceIsReadableByTheUser(t *testing.T) {
	l := newFenceLab(t)
	l.set(t, vip4, vip6)
	golden(t, l.node, FenceTable, "fence", "")
}

func TestFenceFindsWhatAnEarlierProcessLeft(t *testing.T) {
	l := newFenceLab(t)
	l.set(t, vip4, vip6)
	before := l.node.Run("nft", "-a", "list", "ruleset")
	if err := l.fence.Close(); err != nil {
		t.Fatal(err)
	}
	l.node.Do(func() {
		var err error
		if l.fence, err = NewFence(); err != nil {
			t.Fatal(err)
		}
	})
	l.set(t, vip6, vip4)
	if after := l.node.Run("nft", "-a", "list", "ruleset"); after != before {
		t.Errorf("a restart touched what was right:\n%s", diff(before, after))
	}
}

func TestFenceRepairsWhatSomebodyChanged(t *testing.T) {
	for _, damage := range []string{
		"flush ruleset",
		"delete table inet " + FenceTable,
		"flush chain inet " + FenceTable + " ping",
		"insert rule inet " + FenceTable + " early accept",
		"flush set inet " + FenceTable + " vips6",
		"add element inet " + FenceTable + " vips4 { 192.0.2.77 }",
		"delete table inet " + FenceTable + "; add table inet " + FenceTable +
			"; add set inet " + FenceTable + " vips4 { type ipv6_addr; }",
	} {
		l := newFenceLab(t)
		l.set(t, vip4, vip6)
		want := l.node.Run("nft", "list", "table", "inet", FenceTable)
		l.node.Run("nft", damage)
		l.set(t, vip4, vip6)
		if got := l.node.Run("nft", "list", "table", "inet", FenceTable); got != want {
			t.Errorf("after %q:\n%s", damage, diff(want, got))
		}
	}
}

func TestFenceTouchesNobodyElsesTableAndGoesWithoutTrace(t *testing.T) {
	l := newFenceLab(t)
	l.node.Run("nft", "add table inet theirs; add chain inet theirs c { type filter hook input priority 0; }; add rule inet theirs c counter")
	before := l.node.Run("nft", "-a", "list", "ruleset")
	l.set(t, vip4, vip6)
	if err := l.fence.Off(); err != nil {
		t.Fatal(err)
	}
	if err := l.fence.Off(); err != nil {
		t.Fatalf("off a second time: %v", err)
	}
	if after := l.node.Run("nft", "-a", "list", "ruleset"); after != before {
		t.Errorf("something was left:\n%s", diff(before, after))
	}
}
