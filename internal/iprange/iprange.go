// Package iprange holds sets of IP addresses as intervals: a /64 costs as much
// as a single address. Values are immutable and may be shared freely.
//
// Read iprange.go (the values), then parse.go (how people write them and what
// is refused).
package iprange

import (
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"

	"github.com/clarion-lb/clarion/internal/ipfam"
)

// A Range is all addresses from From to To, both included. Both are of the
// same family, without a zone, and From is not above To.
type Range struct {
	From, To netip.Addr
}

// One returns the range that holds only a.
func One(a netip.Addr) Range { return Range{a, a} }

// OfPrefix returns all addresses of p, whatever the host bits of p say.
func OfPrefix(p netip.Prefix) Range {
	p = p.Masked()
	last := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	to, ok := netip.AddrFromSlice(last)
	if !ok {
		panic(fmt.Sprintf("prefix %v has no address", p))
	}
	return Range{p.Addr(), to}
}

// Family returns the family of the range.
func (r Range) Family() ipfam.Family { return ipfam.Of(r.From) }

// Contains reports whether a is in r.
func (r Range) Contains(a netip.Addr) bool {
	return a.BitLen() == r.From.BitLen() && r.From.Compare(a) <= 0 && a.Compare(r.To) <= 0
}

// Intersect returns what r and o have in common, and false when that is
// nothing.
func (r Range) Intersect(o Range) (Range, bool) {
	if r.From.BitLen() != o.From.BitLen() {
		return Range{}, false
	}
	both := Range{later(r.From, o.From), earlier(r.To, o.To)}
	return both, both.From.Compare(both.To) <= 0
}

// Size returns the number of addresses in r.
func (r Range) Size() *big.Int {
	n := new(big.Int).SetBytes(r.To.AsSlice())
	n.Sub(n, new(big.Int).SetBytes(r.From.AsSlice()))
	return n.Add(n, big.NewInt(1))
}

// String returns the range in the form that Parse reads: an address, a CIDR
// when the range is one, else "from-to".
func (r Range) String() string {
	if r.From == r.To {
		return r.From.String()
	}
	for bits := range r.From.BitLen() {
		if p := netip.PrefixFrom(r.From, bits); p.Masked().Addr() == r.From && OfPrefix(p).To == r.To {
			return p.String()
		}
	}
	return r.From.String() + "-" + r.To.String()
}

// A Set is a set of addresses of both families. The zero value is empty. Sets
// with the same addresses are equal, however they were made.
type Set struct {
	ranges []Range // sorted, IPv4 first, disjoint and with a gap between any two
}

// SetOf returns the union of the ranges.
func SetOf(ranges ...Range) Set {
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, func(a, b Range) int { return a.From.Compare(b.From) })
	var out []Range
	for _, r := range sorted {
		if len(out) > 0 {
			last := &out[len(out)-1]
			touches := last.To.BitLen() == r.From.BitLen() && (last.To.Compare(r.From) >= 0 || last.To.Next() == r.From)
			if touches {
				last.To = later(last.To, r.To)
				continue
			}
		}
		out = append(out, r)
	}
	return Set{out}
}

// Ranges returns the ranges of s, lowest first and IPv4 before IPv6. The
// caller must not write into the slice.
func (s Set) Ranges() []Range { return s.ranges }

// Of returns the part of s that belongs to family f.
func (s Set) Of(f ipfam.Family) Set {
	split := slices.IndexFunc(s.ranges, func(r Range) bool { return r.Family() == ipfam.V6 })
	switch {
	case split < 0:
		split = len(s.ranges)
	}
	if f == ipfam.V4 {
		return Set{s.ranges[:split:split]}
	}
	return Set{s.ranges[split:]}
}

// Empty reports whether s has no address.
func (s Set) Empty() bool { return len(s.ranges) == 0 }

// Equal reports whether s and o hold the same addresses.
func (s Set) Equal(o Set) bool { return slices.Equal(s.ranges, o.ranges) }

// Contains reports whether a is in s. The cost grows with the logarithm of the
// number of ranges.
func (s Set) Contains(a netip.Addr) bool {
	_, ok := s.Find(a)
	return ok
}

// Find returns the range of s that holds a, and false when none does.
func (s Set) Find(a netip.Addr) (Range, bool) {
	i := s.after(a)
	if i == 0 || !s.ranges[i-1].Contains(a) {
		return Range{}, false
	}
	return s.ranges[i-1], true
}

// after returns the index of the first range that begins above a.
func (s Set) after(a netip.Addr) int {
	i, _ := slices.BinarySearchFunc(s.ranges, a, func(r Range, a netip.Addr) int {
		if r.From.Compare(a) > 0 {
			return 1
		}
		return -1
	})
	return i
}

// Intersect returns the addresses that s and o have in common.
func (s Set) Intersect(o Set) Set {
	var out []Range
	for i, j := 0, 0; i < len(s.ranges) && j < len(o.ranges); {
		if both, ok := s.ranges[i].Intersect(o.ranges[j]); ok {
			out = append(out, both)
		}
		if s.ranges[i].To.Compare(o.ranges[j].To) < 0 {
			i++
		} else {
			j++
		}
	}
	return Set{out}
}

// Without returns the addresses of s that are not in o.
func (s Set) Without(o Set) Set {
	var out []Range
	j := 0
	for _, r := range s.ranges {
		// Ranges of o that end below r can touch nothing that follows.
		for j < len(o.ranges) && o.ranges[j].To.Compare(r.From) < 0 {
			j++
		}
		rest, gone := r, false
		for k := j; k < len(o.ranges) && !gone; k++ {
			cut, ok := rest.Intersect(o.ranges[k])
			if !ok {
				break
			}
			if rest.From.Compare(cut.From) < 0 {
				out = append(out, Range{rest.From, cut.From.Prev()})
			}
			if gone = cut.To == rest.To; !gone {
				rest.From = cut.To.Next()
			}
		}
		if !gone {
			out = append(out, rest)
		}
	}
	return Set{out}
}

// Size returns the number of addresses in s.
func (s Set) Size() *big.Int {
	n := new(big.Int)
	for _, r := range s.ranges {
		n.Add(n, r.Size())
	}
	return n
}

// String returns the ranges, separated by commas.
func (s Set) String() string {
	words := make([]string, len(s.ranges))
	for i, r := range s.ranges {
		words[i] = r.String()
	}
	return strings.Join(words, ", ")
}

func earlier(a, b netip.Addr) netip.Addr {
	if a.Compare(b) <= 0 {
		return a
	}
	return b
}

func later(a, b netip.Addr) netip.Addr {
	if a.Compare(b) >= 0 {
		return a
	}
	return b
}
