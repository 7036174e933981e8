package speaker

import (
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/ownership"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// A Transport carries messages to the agents of other nodes, also to those
// that are believed dead. A message may be lost.
type Transport interface {
	Send(to string, message []byte) error
}

// Claims is the Elector of agents that talk to each other: who owns a unit is
// what its owner says, a silent owner's units are taken after the wire has
// been asked, and a planned move announces before it lets go. It joins the
// state machine of package ownership to the speaker's loop and to a Transport.
//
// Receive, Leave, Drain and Rebalance may be called from anywhere; the rest
// belongs to the speaker's loop.
type Claims struct {
	self    string
	machine *ownership.Machine
	send    Transport
	tell    func(ownership.Report)
	log     *slog.Logger
	begin   time.Time
	inbox   *inbox

	links []rtnl.Link
	own   []netip.Addr // this node's addresses as the API has them
}

// ClaimsConfig is what Claims are made of.
type ClaimsConfig struct {
	Self string
	Boot uint64 // differs between any two runs of the agent on this node
	Seed uint64 // of jitters
	// Silence is for how long a peer must not answer before its VIPs are asked
	// for on the wire; 0 means ownership.DefaultSilence.
	Silence   time.Duration
	Transport Transport
	Tell      func(ownership.Report) // called from the speaker's loop; must not block
	Log       *slog.Logger
}

// NewClaims returns the Elector of a node that has just started: it owns
// nothing and knows nobody.
func NewClaims(cfg ClaimsConfig) *Claims {
	c := &Claims{
		self: cfg.Self, send: cfg.Transport, tell: cfg.Tell, log: cfg.Log, begin: time.Now(), inbox: newInbox(),
		machine: ownership.New(ownership.Config{Self: cfg.Self, Boot: cfg.Boot, Seed: cfg.Seed, Silence: cfg.Silence}),
	}
	if c.tell == nil {
		c.tell = func(ownership.Report) {}
	}
	return c
}

// Receive takes a message of another agent. It never blocks. Bytes that are
// no message are counted as such by nobody: the transport has authenticated
// the sender, so they are another version's, and they are told.
func (c *Claims) Receive(from string, message []byte) {
	m, err := ownership.Decode(message)
	if err != nil {
		c.log.Warn("a message of another agent cannot be read; does it run another version?", "from", from, "err", err)
		return
	}
	c.inbox.put(ownership.Received{From: from, Message: m})
}

// Leave hands everything over, because this agent is about to end. The channel
// is closed when nothing is left, at the latest after about 5 s.
func (c *Claims) Leave() <-chan struct{} {
	c.inbox.put(ownership.Drain{On: true, Leave: true})
	return c.inbox.drained
}

// Drain starts or ends the giving away of all units of this node.
func (c *Claims) Drain(on bool) { c.inbox.put(ownership.Drain{On: on}) }

// Rebalance spreads the units as if all of them were new.
func (c *Claims) Rebalance() { c.inbox.put(ownership.Rebalance{}) }

// Ready is signalled when a message or a wish has come.
func (c *Claims) Ready() <-chan struct{} { return c.inbox.ready }

// Step implements Elector.
func (c *Claims) Step(now time.Time, in Facts) Outcome {
	var out Outcome
	at := now.Sub(c.begin)
	step := func(ev ownership.Event) {
		for _, a := range c.machine.Step(at, ev) {
			c.do(a, &out)
		}
	}
	if in.Links != nil {
		c.links = in.Links
		step(segmentsOf(c.links))
	}
	if in.Nodes != nil {
		step(c.peers(in.Nodes))
	}
	if len(in.Seats) > 0 {
		step(c.wants(in.Seats))
	}
	for _, h := range in.Heard {
		for _, ev := range c.heard(h) {
			step(ev)
		}
	}
	for _, ev := range c.inbox.take() {
		step(ev)
	}
	step(ownership.Tick{})
	out.Next = c.begin.Add(c.machine.NextWake())
	out.Until = c.begin.Add(c.machine.AnswerUntil())
	for _, u := range c.machine.Changed() {
		out.Changed = append(out.Changed, Unit(u))
	}
	return out
}

// Standing implements Elector.
func (c *Claims) Standing(u Unit) Standing {
	v, ok := c.machine.View(ownership.Unit(u))
	if !ok {
		return Standing{}
	}
	s := Standing{Owner: v.Owner, Conflict: v.Foreign}
	switch v.State {
	case "owning":
		s.Mine, s.Since = true, c.begin.Add(v.Since)
	case "waiting", "probing", "verifying":
		s.Probing = true
	}
	return s
}

// Peers says what this node knows of the others. It is for the speaker's loop;
// see Speaker.Ask.
func (c *Claims) Peers() []ownership.PeerView { return c.machine.Peers() }

func (c *Claims) do(a ownership.Action, out *Outcome) {
	order := func(o Order) { out.Orders = append(out.Orders, o) }
	switch a := a.(type) {
	case ownership.Send:
		if err := c.send.Send(a.To, ownership.Encode(a.Message)); err != nil {
			// A message that is not sent is a message lost, which the protocol
			// expects; the peer's silence will be reported if it lasts.
			c.log.Debug("a message to another agent was not sent", "to", a.To, "err", err)
		}
	case ownership.Answer:
		order(Order{Do: map[bool]Do{true: DoAnswer, false: DoStop}[a.On], Unit: Unit(a.Unit)})
	case ownership.Listen:
		order(Order{Do: DoListen, Unit: Unit(a.Unit)})
	case ownership.Announce:
		order(Order{Do: DoAnnounce, Unit: Unit(a.Unit)})
	case ownership.Probe:
		order(Order{Do: DoProbe, Unit: Unit(a.Unit), To: a.To})
	case ownership.Ask:
		order(Order{Do: DoAsk, Unit: Unit{Segment: a.Segment}, Target: a.Target, To: a.To})
	case ownership.Discard:
		order(Order{Do: DoDiscard})
	case ownership.Report:
		if a.What == ownership.Drained {
			c.inbox.finish()
		}
		c.tell(a)
	}
}

// segmentsOf says how this host is on each segment, also on one whose link is
// down at the moment: that it will be back matters. Of several links in one
// segment the eldest answers, as in Speaker.place; the MACs of all are ours.
func segmentsOf(links []rtnl.Link) ownership.Links {
	out := ownership.Links{}
	for _, l := range links {
		skip := l.Skip()
		if skip != rtnl.Usable && skip != rtnl.NoCarrier && skip != rtnl.IsDown {
			continue
		}
		for _, p := range l.OnLink {
			s, known := out[p]
			if !known || !s.Up && skip == rtnl.Usable {
				s.Name, s.Up = l.Name, skip == rtnl.Usable
			}
			s.MACs = append(s.MACs, l.MAC)
			if i := slices.IndexFunc(l.Gateways, p.Contains); i >= 0 && !s.Gateway.IsValid() {
				s.Gateway = l.Gateways[i]
			}
			out[p] = s
		}
	}
	return out
}

// peers describes the other nodes that an agent runs on: those that have
// published links.
func (c *Claims) peers(nodes map[string]*cluster.Node) ownership.Nodes {
	out := ownership.Nodes{}
	if me := nodes[c.self]; me != nil {
		c.own = me.Addresses
	}
	for name, n := range nodes {
		if name == c.self || len(n.Links) == 0 || len(n.Addresses) == 0 {
			continue
		}
		p := ownership.Peer{Addr: sameFamily(c.own, n.Addresses), Links: map[netip.Prefix][]cluster.MAC{}}
		for _, l := range n.Links {
			for _, prefix := range l.Prefixes {
				p.Links[prefix] = append(p.Links[prefix], l.MAC)
			}
		}
		out[name] = p
	}
	return out
}

// sameFamily returns the first of theirs that is of the family of our first
// address, else their first.
func sameFamily(ours, theirs []netip.Addr) netip.Addr {
	for _, a := range theirs {
		if len(ours) > 0 && ipfam.Of(a) == ipfam.Of(ours[0]) {
			return a
		}
	}
	return theirs[0]
}

func (c *Claims) wants(seats map[Unit]*Seat) ownership.Wants {
	out := ownership.Wants{}
	for u, s := range seats {
		if s == nil {
			out[ownership.Unit(u)] = nil
			continue
		}
		out[ownership.Unit(u)] = &ownership.Want{
			Key: s.Key, Candidates: s.Candidates, Standing: standing(s.Refused), Why: s.Refused, Rules: s.Able, Fresh: s.New,
		}
	}
	return out
}

// standing says what a node that is no candidate may do with what it owns.
// Where it could not carry a packet it must let go; where people or the
// scheduler would only rather not have it, it keeps the unit until another
// node has it.
func standing(r cluster.Refusal) ownership.Standing {
	switch r {
	case cluster.Eligible:
		return ownership.Able
	case cluster.OutOfService, cluster.NetworkUnavailable, cluster.Gone, NoEndpoint, OffSegment, OtherLinks:
		return ownership.Unable
	}
	return ownership.Reluctant
}

// heard translates a frame.
func (c *Claims) heard(h Heard) []ownership.Event {
	if h.Kind != Alive && h.Unit.Segment.IsValid() {
		kind := map[Kind]ownership.FrameKind{Probed: ownership.Probing, Announced: ownership.Announcing, Answered: ownership.Answering}[h.Kind]
		return []ownership.Event{ownership.Frame{Unit: ownership.Unit(h.Unit), MAC: h.MAC, Kind: kind, Stranger: h.Foreign}}
	}
	// A sign of life holds for every segment of the link, because what is
	// heard on it is heard on all of them.
	var out []ownership.Event
	for _, l := range c.links {
		if l.Name != h.Link {
			continue
		}
		for _, p := range l.OnLink {
			out = append(out, ownership.Heard{Segment: p, From: h.Unit.VIP})
		}
	}
	return out
}

// An inbox carries events from other goroutines to the speaker's loop.
type inbox struct {
	mu     sync.Mutex // guards events and done
	events []ownership.Event
	done   bool

	ready   chan struct{}
	drained chan struct{}
}

// inboxLimit bounds what waits while the loop is busy. What comes on top is
// lost, which the protocol expects of messages.
const inboxLimit = 8192

func newInbox() *inbox {
	return &inbox{ready: make(chan struct{}, 1), drained: make(chan struct{})}
}

func (b *inbox) put(ev ownership.Event) {
	b.mu.Lock()
	if _, message := ev.(ownership.Received); !message || len(b.events) < inboxLimit {
		b.events = append(b.events, ev)
	}
	b.mu.Unlock()
	select {
	case b.ready <- struct{}{}:
	default: // the loop has not yet come for what waits
	}
}

func (b *inbox) take() []ownership.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	events := b.events
	b.events = nil
	return events
}

// finish closes drained, once.
func (b *inbox) finish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.done {
		b.done = true
		close(b.drained)
	}
}
