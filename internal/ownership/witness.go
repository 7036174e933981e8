package ownership

import (
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A witness asks the wire about units that nobody is known to own, before this
// node takes them: gossip may be wrong, but two answering nodes can only hurt
// where both can be heard. One process answers for all VIPs of a node, so if
// the former owner is known it is enough to ask for some of them.
type witness struct {
	seg     *segment
	suspect *peer // who owned the units last; nil when it is not known
	units   []*unit
	sample  []*unit // those that are asked for
	verify  bool    // units are this node's own, after a stall

	round, rounds int
	gap, tail     time.Duration
	began, next   time.Duration
	quick         bool // the first round asks only the suspect: it answered the last time
}

func (w *witness) start(m *Machine) {
	w.began, w.next = m.now, m.now
	for _, u := range w.units {
		u.w = w
	}
	w.sample = sample(w.units, sampleSize)
	if w.suspect == nil && !w.verify {
		w.sample = w.units
	}
	m.witnesses = append(m.witnesses, w)
}

// sample picks n of us, evenly.
func sample(us []*unit, n int) []*unit {
	if len(us) <= n {
		return us
	}
	s := make([]*unit, n)
	for i := range s {
		s[i] = us[i*len(us)/n]
	}
	return s
}

func (m *Machine) leaveWitness(u *unit) { u.w = nil }

// ripen begins to ask about all units whose wait has ended in this step,
// together where they have the same last owner.
func (m *Machine) ripen() {
	type group struct {
		seg     *segment
		suspect *peer
		fresh   bool
	}
	groups := map[group]*witness{}
	var order []*witness
	for _, u := range m.ripe {
		if u.state != waiting || m.loose[u.Unit] == nil {
			continue
		}
		g := group{seg: u.seg, suspect: u.prev}
		if g.suspect != nil {
			if _, ok := g.suspect.mac(u.Segment); !ok {
				g.suspect = nil
			}
		}
		if g.suspect == nil {
			if !m.probes.take(m.now) {
				u.yielded = true
				m.timers.set(u, m.probes.when(m.now))
				continue
			}
			g.fresh = u.want.Fresh
		}
		if !m.on(ruleWitness) {
			m.own(u, u.next(0), m.cause(u))
			continue
		}
		w := groups[g]
		if w == nil {
			w = &witness{seg: g.seg, suspect: g.suspect, rounds: 3, gap: probeGap, tail: probeGap}
			switch {
			case g.fresh:
				w.gap, w.tail = freshProbeGap, freshProbeGap
			case g.suspect != nil && g.suspect.silent && g.suspect.held > 0:
				w.rounds, w.quick = 5, true
			}
			groups[g] = w
			order = append(order, w)
		}
		w.units = append(w.units, u)
		u.state, u.yielded = probing, false
		m.listen(u)
	}
	m.ripe = m.ripe[:0]
	for _, w := range order {
		w.start(m)
		m.ask(w)
	}
}

// verify mutes units of this node and asks whether somebody else has them by
// now.
func (m *Machine) verify(s *segment, us []*unit) {
	if len(us) == 0 {
		return
	}
	for _, u := range us {
		u.state = verifying
		m.show(u)
		m.ann.cancel(u)
		m.do(Answer{u.Unit, false})
		m.do(Listen{u.Unit})
	}
	w := &witness{seg: s, units: us, verify: true, rounds: 3, gap: verifyGap, tail: verifyTail}
	w.start(m)
}

func (m *Machine) runWitnesses() {
	due := m.witnesses
	m.witnesses = nil
	for _, w := range due {
		switch {
		case !w.busy():
		case w.next > m.now:
			m.witnesses = append(m.witnesses, w)
		case w.round < w.rounds:
			m.ask(w)
			m.witnesses = append(m.witnesses, w)
		default:
			if again := m.conclude(w); again > 0 {
				w.next = m.after(again)
				m.witnesses = append(m.witnesses, w)
			}
		}
	}
}

// busy reports whether there is a unit left that w is about.
func (w *witness) busy() bool {
	for _, u := range w.units {
		if u.w == w {
			return true
		}
	}
	return false
}

// ask sends one round of questions.
func (m *Machine) ask(w *witness) {
	first := w.round == 0
	w.round++
	w.next = m.after(w.gap)
	if w.round == w.rounds {
		w.next = m.after(w.tail)
	}
	for _, s := range m.sortedSegments() {
		if s.on && s.wire == w.seg.wire {
			m.askGateway(s)
		}
	}
	var mac cluster.MAC
	if w.suspect != nil {
		mac, _ = w.suspect.mac(w.seg.prefix)
	}
	asked := 0
	for _, u := range w.sample {
		if u.w != w {
			continue
		}
		if mac != (cluster.MAC{}) {
			m.do(Probe{u.Unit, mac})
		}
		if w.quick && first {
			if asked++; asked == 3 {
				return
			}
			continue
		}
		m.do(Probe{Unit: u.Unit})
	}
}

// conclude ends a witness that nobody has answered. It returns how much longer
// to wait if it cannot be concluded yet.
func (m *Machine) conclude(w *witness) time.Duration {
	if !m.alive(w.seg) {
		if !w.seg.wire.deaf {
			w.seg.wire.deaf = true
			m.do(Report{What: IsDeaf, Unit: Unit{Segment: w.seg.prefix}})
		}
		if w.verify {
			return 2 * verifyGap
		}
		for _, u := range w.units {
			if u.w == w {
				m.withdraw(u)
			}
		}
		return 0
	}
	limit := contestEnd
	if w.verify {
		limit = verifyLimit
	}
	if m.now-w.began < limit {
		for _, p := range m.sorted {
			// What a peer has just published must be here, and after an own
			// stall also what it has decided meanwhile.
			if !p.silent && p.on(w.seg.prefix) && p.watched && p.boot != 0 && (!p.known || w.verify && p.heard < w.began) {
				if p.heard < w.began && m.now-p.knocked >= pullGap {
					m.hello(p)
				}
				return verifyGap / 2
			}
		}
	}
	for _, u := range w.units {
		if u.w != w {
			continue
		}
		u.w = nil
		if !w.verify {
			m.own(u, u.next(0), m.cause(u))
			continue
		}
		u.state = owning
		m.show(u)
		m.do(Answer{u.Unit, true})
		m.ann.start(u, m.now)
		m.do(Report{What: Took, Unit: u.Unit, Cause: Verified, After: m.now - w.began})
	}
	return 0
}

func (m *Machine) cause(u *unit) Cause {
	switch {
	case u.prev == nil:
		return Fresh
	case u.prev.silent:
		return Silence
	}
	return GivenUp
}

// answered is called when a machine answers a question about u.
func (m *Machine) answered(u *unit, p *peer, f Frame) {
	w := u.w
	switch {
	case w == nil:
		if u.state == owning && p != nil && p == u.rival && m.now-u.contested >= contestAsk && p.silent && heavier(u.want.Key, p.name, m.cfg.Self) {
			m.stop(u, p) // heard both ways on the wire, and in no way by gossip
			m.settle(u)
			if u.state == waiting {
				m.wait(u, holdFirst)
			}
		}
	case p == nil:
		m.answeredByStranger(u, f)
	case w.verify:
		m.stop(u, p)
		m.settle(u)
		if u.state == waiting {
			m.wait(u, m.hold(p))
		}
		// Somebody has taken what was mine: ask for each of the others.
		w.sample, w.round, w.next = w.units, 0, m.now
	case p == w.suspect:
		d := m.hold(p)
		for _, other := range w.units {
			if other.w == w {
				m.wait(other, d)
			}
		}
	default:
		u.prev = p
		m.wait(u, m.hold(p))
	}
}

// hold returns for how long the units of p, which answers on the wire, are
// left alone.
func (m *Machine) hold(p *peer) time.Duration {
	if !p.silent {
		m.pull(p) // its set must say so, then nothing is left to wait for
		return garpYield
	}
	if p.held == 0 {
		m.do(Report{What: HeldByWire, Peer: p.name})
	}
	p.held = min(max(2*p.held, holdFirst), holdLast)
	return p.held
}

func (m *Machine) answeredByStranger(u *unit, f Frame) {
	switch {
	case !f.Stranger:
		if u.state == probing {
			m.wait(u, holdLast) // it may be a node that is not known yet
		}
	case u.foreign != f.MAC || m.now-u.foreignAt >= foreignHold:
		u.foreign, u.foreignAt = f.MAC, m.now
		m.show(u)
		m.do(Report{What: Conflict, Unit: u.Unit, MAC: f.MAC})
		fallthrough
	default:
		if u.state == probing {
			m.wait(u, foreignHold)
		}
	}
}
