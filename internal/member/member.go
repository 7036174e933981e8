// Package member carries messages between the agents of a cluster: it finds
// them, encrypts what they say, and tells which of them cannot be reached and
// why. It is the only package that knows hashicorp/memberlist.
//
// It does not judge who is alive in the sense of ownership: that takes a
// hundred milliseconds and belongs to package ownership, whose messages travel
// over this transport, to the dead as well. What memberlist believes is for
// people, and for everything that has seconds.
package member

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// DefaultPort is where agents listen, on UDP and TCP.
const DefaultPort = 7946

// Config says who this agent is.
type Config struct {
	Name string     // of the node
	Addr netip.Addr // of the node, as its peers reach it
	Port uint16     // of all agents; 0 means DefaultPort
	// Bind is the address to listen on. The zero Addr listens on all addresses
	// of both families.
	Bind netip.Addr
	// Cluster tells this cluster's packets from those of others on the same
	// network; the UID of the namespace kube-system. At most 255 bytes.
	Cluster string
	// Keys encrypt what is said (AES-GCM; 16, 24 or 32 bytes each): the first
	// one is used, all are understood.
	Keys [][]byte
	// Receive takes a message. It is called from one goroutine and must not
	// block: messages behind it wait. It keeps the bytes.
	Receive func(from string, message []byte)
	Log     *slog.Logger
}

// Members are the agents of the cluster. Its methods may be called by
// everybody.
type Members struct {
	cfg     Config
	list    *memberlist.Memberlist
	keyring *memberlist.Keyring
	changed chan struct{}

	malformed atomic.Uint64

	mu    sync.Mutex
	nodes map[string]netip.AddrPort
	fails map[string]error // why the last attempt to join failed
}

// New starts to listen. Nobody is contacted before Run.
func New(cfg Config) (*Members, error) {
	if cfg.Port == 0 {
		cfg.Port = DefaultPort
	}
	if len(cfg.Name) == 0 || len(cfg.Name) > 253 {
		return nil, fmt.Errorf("the node's name %q has %d bytes, want 1 to 253", cfg.Name, len(cfg.Name))
	}
	if len(cfg.Keys) == 0 {
		return nil, errors.New("no key for the messages between agents: the Secret must hold at least one")
	}
	keyring, err := memberlist.NewKeyring(cfg.Keys, cfg.Keys[0])
	if err != nil {
		return nil, fmt.Errorf("keys of the messages between agents: %w", err)
	}
	m := &Members{
		cfg: cfg, keyring: keyring,
		changed: make(chan struct{}, 1),
		nodes:   map[string]netip.AddrPort{}, fails: map[string]error{},
	}
	if m.list, err = memberlist.Create(m.config()); err != nil {
		return nil, fmt.Errorf("listen for other agents on port %d: %w", cfg.Port, err)
	}
	return m, nil
}

// config returns memberlist's settings: calm ones, because its verdicts are
// not what failover waits for, and a stall of a node should not look like its
// death (the figures are in docs/decisions/0005-ownership.md).
func (m *Members) config() *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name = m.cfg.Name
	c.BindAddr = "0.0.0.0" // Go listens on both families for it where the kernel has both
	if m.cfg.Bind.IsValid() && !m.cfg.Bind.IsUnspecified() {
		c.BindAddr = m.cfg.Bind.String()
	}
	c.AdvertiseAddr = m.cfg.Addr.String()
	c.BindPort, c.AdvertisePort = int(m.cfg.Port), int(m.cfg.Port)
	c.Label = m.cfg.Cluster
	c.Keyring = m.keyring
	c.GossipVerifyIncoming, c.GossipVerifyOutgoing = true, true
	c.ProbeInterval, c.ProbeTimeout = 200*time.Millisecond, 80*time.Millisecond
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = 4, 6
	c.IndirectChecks, c.AwarenessMaxMultiplier = 3, 8
	c.GossipInterval, c.GossipNodes, c.GossipToTheDeadTime = 50*time.Millisecond, 3, 30*time.Second
	c.RetransmitMult = 4
	c.PushPullInterval, c.TCPTimeout = 15*time.Second, time.Second
	c.DeadNodeReclaimTime = time.Second
	c.EnableCompression = false
	c.DisableTcpPings = false
	c.HandoffQueueDepth = 4096
	c.Delegate = delegate{m}
	c.Events = events{m}
	c.LogOutput = newLogWriter(m.cfg.Log)
	return c
}

// SetNodes says which other nodes exist and where their agents listen. Nodes
// that are missing are forgotten. An address with port 0 means the cluster's.
func (m *Members) SetNodes(nodes map[string]netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nodes = map[string]netip.AddrPort{}
	for name, at := range nodes {
		if name == m.cfg.Name || !at.Addr().IsValid() {
			continue
		}
		if at.Port() == 0 {
			at = netip.AddrPortFrom(at.Addr(), m.cfg.Port)
		}
		m.nodes[name] = at
	}
	maps.DeleteFunc(m.fails, func(name string, _ error) bool { _, ok := m.nodes[name]; return !ok })
}

