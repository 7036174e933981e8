package ownership

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A peer is what this node knows of another one.
type peer struct {
	name  string
	given Peer // by the API server

	boot, oldBoot uint64 // of its agent; the one before, whose late messages are ignored
	facts         Facts
	claims        map[Unit]uint32 // its own word: unit → epoch
	load          map[netip.Prefix]int
	ver           uint64 // claims are its set of this version
	latest        uint64 // the newest version it has spoken of
	known         bool   // ver is latest, in its present boot
	partial       partial
	ahead         map[uint64]Set // changes that came too early, by the version they build on
	pulled        time.Duration

	heard    time.Duration // when the last HELLO that it answered was sent
	patience time.Duration
	silent   bool
	since    time.Duration // of silent
	watched  bool          // by this node
	checking bool          // not watched, but somebody doubts that it lives
	checked  time.Duration // since when
	verdicts map[string]time.Duration
	knocked  time.Duration

	// It is back, but what it published meanwhile is not here yet: its old claims
	// beat nothing.
	owed   bool
	whole  bool          // its set has come as a whole since it fell silent: what it claimed meanwhile is not told
	wired  time.Duration // when it last answered on the wire while silent
	robbed bool          // this node has taken units from it
	held   time.Duration // how long its units were left alone at last because it answers on the wire
}

// on reports whether the peer has a link in the segment, by its own word or,
// as long as it is silent, by the API server's.
func (p *peer) on(segment netip.Prefix) bool {
	if _, ok := p.given.Links[segment]; ok {
		return true
	}
	return slices.ContainsFunc(p.facts.Segments, func(s Presence) bool { return s.Segment == segment })
}

func (p *peer) mac(segment netip.Prefix) (cluster.MAC, bool) {
	for _, s := range p.facts.Segments {
		if s.Segment == segment && len(s.MACs) > 0 {
			return s.MACs[0], true
		}
	}
	if macs := p.given.Links[segment]; len(macs) > 0 {
		return macs[0], true
	}
	return cluster.MAC{}, false
}

func (p *peer) major(segment netip.Prefix) bool {
	for _, s := range p.facts.Segments {
		if s.Segment == segment {
			return s.Majority
		}
	}
	return false
}

// nodes takes the list of nodes.
func (m *Machine) nodes(ev Nodes) {
	m.told = true
	m.recount, m.rerank = true, true
	for _, p := range slices.Clone(m.sorted) {
		if _, ok := ev[p.name]; !ok {
			m.forget(p)
		}
	}
	for name, given := range ev {
		if name == m.cfg.Self {
			continue
		}
		p := m.peers[name]
		if p == nil {
			p = &peer{name: name, claims: map[Unit]uint32{}, load: map[netip.Prefix]int{}, verdicts: map[string]time.Duration{}, heard: m.now}
			m.peers[name] = p
			m.sorted = append(m.sorted, p)
		}
		p.given = given
	}
	slices.SortFunc(m.sorted, func(a, b *peer) int { return strings.Compare(a.name, b.name) })
	m.large = len(m.sorted) > watchAll
	for _, p := range m.sorted {
		if p.patience == 0 {
			p.patience = m.cfg.Silence + time.Duration(m.rng.Int64N(int64(silenceJitter)))
		}
		watched := !m.large || m.watches(p)
		if watched && !p.watched {
			p.heard = max(p.heard, m.now) // it was not asked until now
		}
		p.watched = watched
	}
	m.indexMACs()
	m.nextHello = m.now
}

func (m *Machine) indexMACs() {
	clear(m.byMAC)
	for _, p := range m.sorted {
		for _, macs := range p.given.Links {
			for _, mac := range macs {
				m.byMAC[mac] = p
			}
		}
	}
	for _, p := range m.sorted {
		for _, s := range p.facts.Segments {
			for _, mac := range s.MACs {
				m.byMAC[mac] = p
			}
		}
	}
}

// watches reports whether this node is one of those that watch p.
func (m *Machine) watches(p *peer) bool {
	before := 0
	for _, other := range m.sorted {
		if other != p && heavier(p.name, other.name, m.cfg.Self) {
			before++
		}
	}
	return before < watchers
}

