package speaker

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/nstest"
	"github.com/clarion-lb/clarion/internal/rtnl"
	"github.com/clarion-lb/clarion/internal/task"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// limit bounds every wait of these tests; nothing asserts that it was short.
const limit = 20 * time.Second

// A family is what differs between the two in a wire test.
type family struct {
	name         string
	vip          netip.Addr
	client, a, b string // addresses with the length of the prefix
	neigh        string // the sysctl directory of its neighbour table
	forward      string // the sysctl that makes a host a router
}

// families holds what the wire tests run over: every case runs once for each.
var families = []family{
	{"IPv4", addr("192.0.2.200"), "192.0.2.100/24", "192.0.2.11/24", "192.0.2.12/24", "net.ipv4.neigh", "net.ipv4.ip_forward"},
	{"IPv6", addr("2001:db8:1::200"), "2001:db8:1::100/64", "2001:db8:1::11/64", "2001:db8:1::12/64", "net.ipv6.neigh", "net.ipv6.conf.all.forwarding"},
}

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// testLog writes to the test's output when CLARION_TEST_LOG is set.
func testLog(t testing.TB, name string) *slog.Logger {
	if os.Getenv("CLARION_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", name)
}

// A node is a host with a speaker.
type node struct {
	*nstest.Host
	t       testing.TB
	feed    *cluster.Feed
	speaker *Speaker
	reader  *rtnl.Reader
	stop    func() // ends the speaker and waits for it

	mu    sync.Mutex
	links []cluster.Link
	said  map[cluster.Key]*ServiceReport
}

// newNode makes the speaker of a host, without running it.
func newNode(t testing.TB, h *nstest.Host, change ...func(*Config)) *node {
	t.Helper()
	n := &node{Host: h, t: t, feed: cluster.NewFeed(), said: map[cluster.Key]*ServiceReport{}}
	var watch *rtnl.Watch
	var errs [2]error
	h.Do(func() {
		n.reader, errs[0] = rtnl.Open()
		watch, errs[1] = rtnl.Subscribe()
	})
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	log := testLog(t, h.Name)
	cfg := Config{
		Self: h.Name, Log: log, Feed: n.feed,
		Links: n.reader.Links, LinksChanged: watch.Changed(), Report: n.hear,
		Open: OpenPacket(log, func(domain, typ, protocol int) (fd int, err error) {
			h.Do(func() { fd, err = unix.Socket(domain, typ, protocol) })
			return fd, err
		}),
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if n.speaker, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- task.Run(ctx, n.speaker, watch) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the speaker of %s: %v", h.Name, err)
		}
		n.reader.Close()
	})
	t.Cleanup(n.stop)
	return n
}

func (n *node) hear(r Report) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r.Links != nil {
		n.links = r.Links
	}
	for key, s := range r.Services {
		n.said[key] = s
	}
}

// unit returns what the speaker last said of the first unit of a Service.
func (n *node) unit(key cluster.Key) UnitReport {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.said[key]; s != nil && len(s.Units) > 0 {
		return s.Units[0]
	}
	return UnitReport{}
}

// published waits for the links that the node's agent would publish.
func (n *node) published() []cluster.Link {
	n.t.Helper()
	var out []cluster.Link
	nstest.Wait(n.t, limit, n.Name+" reports its links", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		out = n.links
		return out != nil
	})
	return out
}

// mac returns the address of the node's eth0.
func (n *node) mac() cluster.MAC { return macOf(n.t, n.Host, "eth0") }

func macOf(t testing.TB, h *nstest.Host, link string) cluster.MAC {
	t.Helper()
	var ifi *net.Interface
	var err error
	h.Do(func() { ifi, err = net.InterfaceByName(link) })
	if err != nil {
		t.Fatal(err)
	}
	return cluster.MAC(ifi.HardwareAddr)
}

// service returns a Service with one VIP.
func service(name string, vips ...netip.Addr) *cluster.Service {
	return &cluster.Service{Key: cluster.Key("test/" + name), UID: name, VIPs: vips, Ours: true, Created: time.Unix(1, 0)}
}

// tell gives the same view to all nodes, as the API server would. owner is the
// only node that is not cordoned; empty for all.
func tell(owner string, svc *cluster.Service, nodes ...*node) {
	view := map[string]*cluster.Node{}
	for _, n := range nodes {
		refused := cluster.Eligible
		if owner != "" && owner != n.Name {
			refused = cluster.Cordoned
		}
		view[n.Name] = &cluster.Node{Name: n.Name, Links: n.published(), Refused: refused}
	}
	for _, n := range nodes {
		n.feed.Put(cluster.Delta{Nodes: view, Services: map[cluster.Key]*cluster.Service{svc.Key: svc}, Synced: true})
	}
}

