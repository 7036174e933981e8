package plugin_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/clarion-lb/clarion/cni/nat"
	"github.com/clarion-lb/clarion/cni/plugin"
	"github.com/clarion-lb/clarion/internal/nstest"
)

// addWith adds a pod with a runtimeConfig and returns its addresses.
func (n *node) addWith(p *pod, runtimeConfig string) []netip.Addr {
	n.t.Helper()
	c := n.callFor("ADD", p)
	c.stdin = n.conf(`,"runtimeConfig":` + runtimeConfig)
	out, cerr := n.exec(c)
	if cerr != nil {
		n.t.Fatalf("ADD %s: %v", p.id, cerr)
	}
	var r current.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		n.t.Fatal(err)
	}
	return addressesOf(n.t, &r)
}

// echo answers in a pod on a port, over TCP and UDP, with its name and where
// the packet seemed to come from.
func (p *pod) echo(port int) {
	p.t.Helper()
	var l net.Listener
	var u *net.UDPConn
	var err error
	p.do(func() {
		l, err = net.Listen("tcp", fmt.Sprint(":", port))
		if err == nil {
			u, err = net.ListenUDP("udp", &net.UDPAddr{Port: port})
		}
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { l.Close(); u.Close() })
	answer := func(from netip.AddrPort) []byte {
		return []byte(p.id + " " + from.Addr().Unmap().String())
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Write(answer(c.RemoteAddr().(*net.TCPAddr).AddrPort()))
			c.Close()
		}
	}()
	go func() {
		b := make([]byte, 100)
		for {
			_, from, err := u.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			u.WriteToUDPAddrPort(answer(from), from)
		}
	}()
}

// ask calls an address and returns what it says. local is the address to call
// from, the zero Addr for any; port is the port to call from, 0 for any.
func ask(from func(func()), network string, local netip.AddrPort, to netip.AddrPort) (string, error) {
	var c net.Conn
	var err error
	d := net.Dialer{Timeout: time.Second}
	if local.IsValid() {
		if d.LocalAddr = net.Addr(net.UDPAddrFromAddrPort(local)); network == "tcp" {
			d.LocalAddr = net.TCPAddrFromAddrPort(local)
		}
	}
	from(func() { c, err = d.Dial(network, to.String()) })
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	if network == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
		b := make([]byte, 100)
		n, err := c.Read(b)
		return string(b[:n]), err
	}
	got, err := io.ReadAll(c)
	return string(got), err
}

