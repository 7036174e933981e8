package speaker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/nstest"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// A script is an Elector that does what a test tells it.
type script struct {
	mu     sync.Mutex
	orders []Order
	heard  []Heard
	facts  []Facts
	ready  chan struct{}
}

func (s *script) Step(_ time.Time, in Facts) Outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard, s.facts = append(s.heard, in.Heard...), append(s.facts, in)
	out := Outcome{Orders: s.orders}
	s.orders = nil
	return out
}

func (s *script) Ready() <-chan struct{} { return s.ready }
func (s *script) Standing(Unit) Standing { return Standing{} }

func (s *script) order(o ...Order) {
	s.mu.Lock()
	s.orders = append(s.orders, o...)
	s.mu.Unlock()
	s.ready <- struct{}{}
}

// hears waits for a frame that the elector was told of.
func (s *script) hears(t testing.TB, what string, ok func(Heard) bool) {
	t.Helper()
	nstest.Wait(t, limit, what, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.ContainsFunc(s.heard, ok)
	})
}

// Another elector can do on the wire all that the ownership protocol needs.
func TestAnElectorDrivesTheWire(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			lan := nstest.NewSwitch(t, "lan")
			c := newClient(t, lan, f.neigh, f.client)
			wire := newPort(t, c.Host, "eth0")
			mac, asker := macOf(t, c.Host, "eth0"), prefix(f.client).Addr()
			e := &script{ready: make(chan struct{}, 8)}
			a := newNode(t, lan.Attach("a", f.a), func(c *Config) { c.Elector = e })
			svc := service("web", f.vip)
			tell("", svc, a)
			unit := Unit{f.vip, prefix(f.client).Masked()}
			nstest.Wait(t, limit, "the elector has the seat", func() bool {
				e.mu.Lock()
				defer e.mu.Unlock()
				return slices.ContainsFunc(e.facts, func(in Facts) bool {
					seat := in.Seats[unit]
					return seat != nil && seat.Able && seat.Link == "eth0" && seat.MAC == a.mac() && slices.Equal(seat.Candidates, []string{"a"})
				})
			})

			e.order(Order{Do: DoProbe, Unit: unit, To: mac})
			wire.find("a probe for the client alone", func(m seen) bool { return m.Asks == f.vip && m.Probe() && m.to() == mac })
			e.order(Order{Do: DoProbe, Unit: unit})
			wire.find("a probe for everybody", func(m seen) bool { return m.Asks == f.vip && m.Probe() && m.to()[0]&1 == 1 })

			e.order(Order{Do: DoAsk, Unit: Unit{Segment: unit.Segment}, Target: asker})
			wire.find("a question from the node's own address", func(m seen) bool { return m.Asks == asker && m.Asker == prefix(f.a).Addr() })
			e.hears(t, "the client's answer", func(h Heard) bool { return h.Unit.VIP == asker && h.Kind == Answered && h.MAC == mac && h.Foreign })
			e.hears(t, "a sign of life", func(h Heard) bool { return h.Kind == Alive && h.MAC == mac })

			e.order(Order{Do: DoAnswer, Unit: unit})
			c.reaches(f.vip, a.mac())
			for _, m := range wire.read() {
				if m.Claims == f.vip && !m.Solicited {
					t.Error("it was announced without an order")
				}
			}
			e.order(Order{Do: DoAnnounce, Unit: unit})
			wire.find("an announcement", func(m seen) bool { return m.Claims == f.vip && !m.Solicited && m.MAC == a.mac() })
			wire.send(codecs[ipfam.Of(f.vip)].probe(cluster.MAC{0xf2, 9}, f.vip, cluster.MAC{}))
			e.hears(t, "another's probe", func(h Heard) bool { return h.Unit == unit && h.Kind == Probed && h.MAC == cluster.MAC{0xf2, 9} })

			e.order(Order{Do: DoDiscard}, Order{Do: DoStop, Unit: unit})
			nstest.Wait(t, limit, "the client gives up", func() bool {
				mac, state := c.entry(f.vip)
				if mac != "" { // Answered before the order was carried out.
					_, _ = c.Command("ip", "neigh", "del", f.vip.String(), "dev", "eth0") // It may be gone already.
				}
				c.use(f.vip)
				return state == "FAILED"
			})
		})
	}
}

