package config

import (
	"fmt"
	"slices"

	"github.com/clarion-lb/clarion/internal/iprange"
)

// A candidate is a pool that parses and may be taken, if no address of it
// belongs to another pool.
type candidate struct {
	pool    Pool
	raw     string
	entries []entry // where each range stands; nil for a form that is in force
	edited  bool    // not in force yet
}

// separate returns the candidates, in order of name, that can be in force
// together, and a problem for each claim on an address of another pool. A
// loser comes back with its form in last. Candidates are sorted by name.
//
// A loser's old form can collide with what another edited pool wants to take
// over from it; that pool then loses too. So it begins anew after a loss, with
// one edited pool less each time.
func separate(candidates []candidate, last Config) ([]candidate, []*Problem) {
	var problems []*Problem
	for {
		won, lost := claim(candidates)
		if len(lost) == 0 {
			return won, problems
		}
		for _, p := range lost {
			i := slices.IndexFunc(candidates, func(c candidate) bool { return c.pool.Name == p.Pool })
			if i >= 0 && candidates[i].edited { // the first problem of the pool decides it
				old, ok := last.Pool(p.Pool)
				if ok {
					candidates[i] = candidate{pool: old, raw: last.raw[p.Pool]}
				} else {
					candidates = slices.Delete(candidates, i, i+1)
				}
			}
			_, p.Kept = last.Pool(p.Pool)
		}
		problems = append(problems, lost...)
	}
}

// claim lets each candidate take its addresses: first those in force, then the
// edited ones by name. It returns those that got all of theirs, and what is
// wrong with the others.
func claim(candidates []candidate) (won []candidate, lost []*Problem) {
	var taken owned
	for _, edited := range []bool{false, true} {
		for _, c := range candidates {
			if c.edited != edited {
				continue
			}
			var wrong []*Problem
			for _, e := range c.entries {
				if own, both, ok := taken.find(e.set); ok && edited {
					wrong = append(wrong, &Problem{Pool: c.pool.Name, Path: e.path, Message: fmt.Sprintf(
						"%v overlaps the pool %q: %v is in both, and an address can be in one pool only", e.set, own, both)})
				}
			}
			if len(wrong) > 0 {
				lost = append(lost, wrong...)
				continue
			}
			taken.add(c.pool)
			won = append(won, c)
		}
	}
	slices.SortFunc(won, func(a, b candidate) int { return compareNames(a.pool, b.pool) })
	return won, lost
}

// owned holds disjoint ranges in order, each with its pool.
type owned []ownedRange

type ownedRange struct {
	iprange.Range
	pool string
}

// at returns the index of the first range that begins above r's end.
func (o owned) at(r iprange.Range) int {
	i, _ := slices.BinarySearchFunc(o, r, func(have ownedRange, r iprange.Range) int {
		if have.From.Compare(r.To) > 0 {
			return 1
		}
		return -1
	})
	return i
}

// find returns a pool that has addresses of r, with the highest run of them.
func (o owned) find(r iprange.Range) (pool string, both iprange.Range, ok bool) {
	i := o.at(r)
	if i == 0 {
		return "", iprange.Range{}, false
	}
	both, ok = o[i-1].Intersect(r)
	return o[i-1].pool, both, ok
}

func (o *owned) add(p Pool) {
	for _, r := range p.Addresses.Ranges() {
		*o = slices.Insert(*o, o.at(r), ownedRange{r, p.Name})
	}
}
