package allocator

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/clarion-lb/clarion/internal/ipfam"
)

// admits says whether p's rules let r have an address of p; the zero Refusal
// means yes. named means that r asks for p or for one of its addresses.
func (p *pool) admits(r *Request, named bool) Refusal {
	restricted := len(p.Namespaces) > 0 || p.NamespaceSelector != nil
	switch {
	case restricted && !slices.Contains(p.Namespaces, r.Namespace) &&
		(p.NamespaceSelector == nil || !p.NamespaceSelector.Matches(r.NamespaceLabels)):
		return Refusal{Reason: NamespaceNotAllowed, Pool: p.Name, Detail: r.Namespace}
	case !p.ServiceSelector.Matches(r.Labels):
		return Refusal{Reason: SelectorMismatch, Pool: p.Name, Detail: p.ServiceSelector.String()}
	case !p.AutoAssign && !named:
		return Refusal{Reason: AutoAssignOff, Pool: p.Name}
	}
	return Refusal{}
}

// fits says whether v may take addr now, apart from the rules of the pool.
func (s *state) fits(v *service, addr netip.Addr) Refusal {
	f := ipfam.Of(addr)
	if what := s.reservedFor(addr); what != "" {
		return Refusal{Reason: IsReserved, Family: f, Addr: addr, Detail: what}
	}
	if r, ok := s.rests[addr]; ok && r.Why != "" {
		return Refusal{Reason: Quarantined, Family: f, Addr: addr, Until: r.Until, Detail: r.Why}
	} else if ok && r.Last != v.req.Key {
		return Refusal{Reason: Resting, Family: f, Addr: addr, Until: r.Until, By: r.Last}
	}
	if st := s.seats[addr]; st != nil {
		no := st.room(v, addr)
		no.Family = f
		return no
	}
	return Refusal{}
}

// asked says whether v may take addr, which it asks for by address.
func (s *state) asked(v *service, addr netip.Addr) Refusal {
	p := s.poolOf(addr)
	no := Refusal{}
	switch {
	case p == nil:
		no.Reason = OutsidePools
	case v.req.Pool != "" && v.req.Pool != p.Name:
		no.Reason, no.Pool, no.Detail = OutsidePool, p.Name, v.req.Pool
	default:
		no = p.admits(&v.req, true)
	}
	if no.Reason == "" {
		no = s.fits(v, addr)
	}
	if no.Reason != "" {
		no.Addr, no.Family = addr, ipfam.Of(addr)
	}
	return no
}

// A pick is the address chosen in each family; the zero address stands for
// none.
type pick [2]netip.Addr

// choose picks an address for v in each family of want, as far as there is
// one, and returns them with beside: what v gets in the other family, so that
// both may come from one pool. It changes nothing that can be seen.
func (s *state) choose(v *service, want []ipfam.Family, beside pick) pick {
	out := beside
	var left []ipfam.Family
	open := s.open(v)
	for _, f := range want {
		addr, ok := s.hadBefore(v, f, open)
		if !ok {
			addr, ok = s.shared(v, f, open)
		}
		if ok {
			out[f] = addr
		} else {
			left = append(left, f)
		}
	}
	s.fromPools(v, open, left, &out)
	return out
}

// open returns the pools that v may be given addresses of, in the order in
// which they are tried.
func (s *state) open(v *service) []*pool {
	var out []*pool
	for _, p := range s.order {
		named := v.req.Pool == p.Name
		if (named || v.req.Pool == "") && p.admits(&v.req, named).Reason == "" {
			out = append(out, p)
		}
	}
	return out
}

// hadBefore returns the address that a Service of this name had last.
func (s *state) hadBefore(v *service, f ipfam.Family, open []*pool) (netip.Addr, bool) {
	for _, addr := range slices.Backward(s.before[v.req.Key]) {
		if ipfam.Of(addr) == f && slices.Contains(open, s.poolOf(addr)) && !slices.Contains(v.held, addr) && s.fits(v, addr).Reason == "" {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// shared returns an address that v can share by its key: of the pool that is
// tried first, the lowest.
func (s *state) shared(v *service, f ipfam.Family, open []*pool) (netip.Addr, bool) {
	var addrs []netip.Addr
	for addr := range s.shares[v.req.ShareKey] {
		if ipfam.Of(addr) == f && slices.Contains(open, s.poolOf(addr)) && !slices.Contains(v.held, addr) {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, func(a, b netip.Addr) int {
		return cmp.Or(slices.Index(open, s.poolOf(a))-slices.Index(open, s.poolOf(b)), a.Compare(b))
	})
	for _, addr := range addrs {
		if s.fits(v, addr).Reason == "" {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// fromPools picks the lowest free address of the first pool that has one, for
// each family of want. Of pools with one priority it takes the one that serves
// both families, or that the other family's address is of.
func (s *state) fromPools(v *service, open []*pool, want []ipfam.Family, out *pick) {
	var first [2]*pool
	for _, f := range want {
		for _, p := range open {
			if _, ok := s.lowest(p, f); ok {
				first[f] = p
				break
			}
		}
	}
	for _, f := range want {
		p := first[f]
		if p == nil {
			continue
		}
		other := ipfam.V4 + ipfam.V6 - f
		if near := s.near(v, open, other, f, *out, first); near != nil && near.Priority == p.Priority {
			p = near
		}
		out[f], _ = s.lowest(p, f)
	}
}

// near returns the pool of the other family's address, which is held, picked
// or still to be picked, if it has a free address of family f too.
func (s *state) near(v *service, open []*pool, other, f ipfam.Family, out pick, first [2]*pool) *pool {
	has := func(p *pool, f ipfam.Family) bool { _, ok := s.lowest(p, f); return ok }
	held := v.of(other)
	switch {
	case out[other].IsValid():
		held = []netip.Addr{out[other]}
	case len(held) == 0 && first[other] != nil:
		for _, p := range open {
			if p.Priority == first[other].Priority && has(p, f) && has(p, other) {
				return p
			}
		}
		return nil
	}
	for _, addr := range held {
		if p := s.poolOf(addr); p != nil && slices.Contains(open, p) && has(p, f) {
			return p
		}
	}
	return nil
}

// whyNone returns, pool by pool, why v gets no address of family f.
func (s *state) whyNone(v *service, f ipfam.Family) []Refusal {
	if len(s.order) == 0 {
		return []Refusal{{Reason: NoPools, Family: f}}
	}
	if want := v.req.Pool; want != "" && s.byName[want] == nil {
		return []Refusal{{Reason: NoSuchPool, Family: f, Pool: want}}
	}
	var out []Refusal
	for _, p := range s.order {
		named := v.req.Pool == p.Name
		if v.req.Pool != "" && !named {
			continue
		}
		no := p.admits(&v.req, named)
		if no.Reason == "" {
			no = p.exhausted(f)
		}
		no.Family = f
		out = append(out, no)
	}
	return out
}

// exhausted says why p has nothing free of family f.
func (p *pool) exhausted(f ipfam.Family) Refusal {
	sh := p.shelves[f]
	if sh.set.Empty() {
		return Refusal{Reason: NoFamily, Pool: p.Name}
	}
	return Refusal{Reason: Exhausted, Pool: p.Name, Detail: sh.count()}
}
