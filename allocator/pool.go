package allocator

import (
	"cmp"
	"container/heap"
	"maps"
	"net/netip"
	"slices"

	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/iprange"
)

// A pool is a Pool in force.
type pool struct {
	Pool
	shelves [2]*shelf // by family
}

// A shelf finds the lowest free address of one pool in one family without
// looking at all of them: everything below a frontier has been looked at, and
// what became free again below it stands in a heap. So a range of any size
// costs nothing, and giving an address costs the logarithm of the number that
// were given back.
type shelf struct {
	set   iprange.Set
	used  int // addresses that somebody holds
	rests int // addresses that rest or are in quarantine and nobody holds

	// The frontier: the first address of range i that was not looked at; the
	// zero address stands for the start of the range.
	i    int
	next netip.Addr

	// back holds addresses below the frontier that became free again. Some may
	// have been taken since, which shows when they come up.
	back   addrHeap
	listed map[netip.Addr]struct{} // what is in back
}

// A segment is a range that belongs to one pool.
type segment struct {
	iprange.Range
	pool *pool
}

// setPools puts pools in force.
func (s *state) setPools(pools []Pool) {
	s.given = slices.Clone(pools)
	s.order, s.byName = nil, map[string]*pool{}
	for _, p := range pools {
		entry := &pool{Pool: p}
		s.order = append(s.order, entry)
		s.byName[p.Name] = entry
	}
	slices.SortFunc(s.order, func(a, b *pool) int { return cmp.Compare(a.Name, b.Name) })
	s.index = segments(s.order)
	own := map[*pool][]iprange.Range{}
	for _, seg := range s.index {
		own[seg.pool] = append(own[seg.pool], seg.Range)
	}
	for _, p := range s.order {
		set := iprange.SetOf(own[p]...)
		for _, f := range families {
			p.shelves[f] = &shelf{set: set.Of(f), listed: map[netip.Addr]struct{}{}}
		}
	}
	slices.SortStableFunc(s.order, func(a, b *pool) int { return cmp.Compare(b.Priority, a.Priority) })
	for addr := range s.seats {
		if sh := s.shelf(addr); sh != nil {
			sh.used++
		}
	}
	for addr := range s.rests {
		if sh := s.shelf(addr); sh != nil && s.seats[addr] == nil {
			sh.rests++
		}
	}
	s.all = true
}

// families are both, in the order of every loop.
var families = [...]ipfam.Family{ipfam.V4, ipfam.V6}

// segments returns the ranges of pools in order. What two pools claim goes to
// the one that stands first.
func segments(pools []*pool) []segment {
	var out []segment
	collect := func(p *pool, set iprange.Set) {
		for _, r := range set.Ranges() {
			out = append(out, segment{r, p})
		}
	}
	for _, p := range pools {
		collect(p, p.Addresses)
	}
	byStart := func(a, b segment) int { return a.From.Compare(b.From) }
	slices.SortFunc(out, byStart)
	disjoint := true
	for i := 1; i < len(out); i++ {
		_, both := out[i-1].Intersect(out[i].Range)
		disjoint = disjoint && !both
	}
	if disjoint {
		return out
	}
	out = nil
	var taken iprange.Set
	for _, p := range pools {
		collect(p, p.Addresses.Without(taken))
		taken = iprange.SetOf(append(slices.Clone(taken.Ranges()), p.Addresses.Ranges()...)...)
	}
	slices.SortFunc(out, byStart)
	return out
}

// poolOf returns the pool that addr is in, nil when it is in none.
func (s *state) poolOf(addr netip.Addr) *pool {
	i, _ := slices.BinarySearchFunc(s.index, addr, func(seg segment, addr netip.Addr) int {
		if seg.From.Compare(addr) > 0 {
			return 1
		}
		return -1
	})
	if i == 0 || !s.index[i-1].Contains(addr) {
		return nil
	}
	return s.index[i-1].pool
}

