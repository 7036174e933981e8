package store

import (
	"math/big"
	"net/netip"

	"go4.org/netipx"
)

// A span is a run of addresses, both ends in it. The zero span has none.
type span struct{ first, last netip.Addr }

func (s span) none() bool { return !s.first.IsValid() }

// usable returns the addresses of p that a host may have: not the network
// address and the broadcast address of IPv4 (RFC 1122 section 3.2.1.3), not
// the subnet-router anycast address of IPv6 (RFC 4291 section 2.6.1). Prefixes
// of one or two addresses have neither (RFC 3021, RFC 6164).
func usable(p netip.Prefix) span {
	r := netipx.RangeOfPrefix(p)
	if !r.IsValid() {
		return span{}
	}
	s := span{r.From(), r.To()}
	if p.Addr().BitLen()-p.Bits() < 2 {
		return s
	}
	s.first = s.first.Next()
	if p.Addr().Is4() {
		s.last = s.last.Prev()
	}
	return s
}

// count returns how many addresses s has.
func (s span) count() *big.Int {
	if s.none() {
		return new(big.Int)
	}
	n := new(big.Int).Sub(new(big.Int).SetBytes(s.last.AsSlice()), new(big.Int).SetBytes(s.first.AsSlice()))
	return n.Add(n, big.NewInt(1))
}

func (s span) contains(a netip.Addr) bool {
	return !s.none() && a.BitLen() == s.first.BitLen() && s.first.Compare(a) <= 0 && a.Compare(s.last) <= 0
}

// pick returns the first free address of p that follows after, going round at
// the end, so that an address just given back rests as long as possible:
// caches and connection tracking of others still know its last pod. An after
// that is not in p means the beginning.
func pick(p netip.Prefix, after netip.Addr, taken func(netip.Addr) bool) (netip.Addr, bool) {
	s := usable(p)
	if s.none() {
		return netip.Addr{}, false
	}
	if !s.contains(after) {
		after = s.last
	}
	for a := after; ; {
		if a == s.last {
			a = s.first
		} else {
			a = a.Next()
		}
		if !taken(a) {
			return a, true
		}
		if a == after {
			return netip.Addr{}, false
		}
	}
}
