package speaker

import (
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/nstest"
	"github.com/clarion-lb/clarion/internal/ownership"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// gossip carries messages between Claims in this process.
type gossip struct {
	mu     sync.Mutex
	agents map[string]*Claims
	cut    map[string]bool // agents that nobody hears and that hear nobody
}

// voice is the Transport of one agent.
type voice struct {
	*gossip
	from string
}

func (v voice) Send(to string, message []byte) error {
	v.mu.Lock()
	agent, lost := v.agents[to], v.cut[to] || v.cut[v.from]
	v.mu.Unlock()
	if agent == nil || lost {
		return errors.New("nobody there")
	}
	agent.Receive(v.from, message)
	return nil
}

func (g *gossip) drop(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cut[name] = true
}

// claimants are nodes on a switch whose agents talk to each other.
func claimants(t *testing.T, lan *nstest.Switch, hosts map[string]string) (nodes map[string]*node, talk *gossip) {
	nodes, talk = map[string]*node{}, &gossip{agents: map[string]*Claims{}, cut: map[string]bool{}}
	boot := uint64(0)
	for name, address := range hosts {
		boot++
		c := NewClaims(ClaimsConfig{Self: name, Boot: boot, Seed: boot, Transport: voice{talk, name}, Log: testLog(t, name)})
		talk.mu.Lock()
		talk.agents[name] = c
		talk.mu.Unlock()
		nodes[name] = newNode(t, lan.Attach(name, address), func(cfg *Config) { cfg.Elector = c })
	}
	return nodes, talk
}

// announce gives the same view to all claimants.
func announce(svc *cluster.Service, hosts map[string]string, nodes map[string]*node) {
	view := map[string]*cluster.Node{}
	for name, n := range nodes {
		view[name] = &cluster.Node{Name: name, Links: n.published(), Addresses: []netip.Addr{prefix(hosts[name]).Addr()}}
	}
	for _, n := range nodes {
		n.feed.Put(cluster.Delta{Nodes: view, Services: map[cluster.Key]*cluster.Service{svc.Key: svc}, Synced: true})
	}
}

// owner waits until exactly one of nodes says that it answers, and returns it.
func owner(t *testing.T, key cluster.Key, nodes map[string]*node) *node {
	t.Helper()
	var found *node
	nstest.Wait(t, limit, "one node answers", func() bool {
		n := 0
		for _, candidate := range nodes {
			if candidate.unit(key).Mine {
				found, n = candidate, n+1
			}
		}
		return n == 1
	})
	return found
}

// A node that vanishes without a word is replaced, and one that leaves is
// followed, on the wire and in both families.
func TestClaimsMoveAVIP(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			lan := nstest.NewSwitch(t, "lan")
			c := newClient(t, lan, f.neigh, f.client)
			third := strings.Replace(f.b, "12", "13", 1)
			hosts := map[string]string{"a": f.a, "b": f.b, "c": third}
			nodes, talk := claimants(t, lan, hosts)
			svc := service("web", f.vip)
			announce(svc, hosts, nodes)

			first := owner(t, svc.Key, nodes)
			c.reaches(f.vip, first.mac())

			talk.drop(first.Name)
			lan.IP("link set v-%s nomaster", first.Name) // its own carrier stays
			delete(nodes, first.Name)
			second := owner(t, svc.Key, nodes)
			c.reaches(f.vip, second.mac())

			talk.mu.Lock()
			leaving := talk.agents[second.Name]
			talk.mu.Unlock()
			<-leaving.Leave()
			delete(nodes, second.Name)
			last := owner(t, svc.Key, nodes)
			if second.unit(svc.Key).Mine {
				t.Error("a node that left still answers")
			}
			c.reaches(f.vip, last.mac())
		})
	}
}

func TestStandings(t *testing.T) {
	for refusal, want := range map[cluster.Refusal]ownership.Standing{
		cluster.Eligible:     ownership.Able,
		cluster.Cordoned:     ownership.Reluctant,
		cluster.NotReady:     ownership.Reluctant,
		NoAgent:              ownership.Reluctant,
		cluster.OutOfService: ownership.Unable,
		NoEndpoint:           ownership.Unable,
	} {
		if got := standing(refusal); got != want {
			t.Errorf("%q: %v, want %v", refusal, got, want)
		}
	}
}

// Segments of links that are down stay known, and of two links in a segment
// the one that works counts.
func TestSegmentsOf(t *testing.T) {
	lan, lan6 := prefix("192.0.2.0/24"), prefix("2001:db8:1::/64")
	link := func(name string, mac byte, carrier bool) rtnl.Link {
		return rtnl.Link{Name: name, MAC: cluster.MAC{2, 0, 0, 0, 0, mac}, Ethernet: true, Up: true, Carrier: carrier,
			OnLink: []netip.Prefix{lan, lan6}, Gateways: []netip.Addr{addr("192.0.2.1")}}
	}
	got := segmentsOf([]rtnl.Link{link("eth0", 1, false), link("eth1", 2, true), {Name: "lo", Loopback: true, Up: true}})
	for _, p := range []netip.Prefix{lan, lan6} {
		s := got[p]
		if s.Name != "eth1" || !s.Up || len(s.MACs) != 2 {
			t.Errorf("%v: %+v", p, s)
		}
	}
	if got[lan].Gateway != addr("192.0.2.1") || got[lan6].Gateway.IsValid() || len(got) != 2 {
		t.Errorf("got %+v", got)
	}
	down := segmentsOf([]rtnl.Link{link("eth0", 1, false)})[lan6]
	if down.Up || down.Name != "eth0" {
		t.Errorf("a link without carrier: %+v", down)
	}
}