// owns waits until a node answers for the first unit of a Service.
func (n *node) owns(key cluster.Key) {
	n.t.Helper()
	nstest.Wait(n.t, limit, fmt.Sprintf("%s answers for %s", n.Name, key), func() bool { return n.unit(key).Mine })
}

// A client is a host that is no part of the cluster, with a neighbour table
// whose entries age quickly.
type client struct {
	*nstest.Host
	t testing.TB
}

func newClient(t testing.TB, lan *nstest.Switch, neigh string, addrs ...string) client {
	c := client{lan.Attach("client", addrs...), t}
	c.Sysctl(neigh+".eth0.base_reachable_time_ms", "400")
	c.Sysctl(neigh+".eth0.retrans_time_ms", "200")
	c.Sysctl(neigh+".eth0.delay_first_probe_time", "0")
	return c
}

// use sends a packet to an address, which makes the kernel look for its MAC.
func (c client) use(a netip.Addr) {
	c.t.Helper()
	var conn net.Conn
	var err error
	c.Do(func() { conn, err = net.Dial("udp", netip.AddrPortFrom(a, 9).String()) })
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	// An error is the ICMP answer to an earlier packet; this one is lost.
	_, _ = conn.Write([]byte("x"))
}

// entry returns the neighbour entry of an address: MAC and state.
func (c client) entry(a netip.Addr) (mac, state string) {
	c.t.Helper()
	words := strings.Fields(c.IP("neigh show %v dev eth0", a))
	if len(words) == 0 {
		return "", "NONE"
	}
	for i, w := range words {
		if w == "lladdr" {
			mac = words[i+1]
		}
	}
	return mac, words[len(words)-1]
}

// reaches waits until the entry of an address is REACHABLE at a MAC.
func (c client) reaches(a netip.Addr, mac cluster.MAC) {
	c.t.Helper()
	nstest.Wait(c.t, limit, fmt.Sprintf("the client finds %v at %v", a, mac), func() bool {
		c.use(a)
		got, state := c.entry(a)
		return got == mac.String() && state == "REACHABLE"
	})
}

// A port is a raw socket on a link, for frames that no kernel would send.
type port struct {
	t     testing.TB
	fd    int
	index int
	queue []seen // read from the kernel, not yet looked at
}

func newPort(t testing.TB, h *nstest.Host, link string) *port {
	t.Helper()
	p := &port{t: t}
	var err error
	h.Do(func() {
		var ifi *net.Interface
		if ifi, err = net.InterfaceByName(link); err != nil {
			return
		}
		p.index = ifi.Index
		p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ALL)))
		if err == nil {
			err = unix.Bind(p.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: p.index})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p.fd) })
	return p
}

func (p *port) send(frame []byte) {
	p.t.Helper()
	if err := unix.Sendto(p.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: p.index}); err != nil {
		p.t.Fatal(err)
	}
}

// A seen is an ARP or NDP frame that passed a port.
type seen struct {
	Message
	frame []byte
	out   bool // sent by this host
}

func (s seen) to() cluster.MAC { return cluster.MAC(s.frame[0:6]) }

// read returns what has passed since the last look.
func (p *port) read() []seen {
	p.t.Helper()
	out := p.queue
	p.queue = nil
	buf := make([]byte, 4096)
	for {
		n, from, err := unix.Recvfrom(p.fd, buf, 0)
		if err == unix.EAGAIN {
			return out
		}
		if err != nil {
			p.t.Fatal(err)
		}
		if m, err := Decode(buf[:n]); err == nil {
			out = append(out, seen{m, append([]byte(nil), buf[:n]...), from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING})
		}
	}
}

// find waits for a frame that ok accepts; the next look begins behind it.
func (p *port) find(what string, ok func(seen) bool) (found seen) {
	p.t.Helper()
	nstest.Wait(p.t, limit, what, func() bool {
		all := p.read()
		for i, s := range all {
			if ok(s) {
				found, p.queue = s, all[i+1:]
				return true
			}
		}
		return false
	})
	return found
}

// solicit returns a neighbour solicitation without the option that tells its
// sender's MAC, as kernels send it to confirm an entry.
func solicit(from, to cluster.MAC, src, dst, target netip.Addr) []byte {
	return ndpFrame(to, from, src, dst, &ndp.NeighborSolicitation{TargetAddress: target})
}
