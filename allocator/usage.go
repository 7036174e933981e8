package allocator

import (
	"cmp"
	"fmt"
	"math/big"
	"net/netip"
	"slices"

	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/iprange"
)

// Usage counts the addresses of one pool in one family.
type Usage struct {
	Pool   string
	Family ipfam.Family
	// Total counts all addresses of the pool. Of these, Used are held by at
	// least one Service, and Shared of the used ones by more than one; Resting
	// rest or are in quarantine and are not used; Unusable are neither used nor
	// resting and are reserved, or are given only when asked for by address.
	// Free is what is left, and what a Service can get without asking.
	Total, Unusable, Free *big.Int
	Used, Shared, Resting int
}

// usage is Usage without the lock.
func (s *state) usage() []Usage {
	type place struct {
		pool   string
		family ipfam.Family
	}
	lines := map[place]*Usage{}
	out := []Usage{}
	for _, p := range s.order {
		for _, f := range families {
			if sh := p.shelves[f]; !sh.set.Empty() {
				reserved := sh.set.Intersect(s.reservedSet)
				unusable := reserved.Size()
				unusable.Add(unusable, p.countSkipped(sh.set.Without(reserved)))
				out = append(out, Usage{Pool: p.Name, Family: f, Total: sh.set.Size(), Unusable: unusable, Used: sh.used, Resting: sh.rests})
			}
		}
	}
	slices.SortFunc(out, func(a, b Usage) int {
		return cmp.Or(cmp.Compare(a.Pool, b.Pool), cmp.Compare(a.Family, b.Family))
	})
	for i := range out {
		lines[place{out[i].Pool, out[i].Family}] = &out[i]
	}
	line := func(addr netip.Addr) (*Usage, *pool) {
		p := s.poolOf(addr)
		if p == nil {
			return nil, nil
		}
		return lines[place{p.Name, ipfam.Of(addr)}], p
	}
	one := big.NewInt(1)
	occupied := func(u *Usage, p *pool, addr netip.Addr) {
		if p.skips(addr) || s.reservedSet.Contains(addr) {
			u.Unusable.Sub(u.Unusable, one)
		}
	}
	for addr, st := range s.seats {
		if u, p := line(addr); u != nil {
			occupied(u, p, addr)
			if len(st.holders) > 1 {
				u.Shared++
			}
		}
	}
	for addr := range s.rests {
		if u, p := line(addr); u != nil && s.seats[addr] == nil {
			occupied(u, p, addr)
		}
	}
	for i := range out {
		u := &out[i]
		u.Free = new(big.Int).Sub(u.Total, u.Unusable)
		u.Free.Sub(u.Free, big.NewInt(int64(u.Used+u.Resting)))
	}
	return out
}

// countSkipped returns how many addresses of set p skips.
func (p *pool) countSkipped(set iprange.Set) *big.Int {
	n := new(big.Int)
	for _, r := range set.Ranges() {
		switch {
		case r.Family() == ipfam.V6:
			n.Add(n, multiples(r, 64, 0))
		case p.AvoidBuggyIPs:
			n.Add(n, multiples(r, 8, 0))
			n.Add(n, multiples(r, 8, 255))
		}
	}
	return n
}

// multiples counts the addresses of r whose last bits are rest.
func multiples(r iprange.Range, bits uint, rest int64) *big.Int {
	// Those at or below x are floor((x - rest) / 2^bits) + 1; Rsh rounds down,
	// also below zero.
	upTo := func(x *big.Int) *big.Int {
		x.Sub(x, big.NewInt(rest))
		return x.Rsh(x, bits)
	}
	to := new(big.Int).SetBytes(r.To.AsSlice())
	below := new(big.Int).SetBytes(r.From.AsSlice())
	below.Sub(below, big.NewInt(1))
	return new(big.Int).Sub(upTo(to), upTo(below))
}

// count says how much of the shelf, which has nothing free, is in use, for
// people.
func (sh *shelf) count() string {
	size := sh.set.Size()
	words := fmt.Sprintf("%d of %v in use", sh.used, size)
	if sh.rests > 0 {
		words += fmt.Sprintf(", %d resting", sh.rests)
	}
	if size.Cmp(big.NewInt(int64(sh.used+sh.rests))) > 0 {
		words += ", the others reserved or given only when asked for by address"
	}
	return words
}

// stranded is Stranded without the lock.
func (s *state) stranded() []Stray {
	var out []Stray
	for addr, st := range s.seats {
		if s.poolOf(addr) == nil {
			for _, v := range st.holders {
				out = append(out, Stray{addr, v.req.Key})
			}
		}
	}
	slices.SortFunc(out, func(a, b Stray) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Key, b.Key))
	})
	return out
}