func TestHostPorts(t *testing.T) {
	lan := nstest.NewSwitch(t, "lan")
	n := newNode(t, lan.Attach("n1", "192.0.2.1/24", "192.0.2.101/24", "2001:db8::1/64"), dual)
	client := lan.Attach("client", "192.0.2.9/24", "2001:db8::9/64")
	web, one, localOnly, other := newPod(t, "web"), newPod(t, "one"), newPod(t, "local"), newPod(t, "other")
	webAddrs := n.addWith(web, `{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"},{"hostPort":8080,"containerPort":80,"protocol":"udp"}]}`)
	n.addWith(one, `{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":"192.0.2.101"}]}`)
	n.addWith(localOnly, `{"portMappings":[{"hostPort":9090,"containerPort":80,"protocol":"tcp","hostIP":"127.0.0.1"}]}`)
	otherAddrs := n.addWith(other, `{}`)
	for _, p := range []*pod{web, one, localOnly, other} {
		p.echo(80)
	}
	onNode, onClient := func(f func()) { n.Do(f) }, func(f func()) { client.Do(f) }
	tests := []struct {
		name    string
		from    func(func())
		network string
		local   string
		to      string
		want    string // "" for no answer
	}{
		{"a client, its address is kept", onClient, "tcp", "", "192.0.2.1:8080", "web 192.0.2.9"},
		{"a client, IPv6", onClient, "tcp", "", "[2001:db8::1]:8080", "web 2001:db8::9"},
		{"a client, UDP", onClient, "udp", "", "192.0.2.1:8080", "web 192.0.2.9"},
		{"a client, UDP, IPv6", onClient, "udp", "", "[2001:db8::1]:8080", "web 2001:db8::9"},
		{"one address has a pod of its own", onClient, "tcp", "", "192.0.2.101:8080", "one 192.0.2.9"},
		{"of that address, TCP alone", onClient, "udp", "", "192.0.2.101:8080", "web 192.0.2.9"},
		{"the node itself", onNode, "tcp", "", "192.0.2.1:8080", "web 192.0.2.1"},
		{"the node itself, IPv6", onNode, "tcp", "", "[2001:db8::1]:8080", "web 2001:db8::1"},
		{"the node by 127.0.0.1", onNode, "tcp", "", "127.0.0.1:8080", "web 192.0.2.1"},
		{"the node by 127.0.0.1, UDP", onNode, "udp", "", "127.0.0.1:8080", "web 192.0.2.1"},
		{"a port on 127.0.0.1 alone", onNode, "tcp", "", "127.0.0.1:9090", "local 192.0.2.1"},
		{"a port on 127.0.0.1 from the node's address", onNode, "tcp", "192.0.2.1:0", "127.0.0.1:9090", "local 192.0.2.1"},
		{"a port on 127.0.0.1 is not on the node's address", onClient, "tcp", "", "192.0.2.1:9090", ""},
		{"another pod", other.do, "tcp", "", "192.0.2.1:8080", "web " + otherAddrs[0].String()},
		{"another pod, IPv6", other.do, "tcp", "", "[2001:db8::1]:8080", "web " + otherAddrs[1].String()},
		{"the pod itself", web.do, "tcp", "", "192.0.2.1:8080", "web 169.254.1.1|web 192.0.2.1"},
		{"the pod itself, IPv6", web.do, "tcp", "", "[2001:db8::1]:8080", "web 2001:db8::1"},
		{"a client at the pod's own address", onClient, "tcp", "", netip.AddrPortFrom(webAddrs[0], 8080).String(), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var local netip.AddrPort
			if tt.local != "" {
				local = netip.MustParseAddrPort(tt.local)
			}
			got, err := ask(tt.from, tt.network, local, netip.MustParseAddrPort(tt.to))
			if tt.want == "" {
				if err == nil {
					t.Errorf("answered: %s", got)
				}
				return
			}
			ok := false
			for w := range strings.SplitSeq(tt.want, "|") {
				ok = ok || got == w
			}
			if err != nil || !ok {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
		})
	}

	t.Run("nobody else may use the loopback because of it", func(t *testing.T) {
		var l *net.UDPConn
		var err error
		n.Do(func() {
			l, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:7777")))
		})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		// A pod with the right to change its own routes sends 127.0.0.1 out.
		web.must("ip", "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local")
		web.must("ip", "route", "del", "local", "127.0.0.1", "dev", "lo", "table", "local")
		web.must("ip", "route", "add", "127.0.0.1/32", "via", "169.254.1.1", "dev", "eth0", "src", webAddrs[0].String())
		web.do(func() {
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/route_localnet", []byte("1"), 0); err != nil {
				t.Error(err)
			}
		})
		heard := func() bool {
			if _, err := ask(web.do, "udp", netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.1:7777")); err == nil {
				t.Error("there is an answer")
			}
			if err := l.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
				t.Error(err)
			}
			_, err := l.Read(make([]byte, 100))
			return err == nil
		}
		if heard() {
			t.Error("a pod reached the node's loopback")
		}
		n.Run("nft", "flush", "chain", "inet", nat.Table, "guard")
		if !heard() {
			t.Error("without the guard nothing is heard either: this test shows nothing")
		}
	})

	t.Run("a port that another pod has", func(t *testing.T) {
		p := newPod(t, "late")
		c := n.callFor("ADD", p)
		c.stdin = n.conf(`,"runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":1,"protocol":"udp"}]}`)
		if _, err := n.exec(c); err == nil || err.Code != plugin.CodePortTaken || !strings.Contains(err.Msg, "host port 8080/UDP on every address of the node belongs to pod web@eth0 already") {
			t.Fatalf("err = %+v", err)
		}
		if got, err := ask(onClient, "udp", netip.AddrPort{}, netip.MustParseAddrPort("192.0.2.1:8080")); err != nil || got != "web 192.0.2.9" {
			t.Errorf("the first one lost it: %q, %v", got, err)
		}
		for _, l := range n.left() {
			if strings.Contains(l, "late") {
				t.Errorf("left: %s", l)
			}
		}
	})

	t.Run("a UDP client goes on to the next pod", func(t *testing.T) {
		from := netip.MustParseAddrPort("192.0.2.9:5555") // the same port each time, as DNS and statsd do
		to := netip.MustParseAddrPort("192.0.2.1:8080")
		if got, err := ask(onClient, "udp", from, to); err != nil || got != "web 192.0.2.9" {
			t.Fatalf("%q, %v", got, err)
		}
		if err := n.del(web); err != nil {
			t.Fatal(err)
		}
		if got, err := ask(onClient, "udp", from, to); err == nil {
			t.Fatalf("answered by %q after DEL", got)
		}
		next := newPod(t, "next")
		n.addWith(next, `{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"udp"}]}`)
		next.echo(80)
		if got, err := ask(onClient, "udp", from, to); err != nil || got != "next 192.0.2.9" {
			t.Fatalf("%q, %v", got, err)
		}
		if got, err := ask(onClient, "tcp", netip.AddrPort{}, to); err == nil {
			t.Fatalf("TCP is still answered by %q", got)
		}
	})
}

func TestBandwidth(t *testing.T) {
	n := bare(t)
	p, free := newPod(t, "slow"), newPod(t, "free")
	addr := n.addWith(p, `{"bandwidth":{"ingressRate":8000000,"ingressBurst":2147483647,"egressRate":16000000,"egressBurst":800000}}`)[0]
	freeAddr := n.addWith(free, `{}`)[0]
	const size = 600 << 10 // 0.6 s at 8 Mbit/s
	for _, tt := range []struct {
		name     string
		from, to func(func())
		dst      netip.Addr
		least    time.Duration // the limit cannot be outrun, however busy the machine is
	}{
		{"to the pod", free.do, p.do, addr, 400 * time.Millisecond},
		{"from the pod", p.do, free.do, freeAddr, 150 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var l net.Listener
			var err error
			tt.to(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(tt.dst, 0).String()) })
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			var c net.Conn
			tt.from(func() { c, err = net.Dial("tcp", l.Addr().String()) })
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			s, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			start := time.Now()
			go func() { _, _ = c.Write(make([]byte, size)) }()
			if _, err := io.CopyN(io.Discard, s, size); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took < tt.least {
				t.Errorf("%d bytes took %v, less than the limit allows", size, took)
			}
		})
	}
}
