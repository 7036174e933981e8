package ownership

import (
	"net/netip"
	"slices"
	"time"
)

// A wire is a link of this node. The segments on it share what is heard, and
// their gateways testify for each other.
type wire struct {
	name  string
	heard time.Duration // last frame or answer from another machine
	deaf  bool          // something was not done because nothing is heard
	tense time.Duration // since when others must be asked for life; 0 if not

	gateway      bool // one has answered before
	gatewayHeard time.Duration
	gatewayAsked time.Duration
}

// A segment is what this node knows of one, be it on it or not.
type segment struct {
	prefix netip.Prefix
	on     bool
	link   Link
	wire   *wire
	upAt   time.Duration
	units  map[Unit]*unit // wanted
	mine   int            // of those, owned by this node

	major bool          // as published
	turn  time.Duration // since when it differs from what is computed; 0 if it does not
}

func (m *Machine) segment(prefix netip.Prefix) *segment {
	s := m.segs[prefix]
	if s == nil {
		s = &segment{prefix: prefix, units: map[Unit]*unit{}, wire: &wire{}}
		m.segs[prefix] = s
	}
	return s
}

func (m *Machine) sortedSegments() []*segment {
	ss := make([]*segment, 0, len(m.segs))
	for _, s := range m.segs {
		ss = append(ss, s)
	}
	slices.SortFunc(ss, func(a, b *segment) int { return a.prefix.Compare(b.prefix) })
	return ss
}

// links takes the state of this node's own links.
func (m *Machine) links(ev Links) {
	for prefix := range ev {
		m.segment(prefix)
	}
	clear(m.self)
	for _, l := range ev {
		for _, mac := range l.MACs {
			m.self[mac] = true
		}
	}
	for _, s := range m.sortedSegments() {
		link, on := ev[s.prefix]
		if on && m.wires[link.Name] == nil {
			m.wires[link.Name] = &wire{name: link.Name, heard: m.now}
		}
		wasUp := s.on && s.link.Up
		changed := on != s.on || link.Up != s.link.Up || !slices.Equal(link.MACs, s.link.MACs)
		if link.Gateway != s.link.Gateway {
			s.wire.gateway = false
		}
		s.on, s.link = on, link
		if on {
			s.wire = m.wires[link.Name]
		}
		if !changed {
			continue
		}
		m.pub.facts = true
		m.rerank = true
		m.recount = true
		isUp := on && link.Up
		switch {
		case wasUp && !isUp:
			m.linkLost(s)
		case !wasUp && isUp:
			m.linkBack(s)
		}
	}
}

// linkLost gives up the units of a segment at once: nobody hears this node
// there. If peers can be reached over another link, they take over now.
func (m *Machine) linkLost(s *segment) {
	for _, u := range sortedUnits(s.units) {
		if u.state == owning || u.state == verifying {
			m.stop(u, nil)
		}
		m.settle(u)
	}
}

// linkBack looks at every unit again. What was owned before is not taken back
// by right: the others may have it by now.
func (m *Machine) linkBack(s *segment) {
	s.upAt = m.now
	m.nextHello = m.now
	for _, u := range sortedUnits(s.units) {
		m.settle(u)
	}
}

// heard takes a sign of life from a segment.
func (m *Machine) heard(ev Heard) {
	s := m.segs[ev.Segment]
	if s == nil || !s.on {
		return
	}
	if ev.From.IsValid() && ev.From == s.link.Gateway {
		s.wire.gateway, s.wire.gatewayHeard = true, m.now
	}
	for _, p := range m.sorted {
		if p.silent && ev.From.IsValid() && ev.From == p.given.Addr {
			m.wireBack(p)
		}
	}
	m.life(s)
}

func (m *Machine) life(s *segment) {
	s.wire.heard = m.now
	if s.wire.deaf {
		s.wire.deaf = false
		m.reconsider()
	}
}

// alive reports whether this node hears the segment. It is believed to if
// there is nobody who could be heard.
func (m *Machine) alive(s *segment) bool {
	if !m.on(ruleDeaf) {
		return true
	}
	if m.now-s.wire.heard <= deafAfter && s.wire.heard >= s.upAt {
		return true
	}
	if w := s.wire; w.gateway && (w.tense == 0 || w.gatewayHeard > w.tense-gatewayLag) {
		return false
	}
	silent := 0
	for _, p := range m.sorted {
		if s.wireHolds(m, p) {
			if !p.silent {
				return false // it would have been heard
			}
			silent++
		}
	}
	// Without a gateway, two peers that fall silent together point at this
	// node, one does not: in a cluster of two each would wait for the other.
	return silent < 2 || m.now-s.wire.heard > lonelyFor
}

// wireHolds reports whether gossip with p travels over the segment's link.
func (s *segment) wireHolds(m *Machine, p *peer) bool {
	for _, other := range m.segs {
		if other.on && other.wire == s.wire && other.prefix.Contains(p.given.Addr) {
			return true
		}
	}
	return false
}

