package proxy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/nfnl"
	"github.com/clarion-lb/clarion/internal/nft"
	"github.com/clarion-lb/clarion/internal/nstest"
)

// A stumbler fails now and then, as netlink does when memory is short or a
// signal comes. When the answer is lost, the change may have been made or not.
type stumbler struct {
	*nft.Conn
	r        *rand.Rand
	stumbles int
}

func (s *stumbler) Room() int { return 0 }

func (s *stumbler) Commit(b *nft.Batch) error {
	switch s.r.IntN(12) {
	case 0:
		s.stumbles++
		return unix.ENOMEM
	case 1:
		s.stumbles++
		return fmt.Errorf("read: %w", unix.EINTR)
	case 2:
		s.stumbles++
		if err := s.Conn.Commit(b); err != nil {
			return err
		}
		return nfnl.ErrLost
	case 3:
		s.stumbles++
		return nfnl.ErrLost
	}
	return s.Conn.Commit(b)
}

func TestWhateverNetlinkDoesTheTableComesRight(t *testing.T) {
	rounds := 40
	if testing.Short() {
		rounds = 8
	}
	r := rand.New(rand.NewPCG(5, 5))
	l := newBareLab(t)
	k := &stumbler{Conn: l.engine.conn, r: r}
	for range rounds {
		l.engine.kernel = k
		changed := map[cluster.Key]*cluster.Service{}
		for _, s := range values(randomState(r)) {
			changed[s.Key] = s
		}
		for tries := 0; ; tries++ {
			err := l.engine.change(changed, l.now)
			if err == nil {
				break
			}
			if tries > 200 {
				t.Fatal(err)
			}
			changed = nil // it is in the book; the next attempt compares
		}
		l.engine.kernel = l.engine.conn
		l.checkKernel(t)
	}
	if k.stumbles == 0 {
		t.Error("it never stumbled: the test cannot fail")
	}
}

// Impossible Services change nothing for those beside them.
func TestImpossibleServicesSpoilNothing(t *testing.T) {
	bad := map[string]func(*cluster.Service){
		"no address": func(s *cluster.Service) { s.ClusterIPs = append(s.ClusterIPs, netip.Addr{}) },
		"mapped address": func(s *cluster.Service) {
			s.VIPs = []netip.Addr{netip.MustParseAddr("::ffff:192.0.2.7")}
			s.Ours = true
		},
		"address with a zone": func(s *cluster.Service) { s.ExternalIPs = []netip.Addr{netip.MustParseAddr("fe80::1%eth0")} },
		"port 0":              func(s *cluster.Service) { s.Ports[0].Port = 0 },
		"a port twice":        func(s *cluster.Service) { s.Ports = append(s.Ports, s.Ports[0]) },
		"an address twice":    func(s *cluster.Service) { s.ExternalIPs = append(both("svc2"), both("svc2")...) },
		"an endpoint twice":   func(s *cluster.Service) { p := &s.Ports[0]; p.Endpoints = append(p.Endpoints, p.Endpoints...) },
		"endpoint without":    func(s *cluster.Service) { s.Ports[0].Endpoints[0].Addr = netip.AddrPort{} },
		"endpoint port 0":     func(s *cluster.Service) { s.Ports[0].Endpoints[0].Addr = netip.AddrPortFrom(at("a1", 0), 0) },
		"mapped endpoint": func(s *cluster.Service) {
			s.Ports[0].Endpoints[0].Addr = netip.MustParseAddrPort("[::ffff:10.0.0.1]:80")
		},
		"endless affinity":    func(s *cluster.Service) { s.Affinity = 1 << 62 },
		"negative affinity":   func(s *cluster.Service) { s.Affinity = -1 },
		"short affinity":      func(s *cluster.Service) { s.Affinity = time.Millisecond },
		"an unknown protocol": func(s *cluster.Service) { s.Ports[0].Protocol = 50 },
		"ranges that are none": func(s *cluster.Service) {
			withVIP(s, "vip")
			s.SourceRanges = []netip.Prefix{{}, netip.PrefixFrom(at("a", 0), 99)}
		},
		"everybody, twice": func(s *cluster.Service) {
			withVIP(s, "vip")
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"), netip.MustParsePrefix("10.0.0.0/8")}
		},
		"the VIP is its own cluster IP": func(s *cluster.Service) { withVIP(s, "svc2") },
		"a node's address":              func(s *cluster.Service) { withVIP(s, "a") },
		"a long name": func(s *cluster.Service) {
			s.Key = cluster.Key(strings.Repeat("n", 63) + "/" + strings.Repeat("s", 63))
			s.Ports[0].Name = strings.Repeat("p", 63)
		},
	}
	for name, spoil := range bad {
		t.Run(name, func(t *testing.T) {
			l := newBareLab(t)
			good, s := service("svc", "a1"), service("svc2", "b1")
			spoil(s)
			l.set(good, s)
			l.checkKernel(t)
			if got := describe(l.kernelMirror(t), Front{at("svc", 0), cluster.TCP, 80}, mapClass(0), map[entry]bool{}); got != "n1 [10.244.1.1:8080]" {
				t.Errorf("the Service beside it: %s", got)
			}
			l.set(good)
			l.sweep()
			l.checkKernel(t)
		})
	}
}