// forget drops a node that does not exist any more.
func (m *Machine) forget(p *peer) {
	delete(m.peers, p.name)
	m.sorted = slices.DeleteFunc(m.sorted, func(o *peer) bool { return o == p })
	p.silent = true
	m.dropClaims(p)
	for _, u := range m.units {
		if u.prev == p {
			u.prev = nil
		}
		if u.rival == p {
			u.rival = nil
		}
	}
}

// received takes a message. One from a node that the API server has not told
// of yet is dropped: it will say it again.
func (m *Machine) received(ev Received) {
	p := m.peers[ev.From]
	if p == nil {
		return
	}
	switch msg := ev.Message.(type) {
	case Hello:
		if !m.note(p, msg.Boot, msg.Version) {
			return
		}
		m.do(Send{p.name, Ack{m.cfg.Boot, m.pub.version, msg.Stamp}})
		if p.silent && m.on(ruleKnock) && m.now-p.knocked >= pullGap {
			m.hello(p) // ask for the proof that it hears us too
		}
	case Ack:
		m.ack(p, msg)
	case Pull:
		m.pulledBy(p, msg)
	case Set:
		m.set(p, msg)
	case Handover:
		m.handover(p, msg)
	case Reply:
		m.reply(p, msg)
	case Verdict:
		m.verdict(p, msg)
	}
}

// adopt makes boot the present one of p. It returns false for a message that a
// former agent of that node has sent.
func (m *Machine) adopt(p *peer, boot uint64) bool {
	if boot == p.boot {
		return true
	}
	if boot == p.oldBoot {
		return false
	}
	p.oldBoot, p.boot = p.boot, boot
	p.ver, p.latest, p.known, p.owed, p.partial, p.ahead = 0, 0, false, false, partial{}, nil
	p.facts.Ready = false
	if m.on(ruleBoot) {
		m.dropClaims(p)
	}
	m.rerank = true
	return true
}

// note takes what every sign of life says: which set its sender has. It
// returns false if the message is to be ignored.
func (m *Machine) note(p *peer, boot, version uint64) bool {
	if !m.adopt(p, boot) {
		return false
	}
	p.latest = max(p.latest, version)
	m.matched(p)
	return true
}

// matched pulls the set of p if a newer one exists.
func (m *Machine) matched(p *peer) {
	if p.known = p.ver == p.latest; !p.known {
		if m.on(rulePull) && m.now-p.pulled >= pullGap {
			p.pulled = m.now
			m.do(Send{p.name, Pull{p.boot, p.ver}})
		}
		return
	}
	if p.owed && !p.silent {
		p.owed = false
		for _, unit := range sortedClaims(p) {
			if u := m.units[unit]; u != nil {
				m.settle(u)
			}
		}
		m.announceAgainst(p)
	}
}

// missed reports whether p has published what is not here.
func (p *peer) missed() bool { return !p.silent && !p.known && p.boot != 0 }

// pulls asks again for sets that did not come.
func (m *Machine) pulls() {
	for _, p := range m.sorted {
		if p.missed() {
			m.matched(p)
		}
	}
}

func (m *Machine) hello(p *peer) {
	p.knocked = m.now
	m.do(Send{p.name, Hello{m.cfg.Boot, m.pub.version, m.now}})
}

// hellos asks for signs of life: the living every 100 ms, the silent twice as
// often, because the time in which two nodes may answer for one VIP ends with
// the first round trip after a heal.
func (m *Machine) hellos() {
	if m.now < min(m.nextHello, m.nextKnock) {
		return
	}
	m.nextKnock = m.after(knockEvery)
	if m.now < m.nextHello {
		for _, p := range m.sorted {
			// Who has not answered the last HELLO is asked again: one packet that is
			// lost must not use up what a stall may last.
			if p.silent && m.knocks(p) || !p.silent && p.watched && m.now-p.heard > knockEvery+pullGap/2 {
				m.hello(p)
			}
		}
		return
	}
	m.nextHello = m.after(helloEvery)
	m.recount = true
	if m.large && m.on(ruleKnock) {
		for range min(rotation, len(m.sorted)) {
			m.rotate = (m.rotate + 1) % len(m.sorted)
			m.check(m.sorted[m.rotate])
		}
	}
	for _, p := range m.sorted {
		if !p.silent && (p.watched || p.checking) || p.silent && m.knocks(p) {
			m.hello(p)
		}
	}
	m.askAround()
}

