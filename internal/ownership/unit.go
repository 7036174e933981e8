package ownership

import (
	"math"
	"slices"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// The states of a unit on this node.
type state uint8

const (
	idle      state = iota // another node owns it, or this one may not
	waiting                // nobody is known to own it; this node's turn is at unit.at
	probing                // the wire is being asked
	owning                 // this node answers
	verifying              // this node owned it before it stalled, and answers nothing until that is sure
)

func (s state) String() string {
	return [...]string{"idle", "waiting", "probing", "owning", "verifying"}[s]
}

// A unit is what this node knows of one.
type unit struct {
	Unit
	want      *Want
	seg       *segment
	order     []string // candidates, best first
	claimants []*peer

	state    state
	at       time.Duration // of its timer; 0 when it has none
	waitFrom time.Duration
	yielded  bool   // at is not by rank: somebody else goes first or answers
	epoch    uint32 // of this node's claim
	high     uint32 // the highest one heard of
	w        *witness
	prev     *peer         // who owned it last
	orphaned time.Duration // since when nobody owned it
	took     time.Duration
	from     *peer // from whom this node took it because it was silent

	rival     *peer // answers as well and does not talk to us
	contested time.Duration
	defended  time.Duration
	listens   bool
	foreign   cluster.MAC // no node of the cluster and uses the address
	foreignAt time.Duration

	giver *peer // handed it to this node and has not published that it let go
	hand  handing
	ann   schedule
}

// wants takes the cluster's view of some units.
func (m *Machine) wants(ev Wants) {
	units := make([]Unit, 0, len(ev))
	for u := range ev {
		units = append(units, u)
	}
	slices.SortFunc(units, compareUnits)
	m.rerank = true
	for _, id := range units {
		want, u := ev[id], m.units[id]
		if want == nil {
			if u != nil {
				m.remove(u)
			}
			continue
		}
		if u == nil {
			u = m.add(id)
		}
		u.want = want
		u.order = byWeight(want.Key, want.Candidates)
		if u.state == owning || u.state == verifying {
			if !want.Rules {
				m.stop(u, nil) // O4: what the kernel cannot serve is not answered for
			}
			m.leaver(u)
		}
		m.settle(u)
	}
}

func (m *Machine) add(id Unit) *unit {
	u := &unit{Unit: id, seg: m.segment(id.Segment)}
	m.units[id] = u
	u.seg.units[id] = u
	for _, p := range m.sorted {
		if epoch, ok := p.claims[id]; ok {
			u.claimants = append(u.claimants, p)
			u.high = max(u.high, epoch)
			u.prev = p
		}
	}
	return u
}

func (m *Machine) remove(u *unit) {
	if u.state == owning || u.state == verifying {
		m.stop(u, nil)
	}
	m.leaveWitness(u)
	m.timers.set(u, 0)
	m.deafen(u)
	u.state, u.want = idle, nil
	m.noLeaver(u)
	delete(m.loose, u.Unit)
	m.show(u)
	delete(m.units, u.Unit)
	delete(u.seg.units, u.Unit)
}

// able reports whether this node may take u, as far as it is known without
// asking the wire.
func (m *Machine) able(u *unit) bool {
	return u.want != nil && u.want.Standing == Able && u.want.Rules && m.candidate(u.seg) && slices.Contains(u.order, m.cfg.Self)
}

// best returns the peer whose claim on u is the best of the valid ones, or
// nil. Only a node's own word is a claim, and only of one that is known to
// hear us: a node that sends but hears nothing would never yield itself.
func (m *Machine) best(u *unit) *peer {
	var best *peer
	for _, p := range u.claimants {
		if p.silent || p.owed && (u.state == owning || u.state == verifying) {
			continue
		}
		if best == nil || m.compare(u, rank{p.major(u.Segment), p.claims[u.Unit], p.name}, rank{best.major(u.Segment), best.claims[u.Unit], best.name}) {
			best = p
		}
	}
	return best
}

// A rank is what claims are ordered by.
type rank struct {
	major bool
	epoch uint32
	node  string
}

// compare reports whether claim a on u beats claim b.
func (m *Machine) compare(u *unit, a, b rank) bool {
	if a.major != b.major && m.on(ruleMajority) {
		return a.major
	}
	if a.epoch != b.epoch {
		return a.epoch > b.epoch
	}
	return m.on(ruleTie) && heavier(u.want.Key, a.node, b.node)
}

func (m *Machine) beaten(u *unit, by *peer) bool {
	return m.compare(u, rank{by.major(u.Segment), by.claims[u.Unit], by.name}, rank{u.seg.major, u.epoch, m.cfg.Self})
}

// settle brings u into the state that follows from the claims that are known.
func (m *Machine) settle(u *unit) {
	if u.want == nil {
		return
	}
	best := m.best(u)
	if u.state == owning || u.state == verifying {
		switch {
		case best == nil:
			for _, p := range u.claimants {
				if p.silent && p.wired > 0 && m.now-p.wired < contestEnd && u.rival == nil {
					m.challenge(u, p) // it can be heard, and answers on the wire
					m.repeat(u)
				}
			}
		case best == u.giver:
		case u.hand.to == best.name || m.beaten(u, best):
			m.stop(u, best)
			m.rest(u, best)
		default:
			m.defend(u, best)
		}
		return
	}
	if best != nil {
		m.rest(u, best)
		return
	}
	if m.loose[u.Unit] == nil {
		m.loose[u.Unit] = u
		m.rerank = true
		m.show(u)
		u.orphaned = m.now
		if u.prev != nil && u.prev.silent {
			u.orphaned = u.prev.heard
		}
	}
	switch able := m.able(u); {
	case able && u.state == idle:
		u.state, u.waitFrom, u.yielded = waiting, m.now, false
		m.rerank = true
	case !able && u.state != idle:
		m.withdraw(u)
	}
}

// rest leaves u to its owner.
func (m *Machine) rest(u *unit, owner *peer) {
	if u.state != idle {
		m.withdraw(u)
	}
	if m.loose[u.Unit] != nil || u.prev != owner {
		m.show(u)
	}
	delete(m.loose, u.Unit)
	u.prev, u.from = owner, nil
}

// withdraw ends waiting and probing.
func (m *Machine) withdraw(u *unit) {
	m.leaveWitness(u)
	m.timers.set(u, 0)
	u.state, u.yielded = idle, false
	m.deafen(u)
}

// listen makes sure that others' probes for u are heard.
func (m *Machine) listen(u *unit) {
	if !u.listens {
		u.listens = true
		m.do(Listen{u.Unit})
	}
}

// deafen ends listening and answering.
func (m *Machine) deafen(u *unit) {
	if u.listens {
		u.listens = false
		m.do(Answer{u.Unit, false})
	}
}

// wait makes u wait for a reason that is not its rank.
func (m *Machine) wait(u *unit, d time.Duration) {
	m.leaveWitness(u)
	u.state, u.yielded = waiting, true
	m.timers.set(u, m.after(d))
}

// expired is called when the timer of u runs out.
func (m *Machine) expired(u *unit) {
	switch u.state {
	case waiting:
		m.ripe = append(m.ripe, u)
	case owning:
		m.contest(u)
	}
}

// own makes this node the owner.
func (m *Machine) own(u *unit, epoch uint32, cause Cause) {
	m.leaveWitness(u)
	m.timers.set(u, 0)
	delete(m.loose, u.Unit)
	m.mine[u.Unit] = u
	u.seg.mine++
	u.from = nil
	if cause == Silence {
		u.from, u.prev.robbed = u.prev, true
	}
	u.state, u.epoch, u.high = owning, epoch, max(u.high, epoch)
	u.yielded, u.rival, u.foreign, u.took = false, nil, cluster.MAC{}, m.now
	u.listens = true
	m.changed(u.Unit)
	m.show(u)
	m.do(Answer{u.Unit, true})
	m.ann.start(u, m.now)
	r := Report{What: Took, Unit: u.Unit, Cause: cause, After: m.now - u.orphaned}
	if u.prev != nil {
		r.Peer = u.prev.name
	}
	m.do(r)
}

// next returns the epoch of a new claim on u. It never wraps: at the end it
// stays, and weight decides.
func (u *unit) next(than uint32) uint32 {
	e := max(u.high, than)
	if e < math.MaxUint32 {
		e++
	}
	return e
}

// stop ends this node's ownership without a farewell: a last frame would pull
// traffic back from the new owner.
func (m *Machine) stop(u *unit, to *peer) {
	delete(m.mine, u.Unit)
	u.seg.mine--
	m.leaveWitness(u)
	m.timers.set(u, 0)
	m.ann.cancel(u)
	m.noLeaver(u)
	u.state, u.rival, u.giver, u.prev = idle, nil, nil, to
	u.yielded = false
	m.changed(u.Unit)
	m.show(u)
	m.deafen(u)
	r := Report{What: Released, Unit: u.Unit}
	if to != nil {
		r.Peer = to.name
	}
	m.do(r)
}

// defend is called when a peer claims what this node has the better claim on.
func (m *Machine) defend(u *unit, p *peer) {
	if m.now-p.knocked >= pullGap {
		m.hello(p) // it pulls what it has missed
	}
	m.repeat(u)
}

// repeat announces u again, because another node's announcement may have been
// the last that the segment heard.
func (m *Machine) repeat(u *unit) {
	if u.state == owning && m.on(ruleDefend) && m.now-u.defended >= defendGap {
		u.defended = m.now
		m.ann.start(u, m.now)
	}
}

// announceAgainst announces, after a peer has come back, all that it may have
// announced meanwhile, if its set has come as a whole and so does not tell. (In
// the usual case the changes tell, and each is answered by itself.)
func (m *Machine) announceAgainst(p *peer) {
	if p.whole && m.on(ruleReturn) {
		for _, u := range sortedUnits(m.mine) {
			if p.on(u.Segment) {
				m.repeat(u)
			}
		}
	}
	p.robbed, p.whole = false, false
}

// frame takes a frame about a VIP from the wire.
func (m *Machine) frame(f Frame) {
	s := m.segs[f.Unit.Segment]
	if s == nil || !s.on || m.self[f.MAC] {
		return
	}
	m.life(s)
	u := m.units[f.Unit]
	if u == nil {
		return
	}
	p := m.byMAC[f.MAC]
	switch {
	case f.Kind == Answering:
		m.answered(u, p, f)
	case p == nil:
		m.foreigner(u, f)
	case f.Kind == Announcing:
		m.announced(u, p)
	}
}

// announced is called when a peer announces u.
func (m *Machine) announced(u *unit, p *peer) {
	switch u.state {
	case owning, verifying:
		if p.silent {
			m.challenge(u, p)
		}
		if m.now-p.knocked >= pullGap {
			m.hello(p)
		}
		m.repeat(u)
	case waiting, probing:
		switch {
		case !p.silent:
			u.prev = p
			m.wait(u, garpYield)
			m.pull(p)
		case p != u.prev: // ask it: a node that hears nothing announces for a while, too
			u.prev = p
			m.wait(u, probeGap)
		}
	case idle:
		if m.loose[u.Unit] != nil {
			u.prev = p
		}
	}
}

func (m *Machine) pull(p *peer) {
	if !p.silent && m.now-p.pulled >= pullGap {
		p.pulled = m.now
		m.do(Send{p.name, Pull{p.boot, p.ver}})
	}
}

// challenge begins to find out whether a silent peer that owns u too can be
// settled with on the wire; gossip gets a little time first.
func (m *Machine) challenge(u *unit, p *peer) {
	if u.state == owning && u.rival == nil && m.on(ruleContest) {
		u.rival, u.contested = p, m.now
		m.timers.set(u, m.after(contestAsk))
	}
}

// contest asks a silent peer that announced u over the wire whether it hears
// us there. If it answers, both know of each other and the lighter one stops.
func (m *Machine) contest(u *unit) {
	if u.rival == nil {
		return
	}
	if !u.rival.silent || m.now-u.contested > contestEnd {
		u.rival = nil
		return
	}
	if m.now-u.contested <= contestAsk+time.Millisecond {
		m.do(Report{What: Contested, Unit: u.Unit, Peer: u.rival.name})
	}
	if mac, ok := u.rival.mac(u.Segment); ok {
		m.do(Probe{u.Unit, mac})
	}
	m.timers.set(u, m.after(2*probeGap))
}

// foreigner is called when a machine that is no node of the cluster announces
// u or asks for it because it wants to use it. It is told, and at most every
// ten seconds contradicted (RFC 5227 section 2.4 b).
func (m *Machine) foreigner(u *unit, f Frame) {
	if !f.Stranger {
		return
	}
	if u.foreign == f.MAC && m.now-u.foreignAt < foreignHold {
		return
	}
	u.foreign, u.foreignAt = f.MAC, m.now
	m.show(u)
	m.do(Report{What: Conflict, Unit: u.Unit, MAC: f.MAC})
	switch u.state {
	case owning:
		if f.Kind == Announcing {
			m.ann.once(u, m.now)
		}
	case waiting, probing:
		m.wait(u, foreignHold)
	}
}
