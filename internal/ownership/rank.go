package ownership

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// weight is the rendezvous weight of a node for a key: FNV-1a over both,
// then a finaliser, because FNV alone keeps the order of names that differ in
// their last letter. Every node must compute the same number for ever.
func weight(key, node string) uint64 {
	h := uint64(14695981039346656037)
	for _, s := range [2]string{key, node} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
		h = (h ^ 0xff) * 1099511628211 // a byte that no name contains ends each part
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// heavier reports whether node a comes before node b for key.
func heavier(key, a, b string) bool {
	wa, wb := weight(key, a), weight(key, b)
	return wa > wb || wa == wb && a < b
}

// byWeight returns the candidates in their order, best first.
func byWeight(key string, candidates []string) []string {
	type weighed struct {
		name string
		w    uint64
	}
	ws := make([]weighed, len(candidates))
	for i, c := range candidates {
		ws[i] = weighed{c, weight(key, c)}
	}
	slices.SortFunc(ws, func(a, b weighed) int { return cmp.Or(cmp.Compare(b.w, a.w), cmp.Compare(a.name, b.name)) })
	names := make([]string, len(ws))
	for i, w := range ws {
		names[i] = w.name
	}
	return slices.Compact(names)
}

// usable reports whether a peer may be expected to take units of a segment.
// One that has only just started may take what nobody ever owned: when a whole
// cluster starts, the first to be ready would otherwise take everything.
func (p *peer) usable(segment netip.Prefix, fresh bool) bool {
	if p.silent || p.facts.Draining || !p.facts.Ready && !(fresh && p.known) {
		return false
	}
	for _, s := range p.facts.Segments {
		if s.Segment == segment {
			return s.Up
		}
	}
	return false
}

// spread is the number of units that each usable node of a segment may own
// before others are preferred: a quarter above the mean. Rendezvous weights
// alone give the fullest of ten nodes half as much again as the mean of ten.
type spread struct {
	m       *Machine
	seg     *segment
	limit   int
	pending map[string]int
}

func (m *Machine) spread(seg *segment) *spread {
	n := 0
	if m.candidate(seg) {
		n++
	}
	for _, p := range m.sorted {
		if p.usable(seg.prefix, false) {
			n++
		}
	}
	n = max(n, 1)
	return &spread{m: m, seg: seg, limit: (5*len(seg.units) + 4*n - 1) / (4 * n), pending: map[string]int{}}
}

func (s *spread) full(node string) bool {
	if !s.m.on(ruleLoad) {
		return false
	}
	have := s.pending[node]
	if node == s.m.cfg.Self {
		have += s.seg.mine
	} else if p := s.m.peers[node]; p != nil {
		have += p.load[s.seg.prefix]
	}
	return have >= s.limit
}

// candidate reports whether this node may take units of a segment at all.
func (m *Machine) candidate(seg *segment) bool {
	return m.listened && !m.draining && seg.on && seg.link.Up
}

// rank returns how many usable candidates come before this node for a unit,
// and counts the unit as the first one's. All nodes that know the same come to
// the same answer, as they go through the units in the same order.
func (s *spread) rank(u *unit) int {
	rank, found, first := 0, false, ""
	for _, full := range [2]bool{false, true} {
		for _, name := range u.order {
			self := name == s.m.cfg.Self
			if !self {
				if p := s.m.peers[name]; p == nil || !p.usable(s.seg.prefix, u.prev == nil) {
					continue
				}
			} else if !s.m.able(u) {
				continue
			}
			if s.full(name) != full {
				continue
			}
			if first == "" {
				first = name
			}
			if self {
				found = true
			}
			if !found {
				rank++
			}
		}
	}
	if first != "" {
		s.pending[first]++
	}
	return rank
}

// rankLoose gives every waiting unit the time at which it is this node's turn.
// It costs as much as there are units without owner, so it does not follow
// each of the many messages that arrive when a large cluster starts.
func (m *Machine) rankLoose() {
	if !m.rerank || m.now < m.nextRank {
		return
	}
	m.rerank = false
	m.nextRank = m.after(rankEvery + rankPerUnit*time.Duration(len(m.loose)))
	spreads := map[*segment]*spread{}
	for _, u := range sortedUnits(m.loose) {
		s := spreads[u.seg]
		if s == nil {
			s = m.spread(u.seg)
			spreads[u.seg] = s
		}
		rank := s.rank(u)
		if !m.on(ruleRank) {
			rank = 0
		}
		if u.state == waiting && !u.yielded {
			if at := max(u.waitFrom+rankStep*time.Duration(rank), m.now+1); at != u.at {
				m.timers.set(u, at)
			}
		}
	}
}
