package speaker

import (
	"fmt"
	"testing"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/nstest"
)

// The client's kernel keeps a neighbour over its whole life: found, confirmed,
// grown old, probed by unicast and confirmed again. The VIP is on no interface.
func TestANeighbourEntryAgesAndIsConfirmed(t *testing.T) {
	for _, f := range families {
		for _, forwarding := range []string{"0", "1"} {
			t.Run(fmt.Sprintf("%s/forwarding=%s", f.name, forwarding), func(t *testing.T) {
				t.Parallel()
				lan := nstest.NewSwitch(t, "lan")
				c := newClient(t, lan, f.neigh, f.client)
				host := lan.Attach("a", f.a)
				host.Sysctl(f.forward, forwarding)
				a := newNode(t, host)
				svc := service("web", f.vip)
				tell("", svc, a)
				a.owns(svc.Key)
				c.reaches(f.vip, a.mac())
				nstest.Wait(t, limit, "the entry is STALE", func() bool {
					_, state := c.entry(f.vip)
					return state == "STALE"
				})
				wire := newPort(t, c.Host, "eth0")
				c.use(f.vip)
				wire.find("a unicast question", func(s seen) bool { return s.out && s.Asks == f.vip && s.to() == a.mac() })
				wire.find("its unicast answer", func(s seen) bool {
					return !s.out && s.Claims == f.vip && s.Solicited && s.to() == macOf(t, c.Host, "eth0") && s.Source == a.mac() && s.MAC == a.mac()
				})
				nstest.Wait(t, limit, "the entry is REACHABLE again", func() bool {
					mac, state := c.entry(f.vip)
					switch state {
					case "FAILED":
						t.Fatal("the entry FAILED")
					case "STALE": // it was REACHABLE and aged before this looked; once more
						c.use(f.vip)
					}
					return mac == a.mac().String() && state == "REACHABLE"
				})
			})
		}
	}
}

// Every form of the announcement moves an entry that was confirmed a moment
// ago, within Linux's locktime of a second.
func TestAnAnnouncementMovesAFreshEntry(t *testing.T) {
	for _, f := range families {
		forms := codecs[ipfam.Of(f.vip)].announce(cluster.MAC{2, 0, 0, 0, 0, 0xbb}, f.vip, false)
		for i, form := range forms {
			t.Run(fmt.Sprintf("%s/form %d", f.name, i), func(t *testing.T) {
				t.Parallel()
				lan := nstest.NewSwitch(t, "lan")
				c := newClient(t, lan, f.neigh, f.client)
				a := newNode(t, lan.Attach("a", f.a))
				svc := service("web", f.vip)
				tell("", svc, a)
				a.owns(svc.Key)
				a.stop() // so that it does not defend the address
				other := newPort(t, lan.Attach("b", f.b), "eth0")
				// Nobody answers now: the entry is made by hand, as new as can be.
				c.IP("neigh replace %v dev eth0 lladdr %v nud reachable", f.vip, a.mac())
				other.send(form)
				nstest.Wait(t, limit, "the entry moves", func() bool {
					mac, _ := c.entry(f.vip)
					return mac == "02:00:00:00:00:bb"
				})
			})
		}
	}
}

func TestTheNewOwnerTakesTheClientsAtOnce(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			lan := nstest.NewSwitch(t, "lan")
			c := newClient(t, lan, f.neigh, f.client)
			a, b := newNode(t, lan.Attach("a", f.a)), newNode(t, lan.Attach("b", f.b))
			svc := service("web", f.vip)
			tell("a", svc, a, b)
			a.owns(svc.Key)
			c.reaches(f.vip, a.mac())
			tell("b", svc, a, b)
			// The client does nothing: it is told.
			nstest.Wait(t, limit, "the entry moves to b", func() bool {
				mac, _ := c.entry(f.vip)
				return mac == b.mac().String()
			})
			c.reaches(f.vip, b.mac())
			if a.unit(svc.Key).Mine {
				t.Error("a says that it still answers")
			}
		})
	}
}

func TestOneOfTwoSpeakersAnswers(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			lan := nstest.NewSwitch(t, "lan")
			c := newClient(t, lan, f.neigh, f.client)
			nodes := []*node{newNode(t, lan.Attach("a", f.a)), newNode(t, lan.Attach("b", f.b))}
			svc := service("web", f.vip)
			tell("", svc, nodes...)
			plan := NewTopology(map[string]*cluster.Node{
				"a": {Name: "a", Links: nodes[0].published()}, "b": {Name: "b", Links: nodes[1].published()},
			}).Plan(f.vip, []*cluster.Service{svc}, Rule{})
			owner := nodes[0]
			if plan[0].Candidates[0] == "b" {
				owner = nodes[1]
			}
			owner.owns(svc.Key)
			wire := newPort(t, c.Host, "eth0")
			for range 20 {
				wire.send(codecOf(f.vip).ask(macOf(t, c.Host, "eth0"), f.vip, prefix(f.client).Addr(), cluster.MAC{}))
			}
			answers := map[cluster.MAC]int{}
			nstest.Wait(t, limit, "20 answers", func() bool {
				for _, s := range wire.read() {
					if s.Claims == f.vip && s.Solicited {
						answers[s.MAC]++
					}
				}
				return answers[owner.mac()] == 20
			})
			if len(answers) != 1 {
				t.Errorf("answers came from %v, want from %v alone", answers, owner.mac())
			}
		})
	}
}