func TestDiscardThrowsAwayWhatWaits(t *testing.T) {
	lan := nstest.NewSwitch(t, "lan")
	h, client := lan.Attach("a", "192.0.2.11/24"), lan.Attach("client", "192.0.2.100/24")
	c := &packetConn{Place: Place{Index: newPort(t, h, "eth0").index, Name: "eth0"}, log: testLog(t, "a")}
	if err := c.open(func(domain, typ, protocol int) (fd int, err error) {
		h.Do(func() { fd, err = unix.Socket(domain, typ, protocol) })
		return fd, err
	}); err != nil {
		t.Fatal(err)
	}
	c.joined = newGroups(nil, 0)
	defer c.closeAll()
	waiting := func() bool {
		fds := []unix.PollFd{{Fd: int32(c.sockets[0]), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		return n == 1 && err == nil
	}
	wire := newPort(t, client, "eth0")
	for range 10 {
		wire.send(arpCodec{}.ask(cluster.MAC{2, 9}, addr("192.0.2.200"), addr("192.0.2.100"), cluster.MAC{}))
	}
	nstest.Wait(t, limit, "questions wait", waiting)
	if err := c.Discard(); err != nil {
		t.Fatal(err)
	}
	if waiting() {
		t.Error("a question still waits")
	}
}

func TestAMissingCapabilityIsNamed(t *testing.T) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never back: the thread ends with this goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, &data[0]); err != nil {
			done <- err
			return
		}
		data[0].Effective &^= 1 << unix.CAP_NET_RAW
		if err := unix.Capset(&header, &data[0]); err != nil {
			done <- err
			return
		}
		done <- Check()
	}()
	err := <-done
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_RAW") {
		t.Errorf("without the capability: %v", err)
	}
	if err := Check(); err != nil {
		t.Errorf("with the capability: %v", err)
	}
}

func TestASpeakerNeedsItsNodesName(t *testing.T) {
	if _, err := New(Config{}); err == nil || !strings.Contains(err.Error(), "spec.nodeName") {
		t.Errorf("err = %v", err)
	}
}

// A link whose socket cannot be opened carries nothing, says so, and is tried
// again.
func TestAnOpenerThatFails(t *testing.T) {
	inBubble(t, func(t *testing.T, lan *fakeLAN, vip netip.Addr) {
		broken := true
		a := newFakeNode(t, lan, 1, func(c *Config) {
			open := c.Open
			c.Open = func(p Place) (Conn, error) {
				if broken {
					return nil, errors.New("no room")
				}
				return open(p)
			}
		})
		fakeTell("a", service("web", vip), a)
		after(5 * time.Second)
		if u := a.unit("test/web"); u.Mine || u.Self != NoSocket {
			t.Errorf("report %+v", u)
		}
		broken = false
		after(3 * time.Second)
		if u := a.unit("test/web"); !u.Mine || len(lan.ask(t, vip)) != 1 {
			t.Errorf("report %+v", u)
		}
	})
}