// PickAddr returns the address at which the agent of a node is reached: the
// first one of its addresses of the same family as ours, else its first.
func PickAddr(ours netip.Addr, theirs []netip.Addr) netip.Addr {
	for _, a := range theirs {
		if a.Is4() == ours.Is4() {
			return a
		}
	}
	if len(theirs) > 0 {
		return theirs[0]
	}
	return netip.Addr{}
}

// Send sends a message, in one UDP packet, to a node that SetNodes has named,
// whether or not it is believed to live. It does not wait for anything. The
// message should not exceed 1,100 bytes, so that the packet is never split.
func (m *Members) Send(to string, message []byte) error {
	m.mu.Lock()
	at, ok := m.nodes[to]
	m.mu.Unlock()
	if !ok {
		return fmt.Errorf("send to node %s: no such node", to)
	}
	packet := make([]byte, 0, 1+len(m.cfg.Name)+len(message))
	packet = append(packet, byte(len(m.cfg.Name)))
	packet = append(packet, m.cfg.Name...)
	packet = append(packet, message...)
	if err := m.list.SendToAddress(memberlist.Address{Addr: at.String(), Name: to}, packet); err != nil {
		return fmt.Errorf("send to node %s at %v: %w", to, at, err)
	}
	return nil
}

// split takes the sender off a packet.
func split(packet []byte) (from string, message []byte, ok bool) {
	if len(packet) == 0 || packet[0] == 0 || len(packet) < 1+int(packet[0]) {
		return "", nil, false
	}
	n := 1 + int(packet[0])
	return string(packet[1:n]), packet[n:], true
}

// SetKeys replaces the keys. To change a key without losing a message, first
// give every agent the new key as a second one, then as the first, then drop
// the old one.
func (m *Members) SetKeys(keys [][]byte) error {
	if len(keys) == 0 {
		return errors.New("no key for the messages between agents: the present ones stay")
	}
	for _, k := range keys {
		if err := memberlist.ValidateKey(k); err != nil {
			return fmt.Errorf("key of %d bytes: %w; the present ones stay", len(k), err)
		}
	}
	for _, k := range keys {
		if err := m.keyring.AddKey(k); err != nil {
			return fmt.Errorf("add a key: %w", err)
		}
	}
	if err := m.keyring.UseKey(keys[0]); err != nil {
		return fmt.Errorf("use the new key: %w", err)
	}
	for _, old := range m.keyring.GetKeys() {
		if !slices.ContainsFunc(keys, func(k []byte) bool { return string(k) == string(old) }) {
			if err := m.keyring.RemoveKey(old); err != nil {
				return fmt.Errorf("remove an old key: %w", err)
			}
		}
	}
	return nil
}

// Changed is signalled when memberlist has taken a node for alive or dead.
func (m *Members) Changed() <-chan struct{} { return m.changed }

// Malformed is how many packets with the right key were no message.
func (m *Members) Malformed() uint64 { return m.malformed.Load() }

func (m *Members) String() string { return "members" }

// Run finds the other agents and keeps looking for those that are missing,
// until ctx ends. Then it says good-bye: units must have been handed over
// before, for the others take what is left at once.
func (m *Members) Run(ctx context.Context) error {
	m.join(ctx)
	bye := m.list.Leave(time.Second) // without peers it has nobody to tell
	if bye != nil {
		m.cfg.Log.Debug("good-bye to the other agents", "err", bye)
	}
	if err := m.list.Shutdown(); err != nil {
		return fmt.Errorf("stop listening: %w", err)
	}
	return nil
}

// alive returns the nodes that memberlist takes for alive.
func (m *Members) alive() map[string]bool {
	names := map[string]bool{}
	for _, n := range m.list.Members() {
		names[n.Name] = true
	}
	return names
}

type delegate struct{ m *Members }

func (d delegate) NotifyMsg(packet []byte) {
	from, message, ok := split(packet)
	if !ok || from == d.m.cfg.Name {
		d.m.malformed.Add(1)
		return
	}
	d.m.cfg.Receive(from, slices.Clone(message))
}

func (delegate) NodeMeta(int) []byte             { return nil }
func (delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (delegate) LocalState(bool) []byte          { return nil }
func (delegate) MergeRemoteState([]byte, bool)   {}

type events struct{ m *Members }

func (e events) NotifyJoin(*memberlist.Node)   { e.m.kick() }
func (e events) NotifyLeave(*memberlist.Node)  { e.m.kick() }
func (e events) NotifyUpdate(*memberlist.Node) { e.m.kick() }

func (m *Members) kick() {
	select {
	case m.changed <- struct{}{}:
	default: // a look is due already
	}
}

// joinAddress is how memberlist wants a node to be named.
func joinAddress(name string, at netip.AddrPort) string {
	return name + "/" + net.JoinHostPort(at.Addr().String(), strconv.Itoa(int(at.Port())))
}

// refused reports whether err says that nobody listens.
func refused(err error) bool {
	return err != nil && strings.Contains(err.Error(), "connection refused")
}
