package ownership

import (
	"maps"
	"slices"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A publisher keeps the versions of this node's own set.
type publisher struct {
	version uint64
	dirty   map[Unit]bool // whose claim has changed since version
	facts   bool          // the facts have changed
	log     []Set         // the last changes; the last one leads to version
	again   []again
	whole   map[string]time.Duration // to whom the whole set was sent, when
}

// again is a change that is sent a second time, in clusters so large that a
// peer which missed it would learn of it only seconds later.
type again struct {
	at  time.Duration
	set Set
}

// partial is a whole set of a peer of which not all parts have come.
type partial struct {
	version uint64
	parts   []bool
	missing int
	seen    map[Unit]bool
}

func sortedClaims(p *peer) []Unit {
	return slices.SortedFunc(maps.Keys(p.claims), compareUnits)
}

func (m *Machine) changed(u Unit) {
	if m.pub.dirty == nil {
		m.pub.dirty = map[Unit]bool{}
	}
	m.pub.dirty[u] = true
}

func (m *Machine) ownFacts() Facts {
	f := Facts{Ready: m.listened, Draining: m.draining}
	for _, s := range m.sortedSegments() {
		if s.on && len(f.Segments) < maxSegments-8 {
			f.Segments = append(f.Segments, Presence{s.prefix, s.link.Up, s.major, slices.Clone(s.link.MACs[:min(len(s.link.MACs), maxMACs)])})
		}
	}
	return f
}

func (m *Machine) claim(u Unit) Claim {
	if own := m.mine[u]; own != nil {
		return Claim{Unit: u, Epoch: own.epoch}
	}
	return Claim{Unit: u, Released: true}
}

// publish tells every peer what has changed in this step.
func (m *Machine) publish() {
	for len(m.pub.again) > 0 && m.pub.again[0].at <= m.now {
		m.tell(m.pub.again[0].set)
		m.pub.again = m.pub.again[1:]
	}
	if len(m.pub.dirty) == 0 && !m.pub.facts {
		return
	}
	facts := m.ownFacts()
	units := slices.SortedFunc(maps.Keys(m.pub.dirty), compareUnits)
	clear(m.pub.dirty)
	m.pub.facts = false
	for first := true; first || len(units) > 0; first = false {
		n := min(len(units), claimsPerSet(facts))
		s := Set{Boot: m.cfg.Boot, Base: m.pub.version, Version: m.pub.version + 1, Facts: facts}
		for _, u := range units[:n] {
			s.Claims = append(s.Claims, m.claim(u))
		}
		units = units[n:]
		m.pub.version++
		m.pub.log = append(m.pub.log, s)
		m.tell(s)
		if m.large {
			m.pub.again = append(m.pub.again, again{m.after(resendAfter), s})
		}
	}
	if n := len(m.pub.log) - m.cfg.log; n > 0 {
		m.pub.log = slices.Clone(m.pub.log[n:])
	}
}

func (m *Machine) tell(s Set) {
	for _, p := range m.sorted {
		if !p.silent {
			m.do(Send{p.name, s})
		}
	}
}

// pulledBy answers with the changes that a peer has missed, or with the whole
// set if they are no longer known.
func (m *Machine) pulledBy(p *peer, msg Pull) {
	if msg.Boot == m.cfg.Boot && len(m.pub.log) > 0 && msg.Have >= m.pub.log[0].Base {
		for _, s := range m.pub.log {
			if s.Base >= msg.Have {
				m.do(Send{p.name, s})
			}
		}
		return
	}
	if m.pub.whole == nil {
		m.pub.whole = map[string]time.Duration{}
	}
	if at, ok := m.pub.whole[p.name]; ok && m.now-at < pullGap {
		return
	}
	m.pub.whole[p.name] = m.now
	// A claim that changed in this very step belongs to the next version.
	facts := m.ownFacts()
	units := slices.SortedFunc(maps.Keys(m.mine), compareUnits)
	per := claimsPerSet(facts)
	count := max(1, (len(units)+per-1)/per)
	for i := range count {
		s := Set{Boot: m.cfg.Boot, Version: m.pub.version, Index: uint16(i), Count: uint16(count), Facts: facts}
		for _, u := range units[i*per : min(len(units), (i+1)*per)] {
			s.Claims = append(s.Claims, m.claim(u))
		}
		m.do(Send{p.name, s})
	}
}

// set takes a peer's own word on what it owns.
func (m *Machine) set(p *peer, s Set) {
	if !m.adopt(p, s.Boot) {
		return
	}
	p.latest = max(p.latest, s.Version)
	switch {
	case s.Count > 0:
		m.part(p, s)
	case s.Version <= p.ver || s.Version <= p.partial.version:
		return // known, or older than what is known
	case s.Base > p.ver:
		if p.ahead == nil {
			p.ahead = map[uint64]Set{}
		}
		if len(p.ahead) < m.cfg.log {
			p.ahead[s.Base] = s
		}
	default:
		p.ver = s.Version
		m.apply(p, s)
	}
	for { // what had overtaken it
		next, ok := p.ahead[p.ver]
		if !ok {
			break
		}
		delete(p.ahead, p.ver)
		p.ver = next.Version
		m.apply(p, next)
	}
	m.matched(p)
}

// part takes one part of a whole set. What it claims holds at once; what it
// lacks is given up when all parts are here.
func (m *Machine) part(p *peer, s Set) {
	if s.Version < p.ver || s.Version == p.ver && p.known || s.Version < p.partial.version {
		return
	}
	if s.Version != p.partial.version || int(s.Count) != len(p.partial.parts) {
		p.partial = partial{version: s.Version, parts: make([]bool, s.Count), missing: int(s.Count), seen: map[Unit]bool{}}
	}
	if p.partial.parts[s.Index] {
		return
	}
	p.partial.parts[s.Index] = true
	p.partial.missing--
	for _, c := range s.Claims {
		p.partial.seen[c.Unit] = true
	}
	if p.partial.missing == 0 {
		for _, u := range sortedClaims(p) {
			if !p.partial.seen[u] {
				s.Claims = append(s.Claims, Claim{Unit: u, Released: true})
			}
		}
		p.ver, p.partial, p.whole = s.Version, partial{}, true
		for base := range p.ahead {
			if base < p.ver {
				delete(p.ahead, base)
			}
		}
	}
	m.apply(p, s)
}

// maxClaims bounds what a peer can make this node remember.
const maxClaims = 1 << 16

func (m *Machine) apply(p *peer, s Set) {
	majors := map[*segment]bool{}
	for _, seg := range m.segs {
		majors[seg] = p.major(seg.prefix)
	}
	p.facts = s.Facts
	m.indexPeerMACs(p)
	m.recount, m.rerank = true, true
	for _, c := range s.Claims {
		if c.Released {
			if u := m.units[c.Unit]; u != nil && u.giver != p {
				m.repeat(u) // p has claimed it, so it may have announced it
			}
			m.dropClaim(p, c.Unit)
		} else if len(p.claims) < maxClaims {
			m.addClaim(p, c)
		}
	}
	for _, c := range s.Claims {
		if u := m.units[c.Unit]; u != nil {
			m.settle(u)
		}
	}
	for _, seg := range m.sortedSegments() {
		if p.major(seg.prefix) == majors[seg] {
			continue
		}
		for _, unit := range sortedClaims(p) { // its claims on the segment weigh differently now
			if u := m.units[unit]; u != nil && u.seg == seg {
				m.settle(u)
			}
		}
	}
}

func (m *Machine) indexPeerMACs(p *peer) {
	for _, s := range p.facts.Segments {
		for _, mac := range s.MACs {
			if mac != (cluster.MAC{}) && m.byMAC[mac] != p {
				m.byMAC[mac] = p
			}
		}
	}
}

func (m *Machine) addClaim(p *peer, c Claim) {
	if _, had := p.claims[c.Unit]; !had {
		p.load[c.Unit.Segment]++
	}
	p.claims[c.Unit] = c.Epoch
	u := m.units[c.Unit]
	if u == nil {
		return
	}
	u.high = max(u.high, c.Epoch)
	if !slices.Contains(u.claimants, p) {
		u.claimants = append(u.claimants, p)
	}
}

func (m *Machine) dropClaim(p *peer, unit Unit) {
	if _, had := p.claims[unit]; !had {
		return
	}
	delete(p.claims, unit)
	p.load[unit.Segment]--
	if u := m.units[unit]; u != nil {
		u.claimants = slices.DeleteFunc(u.claimants, func(o *peer) bool { return o == p })
		if u.giver == p {
			u.giver = nil
		}
	}
}

func (m *Machine) dropClaims(p *peer) {
	units := sortedClaims(p)
	for _, u := range units {
		m.dropClaim(p, u)
	}
	for _, unit := range units {
		if u := m.units[unit]; u != nil {
			m.settle(u)
		}
	}
}
