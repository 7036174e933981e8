package speaker

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// A fakeLAN carries frames between FakeConns and hosts that a test plays. It
// takes no time and loses nothing.
type fakeLAN struct {
	mu    sync.Mutex
	conns []*FakeConn
	hosts map[netip.Addr]cluster.MAC // foreign hosts, which answer for their addresses
	sent  []sentFrame
}

// A sentFrame is what somebody put on the wire, and when.
type sentFrame struct {
	at  time.Time
	to  cluster.MAC
	msg Message
}

// deliver hands a frame to everybody but its sender. Replies follow at once.
func (l *fakeLAN) deliver(t testing.TB, from *FakeConn, frame []byte) {
	m, err := Decode(frame)
	if err != nil {
		t.Errorf("a frame that we sent: %v", err)
		return
	}
	l.mu.Lock()
	l.sent = append(l.sent, sentFrame{time.Now(), cluster.MAC(frame[:6]), m})
	conns, mac, foreign := slices.Clone(l.conns), l.hosts[m.Asks], m.Asks.IsValid() && l.hosts[m.Asks] != cluster.MAC{}
	l.mu.Unlock()
	if foreign {
		l.deliver(t, nil, codecOf(m.Asks).answer(mac, m))
	}
	for _, c := range conns {
		if c == from || frame[0]&1 == 0 && cluster.MAC(frame[:6]) != c.table.Load().MAC {
			continue
		}
		reply, events := c.table.Load().respond(m)
		for _, e := range events {
			e.Link, e.At = c.place.Name, time.Now()
			c.place.Events(e)
		}
		if reply != nil && c.place.Lease.Valid(time.Now()) {
			l.deliver(t, c, reply)
		}
	}
}

// about returns the frames that claim or ask for an address.
func (l *fakeLAN) about(a netip.Addr) (probes, claims []sentFrame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sent {
		if s.msg.Claims == a {
			claims = append(claims, s)
		} else if s.msg.Asks == a && s.msg.Probe() {
			probes = append(probes, s)
		}
	}
	return probes, claims
}

// ask asks for an address as a client would and returns who answered.
func (l *fakeLAN) ask(t testing.TB, a netip.Addr) (answered []cluster.MAC) {
	asker := addr("192.0.2.254")
	if a.Is6() {
		asker = addr("2001:db8:1::100")
	}
	l.mu.Lock()
	before := len(l.sent)
	l.mu.Unlock()
	me := cluster.MAC{2, 0, 0, 0, 0, 100}
	l.deliver(t, nil, codecOf(a).ask(me, a, asker, cluster.MAC{}))
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sent[before:] {
		if s.msg.Claims == a && s.to == me {
			answered = append(answered, s.msg.MAC)
		}
	}
	return answered
}

// FakeConn is a Conn on a fakeLAN.
type FakeConn struct {
	t     testing.TB
	lan   *fakeLAN
	place Place
	table atomic.Pointer[Table]
}

func (l *fakeLAN) open(t testing.TB) Opener {
	return func(p Place) (Conn, error) {
		c := &FakeConn{t: t, lan: l, place: p}
		c.table.Store(&Table{})
		l.mu.Lock()
		defer l.mu.Unlock()
		l.conns = append(l.conns, c)
		return c, nil
	}
}

func (c *FakeConn) Set(t *Table) error { c.table.Store(t); return nil }
func (c *FakeConn) Discard() error     { return nil }
func (c *FakeConn) Stats() Stats       { return Stats{} }

func (c *FakeConn) Send(call Call) error {
	for _, f := range call.frames(c.table.Load().MAC) {
		c.lan.deliver(c.t, c, f)
	}
	return nil
}

func (c *FakeConn) Close() error {
	c.lan.mu.Lock()
	defer c.lan.mu.Unlock()
	c.lan.conns = slices.DeleteFunc(c.lan.conns, func(o *FakeConn) bool { return o == c })
	return nil
}

// A fakeNode is a speaker on a fakeLAN.
type fakeNode struct {
	name    string
	speaker *Speaker
	feed    *cluster.Feed
	stop    func()

	mu      sync.Mutex
	links   []rtnl.Link
	changed chan struct{}
	said    map[cluster.Key]*ServiceReport
}