// Somebody may be watching with the oldest nft while every feature comes and
// goes.
func TestNftMonitorGoesOn(t *testing.T) {
	nstest.Tool(t, "nft")
	nstest.Tool(t, "stdbuf") // nft writes to a pipe in large pieces
	l := newBareLab(t)
	l.set()
	mon := l.a.Start("stdbuf", "-o0", "nft", "monitor")
	ticks := 0
	tells := func(what string) {
		t.Helper()
		nstest.Wait(t, 20*time.Second, "nft monitor tells of "+what, func() bool { return strings.Contains(mon.Output(), what) })
	}
	// It is listening when it tells of something.
	nstest.Wait(t, 20*time.Second, "nft monitor begins", func() bool {
		ticks++
		l.a.Run("nft", "add", "table", "inet", fmt.Sprintf("tick%d", ticks))
		return mon.Output() != ""
	})
	for i, change := range []func(*cluster.Service){
		func(*cluster.Service) {},
		func(s *cluster.Service) { nodePort(withVIP(s, "vip"), 30080).ExternalLocal = true },
		func(s *cluster.Service) { s.Affinity = time.Hour },
		func(s *cluster.Service) {
			withVIP(s, "vip").SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
		},
	} {
		s := service("svc", "a1", "b1", "b2")
		change(s)
		l.set(s)
		l.set()
		l.sweep()
		l.a.Run("nft", "add", "table", "inet", fmt.Sprintf("end%d", i))
		tells(fmt.Sprintf("add table inet end%d", i))
	}
	tells("add element inet " + Table + " class6 { fd96::10 . tcp . 80")
}

func TestOffLeavesNothing(t *testing.T) {
	l := newLab(t)
	r := l.start(t, nil)
	r.put(true, service("svc", "a1"))
	r.until(t, "a2", "tcp", "svc", 80, "a1 sees a2")
	r.stop()
	var p *Proxy
	l.a.Do(func() {
		var err error
		if p, err = New(Options{Node: "a", Feed: cluster.NewFeed()}); err != nil {
			t.Fatal(err)
		}
	})
	defer p.Close()
	for range 2 {
		if err := p.Off(); err != nil {
			t.Fatal(err)
		}
	}
	if out := l.a.Run("nft", "list", "ruleset"); out != "" {
		t.Errorf("left:\n%s", out)
	}
}

func TestVIPsAreToldWhenTheirRulesAreThere(t *testing.T) {
	l := newLab(t)
	told := make(chan map[netip.Addr]bool, 100)
	r := l.start(t, func(o *Options) { o.OnVIPs = func(v map[netip.Addr]bool) { told <- v } })
	r.put(true, withVIP(service("svc", "a1"), "vip"))
	wait := func(want int) {
		t.Helper()
		for {
			select {
			case v := <-told:
				if len(v) != want {
					continue
				}
				if want > 0 {
					if got := l.asks("client", "tcp", "vip", 0, 80); got != "a1 sees client" {
						t.Errorf("told too early: %s", got)
					}
				}
				return
			case <-time.After(10 * time.Second):
				t.Fatalf("nobody told of %d VIPs", want)
			}
		}
	}
	wait(2)
	r.gone("default/svc")
	wait(0)
}

func TestNewSaysWhatIsMissing(t *testing.T) {
	if _, err := New(Options{}); err == nil || !strings.Contains(err.Error(), "a node's name and a feed are needed") {
		t.Error(err)
	}
	if err := errors.Join(nft.ErrMissing); !strings.HasPrefix(err.Error(), "this kernel has no nftables") {
		t.Error(err)
	}
}
