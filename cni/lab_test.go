package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/cni/plugin"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/nstest"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == plugin.Type {
		p := plugin.Plugin{Stdout: os.Stdout}
		os.Exit(p.Run(context.Background()))
	}
	nstest.Main(m)
}

// A lab is nodes on two segments with a router between them that knows
// nothing about pods, and drops what comes from them if it is strict.
type lab struct {
	t      testing.TB
	nodes  map[string]*cluster.Node // nil for one that is gone
	hosts  map[string]*labNode
	a, b   *nstest.Switch
	router *nstest.Host
}

// A labNode is a host with an agent.
type labNode struct {
	*nstest.Host
	t     testing.TB
	agent *Agent
	feed  *cluster.Feed
	dir   string
	opts  Options

	install Install
	stop    func()
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{t: t, nodes: map[string]*cluster.Node{}, hosts: map[string]*labNode{}}
	l.a, l.b = nstest.NewSwitch(t, "lana"), nstest.NewSwitch(t, "lanb")
	l.router = l.a.Attach("router", "192.0.2.254/24", "2001:db8:1::fe/64")
	l.b.Plug(l.router, "eth1")
	l.router.Addr("eth1", "198.51.100.254/24", "2001:db8:2::fe/64")
	l.router.Sysctl("net.ipv4.ip_forward", "1")
	l.router.Sysctl("net.ipv6.conf.all.forwarding", "1")
	// What a careful router does: no source that it has no way back to.
	l.router.Sysctl("net.ipv4.conf.all.rp_filter", "1")
	l.router.Run("nft", "add table inet f; add chain inet f c { type filter hook forward priority 0; }; add rule inet f c ip saddr 10.244.0.0/16 drop; add rule inet f c ip6 saddr fd44::/48 drop")
	return l
}

// node adds a node on one of the two segments and starts its agent.
func (l *lab) node(name string, number int, behind bool) *labNode {
	l.t.Helper()
	sw, v4, v6, gw4, gw6 := l.a, "192.0.2.%d/24", "2001:db8:1::%d/64", "192.0.2.254", "2001:db8:1::fe"
	if behind {
		sw, v4, v6, gw4, gw6 = l.b, "198.51.100.%d/24", "2001:db8:2::%d/64", "198.51.100.254", "2001:db8:2::fe"
	}
	a4, a6 := fmt.Sprintf(v4, number), fmt.Sprintf(v6, number)
	h := sw.Attach(name, a4, a6)
	h.IP("route add default via %s", gw4)
	h.IP("-6 route add default via %s", gw6)
	// The strictest host: nothing may come by a way that answers would not take.
	h.Sysctl("net.ipv4.conf.eth0.rp_filter", "1")
	h.Sysctl("net.ipv4.conf.default.rp_filter", "1")
	n := &labNode{Host: h, t: l.t, feed: cluster.NewFeed(), dir: l.t.TempDir()}
	l.hosts[name] = n
	l.nodes[name] = &cluster.Node{Name: name,
		Addresses: []netip.Addr{netip.MustParsePrefix(a4).Addr(), netip.MustParsePrefix(a6).Addr()},
		PodCIDRs:  prefixes(fmt.Sprintf("10.244.%d.0/24 fd44:0:0:%d::/64", number, number))}
	n.start()
	return n
}

// start runs an agent on the node until stop or the end of the test.
func (n *labNode) start() {
	n.t.Helper()
	n.opts.DataDir = n.dir
	var err error
	n.agent, err = New(Config{Node: n.Name, Feed: n.feed, Log: slog.New(slog.DiscardHandler), Handle: n.handle(), Options: n.opts, Install: n.install})
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.agent.Run(ctx) }()
	n.stop = func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("agent of %s: %v", n.Name, err)
		}
		n.stop = func() {}
	}
	n.t.Cleanup(func() { n.stop() })
}

// handle opens the namespace of the node by a path that any thread can use.
func (n *labNode) handle() *rtnl.Handle {
	n.t.Helper()
	var h *rtnl.Handle
	var err error
	n.Do(func() { h, err = rtnl.OpenAt("/proc/thread-self/ns/net") })
	if err != nil {
		n.t.Fatal(err)
	}
	return h
}

// publish tells every agent of all nodes.
func (l *lab) publish() {
	for _, h := range l.hosts {
		d := cluster.Delta{Nodes: map[string]*cluster.Node{}, Synced: true}
		for name, n := range l.nodes {
			d.Nodes[name] = n
		}
		h.feed.Put(d)
	}
}

