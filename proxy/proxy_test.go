package proxy

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/nft"
	"github.com/clarion-lb/clarion/internal/nstest"
)

// running is a Proxy at work on node a of a lab.
type running struct {
	*lab
	feed  *cluster.Feed
	proxy *Proxy
	stop  func()
}

func (l *lab) node(name string) *cluster.Node {
	return &cluster.Node{Name: name, Zone: "z" + name, Addresses: both(name), PodCIDRs: []netip.Prefix{
		netip.MustParsePrefix(podCIDRs[name][0]), netip.MustParsePrefix(podCIDRs[name][1])}}
}

// start runs a proxy. It knows the nodes but nothing else, and is not synced.
func (l *lab) start(t *testing.T, change func(*Options)) *running {
	t.Helper()
	r := &running{lab: l, feed: cluster.NewFeed()}
	o := Options{
		Node: "a", Feed: r.feed, Log: slog.New(slog.NewTextHandler(testLog{t}, nil)),
		Listen: func(network, address string) (lis net.Listener, err error) {
			l.a.Do(func() { lis, err = net.Listen(network, address) })
			return lis, err
		},
	}
	if change != nil {
		change(&o)
	}
	l.a.Do(func() {
		var err error
		if r.proxy, err = New(o); err != nil {
			t.Fatal(err)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.proxy.Run(ctx) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if err := r.proxy.engine.conn.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(r.stop)
	r.feed.Put(cluster.Delta{Nodes: map[string]*cluster.Node{"a": l.node("a"), "b": l.node("b")}})
	return r
}

func (r *running) put(synced bool, services ...*cluster.Service) {
	d := cluster.Delta{Services: map[cluster.Key]*cluster.Service{}, Synced: synced}
	for _, s := range services {
		d.Services[s.Key] = s
	}
	r.feed.Put(d)
}

func (r *running) gone(key cluster.Key) {
	r.feed.Put(cluster.Delta{Services: map[cluster.Key]*cluster.Service{key: nil}})
}

// until waits for an answer.
func (r *running) until(t *testing.T, from, network, to string, port uint16, want string) {
	t.Helper()
	var got string
	nstest.Wait(t, 10*time.Second, from+" → "+to+": "+want, func() bool {
		got = r.asksFor(from, network, to, 0, port, brief)
		return got == want
	})
}

func TestProxyFollowsItsFeed(t *testing.T) {
	r := newLab(t).start(t, nil)
	r.put(true, service("svc", "a1"))
	r.until(t, "a2", "tcp", "svc", 80, "a1 sees a2")
	r.put(false, service("svc", "b1"))
	r.until(t, "a2", "tcp", "svc", 80, "b1 sees a2")
	r.put(false, service("svc"))
	r.until(t, "a2", "tcp", "svc", 80, "refused")
	if err := r.proxy.Healthy(); err != nil {
		t.Error(err)
	}
}

func TestRestartTouchesNothingThatIsRight(t *testing.T) {
	l := newLab(t)
	services := []*cluster.Service{
		withVIP(nodePort(service("svc", "a1", "b1", "b2"), 30080), "vip"), service("svc2", "a2"),
	}
	services[0].Affinity = time.Hour
	services[0].ExternalLocal = true
	services[0].SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")}
	r := l.start(t, nil)
	r.put(true, services...)
	r.until(t, "a1", "tcp", "svc2", 80, "a2 sees a1")
	r.stop()
	generation := func() uint32 {
		var c *nft.Conn
		var err error
		l.a.Do(func() { c, err = nft.Open() })
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		g, err := c.Generation()
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	list := func() string { return l.a.Run("nft", "-a", "-s", "list", "table", "inet", Table) }
	before, text := generation(), list()
	r = l.start(t, nil)
	r.put(false, services[1])
	r.put(true, services...)
	nstest.Wait(t, 10*time.Second, "the new process has compared", func() bool { return r.proxy.Healthy() == nil })
	// The new process makes its own guard, and nothing else.
	if got := generation(); got != before+1 {
		t.Errorf("%d transactions were made, want 1", got-before)
	}
	if now := list(); now != text {
		t.Errorf("the table was touched:\n%s", diff(text, now))
	}
}

func TestUnsyncedNeverRemoves(t *testing.T) {
	l := newLab(t)
	r := l.start(t, nil)
	r.put(true, service("svc", "a1"), service("svc2", "b1", "b2"))
	r.until(t, "a2", "tcp", "svc", 80, "a1 sees a2")
	r.stop()
	r = l.start(t, nil)
	// Half of a Service has come, another has lost its endpoints, and a new one is there.
	third := withVIP(service("svc", "a2"), "vip")
	third.Key, third.ClusterIPs = "default/third", []netip.Addr{netip.MustParseAddr("10.96.0.99")}
	r.put(false, service("svc"), service("svc2", "b1"), third)
	r.gone("default/svc2")
	r.until(t, "client", "tcp", "vip", 80, "a2 sees client")
	if got := r.asks("a2", "tcp", "svc", 0, 80); got != "a1 sees a2" {
		t.Errorf("the endpoint of svc was taken away: %s", got)
	}
	if got := r.spread("a2", "tcp", "svc2", 0, 80, 40); got["b1"] == 0 || got["b2"] == 0 {
		t.Errorf("an endpoint of svc2 was taken away: %v", got)
	}
	r.put(true)
	r.gone("default/svc2")
	r.until(t, "a2", "tcp", "svc", 80, "refused")
	r.until(t, "client", "tcp", "svc2", 80, "silence") // it belongs to nobody now
}

func TestEndpointsOnDeadNodesAreTakenOutWhileOthersLive(t *testing.T) {
	r := newLab(t).start(t, nil)
	r.put(true, service("svc", "a1", "b1"), service("svc2", "b2"))
	r.until(t, "a2", "tcp", "svc2", 80, "b2 sees a2")
	r.proxy.SetDead(map[string]bool{"b": true})
	nstest.Wait(t, 10*time.Second, "only a1 is left", func() bool {
		return r.spread("a2", "tcp", "svc", 0, 80, 15)["b1"] == 0
	})
	if got := r.asks("a2", "tcp", "svc2", 0, 80); got != "b2 sees a2" {
		t.Errorf("the only endpoint was taken out: %s", got)
	}
	r.proxy.SetDead(nil)
	nstest.Wait(t, 10*time.Second, "b1 is back", func() bool {
		return r.spread("a2", "tcp", "svc", 0, 80, 15)["b1"] > 0
	})
}

func TestForeignChangesAreRepaired(t *testing.T) {
	l := newLab(t)
	r := l.start(t, func(o *Options) { o.Resync = time.Hour })
	r.put(true, withVIP(nodePort(service("svc", "a1"), 30080), "vip"), service("svc2", "b1"))
	r.until(t, "a2", "tcp", "svc2", 80, "b1 sees a2")
	want := l.a.Run("nft", "-s", "list", "table", "inet", Table)
	for _, damage := range []string{
		"flush ruleset",
		"delete table inet " + Table,
		"flush map inet " + Table + " class4",
		"delete element inet " + Table + " eps6 { fd96::10 . tcp . 80 . 0x0 }",
		"add element inet " + Table + " class4 { 10.96.0.77 . tcp . 80 : 0x1 }",
		"add element inet " + Table + " eps4 { 10.96.0.10 . tcp . 80 . 0x7 : 10.244.1.1 . 80 }",
		"flush chain inet " + Table + " n1",
		"insert rule inet " + Table + " services drop",
		"delete element inet " + Table + " byclass { 0x1 }",
		"delete element inet " + Table + " byclass { 0x1 }; add element inet " + Table + " byclass { 0x1 : goto elsewhere }",
		"add chain inet " + Table + " foreign; add rule inet " + Table + " foreign drop; insert rule inet " + Table + " services jump foreign",
		"add set inet " + Table + " foreign { type mark; }",
		"flush set inet " + Table + " ownpods4",
		"add element inet " + Table + " ownpods4 { 10.244.7.0/24 }",
		"delete table inet " + Table + "; add table inet " + Table + "; add set inet " + Table + " class4 { type ipv4_addr; }",
		"delete table inet " + Table + "; add table inet " + Table + "; add chain inet " + Table + " nat-output { type filter hook output priority 0; }",
	} {
		l.a.Run("nft", damage)
		var got string
		end := time.Now().Add(10 * time.Second)
		for got != want && time.Now().Before(end) {
			got, _ = l.a.Command("nft", "-s", "list", "table", "inet", Table)
			// What remains may stand in another order.
			if diff(want, got) == "" {
				got = want
			}
		}
		if got != want {
			t.Fatalf("after %q:\n%s", damage, diff(want, got))
		}
	}
}

func TestUDPFlowsOfAGoneEndpointAreCut(t *testing.T) {
	l := newLab(t)
	r := l.start(t, nil)
	s := withVIP(nodePort(service("svc", "a1"), 30080), "vip")
	r.put(true, s)
	r.until(t, "client", "udp", "vip", 80, "a1 sees client")
	// One socket keeps its port, so that its packets stay one flow.
	for fam, front := range []netip.AddrPort{to("vip", 0, 80), to("vip", 1, 80), to("a", 0, 30080)} {
		r.put(false, s)
		var c net.Conn
		var err error
		l.client.Do(func() { c, err = net.Dial("udp", front.String()) })
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		answered := func(pod string) func() bool {
			return func() bool {
				b := make([]byte, 64)
				if _, err := c.Write([]byte("?")); err != nil {
					return false // an earlier packet was refused
				}
				if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
					t.Fatal(err)
				}
				n, err := c.Read(b)
				return err == nil && strings.HasPrefix(string(b[:n]), pod)
			}
		}
		nstest.Wait(t, 10*time.Second, "the flow goes to a1", answered("a1"))
		moved := withVIP(nodePort(service("svc", "a2"), 30080), "vip")
		r.put(false, moved)
		nstest.Wait(t, 10*time.Second, "the flow goes on to a2", answered("a2"))
		_ = fam
	}
}

func TestUDPFlowsThatAnEarlierProcessLeftAreCut(t *testing.T) {
	l := newLab(t)
	l.set(service("svc", "a1"))
	var c net.Conn
	var err error
	l.pods["a2"].Do(func() { c, err = net.Dial("udp", to("svc", 0, 80).String()) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ask := func() string {
		b := make([]byte, 64)
		if _, err := c.Write([]byte("?")); err != nil {
			return ""
		}
		if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, _ := c.Read(b)
		return string(b[:n])
	}
	nstest.Wait(t, 10*time.Second, "the flow goes to a1", func() bool { return strings.HasPrefix(ask(), "a1") })
	l.set(service("svc", "b1")) // and here the process was killed: nobody cut
	if got := ask(); !strings.HasPrefix(got, "a1") {
		t.Fatalf("%q: the test cannot fail", got)
	}
	r := l.start(t, nil)
	r.put(true, service("svc", "b1"))
	nstest.Wait(t, 10*time.Second, "the flow goes to b1", func() bool { return strings.HasPrefix(ask(), "b1") })
}

func TestHealthCheckNodePort(t *testing.T) {
	l := newLab(t)
	r := l.start(t, nil)
	s := withVIP(service("svc", "a1", "a2", "b1"), "vip")
	s.ExternalLocal, s.HealthPort = true, 32000
	r.put(true, s)
	get := func() (status int, body map[string]any) {
		client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true,
			DialContext: func(_ context.Context, network, addr string) (c net.Conn, err error) {
				l.client.Do(func() { c, err = net.Dial(network, addr) })
				return c, err
			}}}
		resp, err := client.Get("http://192.0.2.11:32000/")
		if err != nil {
			return 0, nil
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &body); err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		return resp.StatusCode, body
	}
	for _, step := range []struct {
		pods   []string
		status int
		local  float64
	}{{[]string{"a1", "a2", "b1"}, 200, 2}, {[]string{"b1"}, 503, 0}, {[]string{"a2"}, 200, 1}} {
		next := *s
		next.Ports = service("svc", step.pods...).Ports
		r.put(false, &next)
		var status int
		var body map[string]any
		nstest.Wait(t, 10*time.Second, "the health check tells of the change", func() bool {
			status, body = get()
			return body["localEndpoints"] == step.local && body["serviceProxyHealthy"] == true
		})
		if status != step.status {
			t.Errorf("%v: status %d, want %d", step.pods, status, step.status)
		}
	}
	r.gone(s.Key)
	nstest.Wait(t, 10*time.Second, "the port is closed", func() bool { s, _ := get(); return s == 0 })
}

// Foreign rules may route by the packet's mark, so ours leave it alone: on the
// way in, and where a packet of the node itself is routed anew.
func TestTheMarkIsNotOurs(t *testing.T) {
	l := newLab(t)
	s := withVIP(nodePort(service("svc", "a1", "b1"), 30080), "vip")
	s.Affinity = time.Hour
	l.set(s, service("svc2", "a1", "b1"))
	// Whoever carries a mark when routed is lost.
	for _, v := range []string{"-4", "-6"} {
		for bit := range 32 {
			l.a.IP("%s rule add fwmark %#x/%#x prohibit pref 50", v, uint32(1)<<bit, uint32(1)<<bit)
		}
	}
	questions := []question{{from: "client", to: "vip", port: 80}, {from: "client", to: "a", port: 30080},
		{from: "a2", to: "svc2", port: 80}, {from: "a", to: "svc2", port: 80}}
	everywhere(t, func(t *testing.T, network string, fam int) {
		for _, q := range questions {
			for range 4 {
				if got := l.asks(q.from, network, q.to, fam, q.port); !strings.Contains(got, " sees ") {
					t.Errorf("%s → %s: %s", q.from, q.to, got)
				}
			}
		}
	})
	// A mark that somebody else gave is still there when the packet is routed.
	l.a.Run("nft", "add table inet theirs; add chain inet theirs pre { type filter hook prerouting priority -150; }; "+
		"add rule inet theirs pre iifname eth0 meta mark set 0x10")
	if got := l.asksFor("client", "tcp", "vip", 0, 80, brief); strings.Contains(got, " sees ") {
		t.Errorf("a foreign mark was removed: %s", got)
	}
}

// The priority serves the rules as a notebook and must not reach the queues.
func TestThePriorityDoesNotLeaveTheNode(t *testing.T) {
	l := newLab(t)
	l.set(withVIP(nodePort(service("svc", "a1", "a2", "b1", "b2"), 30080), "vip"), service("svc2", "a1", "b1"))
	l.a.Run("nft", "add table inet seen; add chain inet seen post { type filter hook postrouting priority 300; }; "+
		"add rule inet seen post ct status dnat ct state new meta priority != none counter")
	everywhere(t, func(t *testing.T, network string, fam int) {
		for range 8 {
			for _, q := range []question{{from: "client", to: "vip", port: 80}, {from: "client", to: "a", port: 30080},
				{from: "a2", to: "svc2", port: 80}, {from: "a", to: "svc2", port: 80}} {
				if got := l.asks(q.from, network, q.to, fam, q.port); !strings.Contains(got, " sees ") {
					t.Errorf("%s → %s: %s", q.from, q.to, got)
				}
			}
		}
	})
	if out := l.a.Run("nft", "list", "table", "inet", "seen"); !strings.Contains(out, "counter packets 0") {
		t.Errorf("packets left with a priority:\n%s", out)
	}
}

// What the endpoint says of its own accord is what a flush would break: nothing
// the client sends would make the kernel look at the connection again.
func TestEstablishedConnectionsSurviveAForeignFlush(t *testing.T) {
	for fam := range 2 {
		for _, guarded := range []bool{true, false} {
			l := newLab(t)
			l.engine.guarded = !guarded // then it is not made
			push, err := pushed(t, l, fam)
			if err != nil {
				t.Fatal(err)
			}
			// Nobody repairs for some hundred packets: much longer than it takes.
			l.a.Run("nft", "flush", "ruleset")
			for i := range 300 {
				if err = push(); err != nil {
					t.Logf("guarded: %v, after %d reads: %v", guarded, i, err)
					break
				}
			}
			switch {
			case guarded && err != nil:
				t.Errorf("the connection did not survive: %v", err)
			case !guarded && err == nil:
				t.Error("the connection survives without a guard: the test cannot fail")
			case guarded:
				if err := l.engine.compare(nil, l.now); err != nil {
					t.Fatal(err)
				}
				if err := push(); err != nil {
					t.Errorf("after the repair: %v", err)
				}
				if got := l.asks("client", "tcp", "vip", fam, 80); got != "a1 sees client" {
					t.Errorf("after the repair: %s", got)
				}
			}
		}
	}
}

// pushed opens a connection from the client by the VIP to a pod that sends all
// the time, and returns what reads from it.
func pushed(t *testing.T, l *lab, fam int) (read func() error, err error) {
	t.Helper()
	s := withVIP(service("svc", "a1"), "vip")
	s.Ports = append(s.Ports, cluster.Port{Name: "push", Protocol: cluster.TCP, Port: 81})
	e := endpoint("a1", fam)
	e.Addr = to("a1", fam, 8081)
	s.Ports[2].Endpoints = []cluster.Endpoint{e}
	l.set(s)
	var lis net.Listener
	l.pods["a1"].Do(func() { lis, err = net.Listen("tcp", e.Addr.String()) })
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { lis.Close() })
	go func() {
		c, err := lis.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := c.Write([]byte("x")); err != nil {
				return
			}
		}
	}()
	var c net.Conn
	l.client.Do(func() { c, err = net.DialTimeout("tcp", to("vip", fam, 81).String(), patience) })
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return func() error {
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 1))
		return err
	}, nil
}