// newFakeNode starts the i-th speaker. It must run inside a synctest bubble.
func newFakeNode(t testing.TB, lan *fakeLAN, i byte, change ...func(*Config)) *fakeNode {
	n := &fakeNode{
		name: string('a' + rune(i) - 1), feed: cluster.NewFeed(), changed: make(chan struct{}, 1), said: map[cluster.Key]*ServiceReport{},
		links: []rtnl.Link{{
			Index: 2, Name: "eth0", MAC: cluster.MAC{2, 0, 0, 0, 0, i}, Ethernet: true, Up: true, Carrier: true,
			Addrs:  []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, 10 + i}), 24), prefix("fe80::1/64")},
			OnLink: []netip.Prefix{prefix("192.0.2.0/24"), prefix("2001:db8:1::/64")},
		}},
	}
	cfg := Config{
		Self: n.name, Log: testLog(t, n.name), Feed: n.feed, Open: lan.open(t), LinksChanged: n.changed, Links: n.read,
		Elector: NewRendezvous(n.name, func() float64 { return 0.5 }),
		Report: func(r Report) {
			n.mu.Lock()
			defer n.mu.Unlock()
			for key, s := range r.Services {
				n.said[key] = s
			}
		},
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
	go func() { done <- n.speaker.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the speaker of %s: %v", n.name, err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

func (n *fakeNode) read() ([]rtnl.Link, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.links), nil
}

// link changes the node's link and says so.
func (n *fakeNode) link(change func(*rtnl.Link)) {
	n.mu.Lock()
	change(&n.links[0])
	n.mu.Unlock()
	n.changed <- struct{}{}
}

func (n *fakeNode) unit(key cluster.Key) UnitReport {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.said[key]; s != nil {
		return s.Units[0]
	}
	return UnitReport{}
}

func (n *fakeNode) published() []cluster.Link {
	links, _ := n.read()
	return rtnl.Publish(links)
}

// fakeTell gives a view to all nodes: owner is the only one not cordoned.
func fakeTell(owner string, svc *cluster.Service, nodes ...*fakeNode) {
	view := map[string]*cluster.Node{}
	for _, n := range nodes {
		view[n.name] = &cluster.Node{Name: n.name, Links: n.published()}
		if owner != n.name {
			view[n.name].Refused = cluster.Cordoned
		}
	}
	for _, n := range nodes {
		n.feed.Put(cluster.Delta{Nodes: view, Services: map[cluster.Key]*cluster.Service{svc.Key: svc}, Synced: true})
	}
}

// inBubble runs a case for both families on fake time.
func inBubble(t *testing.T, do func(t *testing.T, lan *fakeLAN, vip netip.Addr)) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				do(t, &fakeLAN{hosts: map[netip.Addr]cluster.MAC{}}, f.vip)
			})
		})
	}
}

// after lets fake time pass and everything come to rest.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// offsets returns when frames were sent, counted from start. Frames of one
// moment count once.
func offsets(start time.Time, frames []sentFrame) (out []time.Duration) {
	for _, f := range frames {
		out = append(out, f.at.Sub(start))
	}
	return slices.Compact(out)
}

const ms = time.Millisecond