func TestReportsNameWhyNobodyAnswers(t *testing.T) {
	inBubble(t, func(t *testing.T, lan *fakeLAN, vip netip.Addr) {
		a := newFakeNode(t, lan, 1)
		elder, younger := service("elder", vip), service("younger", vip)
		younger.Created = elder.Created.Add(time.Hour)
		nodes := map[string]*cluster.Node{"a": {Name: "a", Links: a.published(), Refused: cluster.OutOfService}, "b": {Name: "b"}}
		a.feed.Put(cluster.Delta{Nodes: nodes, Synced: true, Services: map[cluster.Key]*cluster.Service{elder.Key: elder, younger.Key: younger}})
		after(time.Second)
		if u := a.unit(younger.Key); u.Withheld != elder.Key {
			t.Errorf("the younger of two without leave: %+v", u)
		}
		u := a.unit(elder.Key)
		if u.Owner != "" || u.Refused["a"] != cluster.OutOfService || u.Refused["b"] != NoAgent {
			t.Errorf("nobody may: %+v", u)
		}
		a.mu.Lock()
		teller := a.said[elder.Key].Teller
		a.mu.Unlock()
		if teller != "a" && teller != "b" {
			t.Errorf("told by %q", teller)
		}
		outside := service("outside", map[ipfam.Family]netip.Addr{ipfam.V4: addr("203.0.113.1"), ipfam.V6: addr("2001:db8:9::1")}[ipfam.Of(vip)])
		a.feed.Put(cluster.Delta{Services: map[cluster.Key]*cluster.Service{outside.Key: outside, elder.Key: nil}, Nodes: map[string]*cluster.Node{"a": {Name: "a", Links: a.published()}}})
		after(time.Second)
		if u := a.unit(outside.Key); u.Refused["a"] != NoSegment {
			t.Errorf("in no segment: %+v", u)
		}
		if u := a.unit(younger.Key); !u.Mine {
			t.Errorf("after the elder is gone: %+v", u)
		}
		all, err := a.speaker.Explain(t.Context(), younger.Key)
		if err != nil || len(all) != 1 || all[0].Refused["b"] != NoAgent || all[0].Refused["a"] != "" {
			t.Errorf("explained: %+v, %v", all, err)
		}
	})
}

// Whatever happens to three nodes, once it is over exactly one answers, and it
// is the one that the plan names.
func TestHistoriesEndWithOneOwner(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 1))
				vip := []netip.Addr{addr("192.0.2.200"), addr("2001:db8:1::200")}[r.IntN(2)]
				lan := &fakeLAN{}
				var nodes []*fakeNode
				for i := range byte(3) {
					nodes = append(nodes, newFakeNode(t, lan, i+1))
				}
				svc := service(fmt.Sprint("s", seed), vip)
				view := map[string]*cluster.Node{}
				put := func(name string, refused cluster.Refusal) {
					i := slices.IndexFunc(nodes, func(n *fakeNode) bool { return n.name == name })
					view[name] = &cluster.Node{Name: name, Links: nodes[i].published(), Refused: refused}
					order := r.Perm(len(nodes)) // Not everybody hears it at the same time.
					for _, i := range order {
						nodes[i].feed.Put(cluster.Delta{Nodes: map[string]*cluster.Node{name: view[name]}, Services: map[cluster.Key]*cluster.Service{svc.Key: svc}, Synced: true})
						after(time.Duration(r.IntN(300)) * ms)
					}
				}
				for _, n := range nodes {
					put(n.name, "")
				}
				for range 12 {
					n := nodes[r.IntN(len(nodes))]
					switch r.IntN(3) {
					case 0:
						put(n.name, []cluster.Refusal{"", cluster.Cordoned}[r.IntN(2)])
					case 1:
						n.link(func(l *rtnl.Link) { l.Carrier = !l.Carrier })
						put(n.name, view[n.name].Refused)
					case 2:
						n.link(func(l *rtnl.Link) { l.MAC[4]++ })
						put(n.name, view[n.name].Refused)
					}
					if got := len(lan.ask(t, vip)); got > 2 {
						t.Fatalf("%d nodes answer", got)
					}
				}
				for _, n := range nodes {
					n.link(func(l *rtnl.Link) { l.Carrier = true })
					put(n.name, "")
				}
				after(holdMax + time.Second)
				want := NewTopology(view).Plan(vip, []*cluster.Service{svc}, Rule{})[0].Candidates[0]
				got := lan.ask(t, vip)
				if len(got) != 1 || got[0][5] != want[0]-'a'+1 {
					t.Fatalf("answered by %v, want by %s", got, want)
				}
			})
		})
	}
}
