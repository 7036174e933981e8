package speaker

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/nstest"
)

// A scene is a LAN with a client, a node a that answers for a VIP, and raw
// sockets on the client's and on another host's link.
type scene struct {
	t     *testing.T
	f     family
	lan   *nstest.Switch
	c     client
	a     *node
	svc   *cluster.Service
	wire  *port
	me    cluster.MAC // the client's
	other *nstest.Host
}

// overFamilies runs a case for both families, each on a LAN of its own.
func overFamilies(t *testing.T, do func(t *testing.T, s *scene)) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			lan := nstest.NewSwitch(t, "lan")
			s := &scene{t: t, f: f, lan: lan, c: newClient(t, lan, f.neigh, f.client), a: newNode(t, lan.Attach("a", f.a)), svc: service("web", f.vip)}
			s.other = lan.Attach("other", f.b)
			tell("", s.svc, s.a)
			s.a.owns(s.svc.Key)
			s.wire = newPort(t, s.c.Host, "eth0")
			s.me = macOf(t, s.c.Host, "eth0")
			do(t, s)
		})
	}
}

// clientAddr is the client's own address.
func (s *scene) clientAddr() netip.Addr { return prefix(s.f.client).Addr() }

// answer waits for an answer of the node.
func (s *scene) answer(what string) seen {
	s.t.Helper()
	mac := s.a.mac()
	return s.wire.find(what, func(m seen) bool {
		return !m.out && m.Claims == s.f.vip && m.MAC == mac && (m.Solicited || m.to() != broadcast)
	})
}

// silent shows that frames sent since the last look brought no answer: what
// is sent after them is answered, and nothing was before it. The last question
// comes from a MAC of its own, by which its answer is known.
func (s *scene) silent(what string) {
	s.t.Helper()
	last := cluster.MAC{2, 0x1a, 0x57, 0, 0, 0}
	s.wire.send(codecOf(s.f.vip).ask(last, s.f.vip, s.clientAddr(), cluster.MAC{}))
	s.wire.find("the answer to the last question", func(m seen) bool {
		if m.out || m.Claims != s.f.vip || !m.Solicited {
			return false
		}
		if m.to() != last {
			s.t.Errorf("%s was answered", what)
		}
		return m.to() == last
	})
}

func TestAQuestionWithoutItsSendersMACIsAnswered(t *testing.T) {
	overFamilies(t, func(t *testing.T, s *scene) {
		// IPv4 has no such form: its nearest is the unicast question.
		question := codecOf(s.f.vip).ask(s.me, s.f.vip, s.clientAddr(), s.a.mac())
		if s.f.vip.Is6() {
			question = solicit(s.me, s.a.mac(), s.clientAddr(), s.f.vip, s.f.vip)
		}
		s.wire.send(question)
		if m := s.answer("an answer to the Ethernet source"); m.to() != s.me || !m.Solicited {
			t.Errorf("answered to %v, solicited: %v", m.to(), m.Solicited)
		}
	})
}

func TestAProbeIsAnswered(t *testing.T) {
	overFamilies(t, func(t *testing.T, s *scene) {
		s.wire.send(codecOf(s.f.vip).probe(s.me, s.f.vip, cluster.MAC{}))
		m := s.answer("an answer to the probe")
		want := s.me // ARP: unicast
		if s.f.vip.Is6() {
			want = multicastMAC(allNodes)
		}
		if m.to() != want || m.Solicited != s.f.vip.Is4() {
			t.Errorf("answered to %v, solicited: %v", m.to(), m.Solicited)
		}
	})
}

// The kernel of another host finds out that the address is taken, by the same
// probes that we send.
func TestAnotherHostsDuplicateDetectionSeesUs(t *testing.T) {
	nstest.Tool(t, "arping")
	overFamilies(t, func(t *testing.T, s *scene) {
		if s.f.vip.Is4() {
			out, err := s.other.Command("arping", "-0", "-c", "1", "-w", "3", "-i", "eth0", s.f.vip.String())
			if err != nil || !strings.Contains(out, s.a.mac().String()) {
				t.Errorf("arping -0: %v\n%s", err, out)
			}
			return
		}
		s.other.Sysctl("net.ipv6.conf.eth0.accept_dad", "1")
		s.other.Sysctl("net.ipv6.neigh.eth0.retrans_time_ms", "500")
		s.other.IP("addr add %v/128 dev eth0", s.f.vip)
		nstest.Wait(t, limit, "duplicate detection of the kernel has failed", func() bool {
			return strings.Contains(s.other.IP("addr show dev eth0 dadfailed"), s.f.vip.String())
		})
	})
}

// Two tools that have nothing to do with us find the VIP at the node's MAC.
func TestOutsideJudges(t *testing.T) {
	nstest.Tool(t, "arping", "ndisc6")
	overFamilies(t, func(t *testing.T, s *scene) {
		command := []string{"arping", "-c", "2", "-w", "5", "-i", "eth0", s.f.vip.String()}
		if s.f.vip.Is6() {
			command = []string{"ndisc6", "-1", "-r", "3", "-w", "2000", s.f.vip.String(), "eth0"}
		}
		out, err := s.c.Command(command...)
		if err != nil || !strings.Contains(strings.ToLower(out), s.a.mac().String()) {
			t.Errorf("%s: %v\n%s", command[0], err, out)
		}
	})
}