func TestANewAddressIsProbedAndThenAnnounced(t *testing.T) {
	inBubble(t, func(t *testing.T, lan *fakeLAN, vip netip.Addr) {
		a, start := newFakeNode(t, lan, 1), time.Now()
		fakeTell("a", service("web", vip), a)
		after(299 * ms)
		if got := lan.ask(t, vip); len(got) != 0 || a.unit("test/web").Mine || !a.unit("test/web").Probing {
			t.Errorf("answered by %v while probing; report %+v", got, a.unit("test/web"))
		}
		after(10 * time.Second)
		probes, claims := lan.about(vip)
		if got, want := offsets(start, probes), []time.Duration{0, 100 * ms, 200 * ms}; !slices.Equal(got, want) {
			t.Errorf("probes at %v, want %v", got, want)
		}
		want := []time.Duration{300 * ms, 360 * ms, 460 * ms, 1400 * ms, 2500 * ms, 3600 * ms}
		if got := offsets(start, claims); !slices.Equal(got, want) {
			t.Errorf("announced at %v, want %v", got, want)
		}
		routers := slices.ContainsFunc(claims, func(f sentFrame) bool { return f.to == multicastMAC(allRouters) })
		if routers != (ipfam.Of(vip) == ipfam.V6) {
			t.Errorf("routers were told of the new address: %v", routers)
		}
		// A refresh comes 90 s after the last announcement: the jitter is 0.5.
		after(100 * time.Second)
		_, claims = lan.about(vip)
		if got := offsets(start, claims); got[len(got)-1] != 93600*ms {
			t.Errorf("refreshed at %v, want after 93.6s", got[len(got)-1])
		}
		if got := lan.ask(t, vip); !slices.Equal(got, []cluster.MAC{{2, 0, 0, 0, 0, 1}}) {
			t.Errorf("answered by %v", got)
		}
		if u := a.unit("test/web"); u.Owner != "a" || !u.Since.Equal(start.Add(300*ms)) {
			t.Errorf("report %+v", u)
		}
		a.stop()
		if got := lan.ask(t, vip); len(got) != 0 {
			t.Errorf("answered by %v after the speaker's end", got)
		}
	})
}

func TestATakeoverIsProbedBriefly(t *testing.T) {
	inBubble(t, func(t *testing.T, lan *fakeLAN, vip netip.Addr) {
		a, b := newFakeNode(t, lan, 1), newFakeNode(t, lan, 2)
		svc := service("web", vip)
		fakeTell("a", svc, a, b)
		after(5 * time.Second)
		start := time.Now()
		a.stop()
		fakeTell("b", svc, a, b)
		after(91 * ms)
		if got := lan.ask(t, vip); !slices.Equal(got, []cluster.MAC{{2, 0, 0, 0, 0, 2}}) {
			t.Errorf("answered by %v", got)
		}
		probes, _ := lan.about(vip)
		if got, want := offsets(start, probes[3:]), []time.Duration{0, 30 * ms, 60 * ms}; !slices.Equal(got, want) {
			t.Errorf("probes at %v, want %v", got, want)
		}
	})
}

// A peer that answers is never pushed aside, whatever the API says of it.
func TestALivingOwnerIsWaitedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, lan *fakeLAN, vip netip.Addr) {
		a, b := newFakeNode(t, lan, 1), newFakeNode(t, lan, 2)
		svc := service("web", vip)
		fakeTell("a", svc, a, b)
		after(5 * time.Second)
		// Only b hears that it is the owner now.
		view := map[string]*cluster.Node{"a": {Name: "a", Refused: cluster.NotReady, Links: a.published()}}
		b.feed.Put(cluster.Delta{Nodes: view})
		b.feed.Put(cluster.Delta{Nodes: map[string]*cluster.Node{"b": {Name: "b", Links: b.published()}}})
		after(time.Minute)
		if got := lan.ask(t, vip); !slices.Equal(got, []cluster.MAC{{2, 0, 0, 0, 0, 1}}) {
			t.Errorf("answered by %v, want by a alone", got)
		}
		a.stop()
		after(holdMax + time.Second)
		if got := lan.ask(t, vip); !slices.Equal(got, []cluster.MAC{{2, 0, 0, 0, 0, 2}}) {
			t.Errorf("answered by %v, want by b", got)
		}
	})
}

func TestAnAddressInForeignUseIsReportedAndNotAnnounced(t *testing.T) {
	inBubble(t, func(t *testing.T, lan *fakeLAN, vip netip.Addr) {
		stranger := cluster.MAC{0xf2, 0, 0, 0, 0, 9}
		lan.hosts[vip] = stranger
		a := newFakeNode(t, lan, 1)
		fakeTell("a", service("web", vip), a)
		after(time.Minute)
		_, claims := lan.about(vip)
		for _, f := range claims {
			if f.msg.MAC != stranger {
				t.Fatalf("announced at %v", f.at)
			}
		}
		if u := a.unit("test/web"); u.Conflict != stranger || u.Mine {
			t.Errorf("report %+v", u)
		}
		lan.mu.Lock()
		delete(lan.hosts, vip)
		lan.mu.Unlock()
		after(conflictRetry + time.Second)
		if u := a.unit("test/web"); u.Conflict != (cluster.MAC{}) || !u.Mine {
			t.Errorf("after the stranger left: report %+v", u)
		}
	})
}

