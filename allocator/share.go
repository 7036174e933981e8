package allocator

import (
	"net/netip"
	"slices"
)

// mayShare says whether a and b may stand on one address; the zero Refusal
// means that they may. b is the one that is there and that the refusal names.
//
// Both must have the same key, no port may be theirs both, and if one of them
// is Local they must select the same pods: the address can then only be
// announced by nodes that have endpoints of every Local one of them, and with
// other pods that could be no node at all.
func mayShare(a, b *Request, addr netip.Addr) Refusal {
	r := Refusal{Addr: addr, By: b.Key}
	switch {
	case a.ShareKey == "" || b.ShareKey == "":
		r.Reason = Taken
		return r
	case a.ShareKey != b.ShareKey:
		r.Reason = ShareKeyDiffers
		return r
	}
	for _, p := range a.Ports {
		if slices.Contains(b.Ports, p) {
			r.Reason, r.Detail = PortTaken, p.String()
			return r
		}
	}
	if (a.Local || b.Local) && (a.Selector == "" || a.Selector != b.Selector) {
		r.Reason = PolicyDiffers
		return r
	}
	return Refusal{}
}

// room says whether v may stand on addr beside those who hold it.
func (st *seat) room(v *service, addr netip.Addr) Refusal {
	for _, h := range st.holders {
		if h == v {
			continue
		}
		if r := mayShare(&v.req, &h.req, addr); r.Reason != "" {
			return r
		}
	}
	return Refusal{}
}

// settle decides anew who holds addr: the holders stay, and of those who
// claim it each, the elder first, that may share with them.
func (s *state) settle(addr netip.Addr, st *seat) {
	for _, v := range slices.Clone(st.claims) {
		if st.room(v, addr).Reason != "" {
			continue
		}
		st.claims = remove(st.claims, v)
		v.claimed = remove(v.claimed, addr)
		st.holders = insertSorted(st.holders, v, compareAge)
		v.held = insertSorted(v.held, addr, netip.Addr.Compare)
		s.shareChanged(v.req.ShareKey, addr)
	}
}

// sharesAlike reports whether a and b are the same to those who share with
// them.
func sharesAlike(a, b *Request) bool {
	return a.ShareKey == b.ShareKey && a.Local == b.Local && a.Selector == b.Selector && slices.Equal(a.Ports, b.Ports)
}

// revise replaces the request of v. When the edit ends its right to share an
// address it loses the address, whoever was there first: the others did
// nothing, and their traffic must not suffer from it. Claims that were
// restored are given up, or become good.
func (s *state) revise(v *service, r Request) {
	old := v.req
	if r.UID == "" {
		r.UID = old.UID
	}
	v.req = r
	if !v.req.Created.Equal(old.Created) {
		s.reorder(v)
	}
	if !sharesAlike(&old, &r) {
		for _, addr := range slices.Clone(v.held) {
			if no := s.seats[addr].room(v, addr); no.Reason != "" {
				s.drop(v, addr, "it may not share the address any more: "+no.String())
			} else {
				s.settle(addr, s.seats[addr])
			}
			s.shareChanged(old.ShareKey, addr)
			s.shareChanged(r.ShareKey, addr)
		}
	}
	for _, addr := range slices.Clone(v.claimed) {
		st := s.seats[addr]
		no := st.room(v, addr)
		if no.Reason == "" {
			s.settle(addr, st)
			continue
		}
		st.claims = remove(st.claims, v)
		v.claimed = remove(v.claimed, addr)
		v.removed = append(v.removed, Removed{addr, "it was given twice: " + no.String()})
	}
}

// reorder puts v at its place in the lists that are sorted by age.
func (s *state) reorder(v *service) {
	for _, addr := range v.held {
		slices.SortFunc(s.seats[addr].holders, compareAge)
	}
	for _, addr := range v.claimed {
		slices.SortFunc(s.seats[addr].claims, compareAge)
	}
	for _, t := range v.topics {
		slices.SortFunc(s.topics[t], compareAge)
	}
}
