// Package ownership decides which node answers for a VIP. It is a pure state
// machine: events go in with the time at which they happened, actions come
// out; there is no I/O, no clock, no goroutine and no log in it, so that a
// simulation can run thousands of cluster histories through the very code that
// the agent runs.
//
// Read ownership.go (the words and the loop), event.go and action.go (what
// goes in and out), unit.go (the states of one VIP), witness.go (how the wire
// is asked), peer.go (who is alive), set.go (how claims travel), segment.go
// (what a link can testify), announce.go, handover.go, rank.go. The protocol
// as prose is docs/decisions/0005-ownership.md.
package ownership

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A Unit is what is owned: a VIP on one segment. A VIP on two segments is two
// units with independent owners.
type Unit struct {
	VIP     netip.Addr
	Segment netip.Prefix // the on-link prefix, masked
}

func (u Unit) String() string { return u.VIP.String() + " on " + u.Segment.String() }

func compareUnits(a, b Unit) int {
	return cmp.Or(a.VIP.Compare(b.VIP), a.Segment.Compare(b.Segment))
}

// Config is what a Machine must know from the start.
type Config struct {
	Self string // name of this node
	// Boot differs between any two runs of the agent on this node. It tells
	// peers that this node remembers nothing of what it claimed before.
	Boot uint64
	Seed uint64 // of the jitters
	// Silence is for how long a peer must not answer before the wire is asked
	// about its VIPs. Zero means DefaultSilence. Stalls of a node that are
	// shorter never move a VIP.
	Silence time.Duration

	off rule // rules that a test has switched off
	log int  // changes remembered for peers that missed them; 0 means deltaLog
}

// A Machine decides for one node. It is not safe for concurrent use: one
// goroutine owns it. The zero value is not usable; see New.
type Machine struct {
	cfg   Config
	rng   *rand.Rand
	now   time.Duration
	born  time.Duration
	begun bool
	out   []Action

	segs   map[netip.Prefix]*segment
	wires  map[string]*wire
	peers  map[string]*peer
	sorted []*peer // the same, by name
	byMAC  map[cluster.MAC]*peer
	self   map[cluster.MAC]bool
	told   bool // the list of nodes has been given at least once
	large  bool // too many peers to watch all of them

	units  map[Unit]*unit
	mine   map[Unit]*unit // owned or being verified: the published set
	loose  map[Unit]*unit // wanted, and nobody is known to own them
	timers timers
	shown  map[Unit]struct{} // see Changed

	listened bool // start-up is over; units may be taken
	draining bool // hands its units over and takes none
	leaving  bool // draining because the agent ends
	drainEnd time.Duration
	reported bool // the end of leaving was reported

	pub       publisher
	ann       announcer
	probes    bucket
	witnesses []*witness
	ripe      []*unit // waited long enough; probed together at the end of the step
	rerank    bool
	nextRank  time.Duration
	recount   bool
	nextHello time.Duration
	nextKnock time.Duration
	rotate    int // where the slow round over unwatched peers stands
	handAt    time.Duration
}

// New returns the machine of a node that has just started: it owns nothing
// and knows nobody.
func New(cfg Config) *Machine {
	if cfg.Silence == 0 {
		cfg.Silence = DefaultSilence
	}
	if cfg.log == 0 {
		cfg.log = deltaLog
	}
	m := &Machine{
		cfg:   cfg,
		rng:   rand.New(rand.NewPCG(cfg.Seed, weight(cfg.Self, "jitter"))),
		segs:  map[netip.Prefix]*segment{},
		wires: map[string]*wire{},
		peers: map[string]*peer{},
		byMAC: map[cluster.MAC]*peer{},
		self:  map[cluster.MAC]bool{},
		units: map[Unit]*unit{},
		mine:  map[Unit]*unit{},
		loose: map[Unit]*unit{},
		shown: map[Unit]struct{}{},
	}
	m.ann.bucket = bucket{rate: announceRate, burst: announceBurst, tokens: announceBurst}
	m.probes = bucket{rate: probeRate, burst: probeBurst, tokens: probeBurst}
	return m
}

