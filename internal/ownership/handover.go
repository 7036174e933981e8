package ownership

import (
	"slices"
	"time"
)

// handing is where the planned move of a unit stands.
type handing struct {
	wanted bool // it is to leave this node
	once   bool // only to the preferred one (rebalance)
	asked  int
	prefer string
	since  time.Duration
	to     string // asked last; empty when nobody is being asked
	at     time.Duration
	tried  []string
	rest   time.Duration // nobody took it; ask again then
}

// drain starts or ends the giving away of everything.
func (m *Machine) drain(ev Drain) {
	m.draining, m.leaving = ev.On, ev.On && ev.Leave
	m.drainEnd, m.reported = m.after(leaveLimit), false
	m.pub.facts, m.rerank = true, true
	for _, u := range sortedUnits(m.units) {
		if u.state == owning || u.state == verifying {
			m.leaver(u)
		} else {
			m.settle(u)
		}
	}
	m.handAt = m.now
}

// leaver notes whether u, which this node owns, is to leave it.
func (m *Machine) leaver(u *unit) {
	if u.state != owning && u.state != verifying {
		return
	}
	wanted := m.draining || u.want.Standing != Able
	if wanted == u.hand.wanted {
		return
	}
	u.hand = handing{wanted: wanted, since: m.now}
	m.handAt = m.now
}

func (m *Machine) noLeaver(u *unit) { u.hand = handing{} }

// handovers asks peers to take what is to leave: some tens per round, so that
// the heirs can announce each before the old owner stops.
func (m *Machine) handovers() {
	if m.handAt == 0 || m.now < m.handAt {
		return
	}
	m.handAt = 0
	var leavers []*unit
	for _, u := range sortedUnits(m.mine) {
		if u.hand.wanted {
			leavers = append(leavers, u)
		}
	}
	if m.leaving && !m.reported && (len(leavers) == 0 || m.now >= m.drainEnd) {
		m.reported = true
		for _, u := range leavers {
			m.stop(u, nil)
		}
		m.do(Report{What: Drained, Left: len(leavers)})
		return
	}
	if len(leavers) == 0 {
		return
	}
	m.handAt = m.after(handEvery)
	batches := map[string][]Claim{}
	spreads := map[*segment]*spread{}
	for _, u := range leavers {
		if !m.on(ruleHandover) {
			m.stop(u, nil)
			m.settle(u)
			continue
		}
		if u.state != owning || m.now < u.hand.rest {
			continue
		}
		if u.hand.to != "" {
			if m.now-u.hand.at < handPatience {
				continue
			}
			if !u.hand.once || u.hand.asked >= handTries {
				u.hand.tried = append(u.hand.tried, u.hand.to)
			}
			u.hand.to = ""
		}
		s := spreads[u.seg]
		if s == nil {
			s = m.spread(u.seg)
			spreads[u.seg] = s
		}
		heir := m.heir(u, s)
		switch {
		case heir == "":
			m.noHeir(u)
		case len(batches[heir]) < handChunk:
			u.hand.to, u.hand.at = heir, m.now
			u.hand.asked++
			s.pending[heir]++
			batches[heir] = append(batches[heir], Claim{Unit: u.Unit, Epoch: u.epoch})
		}
	}
	for _, p := range m.sorted {
		if cs := batches[p.name]; len(cs) > 0 {
			m.do(Send{p.name, Handover{cs}})
		}
	}
}

// heir returns the best peer that may take u and was not asked yet.
func (m *Machine) heir(u *unit, s *spread) string {
	if u.hand.once {
		if slices.Contains(u.hand.tried, u.hand.prefer) {
			return ""
		}
		return u.hand.prefer
	}
	for _, full := range [2]bool{false, true} {
		for _, name := range u.order {
			p := m.peers[name]
			if p != nil && p.usable(u.Segment, false) && !slices.Contains(u.hand.tried, name) && s.full(name) == full {
				return name
			}
		}
	}
	return ""
}