// ready waits until every agent knows as many paths as there are peers, and
// is content.
func (l *lab) ready() {
	l.t.Helper()
	for name, h := range l.hosts {
		var s Status
		defer func() {
			if l.t.Failed() {
				l.t.Logf("%s: %+v", name, s)
			}
		}()
		nstest.Wait(l.t, 10*time.Second, name+" has its routes", func() bool {
			s = h.agent.Status()
			return s.Synced && len(s.Peers) == 2*(len(l.hosts)-1) && len(s.Problems) == 0
		})
	}
}

// A labPod is a pod that the plugin made.
type labPod struct {
	t     testing.TB
	n     *labNode
	id    string
	h     *rtnl.Handle
	path  string
	addrs []netip.Addr

	runtimeConfig string
}

func (n *labNode) pod(id string) *labPod { return n.podWith(id, "{}") }

// podWith is pod with a runtimeConfig.
func (n *labNode) podWith(id, runtimeConfig string) *labPod {
	n.t.Helper()
	p := &labPod{t: n.t, n: n, id: id, runtimeConfig: runtimeConfig, path: filepath.Join(n.t.TempDir(), "netns")}
	if err := os.WriteFile(p.path, nil, 0o600); err != nil {
		n.t.Fatal(err)
	}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine, in the new namespace
		ns, err := netns.New()
		if err == nil {
			err = errors.Join(unix.Mount("/proc/thread-self/ns/net", p.path, "", unix.MS_BIND, ""), ns.Close())
		}
		made <- err
	}()
	err := <-made
	if err == nil {
		p.h, err = rtnl.OpenAt(p.path)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		if err := errors.Join(p.h.Close(), unix.Unmount(p.path, unix.MNT_DETACH)); err != nil {
			n.t.Error(err)
		}
	})
	var r current.Result
	if err := json.Unmarshal([]byte(p.call("ADD")), &r); err != nil {
		n.t.Fatal(err)
	}
	for _, ip := range r.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		p.addrs = append(p.addrs, a.Unmap())
	}
	return p
}

// call runs the plugin for the pod.
func (p *labPod) call(verb string) string {
	p.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args[0] = plugin.Type
	cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + p.id, "CNI_NETNS=" + p.path, "CNI_IFNAME=eth0", "CNI_PATH=/"}
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion":"1.0.0","name":"clarion","type":"clarion-cni","dataDir":%q,"runtimeConfig":%s}`, p.n.dir, p.runtimeConfig))
	var out []byte
	var err error
	p.n.Do(func() { out, err = cmd.Output() })
	if err != nil {
		p.t.Fatalf("%s %s: %v\n%s", verb, p.id, err, out)
	}
	return string(out)
}

func (p *labPod) Do(f func()) {
	p.t.Helper()
	if err := p.h.Do(func() error { f(); return nil }); err != nil {
		p.t.Fatal(err)
	}
}

// A place is where connections come from and go to.
type place interface{ Do(func()) }

// talk opens a connection from one place to an address of another, sends size
// bytes each way, and returns the source that the other side saw.
func talk(from, to place, dst netip.Addr, size int) (netip.Addr, error) {
	var l net.Listener
	var err error
	to.Do(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(dst, 0).String()) })
	if err != nil {
		return netip.Addr{}, err
	}
	defer l.Close()
	type heard struct {
		from netip.Addr
		n    int64
		err  error
	}
	got := make(chan heard, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- heard{err: err}
			return
		}
		defer c.Close()
		n, err := io.Copy(c, io.LimitReader(c, int64(size))) // back what came
		got <- heard{c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(), n, err}
	}()
	var c net.Conn
	from.Do(func() { c, err = net.DialTimeout("tcp", l.Addr().String(), 3*time.Second) })
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return netip.Addr{}, err
	}
	go func() { _, _ = c.Write(make([]byte, size)) }() // an error shows on the reading side
	back, err := io.Copy(io.Discard, io.LimitReader(c, int64(size)))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("after %d of %d bytes: %w", back, size, err)
	}
	h := <-got
	if h.err != nil || h.n != int64(size) || back != int64(size) {
		return h.from, fmt.Errorf("%d bytes there and %d back, %v", h.n, back, h.err)
	}
	return h.from, nil
}

// mtu returns the MTU of a link in the pod.
func (p *labPod) mtu() int {
	p.t.Helper()
	l, err := p.h.Link("eth0")
	if err != nil {
		p.t.Fatal(err)
	}
	return l.MTU
}

// cluster1 is a delta that knows one node and is not synced.
func cluster1(l *lab, name string) cluster.Delta {
	return cluster.Delta{Nodes: map[string]*cluster.Node{name: l.nodes[name]}}
}

func gone(name string) cluster.Delta {
	return cluster.Delta{Nodes: map[string]*cluster.Node{name: nil}}
}
