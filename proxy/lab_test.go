package proxy

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/nft"
	"github.com/clarion-lb/clarion/internal/nstest"
)

// A lab is a cluster of two nodes with pods, and a client outside:
//
//	client 192.0.2.1 ─┬─ a 192.0.2.11 ── pods a1 10.244.1.1, a2 10.244.1.2
//	                  └─ b 192.0.2.12 ── pods b1 10.244.2.1, b2 10.244.2.2
//
// and the same in IPv6. What the client sends to VIPs and external addresses
// goes to a; a runs the proxy. Every pod answers on port 8080 of both
// transports with its name and the address that it was asked from.
type lab struct {
	t            testing.TB
	client, a, b *nstest.Host
	pods         map[string]*nstest.Host
	engine       *engine
	now          time.Time
}

// The addresses of the lab, by name and family: index 0 is IPv4.
var addrs = map[string][2]string{
	"client": {"192.0.2.1", "2001:db8::1"},
	"a":      {"192.0.2.11", "2001:db8::a"},
	"b":      {"192.0.2.12", "2001:db8::b"},
	"a1":     {"10.244.1.1", "fd44:1::1"},
	"a2":     {"10.244.1.2", "fd44:1::2"},
	"b1":     {"10.244.2.1", "fd44:2::1"},
	"b2":     {"10.244.2.2", "fd44:2::2"},
	"svc":    {"10.96.0.10", "fd96::10"},
	"svc2":   {"10.96.0.11", "fd96::11"},
	"vip":    {"192.0.2.200", "2001:db8::200"},
	"vip2":   {"192.0.2.201", "2001:db8::201"},
	"ext":    {"198.51.100.7", "2001:db8:e::7"},
}

var podCIDRs = map[string][2]string{"a": {"10.244.1.0/24", "fd44:1::/64"}, "b": {"10.244.2.0/24", "fd44:2::/64"}}

func at(name string, fam int) netip.Addr { return netip.MustParseAddr(addrs[name][fam]) }

func to(name string, fam int, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(at(name, fam), port)
}

// both returns an address in both families.
func both(name string) []netip.Addr { return []netip.Addr{at(name, 0), at(name, 1)} }

// who returns the name of an address.
func who(addr string) string {
	for name, a := range addrs {
		if a[0] == addr || a[1] == addr {
			return name
		}
	}
	return addr
}

func newLab(t testing.TB) *lab {
	lan := nstest.NewSwitch(t, "lan")
	l := &lab{t: t, pods: map[string]*nstest.Host{}, now: time.Unix(1e9, 0)}
	host := func(name string) *nstest.Host {
		return lan.Attach(name, addrs[name][0]+"/24", addrs[name][1]+"/64")
	}
	l.client, l.a, l.b = host("client"), host("a"), host("b")
	for name, node := range map[string]*nstest.Host{"a": l.a, "b": l.b} {
		node.Sysctl("net.ipv4.ip_forward", "1")
		node.Sysctl("net.ipv6.conf.all.forwarding", "1")
		// The kernel limits ICMP errors to some per second; tests ask faster.
		node.Sysctl("net.ipv4.icmp_ratelimit", "0")
		node.Sysctl("net.ipv6.icmp.ratelimit", "0")
		// Redirects count against the same limit as the errors that tests wait for.
		node.Sysctl("net.ipv4.conf.all.send_redirects", "0")
		node.Sysctl("net.ipv4.conf.eth0.send_redirects", "0")
		other := map[string]string{"a": "b", "b": "a"}[name]
		for fam := range 2 {
			node.IP("route add %s via %s", podCIDRs[other][fam], addrs[other][fam])
			node.IP("route add default via %s", addrs["client"][fam])
		}
		for i := range 2 {
			pod := fmt.Sprintf("%s%d", name, i+1)
			h := nstest.NewHost(t, pod)
			nstest.Connect(h, "eth0", node, "veth-"+pod)
			h.Addr("eth0", addrs[pod][0]+"/32", addrs[pod][1]+"/128")
			node.IP("addr add 169.254.1.1/32 dev veth-%s scope link", pod)
			node.IP("addr add fe80::1/64 dev veth-%s nodad", pod)
			node.IP("route add %s dev veth-%s", addrs[pod][0], pod)
			node.IP("route add %s dev veth-%s", addrs[pod][1], pod)
			h.IP("route add 169.254.1.1 dev eth0")
			h.IP("route add default via 169.254.1.1 dev eth0")
			h.IP("route add default via fe80::1 dev eth0")
			l.pods[pod] = h
			for fam := range 2 {
				listen(t, h, "tcp", to(pod, fam, 8080), pod)
				listen(t, h, "udp", to(pod, fam, 8080), pod)
			}
		}
	}
	for fam := range 2 {
		for _, svc := range []string{"svc", "svc2", "vip", "vip2", "ext"} {
			l.client.IP("route add %s via %s", addrs[svc][fam], addrs["a"][fam])
		}
	}
	l.restart()
	return l
}