// knocks reports whether HELLO goes on to a silent peer. A peer that comes
// back is noticed by nothing else, and until then two nodes may answer for one
// VIP.
func (m *Machine) knocks(p *peer) bool {
	return m.on(ruleKnock) && (p.watched || p.robbed || p.checking)
}

// check makes this node look after a peer that others watch, until it answers.
func (m *Machine) check(p *peer) {
	if !p.checking && !p.watched {
		p.checking, p.checked = true, m.now
	}
}

func (m *Machine) ack(p *peer, msg Ack) {
	stamp := msg.Echo
	if stamp > m.now || !m.note(p, msg.Boot, msg.Version) {
		return // the answer to a HELLO of a former agent of this node
	}
	p.heard = max(p.heard, stamp)
	if p.checking && stamp >= p.checked {
		p.checking = false
	}
	if m.now-stamp >= m.cfg.Silence {
		return
	}
	for _, s := range m.segs {
		if s.on && s.prefix.Contains(p.given.Addr) {
			m.life(s)
		}
	}
	if p.silent {
		m.back(p)
	}
}

// deadline returns when the peer's silence will have lasted too long.
func (p *peer) deadline() (time.Duration, bool) {
	switch {
	case p.silent:
		return 0, false
	case p.watched:
		return p.heard + p.patience, true
	case p.checking:
		return max(p.heard, p.checked) + p.patience, true
	}
	return 0, false
}

func (m *Machine) silences() {
	for _, p := range m.sorted {
		if t, ok := p.deadline(); ok && m.now > t {
			m.silence(p, p.watched)
		}
	}
}

func (m *Machine) silence(p *peer, tell bool) {
	p.silent, p.since, p.owed, p.whole, p.wired = true, m.now, false, false, 0
	m.recount, m.rerank = true, true
	m.do(Report{What: PeerSilent, Peer: p.name})
	if m.large && tell {
		m.tellVerdict(p)
	}
	for _, unit := range sortedClaims(p) {
		if u := m.units[unit]; u != nil {
			m.settle(u)
		}
	}
}

// back takes a peer as alive again: it hears us and we hear it.
func (m *Machine) back(p *peer) {
	p.silent, p.owed, p.held = false, true, 0
	clear(p.verdicts)
	m.recount, m.rerank = true, true
	m.do(Report{What: PeerBack, Peer: p.name})
	m.hello(p)
	if m.large {
		m.tellVerdict(p)
		if m.on(ruleKnock) {
			for _, o := range m.sorted { // where one comes back, more do: a partition has healed
				if o.silent {
					m.check(o)
					m.hello(o)
				}
			}
		}
	}
	for _, unit := range sortedClaims(p) {
		if u := m.units[unit]; u != nil {
			m.settle(u)
		}
	}
	m.matched(p)
}

func (m *Machine) tellVerdict(p *peer) {
	for _, o := range m.sorted {
		if o != p && !o.silent {
			m.do(Send{o.name, Verdict{p.name, p.silent}})
		}
	}
}

// verdict takes a watcher's word. Two watchers are believed; after one, this
// node looks for itself.
func (m *Machine) verdict(from *peer, v Verdict) {
	p := m.peers[v.Name]
	if p == nil || from.silent || p == from || p.watched {
		return
	}
	if !v.Silent {
		delete(p.verdicts, from.name)
		if p.silent {
			m.check(p)
			m.hello(p)
		}
		return
	}
	p.verdicts[from.name] = m.now
	if p.silent {
		return
	}
	n := 0
	for _, at := range p.verdicts {
		if m.now-at < verdictFor {
			n++
		}
	}
	if m.check(p); n >= 2 && m.now-p.heard > m.cfg.Silence/2 {
		m.silence(p, false)
	}
}

// wireBack is called when a silent peer answers on the wire. If it did not
// before, a link has healed while gossip stays closed, and both may own the
// same units: the wire must settle that.
func (m *Machine) wireBack(p *peer) {
	before := p.wired
	p.wired = m.now
	if before > 0 && m.now-before < contestEnd || !m.on(ruleContest) {
		return
	}
	for _, u := range sortedUnits(m.mine) {
		if _, claimed := p.claims[u.Unit]; u.state == owning && (claimed || u.from == p) {
			m.challenge(u, p)
			m.repeat(u)
		}
	}
}
