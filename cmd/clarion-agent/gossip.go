package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/gossipkey"
	"github.com/clarion-lb/clarion/internal/member"
	"github.com/clarion-lb/clarion/internal/task"
	"github.com/clarion-lb/clarion/internal/watch"
	"github.com/clarion-lb/clarion/speaker"
)

// gossip is what this agent needs to talk to the others.
type gossip struct {
	members *member.Members
	claims  *speaker.Claims
	tasks   []task.Task
}

// newGossip joins the claims to a transport. It waits for the keys: from the
// node's disk, else from the Secret, which the controller makes.
func newGossip(ctx context.Context, o options, client kubernetes.Interface, feed *cluster.Feed, events *events, log *slog.Logger) (*gossip, error) {
	keys := &keyring{path: filepath.Join(o.state, "gossip.json"), log: log, first: make(chan gossipkey.Ring, 1)}
	follow := &watch.Keys{Client: client, Namespace: o.namespace, Log: log, Got: keys.got}
	ring, rest, err := keys.wait(ctx, follow)
	if err != nil {
		return nil, err
	}
	boot, err := random()
	if err != nil {
		return nil, err
	}
	seed, err := random()
	if err != nil {
		return nil, err
	}
	link := &transport{}
	g := &gossip{}
	g.claims = speaker.NewClaims(speaker.ClaimsConfig{
		Self: o.node, Boot: boot, Seed: seed, Silence: o.silence, Transport: link, Tell: events.ownership, Log: log,
	})
	g.members, err = member.New(member.Config{
		Name: o.node, Addr: o.address, Port: o.gossip, Cluster: ring.Cluster, Keys: ring.Keys,
		Receive: g.claims.Receive, Log: log,
	})
	if err != nil {
		return nil, fmt.Errorf("%w; choose another port for all agents with --gossip-port", err)
	}
	link.members = g.members
	keys.use(g.members.SetKeys)
	g.tasks = []task.Task{g.members, rest, &mesh{feed: feed, self: o.node, ours: o.address, set: g.members.SetNodes, gone: events.forget}}
	return g, nil
}

func random() (uint64, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("read random bytes: %w", err)
	}
	return binary.BigEndian.Uint64(b[:]), nil
}

// transport is a Transport whose members are set right after it was made and
// before anything is sent: the two need each other.
type transport struct{ members *member.Members }

func (t *transport) Send(to string, message []byte) error { return t.members.Send(to, message) }

// mesh tells the members which other nodes have agents, and where.
type mesh struct {
	feed *cluster.Feed
	self string
	ours netip.Addr
	set  func(map[string]netip.AddrPort)
	gone func(name string) // called for each that was there and is no more
}

func (m *mesh) String() string { return "mesh" }

// Run follows the feed until ctx ends.
func (m *mesh) Run(ctx context.Context) error {
	var view cluster.View
	var before map[string]netip.AddrPort
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.feed.Ready():
		}
		d := m.feed.Take()
		view.Apply(d)
		if len(d.Nodes) == 0 {
			continue
		}
		now := m.agents(view.Nodes)
		m.set(now)
		for name := range before {
			if _, there := now[name]; !there {
				m.gone(name)
			}
		}
		before = now
	}
}

// agents returns the nodes that have published links, which only agents do.
func (m *mesh) agents(nodes map[string]*cluster.Node) map[string]netip.AddrPort {
	out := map[string]netip.AddrPort{}
	for name, n := range nodes {
		if name != m.self && len(n.Links) > 0 && len(n.Addresses) > 0 {
			out[name] = netip.AddrPortFrom(member.PickAddr(m.ours, n.Addresses), 0)
		}
	}
	return out
}

// A keyring brings the keys from where they are to where they are used.
type keyring struct {
	path  string
	log   *slog.Logger
	first chan gossipkey.Ring
	apply chan func([][]byte) error
}

// patience is how long to wait in silence for the Secret.
const patience = 10 * time.Second

// wait returns the ring to begin with, and the task that goes on following
// the Secret. It waits as long as there is none: an agent that nobody hears
// would be taken for dead by all others.
func (k *keyring) wait(ctx context.Context, follow *watch.Keys) (gossipkey.Ring, task.Task, error) {
	k.apply = make(chan func([][]byte) error, 1)
	// A signal to end is no reason to stop following: the agent leaves first.
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- follow.Run(inner) }()
	rest := task.Func("gossip keys", func(outer context.Context) error {
		defer cancel()
		select {
		case <-outer.Done():
			cancel()
			return <-done
		case err := <-done:
			return err
		}
	})
	stored, err := gossipkey.Load(k.path)
	if err != nil {
		k.log.Warn("no stored gossip keys", "err", err)
	}
	if len(stored.Keys) > 0 {
		return stored, rest, nil
	}
	for {
		select {
		case ring := <-k.first:
			return ring, rest, nil
		case <-time.After(patience):
			k.log.Warn("waiting for the gossip key; the controller makes it. Is clarion-controller running?", "secret", gossipkey.Secret)
		case <-ctx.Done():
			cancel()
			return gossipkey.Ring{}, nil, errors.Join(errors.New("ended while waiting for the gossip key"), <-done)
		}
	}
}

// got takes a ring from the Secret: it is stored, and given to the members.
func (k *keyring) got(ring gossipkey.Ring) {
	if err := gossipkey.Save(k.path, ring); err != nil {
		k.log.Error("the gossip keys cannot be stored; after a restart without the API server this agent could not talk to others", "err", err)
	}
	select {
	case k.first <- ring:
	default: // nobody waits for the first one any more
	}
	select {
	case set := <-k.apply:
		if err := set(ring.Keys); err != nil {
			k.log.Error("the new gossip keys cannot be used; the old ones stay in use", "err", err)
		}
		k.apply <- set
	default: // the members are not there yet; they begin with what wait returned
	}
}

// use says who is to be given new keys from now on.
func (k *keyring) use(set func([][]byte) error) { k.apply <- set }