// newBareLab returns a lab that has nothing but node a: for tests that look at
// tables and send no packets.
func newBareLab(t testing.TB) *lab {
	l := &lab{t: t, a: nstest.NewHost(t, "a"), now: time.Unix(1e9, 0)}
	l.restart()
	return l
}

// restart gives node a a proxy that remembers nothing.
func (l *lab) restart() {
	l.t.Helper()
	var conn *nft.Conn
	var err error
	l.a.Do(func() { conn, err = nft.Open() })
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { conn.Close() })
	l.engine = newEngine(conn, slog.New(slog.NewTextHandler(testLog{l.t}, nil)))
	l.engine.synced = true
	l.engine.view = View{Node: "a", Zone: "za", NodePorts: both("a")}
	nodes := map[string]*cluster.Node{}
	for name := range podCIDRs {
		nodes[name] = &cluster.Node{Name: name, PodCIDRs: []netip.Prefix{
			netip.MustParsePrefix(podCIDRs[name][0]), netip.MustParsePrefix(podCIDRs[name][1])}}
	}
	l.engine.setStatic(staticEntries(l.engine.view, nodes, nil, nil))
}

type testLog struct{ testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	l.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// service returns a Service in both families with a TCP and a UDP port 80 that
// the named pods serve.
func service(name string, pods ...string) *cluster.Service {
	s := &cluster.Service{Key: cluster.Key("default/" + name), ClusterIPs: both(name), Created: time.Unix(1, 0)}
	for _, proto := range []cluster.Protocol{cluster.TCP, cluster.UDP} {
		p := cluster.Port{Name: strings.ToLower(proto.String()), Protocol: proto, Port: 80}
		for _, pod := range pods {
			for fam := range 2 {
				p.Endpoints = append(p.Endpoints, endpoint(pod, fam))
			}
		}
		s.Ports = append(s.Ports, p)
	}
	return s
}

func endpoint(pod string, fam int) cluster.Endpoint {
	return cluster.Endpoint{Addr: to(pod, fam, 8080), Node: pod[:1], Ready: true, Serving: true, Zone: "z" + pod[:1]}
}

func (l *lab) set(services ...*cluster.Service) {
	l.t.Helper()
	changed := map[cluster.Key]*cluster.Service{}
	for k := range l.engine.services {
		changed[k] = nil
	}
	for _, s := range services {
		changed[s.Key] = s
	}
	if err := l.engine.change(changed, l.now); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) sweep() {
	l.t.Helper()
	l.now = l.now.Add(grace)
	if _, err := l.engine.sweep(l.now); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) host(name string) *nstest.Host {
	switch name {
	case "client":
		return l.client
	case "a":
		return l.a
	case "b":
		return l.b
	}
	return l.pods[name]
}

// asks sends a question and returns who answered and whom it saw, by name:
// "a1 sees client".
func (l *lab) asks(from, network, name string, fam int, port uint16) string {
	return l.asksFor(from, network, name, fam, port, patience)
}

func (l *lab) asksFor(from, network, name string, fam int, port uint16, patience time.Duration) string {
	answer, err := askFor(l.host(from), network, to(name, fam, port), patience)
	if err != nil {
		return answer
	}
	pod, seen, _ := strings.Cut(answer, " ")
	return pod + " sees " + who(seen)
}

// everywhere runs a test for both families and transports.
func everywhere(t *testing.T, f func(t *testing.T, network string, fam int)) {
	for fam, name := range []string{"IPv4", "IPv6"} {
		for _, network := range []string{"tcp", "udp"} {
			t.Run(name+"/"+network, func(t *testing.T) { f(t, network, fam) })
		}
	}
}