// Frames for another VLAN, another host or with a mistake are not answered,
// and the responder goes on.
func TestWhatIsNotForUsIsNotAnswered(t *testing.T) {
	overFamilies(t, func(t *testing.T, s *scene) {
		question := codecOf(s.f.vip).ask(s.me, s.f.vip, s.clientAddr(), cluster.MAC{})
		s.wire.read()
		tagged := slices.Concat(question[:12], []byte{0x81, 0x00, 0x00, 0x2a}, question[12:])
		s.wire.send(tagged)
		s.silent("a question in VLAN 42")
		elsewhere := slices.Clone(question)
		copy(elsewhere, []byte{2, 0xee, 0, 0, 0, 0xee})
		s.wire.send(elsewhere)
		s.silent("a question to another host")
		before := s.a.speaker.Stats()["eth0"].Malformed
		s.wire.send(question[:etherLen+20])
		for i := range len(question) - etherLen {
			if s.f.vip.Is4() && i > 8 && i < 24 || s.f.vip.Is6() && i > 0 && i < 4 {
				continue // Another sender, or another flow label: a good question.
			}
			broken := slices.Clone(question)
			broken[etherLen+i] ^= 0xff
			s.wire.send(broken)
			s.silent(fmt.Sprintf("a question with byte %d broken", i))
		}
		if after := s.a.speaker.Stats()["eth0"].Malformed; s.f.vip.Is4() && after <= before {
			t.Errorf("malformed frames: %d before, %d after", before, after)
		}
	})
}

// A client that holds the MAC of an owner long gone is corrected by an answer:
// it overrides.
func TestAnAnswerOverrides(t *testing.T) {
	overFamilies(t, func(t *testing.T, s *scene) {
		s.c.IP("neigh replace %v dev eth0 lladdr 02:00:00:00:00:bb nud stale", s.f.vip)
		s.c.reaches(s.f.vip, s.a.mac())
	})
}

func TestAMACChangeMovesTheClients(t *testing.T) {
	overFamilies(t, func(t *testing.T, s *scene) {
		s.c.reaches(s.f.vip, s.a.mac())
		s.a.IP("link set eth0 address 02:00:00:00:aa:01")
		nstest.Wait(t, limit, "the entry moves", func() bool {
			mac, _ := s.c.entry(s.f.vip)
			return mac == "02:00:00:00:aa:01"
		})
		s.c.reaches(s.f.vip, cluster.MAC{2, 0, 0, 0, 0xaa, 1})
	})
}

func TestALinkThatBouncesIsServedAgain(t *testing.T) {
	overFamilies(t, func(t *testing.T, s *scene) {
		s.lan.IP("link set v-a down")
		nstest.Wait(t, limit, "a stops answering", func() bool { return !s.a.unit(s.svc.Key).Mine })
		s.lan.IP("link set v-a up")
		s.a.owns(s.svc.Key)
		s.c.reaches(s.f.vip, s.a.mac())
		if s.f.vip.Is6() {
			s.joined("v-a", s.f.vip)
		}
	})
}

// joined waits until a port of the switch, as its MLD snooping sees it, is a
// member of the group of an address.
func (s *scene) joined(port string, a netip.Addr) {
	s.t.Helper()
	// The querier asks each second, as its first questions may come before it
	// has an address to ask from.
	s.lan.IP("link set br0 type bridge mcast_snooping 1 mcast_querier 1 mcast_query_response_interval 10 mcast_startup_query_interval 100 mcast_query_interval 100")
	nstest.Wait(s.t, limit, fmt.Sprintf("%s is a member of %v", port, solicitedNode(a)), func() bool {
		return strings.Contains(s.lan.Run("bridge", "mdb", "show", "dev", "br0"), fmt.Sprintf("port %s grp %v ", port, solicitedNode(a)))
	})
}

// A link that comes while the speaker runs carries VIPs as soon as it has an
// address, and its groups are reported to a switch that snoops.
func TestALinkThatComesLate(t *testing.T) {
	overFamilies(t, func(t *testing.T, s *scene) {
		late := map[ipfam.Family][2]string{ipfam.V4: {"203.0.113.11/24", "203.0.113.200"}, ipfam.V6: {"2001:db8:7::11/64", "2001:db8:7::200"}}[ipfam.Of(s.f.vip)]
		vip, segment := addr(late[1]), prefix(late[0]).Masked()
		s.lan.Plug(s.a.Host, "eth1")
		s.a.Addr("eth1", late[0])
		nstest.Wait(t, limit, "a reports the new link", func() bool {
			return slices.ContainsFunc(s.a.published(), func(l cluster.Link) bool { return l.Name == "eth1" && slices.Contains(l.Prefixes, segment) })
		})
		svc := service("late", vip)
		tell("", svc, s.a)
		s.a.owns(svc.Key)
		if u := s.a.unit(svc.Key); u.Link != "eth1" || u.Segment != segment {
			t.Errorf("answers on %s for %v", u.Link, u.Segment)
		}
		if vip.Is6() {
			s.joined("v-a-eth1", vip)
		}
		s.wire.send(codecOf(vip).ask(s.me, vip, s.clientAddr(), cluster.MAC{}))
		mac := macOf(t, s.a.Host, "eth1")
		s.wire.find("an answer from eth1", func(m seen) bool { return m.Claims == vip && m.Solicited && m.MAC == mac })
	})
}

