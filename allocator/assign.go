package allocator

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/clarion-lb/clarion/internal/ipfam"
)

// families returns the families that the Service wants, the primary first.
func (r *Request) families() []ipfam.Family {
	want := r.Families
	if r.Policy == SingleStack && len(want) > 1 {
		want = want[:1]
	}
	return want
}

// assign is Assign without the lock.
func (s *state) assign(r Request, now time.Time) (Result, error) {
	s.expire(now)
	v := s.services[r.Key]
	if v != nil && !v.is(r.UID) {
		s.release(v) // the old one is gone, and its end was missed
		v = nil
	}
	if v == nil {
		v = &service{req: r}
		s.services[r.Key] = v
	}
	s.revise(v, r)
	s.serve() // who waits longer than v goes first
	s.attempt(v)
	out := s.result(v)
	v.added, v.removed = nil, nil
	return out, v.err()
}

// attempt gives v all that it asks for and that can be had now, and lets it
// wait for the rest. It is all-or-nothing for each family, and for both
// together where RequireDualStack says so.
func (s *state) attempt(v *service) {
	want := v.req.families()
	var refusals []Refusal
	if len(want) > 0 {
		for _, addr := range slices.Clone(v.held) {
			if f := ipfam.Of(addr); !slices.Contains(want, f) {
				s.drop(v, addr, fmt.Sprintf("the Service no longer has the family %v", f))
			}
		}
		refusals = s.satisfy(v, want)
	}
	s.unwait(v)
	if len(refusals) > 0 {
		s.wait(v, refusals)
	}
}

// satisfy does the work of attempt for the families that v wants.
func (s *state) satisfy(v *service, want []ipfam.Family) []Refusal {
	named, refusals := v.named(want)
	empty := len(v.held) == 0
	var failed [2]bool
	var free []ipfam.Family // to be chosen
	var beside pick
	for _, f := range want {
		switch {
		case len(named[f]) > 0:
			var no []Refusal
			for _, addr := range named[f] {
				if slices.Contains(v.held, addr) {
					continue
				}
				if r := s.asked(v, addr); r.Reason != "" {
					no = append(no, r)
				}
			}
			if failed[f] = len(no) > 0; !failed[f] {
				beside[f] = named[f][0]
			}
			refusals = append(refusals, no...)
		case !v.has(f), s.wantsToMove(v, f):
			free = append(free, f)
		}
	}
	chosen := s.choose(v, free, beside)
	for _, f := range free {
		if !chosen[f].IsValid() {
			failed[f] = true
			refusals = append(refusals, s.whyNone(v, f)...)
		}
	}
	if v.req.Policy == RequireDualStack && empty && slices.ContainsFunc(want, func(f ipfam.Family) bool { return failed[f] }) {
		for _, f := range want {
			if !failed[f] {
				refusals = append(refusals, Refusal{Reason: OtherFamilyMissing, Family: f})
			}
		}
		return refusals
	}
	for _, f := range want {
		switch {
		case failed[f]:
		case len(named[f]) > 0:
			s.replace(v, f, named[f], "the Service asks for "+list(named[f])+" instead")
			v.poolTried[f] = v.req.Pool
		case chosen[f].IsValid():
			s.replace(v, f, []netip.Addr{chosen[f]}, fmt.Sprintf("the Service asks for the pool %q and gets %v", v.req.Pool, chosen[f]))
			v.poolTried[f] = v.req.Pool
		default:
			v.poolTried[f] = v.req.Pool // it holds what it wants
		}
	}
	return refusals
}

// named returns the addresses that v asks for, by family and once each, and a
// refusal for those whose family it does not have.
func (v *service) named(want []ipfam.Family) (out [2][]netip.Addr, refusals []Refusal) {
	for _, addr := range v.req.Addresses {
		addr = addr.Unmap()
		switch f := ipfam.Of(addr); {
		case !slices.Contains(want, f):
			refusals = append(refusals, Refusal{Reason: FamilyNotAsked, Family: f, Addr: addr})
		case !slices.Contains(out[f], addr):
			out[f] = append(out[f], addr)
		}
	}
	return out, refusals
}