// A packet that conntrack takes for invalid would reach the client with the
// pod's own address.
func TestInvalidPacketsOfPodsDoNotLeaveTheNode(t *testing.T) {
	l := newLab(t)
	l.set(service("svc", "b1"))
	l.a.Sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "0")
	heard := tcpFrom(t, l.pods["a1"], at("b1", 0))
	send := func() { strayTCP(t, l.pods["b1"], at("b1", 0), at("a1", 0)) }
	send()
	l.a.Run("nft", "flush", "chain", "inet", Table, "filter-forward")
	send()
	nstest.Wait(t, 10*time.Second, "without the rule it arrives", func() bool { return heard() > 0 })
	if n := heard(); n != 1 {
		t.Errorf("%d arrived, want the one that was sent without the rule", n)
	}
}

func TestServiceCIDRsThatNobodyServesAreDropped(t *testing.T) {
	l := newLab(t)
	cidrs := []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd96::/112")}
	r := l.start(t, func(o *Options) { o.ServiceCIDRs = cidrs })
	r.put(true, service("svc", "a1"))
	r.until(t, "a2", "tcp", "svc", 80, "a1 sees a2")
	for fam := range 2 {
		// The client has a route to svc2 by node a; without the rule a would send the
		// packets back to its own default gateway, the client, which refuses them.
		if got := l.asksFor("client", "tcp", "svc2", fam, 80, brief); got != "silence" {
			t.Errorf("a cluster IP of nobody: %s", got)
		}
	}
}

func TestNodePortAddresses(t *testing.T) {
	l := newLab(t)
	l.a.Addr("eth0", "192.0.2.111/24")
	r := l.start(t, func(o *Options) {
		o.NodePortAddresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.96/27"), netip.MustParsePrefix("127.0.0.0/8")}
		o.Local = func() []netip.Addr {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1"), at("a", 0), netip.MustParseAddr("192.0.2.111")}
		}
	})
	r.put(true, nodePort(service("svc", "a1"), 30080))
	nstest.Wait(t, 10*time.Second, "the chosen address answers", func() bool {
		got, _ := ask(l.client, "tcp", netip.MustParseAddrPort("192.0.2.111:30080"))
		return strings.HasPrefix(got, "a1")
	})
	if got := l.asks("client", "tcp", "a", 0, 30080); got != "refused" {
		t.Errorf("the other address: %s", got)
	}
	if got, _ := ask(l.a, "tcp", netip.MustParseAddrPort("127.0.0.1:30080")); got != "refused" {
		t.Errorf("127.0.0.1: %s", got)
	}
}