// An address that a foreign host has on its interface is found in time, and
// nothing is announced.
func TestAForeignHostIsNoticedBeforeTheFirstAnnouncement(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			lan := nstest.NewSwitch(t, "lan")
			c := newClient(t, lan, f.neigh, f.client)
			printer := lan.Attach("printer", strings.Replace(prefix(f.client).String(), prefix(f.client).Addr().String(), f.vip.String(), 1))
			a := newNode(t, lan.Attach("a", f.a))
			svc := service("web", f.vip)
			wire := newPort(t, c.Host, "eth0")
			tell("", svc, a)
			mac := macOf(t, printer, "eth0")
			nstest.Wait(t, limit, "the conflict is reported", func() bool { return a.unit(svc.Key).Conflict == mac })
			if a.unit(svc.Key).Mine {
				t.Error("it is announced nevertheless")
			}
			c.reaches(f.vip, mac)
			for _, m := range wire.read() {
				if m.Claims == f.vip && m.MAC == a.mac() {
					t.Errorf("a claimed the address: %+v", m.Message)
				}
			}
		})
	}
}

// A foreign host that comes later is reported, and told off; clients come back.
func TestAForeignHostIsNoticedLater(t *testing.T) {
	overFamilies(t, func(t *testing.T, s *scene) {
		s.c.reaches(s.f.vip, s.a.mac())
		stranger := cluster.MAC{0xf2, 0, 0, 0, 0, 9}
		newPort(t, s.other, "eth0").send(codecOf(s.f.vip).announce(stranger, s.f.vip, false)[0])
		nstest.Wait(t, limit, "the conflict is reported", func() bool { return s.a.unit(s.svc.Key).Conflict == stranger })
		nstest.Wait(t, limit, "the entry comes back", func() bool {
			mac, _ := s.c.entry(s.f.vip)
			return mac == s.a.mac().String()
		})
	})
}

func TestAnswersEndWithTheSpeaker(t *testing.T) {
	overFamilies(t, func(t *testing.T, s *scene) {
		s.c.reaches(s.f.vip, s.a.mac())
		s.a.stop()
		s.c.IP("neigh flush all")
		s.c.use(s.f.vip)
		nstest.Wait(t, limit, "the client gives up", func() bool {
			_, state := s.c.entry(s.f.vip)
			return state == "FAILED" || state == "NONE"
		})
	})
}

// The lease silences a responder whose loop does not run.
func TestNoAnswerBehindTheLease(t *testing.T) {
	overFamilies(t, func(t *testing.T, s *scene) {
		s.a.speaker.lease.Set(time.Now().Add(-time.Millisecond))
		before := s.a.speaker.Stats()["eth0"]
		s.wire.send(codecOf(s.f.vip).ask(s.me, s.f.vip, s.clientAddr(), cluster.MAC{}))
		nstest.Wait(t, limit, "the question has arrived", func() bool { return s.a.speaker.Stats()["eth0"].Withheld > before.Withheld })
		s.a.speaker.lease.Set(time.Time{})
		s.silent("a question behind the lease")
		if after := s.a.speaker.Stats()["eth0"]; after.Answered != before.Answered+1 {
			t.Errorf("answered %d, want one more than %d", after.Answered, before.Answered)
		}
	})
}

// One socket has room for few groups on some kernels: more sockets take the
// rest.
func TestManyGroupsTakeManySockets(t *testing.T) {
	lan := nstest.NewSwitch(t, "lan")
	h := lan.Attach("a", "2001:db8:1::11/64")
	a := newPort(t, h, "eth0")
	g := newGroups(func(domain, typ, protocol int) (fd int, err error) {
		h.Do(func() { fd, err = unix.Socket(domain, typ, protocol) })
		return fd, err
	}, a.index)
	want := map[netip.Addr]struct{}{}
	for i := range 5000 {
		want[netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 14: byte(i >> 8), 15: byte(i)})] = struct{}{}
	}
	if err := g.join(want); err != nil {
		t.Fatal(err)
	}
	if len(g.sockets) < 2 {
		t.Errorf("%d sockets for %d groups: the limit was not met, so nothing is shown", len(g.sockets), len(want))
	}
	count := func() int { return strings.Count(h.IP("maddr show dev eth0"), "ff02::1:ff00:") }
	if n := count(); n < 4900 { // The kernel shortens a few of them otherwise.
		t.Errorf("the kernel has %d of the groups", n)
	}
	if err := g.leave(nil); err != nil {
		t.Fatal(err)
	}
	if n := count(); n > 1 { // The one of the host's own address may stay.
		t.Errorf("%d groups are left", n)
	}
	if err := g.close(); err != nil {
		t.Error(err)
	}
}
