package ownership

import (
	"fmt"
	"time"
)

// A judge watches a history: for how long two nodes that hear each other both
// answered for a unit (O1), for how long nobody did although somebody could
// (O2), for how long clients sent to a machine that cannot forward, and how
// often units moved.
type judge struct {
	w       *world
	on      bool
	since   time.Duration // of on
	doubles map[Unit]map[[2]int]time.Duration
	gaps    map[Unit]time.Duration
	lost    map[Unit]time.Duration
	last    map[Unit]int // owner, as seen by the clients

	double, gap, loss time.Duration // longest
	worst             [3]string
	gapsSeen          []time.Duration
	lostSeen          []time.Duration
	moves             int
	movedAway         map[int]int // moves by the node that lost the unit
	sent, bytes       int
	announced, probed int
	reports           map[What]int
	verified          int
	contested         int // units that were taken by two
	alarms            int // living peers that were taken for silent
	blind             int // units taken by who hears nobody
	late              int // answers of a node that has just woken, to questions from before
	needless          int // questions about units whose owner was known to be well
}

func (j *judge) init(w *world) {
	*j = judge{w: w, doubles: map[Unit]map[[2]int]time.Duration{}, gaps: map[Unit]time.Duration{}, lost: map[Unit]time.Duration{},
		last: map[Unit]int{}, movedAway: map[int]int{}, reports: map[What]int{}}
}

// begin starts to judge; what happened before, while the cluster started, does
// not count.
func (j *judge) begin() {
	j.init(j.w)
	j.on, j.since = true, j.w.now
	j.all()
	j.moves = 0
	clear(j.movedAway)
}

func (j *judge) report(h *host, r Report) {
	j.reports[r.What]++
	if r.What == Took && r.Cause == Verified {
		j.verified++
	}
	if r.What == Drained {
		h.leftAt = j.w.now
	}
	if r.What == Released && r.Peer != "" && !h.drained {
		j.contested++
	}
	if r.What == Took && r.Cause != Verified && j.on && !j.w.wires[j.w.link(r.Unit)][j.w.lan()][h.id] {
		j.blind++
	}
	if r.What == PeerSilent && j.on {
		if o := j.w.byName[r.Peer]; o.active() && j.w.now-o.since > 500*time.Millisecond && j.w.now-j.w.cutAt > 500*time.Millisecond && o.carrier[0] && h.carrier[0] {
			j.alarms++
		}
	}
	switch r.What {
	case Took, Released:
		j.w.trace("%s %s %s %s %s", h.name, r.What, r.Unit.VIP, r.Cause, r.Peer)
	default:
		j.w.trace("%s reports %s %s%s %v %d %s", h.name, r.What, r.Unit.VIP, r.Peer, r.After, r.Left, r.Why)
	}
}

// probe notes a question that was not necessary: the owner is well and has
// been so for a while.
func (j *judge) probe(h *host, u Unit) {
	if !j.on || j.w.now-j.w.cutAt < time.Second {
		return
	}
	for _, o := range j.w.nodes {
		if o != h && o.answering(u) && j.w.now-o.since > 2*time.Second && j.w.gossip[o.id][h.id] && j.w.gossip[h.id][o.id] && o.carrier[0] && h.carrier[0] {
			j.needless++
			return
		}
	}
}

// fullest returns how many times the mean the fullest running node owns.
func (j *judge) fullest() float64 {
	load, running, total := map[int]int{}, 0, 0
	for _, p := range j.w.plan {
		for _, h := range j.w.nodes {
			if h.answering(p.unit) {
				load[h.id]++
				total++
			}
		}
	}
	most := 0
	for _, h := range j.w.nodes {
		if h.active() && h.power {
			running++
			most = max(most, load[h.id])
		}
	}
	return float64(most) * float64(running) / float64(max(total, 1))
}

// all looks at every unit again, after something has changed for many.
func (j *judge) all() {
	if !j.on {
		return
	}
	for _, p := range j.w.plan {
		j.look(p, j.w.components(p.link))
	}
}

// unit looks at one unit again.
func (j *judge) unit(u Unit) {
	if !j.on {
		return
	}
	if p, ok := j.w.planned[u]; ok {
		j.look(p, j.w.components(p.link))
	}
}

// components returns for each machine on a link the number of the group of
// machines that hear each other.
func (w *world) components(link int) []int {
	if w.comps[link] == nil {
		w.comps[link] = w.computeComponents(link)
	}
	return w.comps[link]
}

// changed is called when machines or links have come or gone.
func (w *world) changed() {
	w.comps = [2][]int{}
	w.judge.all()
}

func (w *world) computeComponents(link int) []int {
	n := len(w.nodes) + 1
	comp := make([]int, n)
	for i := range comp {
		comp[i] = -1
	}
	for i := range n {
		if comp[i] >= 0 {
			continue
		}
		comp[i] = i
		for todo := []int{i}; len(todo) > 0; todo = todo[1:] {
			for k := range n {
				if comp[k] < 0 && w.reaches(link, todo[0], k) && w.reaches(link, k, todo[0]) {
					comp[k] = i
					todo = append(todo, k)
				}
			}
		}
	}
	return comp
}