// A stranger that comes while we own the address is told off once in ten
// seconds, however much it shouts, and forgotten a minute after its last frame.
func TestAStrangerIsToldOffRarely(t *testing.T) {
	inBubble(t, func(t *testing.T, lan *fakeLAN, vip netip.Addr) {
		a := newFakeNode(t, lan, 1)
		fakeTell("a", service("web", vip), a)
		after(10 * time.Second)
		_, before := lan.about(vip)
		stranger := cluster.MAC{0xf2, 0, 0, 0, 0, 9}
		for range 25 {
			lan.deliver(t, nil, codecOf(vip).announce(stranger, vip, false)[0])
			after(time.Second)
		}
		_, all := lan.about(vip)
		ours := slices.DeleteFunc(all[len(before):], func(f sentFrame) bool { return f.msg.MAC == stranger })
		if got := offsets(time.Now(), ours); len(got) != 3 {
			t.Errorf("told off %d times in 25 s, want 3 times", len(got))
		}
		if u := a.unit("test/web"); u.Conflict != stranger || !u.Mine {
			t.Errorf("report %+v", u)
		}
		after(conflictMemory)
		if u := a.unit("test/web"); u.Conflict != (cluster.MAC{}) {
			t.Errorf("a minute later: report %+v", u)
		}
	})
}

// Two owners whose views differ are ended by the next frame that one hears of
// the other, in favour of the heavier.
func TestTwoOwnersAreEndedByWeight(t *testing.T) {
	for _, heavier := range []string{"a", "b"} {
		t.Run("the heavier is "+heavier, func(t *testing.T) {
			inBubble(t, func(t *testing.T, lan *fakeLAN, vip netip.Addr) {
				a, b := newFakeNode(t, lan, 1), newFakeNode(t, lan, 2)
				svc := service("web", vip)
				for best := ""; best != heavier; svc.UID += "x" {
					nodes := []string{"a", "b"}
					SortByWeight("uid/"+svc.UID+"x", nodes)
					best = nodes[0]
				}
				fakeTell("a", svc, a, b)
				after(5 * time.Second)
				// The segment is cut, and b alone is told that a is out.
				lan.mu.Lock()
				whole := lan.conns
				lan.conns = slices.DeleteFunc(slices.Clone(whole), func(c *FakeConn) bool { return c.table.Load().MAC[5] == 1 })
				lan.mu.Unlock()
				b.feed.Put(cluster.Delta{Nodes: map[string]*cluster.Node{
					"a": {Name: "a", Links: a.published(), Refused: cluster.NotReady}, "b": {Name: "b", Links: b.published()},
				}})
				after(time.Second)
				lan.mu.Lock()
				lan.conns = whole
				lan.mu.Unlock()
				if got := lan.ask(t, vip); len(got) != 2 {
					t.Fatalf("answered by %v, want both", got)
				}
				after(refreshMax)
				if got := lan.ask(t, vip); len(got) != 1 || got[0][5] != heavier[0]-'a'+1 {
					t.Errorf("answered by %v, want by %s", got, heavier)
				}
			})
		})
	}
}

func TestNoAnswerBeforeTheRulesAreInTheKernel(t *testing.T) {
	inBubble(t, func(t *testing.T, lan *fakeLAN, vip netip.Addr) {
		var ready atomic.Bool
		a := newFakeNode(t, lan, 1, func(c *Config) { c.Ready = func(netip.Addr) bool { return ready.Load() } })
		fakeTell("a", service("web", vip), a)
		after(time.Minute)
		if len(lan.sent) != 0 || a.unit("test/web").Self != NotReady {
			t.Fatalf("%d frames were sent; report %+v", len(lan.sent), a.unit("test/web"))
		}
		ready.Store(true)
		a.speaker.Kick(vip)
		after(time.Second)
		if got := lan.ask(t, vip); len(got) != 1 {
			t.Errorf("answered by %v", got)
		}
		ready.Store(false)
		a.speaker.Kick()
		after(0)
		if got := lan.ask(t, vip); len(got) != 0 {
			t.Errorf("answered by %v without rules", got)
		}
	})
}

