package speaker

import (
	"math"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// The timers of probing and of conflicts. The packets are those of RFC 5227
// and RFC 4862; their timers are shortened, and listening goes on for ever.
const (
	firstUseProbe  = 100 * time.Millisecond // between the three probes of an address that nobody is known to have announced: 300 ms in all
	takeoverProbe  = 30 * time.Millisecond  // the same for one that another node of the cluster did: 90 ms in all
	probeCount     = 3
	holdFirst      = 100 * time.Millisecond // pause after a living peer answered; doubles
	holdMax        = 8 * time.Second        // its bound
	lighterBackOff = 250 * time.Millisecond // pause of the lighter of two that probe at once
	conflictRetry  = 10 * time.Second       // how long a VIP that somebody else uses rests before it is probed again
	conflictMemory = 60 * time.Second       // how long a silent stranger is still reported
	defendEvery    = 10 * time.Second       // RFC 5227 §1.1 DEFEND_INTERVAL
	contestEvery   = 100 * time.Millisecond // pause between answers to a lighter peer's announcements
)

// Rendezvous is the Elector of a cluster whose nodes know each other only
// through the API: the heaviest candidate of a unit takes it, after it has
// found on the wire that nobody else has it. Two nodes whose views differ for
// a moment are told apart by weight as soon as one hears the other.
type Rendezvous struct {
	self     string
	random   func() float64
	seats    map[Unit]*seat
	due      timers[Unit]
	schedule map[string]*schedule // by link
	changed  []Unit
}

// NewRendezvous returns the Elector of the node self. random returns numbers
// in [0,1) for the jitter of refreshes.
func NewRendezvous(self string, random func() float64) *Rendezvous {
	return &Rendezvous{self: self, random: random, seats: map[Unit]*seat{}, due: newTimers[Unit](), schedule: map[string]*schedule{}}
}

// phase is what a seat is busy with.
type phase uint8

const (
	idle    phase = iota // somebody else's
	waiting              // ours, but not yet: a pause
	queued               // ours; to be probed as soon as the pace allows
	probing              // ours; finding out if it is free
	owning
)

type seat struct {
	Seat
	phase    phase
	known    bool // a node of the cluster has announced it before
	sent     int  // probes of this round
	holds    int  // rounds that ended because a peer answered
	since    time.Time
	stranger cluster.MAC
	heard    time.Time // the stranger, last
	defended time.Time
}

// Ready is nil: this elector has nobody to talk to.
func (r *Rendezvous) Ready() <-chan struct{} { return nil }

// Standing implements Elector.
func (r *Rendezvous) Standing(u Unit) Standing {
	s := r.seats[u]
	if s == nil {
		return Standing{}
	}
	out := Standing{Mine: s.phase == owning, Probing: s.phase == probing || s.phase == queued, Conflict: s.stranger}
	switch {
	case s.phase == owning:
		out.Owner, out.Since = r.self, s.since
	case len(s.Candidates) > 0 && s.Candidates[0] != r.self:
		out.Owner = s.Candidates[0]
	}
	return out
}

// Step implements Elector.
func (r *Rendezvous) Step(now time.Time, in Facts) Outcome {
	r.changed = nil
	var out Outcome
	for u, value := range in.Seats {
		out.Orders = append(out.Orders, r.seated(u, value, now)...)
	}
	for _, h := range in.Heard {
		if s := r.seats[h.Unit]; s != nil {
			out.Orders = append(out.Orders, r.heard(s, h, now)...)
		}
	}
	for u := range r.due.pop(now, math.MaxInt) {
		out.Orders = append(out.Orders, r.timer(r.seats[u], now)...)
	}
	for _, s := range r.schedule {
		t := s.due(now, r.queued)
		out.Orders = append(out.Orders, t.announce...)
		for _, u := range t.probe {
			out.Orders = append(out.Orders, r.probe(r.seats[u], now)...)
		}
	}
	out.Next = r.due.next()
	for _, s := range r.schedule {
		out.Next = earlier(out.Next, s.next(now))
	}
	out.Changed = r.changed
	return out
}

// earlier returns the earlier of two times, of which zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// seated takes in a new value of a unit.
func (r *Rendezvous) seated(u Unit, value *Seat, now time.Time) []Order {
	r.changed = append(r.changed, u)
	s := r.seats[u]
	switch {
	case value == nil && s == nil:
		return nil
	case value == nil:
		orders := r.release(s)
		delete(r.seats, u)
		return orders
	case s == nil:
		s = &seat{}
		r.seats[u] = s
	}
	before := s.Seat
	s.Seat = *value
	mine := s.Able && len(s.Candidates) > 0 && s.Candidates[0] == r.self
	switch {
	case mine && s.phase == idle:
		s.holds = 0
		return r.queue(s)
	case !mine && s.phase != idle:
		return r.release(s)
	case s.phase == owning && before.Link != s.Link:
		r.at(before.Link).stop(u)
		fallthrough
	case s.phase == owning && before.MAC != s.MAC:
		r.at(s.Link).start(u, false) // Every cache now holds a MAC that is nobody's.
	}
	return nil
}

// release ends all that goes on about a seat, without a word.
func (r *Rendezvous) release(s *seat) []Order {
	r.due.drop(s.Unit)
	for _, schedule := range r.schedule {
		schedule.stop(s.Unit)
	}
	s.phase, s.since, s.stranger = idle, time.Time{}, cluster.MAC{}
	return []Order{{Unit: s.Unit, Do: DoStop}}
}

// at returns the schedule of a link.
func (r *Rendezvous) at(link string) *schedule {
	s := r.schedule[link]
	if s == nil {
		s = newSchedule(r.random)
		r.schedule[link] = s
	}
	return s
}

// timer goes on with what a seat waits for.
func (r *Rendezvous) timer(s *seat, now time.Time) []Order {
	if s.stranger != (cluster.MAC{}) && now.Sub(s.heard) >= conflictMemory {
		s.stranger = cluster.MAC{}
		r.changed = append(r.changed, s.Unit)
	}
	switch s.phase {
	case waiting:
		return r.queue(s)
	case probing:
		return r.probe(s, now)
	case owning:
		if s.stranger != (cluster.MAC{}) {
			r.due.set(s.Unit, s.heard.Add(conflictMemory))
		}
	}
	return nil
}

// queue lines a seat up for a round of probes.
func (r *Rendezvous) queue(s *seat) []Order {
	s.phase, s.sent = queued, 0
	r.at(s.Link).probe(s.Unit)
	r.changed = append(r.changed, s.Unit)
	return []Order{{Unit: s.Unit, Do: DoListen}}
}

// queued says whether a unit that stood in line is still to be probed.
func (r *Rendezvous) queued(u Unit) bool {
	s := r.seats[u]
	return s != nil && s.phase == queued
}

// probe sends the next probe of a round, or owns the unit when none was
// answered.
func (r *Rendezvous) probe(s *seat, now time.Time) []Order {
	s.phase = probing
	if s.sent == probeCount {
		s.phase, s.since, s.stranger = owning, now, cluster.MAC{}
		r.at(s.Link).start(s.Unit, !s.known)
		s.known = true
		r.changed = append(r.changed, s.Unit)
		return []Order{{Unit: s.Unit, Do: DoAnswer}}
	}
	s.sent++
	pause := takeoverProbe
	if !s.known {
		pause = firstUseProbe
	}
	r.due.set(s.Unit, now.Add(pause))
	return []Order{{Unit: s.Unit, Do: DoProbe}}
}

// heard takes in a frame of another host.
func (r *Rendezvous) heard(s *seat, h Heard, now time.Time) []Order {
	switch {
	case h.Node == r.self:
		return nil // A MAC that this node has given up, still under way.
	case h.Foreign:
		return r.foreign(s, h, now)
	case h.Kind == Probed:
		// Two candidates whose views differ: the lighter one steps back. The
		// owner needs no step, its answer has told the prober already.
		if s.phase == probing && h.Node != "" && r.heavier(s, h.Node) {
			return r.pause(s, now, lighterBackOff)
		}
		return nil
	}
	s.known = s.known || h.Node != ""
	switch s.phase {
	case probing:
		// A peer has it and lives: wait for its own decision, never take it away.
		pause := min(holdFirst<<min(s.holds, 16), holdMax)
		s.holds++
		return r.pause(s, now, pause)
	case owning:
		return r.contest(s, h, now)
	}
	return nil
}

// contest settles that a peer announced what we own.
func (r *Rendezvous) contest(s *seat, h Heard, now time.Time) []Order {
	if h.Node != "" && r.heavier(s, h.Node) {
		s.since, s.holds = time.Time{}, 0
		r.at(s.Link).stop(s.Unit)
		return r.pause(s, now, holdFirst)
	}
	pause := contestEvery
	if h.Node == "" { // Perhaps no peer at all.
		pause = defendEvery
	}
	if now.Sub(s.defended) < pause {
		return nil
	}
	s.defended = now
	return []Order{{Unit: s.Unit, Do: DoAnnounce}}
}

// foreign settles that a host outside the cluster uses the address: it is
// reported, and before we own it that is all. An address in use is defended,
// at most once in ten seconds (RFC 5227 §2.4 b), and never given up silently.
func (r *Rendezvous) foreign(s *seat, h Heard, now time.Time) []Order {
	if h.Kind == Probed && s.phase != probing {
		return nil // It asks politely. When we own the address the answer is on its way.
	}
	if s.phase == idle {
		return nil // The owner reports it.
	}
	if s.stranger != h.MAC {
		r.changed = append(r.changed, s.Unit)
	}
	s.stranger, s.heard = h.MAC, now
	switch s.phase {
	case probing:
		return r.pause(s, now, conflictRetry)
	case owning:
		r.due.set(s.Unit, now.Add(conflictMemory))
		if now.Sub(s.defended) >= defendEvery {
			s.defended = now
			return []Order{{Unit: s.Unit, Do: DoAnnounce}}
		}
	}
	return nil
}

// pause stops whatever goes on and begins anew after d.
func (r *Rendezvous) pause(s *seat, now time.Time, d time.Duration) []Order {
	s.phase = waiting
	r.changed = append(r.changed, s.Unit)
	r.due.set(s.Unit, now.Add(d))
	return []Order{{Unit: s.Unit, Do: DoListen}}
}

// heavier reports whether a node has the better right to a seat. It asks the
// weights alone and no view of who is a candidate: the two sides of a contest
// disagree on exactly that.
func (r *Rendezvous) heavier(s *seat, node string) bool {
	both := []string{r.self, node}
	SortByWeight(s.Key, both)
	return both[0] == node
}