// mute reports whether announcing must wait because nothing is heard although
// it was asked for.
func (m *Machine) mute(s *segment) bool {
	return s.wire.tense > 0 && m.now-s.wire.tense > muteAfter && !m.alive(s)
}

// gatewayAlive reports whether the gateway counts as seen.
func (m *Machine) gatewayAlive(w *wire) bool {
	limit := gatewayLag
	if w.tense > 0 && m.now-w.tense > gatewayOK {
		limit = gatewayOK
	}
	return w.gateway && m.now-w.gatewayHeard < limit
}

// askAround asks gateways and silent peers over the wire. It runs with every
// round of hellos.
func (m *Machine) askAround() {
	for _, s := range m.sortedSegments() {
		if s.on && s.wire.deaf && m.alive(s) {
			s.wire.deaf = false
			m.reconsider()
		}
	}
	for _, w := range m.wires {
		if !m.tenseNow(w) {
			w.tense = 0
		} else if w.tense == 0 {
			w.tense = m.now
		}
	}
	for _, s := range m.sortedSegments() {
		if !s.on || !s.link.Up {
			continue
		}
		if s.wire.tense > 0 || m.now-s.wire.gatewayAsked >= time.Second || s.wire.gatewayAsked == m.now {
			m.askGateway(s)
		}
		asked := 0
		for _, p := range m.sorted {
			if mac, ok := p.mac(s.prefix); ok && p.silent && s.prefix.Contains(p.given.Addr) && m.knocks(p) && asked < 2*watchers {
				asked++
				m.do(Ask{Segment: s.prefix, Target: p.given.Addr, To: mac})
			}
		}
	}
}

func (m *Machine) askGateway(s *segment) {
	if s.link.Gateway.IsValid() {
		s.wire.gatewayAsked = m.now
		m.do(Ask{Segment: s.prefix, Target: s.link.Gateway})
	}
}

// tenseNow reports whether something may be wrong on the wire.
func (m *Machine) tenseNow(w *wire) bool {
	if w.deaf {
		return true
	}
	for _, asked := range m.witnesses {
		if asked.seg.wire == w {
			return true
		}
	}
	for _, p := range m.sorted {
		if p.silent && m.now-p.since < tenseFor && m.reaches(w, p) {
			return true
		}
	}
	return false
}

// reaches reports whether p is on the wire, by its links or by its address.
func (m *Machine) reaches(w *wire, p *peer) bool {
	for _, s := range m.segs {
		if s.on && s.wire == w && (p.on(s.prefix) || s.prefix.Contains(p.given.Addr)) {
			return true
		}
	}
	return false
}

// majorities compares what is published with what is seen. Both ways take a
// while: the gateway must be asked before the majority is given up, and who
// has just come back has not yet heard what happened.
func (m *Machine) majorities() {
	if !m.recount {
		return
	}
	m.recount = false
	for _, s := range m.sortedSegments() {
		if !s.on {
			continue
		}
		known, seen := 1, 1
		for _, p := range m.sorted {
			if p.on(s.prefix) {
				known++
				if !p.silent {
					seen++
				}
			}
		}
		if s.wire.gateway {
			known++
			if m.gatewayAlive(s.wire) {
				seen++
			}
		}
		major := 2*seen > known && s.link.Up
		switch {
		case major == s.major:
			s.turn = 0
			continue
		case !m.listened || !m.on(ruleSteady):
		case s.turn == 0:
			s.turn = m.now
			continue
		case major && m.now-s.turn < majorityGained, !major && m.now-s.turn < majorityLost:
			continue
		}
		s.major, s.turn = major, 0
		m.pub.facts = true
		if m.listened {
			n := 0
			if major {
				n = 1
			}
			m.do(Report{What: Majority, Unit: Unit{Segment: s.prefix}, Left: n})
		}
		for _, u := range sortedUnits(s.units) {
			if len(u.claimants) > 0 && (u.state == owning || u.state == verifying) {
				m.settle(u) // a contest may end the other way now
			}
		}
	}
}

// grace is called when the loop was called later than it had to, by over.
// What others did not answer meanwhile was not asked, or waits to be read.
func (m *Machine) grace(over time.Duration) {
	if !m.on(ruleGrace) {
		return
	}
	for _, p := range m.sorted {
		p.heard += over
		p.checked += over
	}
	for _, w := range m.wires {
		w.heard += over
		w.gatewayHeard += over
	}
}

// stalled is called when the loop did not run for so long that peers may have
// taken what this node owns: every unit is muted until it is known that they
// have not.
func (m *Machine) stalled(gap time.Duration) {
	m.do(Report{What: Stalled, After: gap})
	m.nextHello = m.now
	if !m.on(ruleStall) {
		return
	}
	m.do(Discard{})
	for _, s := range m.sortedSegments() {
		var us []*unit
		for _, u := range sortedUnits(s.units) {
			if u.state == owning {
				us = append(us, u)
			}
		}
		m.verify(s, us)
	}
}
