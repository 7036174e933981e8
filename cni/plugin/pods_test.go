package plugin_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/cni/plugin"
	"github.com/clarion-lb/clarion/internal/nstest"
)

// The three commandments on one node: pods and the node reach each other in
// both families without translation, and a pod is seen under its own address.
func TestPodsAndTheirNodeReachEachOther(t *testing.T) {
	lan := nstest.NewSwitch(t, "lan")
	n := newNode(t, lan.Attach("n1", "192.0.2.1/24", "2001:db8::1/64"), dual)
	a, b := newPod(t, "a"), newPod(t, "b")
	addrsA, addrsB := addressesOf(t, n.mustAdd(a)), addressesOf(t, n.mustAdd(b))
	nodeAddrs := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	onNode := func(f func()) { n.Do(f) }
	tests := []struct {
		name     string
		from, to func(func())
		src, dst []netip.Addr
	}{
		{"pod to pod", a.do, b.do, addrsA, addrsB},
		{"pod to node", a.do, onNode, addrsA, nodeAddrs},
		{"node to pod", onNode, b.do, nodeAddrs, addrsB},
		{"pod to itself", a.do, a.do, addrsA, addrsA},
	}
	for _, tt := range tests {
		for i, dst := range tt.dst {
			t.Run(tt.name+" "+dst.String(), func(t *testing.T) {
				if got := seenAs(t, tt.from, tt.to, dst); got != tt.src[i] {
					t.Errorf("seen as %s, want %s", got, tt.src[i])
				}
			})
		}
	}
	t.Run("a pod cannot make the host believe a router", func(t *testing.T) {
		var got []byte
		var err error
		n.Do(func() {
			for _, l := range strings.Fields(n.Run("sh", "-c", "ls /proc/sys/net/ipv6/conf | grep ^clp")) {
				if got, err = os.ReadFile("/proc/sys/net/ipv6/conf/" + l + "/accept_ra"); err != nil || string(got) != "0\n" {
					t.Errorf("%s: accept_ra is %q, %v", l, got, err)
				}
			}
		})
	})
}

// seenAs connects from one place to an address of another and returns the
// address from which the other one saw it come.
func seenAs(t *testing.T, from, to func(func()), dst netip.Addr) netip.Addr {
	t.Helper()
	var l net.Listener
	var err error
	to(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(dst, 0).String()) })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var c net.Conn
	// The dial has to stay on this thread, so it must not have two addresses to
	// race: dst is one.
	from(func() { c, err = net.DialTimeout("tcp", l.Addr().String(), 5*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	go func() {
		c.Write([]byte("hello"))
		c.Close()
	}()
	if got, err := io.ReadAll(s); err != nil || string(got) != "hello" {
		t.Fatalf("heard %q, %v", got, err)
	}
	return s.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
}

// BenchmarkADD measures one ADD of the real program from its start to its end,
// one at a time.
func BenchmarkADD(b *testing.B) {
	n := newNode(b, nstest.NewHost(b, "n1"), dual)
	bin := filepath.Join(b.TempDir(), plugin.Type)
	if out, err := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "../../cmd/clarion-cni").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	n.bin = filepath.Dir(bin)
	var took []time.Duration
	for b.Loop() {
		b.StopTimer()
		p := newPod(b, "c1")
		b.StartTimer()
		start := time.Now()
		if _, err := n.exec(n.callFor("ADD", p)); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
		b.StopTimer()
		if _, err := n.exec(n.callFor("DEL", p)); err != nil {
			b.Fatal(err)
		}
		p.destroy()
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds()*1000, "ms/p50")
	b.ReportMetric(took[len(took)*99/100].Seconds()*1000, "ms/p99")
}

// The first packet that a pod sends after ADD gets its answer: it is not lost
// to a link or an address that is only almost ready.
func TestTheFirstPacketOfAPodIsNotLost(t *testing.T) {
	lan := nstest.NewSwitch(t, "lan")
	n := newNode(t, lan.Attach("n1", "192.0.2.1/24", "2001:db8::1/64"), dual)
	var server *net.UDPConn
	var err error
	n.Do(func() { server, err = net.ListenUDP("udp", &net.UDPAddr{Port: 7}) })
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		b := make([]byte, 10)
		for {
			_, from, err := server.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			server.WriteToUDPAddrPort(b[:1], from)
		}
	}()
	for i := range 20 {
		p := newPod(t, fmt.Sprint("c", i))
		n.mustAdd(p)
		for _, to := range []string{"192.0.2.1:7", "[2001:db8::1]:7"} {
			var c net.Conn
			p.do(func() { c, err = net.Dial("udp", to) })
			if err != nil {
				t.Fatalf("pod %d, to %s: %v", i, to, err)
			}
			defer c.Close()
			if _, err := c.Write([]byte("?")); err != nil {
				t.Fatalf("pod %d, to %s: %v", i, to, err)
			}
			if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Errorf("pod %d, to %s: %v", i, to, err)
			}
		}
	}
}