// noHeir is called when nobody takes u.
func (m *Machine) noHeir(u *unit) {
	if u.hand.once {
		u.hand = handing{}
		return
	}
	if u.hand.rest == 0 {
		m.do(Report{What: NoHeir, Unit: u.Unit})
	}
	if u.want.Standing == Unable && len(u.order) > 0 && m.now-u.hand.since >= leaveLimit {
		m.stop(u, nil)
		m.settle(u)
		return
	}
	u.hand.tried, u.hand.rest = nil, m.after(handRetry)
}

// Why a peer would not take a unit.
const (
	whyUnknown = "the node does not know the address yet"
	whyUnable  = "the node may not announce it"
	whyOwned   = "another node owns it"
	whyStale   = "the request is older than what is known"
	whyDeaf    = "nothing is heard on the segment"
)

// handover takes what an owner gives away, if it is the owner.
func (m *Machine) handover(p *peer, msg Handover) {
	yes := Reply{Yes: true}
	no := map[string][]Claim{}
	for _, c := range msg.Claims {
		u := m.units[c.Unit]
		why := ""
		switch {
		case u == nil:
			why = whyUnknown
		case u.state == owning:
		case !m.able(u) || p.silent:
			why = whyUnable
		case m.mute(u.seg):
			why = whyDeaf
		case u.state == verifying, m.best(u) != nil && m.best(u) != p:
			why = whyOwned
		case c.Epoch < u.high:
			why = whyStale
		}
		if why != "" {
			no[why] = append(no[why], c)
			continue
		}
		if u.state != owning {
			u.prev, u.orphaned = p, m.now
			m.own(u, u.next(c.Epoch), HandedOn)
			u.giver = p
		}
		yes.Claims = append(yes.Claims, Claim{Unit: c.Unit, Epoch: u.epoch})
	}
	if len(yes.Claims) > 0 {
		// The heir announces before the old owner hears that it may stop. What
		// the sender of a handover puts into one message fits any pace.
		m.announcements()
		m.do(Send{p.name, yes})
	}
	for _, why := range []string{whyUnknown, whyUnable, whyOwned, whyStale, whyDeaf} {
		if len(no[why]) > 0 {
			m.do(Send{p.name, Reply{Why: why, Claims: no[why]}})
		}
	}
}

// reply takes the answer of an heir.
func (m *Machine) reply(p *peer, msg Reply) {
	for _, c := range msg.Claims {
		u := m.units[c.Unit]
		if u == nil || u.state != owning || u.hand.to != p.name {
			continue
		}
		if msg.Yes {
			m.stop(u, p)
			m.settle(u)
			continue
		}
		if len(u.hand.tried) == 0 {
			m.do(Report{What: Refused, Unit: u.Unit, Peer: p.name, Why: msg.Why})
		}
		u.hand.tried = append(u.hand.tried, p.name)
		u.hand.to = ""
		m.handAt = m.now
	}
}

// rebalance hands units of overfull nodes to the emptiest ones. Every node
// computes the moves of all nodes and makes its own.
func (m *Machine) rebalance() {
	for _, s := range m.sortedSegments() {
		load := map[string]int{}
		if m.candidate(s) {
			load[m.cfg.Self] = 0
		}
		for _, p := range m.sorted {
			if p.usable(s.prefix, false) {
				load[p.name] = 0
			}
		}
		if len(load) == 0 {
			continue
		}
		owner := map[Unit]string{}
		for _, u := range sortedUnits(s.units) {
			name := ""
			if m.mine[u.Unit] != nil {
				name = m.cfg.Self
			} else if p := m.best(u); p != nil {
				name = p.name
			}
			if _, ok := load[name]; ok {
				load[name]++
				owner[u.Unit] = name
			}
		}
		share := (len(owner) + len(load) - 1) / len(load)
		for _, u := range sortedUnits(s.units) {
			from := owner[u.Unit]
			if from == "" || load[from] <= share {
				continue
			}
			to := ""
			for _, name := range u.order {
				if n, ok := load[name]; ok && n < share && (to == "" || n < load[to]) {
					to = name
				}
			}
			if to == "" {
				continue
			}
			load[from]--
			load[to]++
			if from == m.cfg.Self && !u.hand.wanted {
				u.hand = handing{wanted: true, once: true, prefer: to, since: m.now}
				m.handAt = m.now
			}
		}
	}
}