// Step takes one event at the time now, which is measured on a clock that
// never goes back (CLOCK_MONOTONIC) from any origin. It returns what is to be
// done, in order; the slice is valid until the next Step. Step must be called
// with Tick no later than NextWake says.
func (m *Machine) Step(now time.Duration, ev Event) []Action {
	m.out = m.out[:0]
	if !m.begun {
		m.begun, m.born, m.now, m.nextHello = true, now, now, now
	}
	gap := now - m.now
	m.now = max(now, m.now)
	if over := gap - tickEvery; over > lateLimit {
		m.grace(over)
	}
	if gap > stallLimit {
		m.stalled(gap)
	}
	m.take(ev)
	m.run()
	return m.out
}

// NextWake returns when Step must be called again if no event comes before.
// It is never further away than a third of the stall limit, because a machine
// that is not called cannot tell sleep from a stall.
func (m *Machine) NextWake() time.Duration {
	next := m.now + tickEvery
	sooner := func(t time.Duration) { next = min(next, max(t, m.now)) }
	sooner(min(m.nextHello, m.nextKnock))
	if t, ok := m.timers.next(); ok {
		sooner(t)
	}
	for _, w := range m.witnesses {
		sooner(w.next)
	}
	if t, ok := m.ann.next(m.now); ok {
		sooner(t)
	}
	for _, p := range m.sorted {
		if t, ok := p.deadline(); ok {
			sooner(t)
		}
		if p.missed() {
			sooner(p.pulled + pullGap)
		}
	}
	if m.handAt > 0 {
		sooner(m.handAt)
	}
	if m.rerank {
		sooner(m.nextRank)
	}
	return next
}

// AnswerUntil is the end of the lease on every answer: a responder that reads
// a later time on the same clock must not answer, whatever Answer said. It
// keeps a process that was stopped from answering the questions that queued
// up meanwhile.
func (m *Machine) AnswerUntil() time.Duration {
	if !m.on(ruleLease) {
		return 1<<63 - 1
	}
	return m.now + stallLimit
}

func (m *Machine) take(ev Event) {
	switch ev := ev.(type) {
	case Tick:
	case Links:
		m.links(ev)
	case Nodes:
		m.nodes(ev)
	case Wants:
		m.wants(ev)
	case Received:
		m.received(ev)
	case Frame:
		m.frame(ev)
	case Heard:
		m.heard(ev)
	case Drain:
		m.drain(ev)
	case Rebalance:
		m.rebalance()
	default:
		panic(fmt.Sprintf("ownership: event of unknown type %T", ev))
	}
}

// run does what time or the event has made due.
func (m *Machine) run() {
	m.hellos()
	m.silences()
	m.pulls()
	m.majorities()
	m.startUp()
	for {
		u, ok := m.timers.pop(m.now)
		if !ok {
			break
		}
		m.expired(u)
	}
	m.runWitnesses()
	m.ripen()
	m.rankLoose()
	m.handovers()
	m.publish()
	m.announcements()
}

func (m *Machine) do(a Action)                         { m.out = append(m.out, a) }
func (m *Machine) after(d time.Duration) time.Duration { return m.now + d }

// sortedUnits returns the units of a set in their order, so that what is done
// to each of them does not depend on the order of a map.
func sortedUnits(set map[Unit]*unit) []*unit {
	us := make([]*unit, 0, len(set))
	for _, u := range set {
		us = append(us, u)
	}
	slices.SortFunc(us, func(a, b *unit) int { return compareUnits(a.Unit, b.Unit) })
	return us
}

// startUp ends the start-up: a node owns nothing until it has every peer's set
// or knows that the peer is silent, and until it has listened for a while if
// it has no peers at all. A restarted node would otherwise take VIPs whose
// owners it has not heard of yet.
func (m *Machine) startUp() {
	if m.listened || !m.told && m.now-m.born < startAlone {
		return
	}
	if m.on(ruleListen) {
		if len(m.sorted) == 0 && m.now-m.born < startAlone || m.now-m.born < startListen {
			return
		}
		for _, p := range m.sorted {
			if !p.silent && !p.known && m.now-m.born < startLimit {
				return
			}
		}
	}
	m.recount = true
	m.majorities()
	m.listened = true
	m.pub.facts = true
	m.reconsider()
}

// reconsider looks again at every unit that nobody is known to own.
func (m *Machine) reconsider() {
	for _, u := range sortedUnits(m.loose) {
		m.settle(u)
	}
	m.rerank = true
}
