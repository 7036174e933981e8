package cni

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/nstest"
)

// A way is two places with the address of the second.
type way struct {
	from, to place
	dst      netip.Addr
}

// bare makes the yardstick of the direct path: two hosts that forward between
// a namespace each, with routes written by hand and nothing else.
func bare(b *testing.B, tunnel bool) way {
	l := newLab(b)
	l.router.Run("nft", "flush", "ruleset")
	var nodes [2]*nstest.Host
	var pods [2]*nstest.Host
	for i, sw := range []*nstest.Switch{l.a, l.a} {
		net := "192.0.2"
		if tunnel && i == 1 {
			sw, net = l.b, "198.51.100"
		}
		n := sw.Attach(fmt.Sprint("plain", i), fmt.Sprintf("%s.%d/24", net, 10+i))
		n.IP("route add default via %s.254", net)
		n.Sysctl("net.ipv4.ip_forward", "1")
		p := nstest.NewHost(b, fmt.Sprint("ppod", i))
		nstest.Connect(p, "eth0", n, "pod")
		p.Addr("eth0", fmt.Sprintf("10.99.%d.2/24", i))
		n.Addr("pod", fmt.Sprintf("10.99.%d.1/24", i))
		p.IP("route add default via 10.99.%d.1", i)
		nodes[i], pods[i] = n, p
	}
	if !tunnel {
		nodes[0].IP("route add 10.99.1.0/24 via 192.0.2.11")
		nodes[1].IP("route add 10.99.0.0/24 via 192.0.2.10")
	} else {
		ends := [2]string{"192.0.2.10", "198.51.100.11"}
		for i, n := range nodes {
			n.IP("link add vx type vxlan id 9 dstport 4789 local %s nolearning", ends[i])
			n.IP("link set vx address 02:00:00:00:00:0%d mtu 1450 up", i)
			n.IP("addr add 10.99.%d.3/32 dev vx", i)
			n.IP("route add 10.99.%d.0/24 via 10.99.%d.3 dev vx onlink", 1-i, 1-i)
			n.IP("neigh add 10.99.%d.3 lladdr 02:00:00:00:00:0%d dev vx", 1-i, 1-i)
			n.Run("bridge", "fdb", "add", fmt.Sprintf("02:00:00:00:00:0%d", 1-i), "dev", "vx", "dst", ends[1-i])
			n.IP("link set pod mtu 1450")
			pods[i].IP("link set eth0 mtu 1450")
		}
	}
	return way{pods[0], pods[1], netip.MustParseAddr("10.99.1.2")}
}

func clarion(b *testing.B, tunnel bool) way {
	l := newLab(b)
	from, to := l.node("a1", 1, false), l.node("b1", 2, tunnel)
	l.publish()
	l.ready()
	p, q := from.pod("p"), to.pod("q")
	return way{p, q, q.addrs[0]}
}

// stream sends over n connections for a time and returns bytes per second.
func (p way) stream(n int, d time.Duration) (float64, error) {
	l, err := p.listen(func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	if err != nil {
		return 0, err
	}
	defer l.Close()
	var sent atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(d)
	for range n {
		c, err := p.dial(l)
		if err != nil {
			return 0, err
		}
		defer c.Close()
		wg.Go(func() {
			b := make([]byte, 128<<10)
			for time.Now().Before(end) {
				n, err := c.Write(b)
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(sent.Load()) / d.Seconds(), nil
}

// rounds counts requests and answers of one byte, each over a connection of
// its own when fresh.
func (p way) rounds(fresh bool, d time.Duration) (float64, error) {
	l, err := p.listen(func(c net.Conn) { _, _ = io.Copy(c, c) })
	if err != nil {
		return 0, err
	}
	defer l.Close()
	b := make([]byte, 1)
	var c net.Conn
	n := 0
	for end := time.Now().Add(d); time.Now().Before(end); n++ {
		if fresh || c == nil {
			if c, err = p.dial(l); err != nil {
				return 0, err
			}
		}
		if _, err := c.Write(b); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return 0, err
		}
		if fresh {
			if err := c.Close(); err != nil {
				return 0, err
			}
		}
	}
	if !fresh {
		return float64(n) / d.Seconds(), c.Close()
	}
	return float64(n) / d.Seconds(), nil
}

func (p way) listen(serve func(net.Conn)) (l net.Listener, err error) {
	p.to.Do(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(p.dst, 0).String()) })
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); serve(c) }()
		}
	}()
	return l, nil
}

func (p way) dial(l net.Listener) (c net.Conn, err error) {
	p.from.Do(func() { c, err = net.DialTimeout("tcp", l.Addr().String(), 5*time.Second) })
	return c, err
}

// BenchmarkPaths compares the way of Clarion's pods with one made by hand, in
// turns, so that a busy machine slows both. The ratio is ours to theirs.
func BenchmarkPaths(b *testing.B) {
	const turn = 700 * time.Millisecond
	for _, kind := range []struct {
		name   string
		tunnel bool
	}{{"direct", false}, {"vxlan", true}} {
		mine, plain := clarion(b, kind.tunnel), bare(b, kind.tunnel)
		for _, m := range []struct {
			name string
			run  func(way) (float64, error)
		}{
			{"tcp1", func(p way) (float64, error) { return p.stream(1, turn) }},
			{"tcp4", func(p way) (float64, error) { return p.stream(4, turn) }},
			{"rr", func(p way) (float64, error) { return p.rounds(false, turn) }},
			{"crr", func(p way) (float64, error) { return p.rounds(true, turn) }},
		} {
			b.Run(kind.name+"/"+m.name, func(b *testing.B) {
				var ratios, got []float64
				for range 5 {
					x, err := m.run(mine)
					if err != nil {
						b.Fatal(err)
					}
					y, err := m.run(plain)
					if err != nil {
						b.Fatal(err)
					}
					ratios, got = append(ratios, x/y), append(got, x)
				}
				slices.Sort(ratios)
				slices.Sort(got)
				b.ReportMetric(ratios[2], "ratio")
				b.ReportMetric(got[2], "per-s")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}