// wantsToMove reports whether v's user asked for another pool since v got its
// addresses of family f. Where those lie now does not matter: pools are edited,
// and an edit moves nobody. Only when one lies in the pool asked for is the wish
// fulfilled already.
func (s *state) wantsToMove(v *service, f ipfam.Family) bool {
	if v.req.Pool == "" || v.req.Pool == v.poolTried[f] {
		return false
	}
	return !slices.ContainsFunc(v.of(f), func(a netip.Addr) bool { return s.poolName(a) == v.req.Pool })
}

// replace makes addrs all that v holds in family f: the new ones are taken
// before the old ones go.
func (s *state) replace(v *service, f ipfam.Family, addrs []netip.Addr, why string) {
	old := v.of(f)
	for _, addr := range addrs {
		if !slices.Contains(old, addr) {
			s.take(v, addr)
		}
	}
	for _, addr := range old {
		if !slices.Contains(addrs, addr) {
			s.drop(v, addr, why)
		}
	}
}

// exchange is Exchange without the lock.
func (s *state) exchange(v *service, rest Rest, now time.Time) (Result, error) {
	addr := rest.Addr
	s.expire(now)
	s.rest(rest)
	if v == nil {
		return Result{}, nil
	}
	if slices.Contains(v.held, addr) && !slices.Contains(v.req.Addresses, addr) {
		f := ipfam.Of(addr)
		if chosen := s.choose(v, []ipfam.Family{f}, pick{})[f]; chosen.IsValid() {
			s.take(v, chosen)
			s.drop(v, addr, "a foreign host uses it: "+rest.Why)
		}
	}
	out := s.result(v)
	v.added, v.removed = nil, nil
	if !slices.Contains(v.held, addr) {
		return out, v.err()
	}
	no := Refusal{Reason: Quarantined, Family: ipfam.Of(addr), Addr: addr, Until: rest.Until, Detail: rest.Why}
	out.Refusals = []Refusal{no}
	if !slices.Contains(v.req.Addresses, addr) {
		out.Refusals = append(out.Refusals, s.whyNone(v, ipfam.Of(addr))...)
	}
	return out, &Refused{Key: v.req.Key, Held: slices.Clone(v.held), Refusals: out.Refusals}
}

// result says what v has.
func (s *state) result(v *service) Result {
	return Result{
		Held:     s.holding(v),
		Added:    slices.Clone(v.added),
		Removed:  slices.Clone(v.removed),
		Missing:  v.missing(),
		Refusals: slices.Clone(v.refusals),
	}
}

// missing returns the families that v wants and holds nothing of.
func (v *service) missing() []ipfam.Family {
	var out []ipfam.Family
	for _, f := range v.req.families() {
		if !v.has(f) {
			out = append(out, f)
		}
	}
	return out
}

// err returns a *Refused when v has less than it must have.
func (v *service) err() error {
	if len(v.refusals) == 0 {
		return nil
	}
	missing := v.missing()
	if v.req.Policy == PreferDualStack && len(v.held) > 0 {
		// What is missing is missing by leave; what was asked for by name is not.
		wish := func(r Refusal) bool { return r.Addr.IsValid() || !slices.Contains(missing, r.Family) }
		if !slices.ContainsFunc(v.refusals, wish) {
			return nil
		}
	}
	return &Refused{Key: v.req.Key, Held: slices.Clone(v.held), Missing: missing, Refusals: slices.Clone(v.refusals)}
}

// holding returns what v holds, in the order of its families.
func (s *state) holding(v *service) []Held {
	var out []Held
	add := func(addr netip.Addr) {
		h := Held{Addr: addr, Reserved: s.reservedFor(addr)}
		if p := s.poolOf(addr); p != nil {
			h.Pool = p.Name
		}
		for _, o := range s.seats[addr].holders {
			if o != v {
				h.With = append(h.With, o.req.Key)
			}
		}
		slices.Sort(h.With)
		out = append(out, h)
	}
	done := [2]bool{}
	for _, f := range slices.Concat(v.req.Families, families[:]) {
		if !done[f] {
			done[f] = true
			for _, addr := range v.of(f) {
				add(addr)
			}
		}
	}
	return out
}
