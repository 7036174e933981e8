package allocator

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/clarion-lb/clarion/internal/ipfam"
)

// restore is Restore without the lock.
func (s *state) restore(r Request, addrs []netip.Addr) {
	v := s.services[r.Key]
	if v != nil && !v.is(r.UID) {
		s.release(v)
		v = nil
	}
	if v == nil {
		// What the request asks for is what it was given, as far as anybody
		// knows: a pool that was asked for moves nobody after a restart.
		v = &service{req: r, poolTried: [2]string{ipfam.V4: r.Pool, ipfam.V6: r.Pool}}
		s.services[r.Key] = v
	} else {
		s.revise(v, r)
	}
	added, removed := v.added, v.removed
	for _, addr := range addrs {
		addr = addr.Unmap()
		if !addr.IsValid() || addr.Zone() != "" || addr.IsUnspecified() || slices.Contains(v.held, addr) || slices.Contains(v.claimed, addr) {
			continue
		}
		s.contest(v, addr)
	}
	v.added, v.removed = added, removed // the status has the rest already
}

// contest lets v claim addr and decides anew who holds it: those that may
// share, as seen from the eldest.
func (s *state) contest(v *service, addr netip.Addr) {
	st := s.seats[addr]
	if st == nil {
		s.take(v, addr)
		return
	}
	st.claims = insertSorted(st.claims, v, compareAge)
	v.claimed = insertSorted(v.claimed, addr, netip.Addr.Compare)
	if st.room(v, addr).Reason == "" {
		s.settle(addr, st)
		return
	}
	for _, h := range st.holders {
		h.held = remove(h.held, addr)
		h.claimed = insertSorted(h.claimed, addr, netip.Addr.Compare)
		st.claims = insertSorted(st.claims, h, compareAge)
	}
	old := st.holders
	st.holders = nil
	s.settle(addr, st)
	for _, h := range old {
		s.shareChanged(h.req.ShareKey, addr)
	}
}

// conflicts is Conflicts without the lock.
func (s *state) conflicts() []Conflict {
	var out []Conflict
	for addr, st := range s.seats {
		for _, v := range st.claims {
			if no := st.room(v, addr); no.Reason != "" {
				out = append(out, Conflict{Addr: addr, Holder: no.By, Claimed: v.req.Key})
			}
		}
	}
	slices.SortFunc(out, func(a, b Conflict) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Claimed, b.Claimed))
	})
	return out
}