// shelf returns the shelf that addr is on, nil when it is in no pool.
func (s *state) shelf(addr netip.Addr) *shelf {
	p := s.poolOf(addr)
	if p == nil {
		return nil
	}
	return p.shelves[ipfam.Of(addr)]
}

// skips reports whether p does not give addr unless it is asked for by address.
func (p *pool) skips(addr netip.Addr) bool {
	if addr.Is4() {
		last := addr.As4()[3]
		return p.AvoidBuggyIPs && (last == 0 || last == 255)
	}
	// The subnet-router anycast address of a /64 (RFC 4291 section 2.6.1): every
	// router on the segment answers for it.
	a := addr.As16()
	return [8]byte(a[8:]) == [8]byte{}
}

// lowest returns the lowest address of p in family f that can be given now.
func (s *state) lowest(p *pool, f ipfam.Family) (netip.Addr, bool) {
	sh := p.shelves[f]
	for len(sh.back) > 0 {
		addr := sh.back[0]
		if s.free(p, addr) {
			return addr, true
		}
		heap.Pop(&sh.back)
		delete(sh.listed, addr)
	}
	for ranges := sh.set.Ranges(); sh.i < len(ranges); {
		if !sh.next.IsValid() {
			sh.next = ranges[sh.i].From
		}
		if s.free(p, sh.next) {
			return sh.next, true
		}
		last := sh.next
		if r, ok := s.reservedSet.Find(last); ok {
			last = r.To // a reserved block costs one step
		}
		if last.Compare(ranges[sh.i].To) >= 0 {
			sh.i++
			sh.next = netip.Addr{}
		} else {
			sh.next = last.Next()
		}
	}
	return netip.Addr{}, false
}

// free reports whether addr, which is in p, can be given without being asked
// for.
func (s *state) free(p *pool, addr netip.Addr) bool {
	if s.seats[addr] != nil || p.skips(addr) || s.reservedSet.Contains(addr) {
		return false
	}
	_, resting := s.rests[addr]
	return !resting
}

// putBack tells the shelf that addr, which is on it, may be free again.
func (sh *shelf) putBack(addr netip.Addr) {
	ranges := sh.set.Ranges()
	if sh.i < len(ranges) {
		frontier := sh.next
		if !frontier.IsValid() {
			frontier = ranges[sh.i].From
		}
		if addr.Compare(frontier) >= 0 {
			return // the frontier comes by
		}
	}
	if _, ok := sh.listed[addr]; !ok {
		sh.listed[addr] = struct{}{}
		heap.Push(&sh.back, addr)
	}
}

func (sh *shelf) clone() *shelf {
	c := *sh
	c.back, c.listed = slices.Clone(sh.back), maps.Clone(sh.listed)
	return &c
}

// setReserved puts ranges in force and reports whether anything changed.
func (s *state) setReserved(ranges []Reserved) bool {
	if slices.Equal(s.reserved, ranges) {
		return false // nodes change often, their addresses seldom
	}
	s.reserved = slices.Clone(ranges)
	var all []iprange.Range
	for _, r := range ranges {
		all = append(all, r.Range)
	}
	s.reservedSet = iprange.SetOf(all...)
	s.setPools(s.given) // what is no longer reserved can lie below a frontier
	return true
}

// reservedFor returns what else addr is; empty for nothing.
func (s *state) reservedFor(addr netip.Addr) string {
	if !s.reservedSet.Contains(addr) {
		return ""
	}
	i := slices.IndexFunc(s.reserved, func(r Reserved) bool { return r.Range.Contains(addr) })
	return s.reserved[i].Reason
}

// An addrHeap has the lowest address on top.
type addrHeap []netip.Addr

func (h addrHeap) Len() int           { return len(h) }
func (h addrHeap) Less(i, j int) bool { return h[i].Less(h[j]) }
func (h addrHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *addrHeap) Push(x any)        { *h = append(*h, x.(netip.Addr)) }
func (h *addrHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