func TestALinkThatBouncesOrChangesItsMACIsAnnouncedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, lan *fakeLAN, vip netip.Addr) {
		a := newFakeNode(t, lan, 1)
		fakeTell("a", service("web", vip), a)
		after(10 * time.Second)
		a.link(func(l *rtnl.Link) { l.Carrier = false })
		after(time.Second)
		if got := lan.ask(t, vip); len(got) != 0 || a.unit("test/web").Self != NoLink {
			t.Errorf("answered by %v without carrier; report %+v", got, a.unit("test/web"))
		}
		start := time.Now()
		a.link(func(l *rtnl.Link) { l.Carrier = true })
		after(5 * time.Second)
		_, claims := lan.about(vip)
		since := func() (out []time.Duration) {
			for _, d := range offsets(start, claims) {
				if d >= 0 {
					out = append(out, d)
				}
			}
			return out
		}
		if got := since(); len(got) != len(burst) || got[0] != 90*ms {
			t.Errorf("announced at %v after the link's return", got)
		}
		start = time.Now()
		a.link(func(l *rtnl.Link) { l.MAC[4] = 7 })
		after(5 * time.Second)
		_, claims = lan.about(vip)
		if got := since(); len(got) != len(burst) || got[0] != 0 || claims[len(claims)-1].msg.MAC != (cluster.MAC{2, 0, 0, 0, 7, 1}) {
			t.Errorf("announced at %v with %v after the MAC changed", got, claims[len(claims)-1].msg.MAC)
		}
	})
}

// While a node has not published its links, an unknown MAC may be that node's:
// its address is neither taken nor called a conflict, until the grace is over.
func TestAnUnknownMACHasAGraceWhileANodeIsQuiet(t *testing.T) {
	inBubble(t, func(t *testing.T, lan *fakeLAN, vip netip.Addr) {
		lan.hosts[vip] = cluster.MAC{0xf2, 0, 0, 0, 0, 9}
		a := newFakeNode(t, lan, 1)
		view := map[string]*cluster.Node{"a": {Name: "a", Links: a.published()}, "b": {Name: "b"}}
		svc := service("web", vip)
		a.feed.Put(cluster.Delta{Nodes: view, Services: map[cluster.Key]*cluster.Service{svc.Key: svc}, Synced: true})
		after(3 * time.Second)
		if u := a.unit(svc.Key); u.Conflict != (cluster.MAC{}) || u.Mine {
			t.Errorf("within the grace: report %+v", u)
		}
		after(30 * time.Second)
		if u := a.unit(svc.Key); u.Conflict == (cluster.MAC{}) || u.Mine {
			t.Errorf("after the grace: report %+v", u)
		}
	})
}

// A thousand VIPs that come to one node at once are announced without a storm:
// in no second there are more frames than the pace allows.
func TestManyVIPsAreAnnouncedAtAPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan, start := &fakeLAN{}, time.Now()
		a := newFakeNode(t, lan, 1)
		d := cluster.Delta{Nodes: map[string]*cluster.Node{"a": {Name: "a", Links: a.published()}}, Services: map[cluster.Key]*cluster.Service{}, Synced: true}
		var vips []netip.Addr
		for i := range 1000 {
			vip := addr("2001:db8:1::")
			b := vip.As16()
			b[14], b[15] = byte(i>>8), byte(i)
			vip = netip.AddrFrom16(b)
			if i < 250 {
				vip = netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
			}
			vips = append(vips, vip)
			svc := service(vip.String(), vip)
			d.Services[svc.Key] = svc
		}
		a.feed.Put(d)
		after(time.Minute)
		for i, s := range lan.sent {
			window := 0
			for _, later := range lan.sent[i:] {
				if later.at.Sub(s.at) < time.Second {
					window++
				}
			}
			if window > paceBurst+paceRate {
				t.Fatalf("%d frames within a second from %v on", window, s.at)
			}
		}
		for _, vip := range vips {
			if len(lan.ask(t, vip)) != 1 {
				t.Errorf("%v is not answered", vip)
			}
			_, claims := lan.about(vip)
			if got := offsets(start, claims); len(got) < len(burst) {
				t.Errorf("%v was announced %d times, want %d at least", vip, len(got), len(burst))
			}
		}
	})
}