func (j *judge) look(p planned, comp []int) {
	w, now := j.w, j.w.now
	var owners []int
	can := false
	for i, h := range w.nodes {
		if !h.active() || !h.power || !h.carrier[p.link] {
			continue
		}
		if h.answering(p.unit) {
			owners = append(owners, i)
		}
		if comp[i] == comp[w.lan()] && !h.drained && now-h.born > 1500*time.Millisecond {
			can = true
		}
	}
	pairs := map[[2]int]time.Duration{}
	for a := range owners {
		for _, b := range owners[a+1:] {
			if i := owners[a]; comp[i] == comp[b] {
				pair := [2]int{i, b}
				pairs[pair] = now
				if t, ok := j.doubles[p.unit][pair]; ok {
					pairs[pair] = t
				}
			}
		}
	}
	for pair, t := range j.doubles[p.unit] {
		if d := now - t; d > j.double {
			j.double = d
			j.worst[0] = fmt.Sprintf("%v answered for %v by %s and %s until %v", p.unit.VIP, d, w.nodes[pair[0]].name, w.nodes[pair[1]].name, now)
		}
	}
	j.doubles[p.unit] = pairs

	served := -1
	for _, i := range owners {
		if comp[i] == comp[w.lan()] {
			served = i
		}
	}
	began, open := j.gaps[p.unit]
	switch {
	case !can:
		delete(j.gaps, p.unit)
	case served < 0 && !open:
		j.gaps[p.unit] = now
	case open:
		if d := now - began; d > j.gap {
			j.gap = d
			j.worst[1] = fmt.Sprintf("%v not answered for %v until %v", p.unit.VIP, d, now)
		}
		if served >= 0 {
			j.gapsSeen = append(j.gapsSeen, now-began)
			delete(j.gaps, p.unit)
		}
	}
	if served >= 0 && (len(owners) == 1 || j.last[p.unit] == 0) {
		if before, ok := j.last[p.unit]; ok && before != served+1 {
			j.moves++
			j.movedAway[before-1]++
			w.trace("MOVE %s to %s", p.unit.VIP, w.nodes[served].name)
		}
		j.last[p.unit] = served + 1
	}
	j.look3(p, comp, can)
}

// look3 judges what clients see: whether their neighbour entry leads to a
// machine that forwards. Its agent may be dead; the kernel goes on.
func (j *judge) look3(p planned, comp []int, can bool) {
	now, h := j.w.now, j.w.caches[p.unit]
	broken := h != nil && !(h.power && !h.frozen && comp[h.id] == comp[j.w.lan()])
	began, open := j.lost[p.unit]
	switch {
	case !can:
		delete(j.lost, p.unit)
	case broken && !open:
		j.lost[p.unit] = now
	case open:
		if d := now - began; d > j.loss {
			j.loss = d
			j.worst[2] = fmt.Sprintf("clients sent for %v to nobody for %v until %v", p.unit.VIP, d, now)
		}
		if !broken {
			j.lostSeen = append(j.lostSeen, now-began)
			delete(j.lost, p.unit)
		}
	}
}

// traffic looks at one unit's clients again.
func (j *judge) traffic(u Unit) { j.unit(u) }

// settled returns what is wrong when everything has been quiet for a while.
func (j *judge) settled() string {
	w := j.w
	for _, h := range w.nodes {
		if wrong := h.m.inconsistent(); wrong != "" {
			return h.name + ": " + wrong
		}
	}
	for _, p := range w.plan {
		comp := w.components(p.link)
		var owners []string
		can := false
		var owner *host
		for i, h := range w.nodes {
			if !h.active() || !h.power || comp[i] != comp[w.lan()] {
				continue
			}
			can = can || h.carrier[p.link] && !h.drained
			if h.answering(p.unit) {
				owners = append(owners, h.name)
				owner = h
			}
		}
		switch {
		case len(owners) > 1:
			return fmt.Sprintf("%v is answered for by %v", p.unit, owners)
		case len(owners) == 0 && can:
			return fmt.Sprintf("%v is answered for by nobody", p.unit)
		case owner != nil && w.caches[p.unit] != nil && w.caches[p.unit] != owner:
			return fmt.Sprintf("clients send for %v to %s, but %s owns it", p.unit, w.caches[p.unit].name, owner.name)
		}
	}
	return ""
}

// inconsistent returns what is wrong with a machine's books.
func (m *Machine) inconsistent() string {
	mine := map[*segment]int{}
	for id, u := range m.mine {
		mine[u.seg]++
		if u.state != owning && u.state != verifying || m.units[id] != u || m.loose[id] != nil {
			return fmt.Sprintf("%v is among its own but %v", id, u.state)
		}
	}
	for _, s := range m.segs {
		if s.mine != mine[s] {
			return fmt.Sprintf("it counts %d units of its own on %v and has %d", s.mine, s.prefix, mine[s])
		}
	}
	for id, u := range m.units {
		if own := u.state == owning || u.state == verifying; own != (m.mine[id] == u) {
			return fmt.Sprintf("%v is %v and not among its own", id, u.state)
		}
		if m.loose[id] == nil && u.state != owning && u.state != verifying && m.best(u) == nil {
			return fmt.Sprintf("%v has no owner and nobody looks for one", id)
		}
		if u.state == waiting && u.at == 0 {
			return fmt.Sprintf("%v waits for nothing", id)
		}
		for _, p := range u.claimants {
			if _, ok := p.claims[id]; !ok {
				return fmt.Sprintf("%v is claimed by %s, which does not say so", id, p.name)
			}
		}
	}
	return ""
}
