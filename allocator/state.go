package allocator

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/iprange"
)

// state is what an Allocator knows, without its lock.
type state struct {
	now      time.Time // the latest that a caller said
	restTime time.Duration

	services map[cluster.Key]*service
	seats    map[netip.Addr]*seat // every address that somebody holds

	given       []Pool
	order       []*pool // by priority, then name
	byName      map[string]*pool
	index       []segment // sorted
	reserved    []Reserved
	reservedSet iprange.Set

	rests  map[netip.Addr]Rest
	ends   restHeap                           // when rests end; some entries are of rests that are no more
	shares map[string]map[netip.Addr]struct{} // by sharing key, where it is in use
	before map[cluster.Key][]netip.Addr       // what names without a Service had, by family the newest first
	hadBy  map[netip.Addr][]cluster.Key       // the reverse of before
	topics map[topic][]*service               // who waits for what, the oldest first
	dirty  map[topic]struct{}                 // what may have become available
	all    bool                               // everything may have
	served []cluster.Key                      // who was given something while waiting
}

func newState() *state {
	return &state{
		services: map[cluster.Key]*service{},
		seats:    map[netip.Addr]*seat{},
		byName:   map[string]*pool{},
		rests:    map[netip.Addr]Rest{},
		shares:   map[string]map[netip.Addr]struct{}{},
		before:   map[cluster.Key][]netip.Addr{},
		hadBy:    map[netip.Addr][]cluster.Key{},
		topics:   map[topic][]*service{},
		dirty:    map[topic]struct{}{},
	}
}

// A service is a Service that was assigned or restored.
type service struct {
	req     Request
	held    []netip.Addr // sorted
	claimed []netip.Addr // restored, but held by an elder that does not share

	// poolTried is, by family, the Request.Pool that the held addresses follow;
	// another one in the request is the wish to move.
	poolTried [2]string

	added   []netip.Addr // since the last Assign returned
	removed []Removed

	waits    bool
	refusals []Refusal // why it waits
	topics   []topic   // what it waits for
}

// is reports whether v is the Service with that UID. Who does not know the UID
// means whoever has the name.
func (v *service) is(uid string) bool {
	return uid == "" || v.req.UID == "" || v.req.UID == uid
}

// of returns the addresses of family f that the Service holds.
func (v *service) of(f ipfam.Family) []netip.Addr {
	var out []netip.Addr
	for _, a := range v.held {
		if ipfam.Of(a) == f {
			out = append(out, a)
		}
	}
	return out
}

// has reports whether the Service holds an address of family f.
func (v *service) has(f ipfam.Family) bool {
	return slices.ContainsFunc(v.held, func(a netip.Addr) bool { return ipfam.Of(a) == f })
}

// compareAge orders Services by age, the elder first; of the same second the
// name decides.
func compareAge(a, b *service) int {
	return cmp.Or(a.req.Created.Compare(b.req.Created), strings.Compare(string(a.req.Key), string(b.req.Key)))
}

// A seat is an address with those who hold it. It exists only while somebody
// does.
type seat struct {
	holders []*service // sorted by age; any two may share
	claims  []*service // restored, sorted by age; each may not share with one of the holders
}

// take gives addr to v, who may have it.
func (s *state) take(v *service, addr netip.Addr) {
	st := s.seats[addr]
	if st == nil {
		st = &seat{}
		s.seats[addr] = st
		sh := s.shelf(addr)
		if sh != nil {
			sh.used++
		}
		if r, ok := s.rests[addr]; ok {
			if sh != nil {
				sh.rests--
			}
			if r.Why == "" { // its last Service has it back; a quarantine goes on under a holder
				delete(s.rests, addr)
			}
		}
	}
	st.holders = insertSorted(st.holders, v, compareAge)
	v.held = insertSorted(v.held, addr, netip.Addr.Compare)
	if i := slices.IndexFunc(v.removed, func(r Removed) bool { return r.Addr == addr }); i >= 0 {
		v.removed = slices.Delete(v.removed, i, i+1) // nobody saw it go
	} else {
		v.added = append(v.added, addr)
	}
	s.forgetFor(v, addr)
	s.shareChanged(v.req.ShareKey, addr)
}

// drop takes addr from v, who holds it, and says why.
func (s *state) drop(v *service, addr netip.Addr, why string) {
	v.held = remove(v.held, addr)
	if i := slices.Index(v.added, addr); i >= 0 {
		v.added = slices.Delete(v.added, i, i+1) // nobody saw it come
	} else {
		v.removed = append(v.removed, Removed{addr, why})
	}
	s.leave(v, addr)
}

// leave takes v from the holders of addr.
func (s *state) leave(v *service, addr netip.Addr) {
	st := s.seats[addr]
	st.holders = remove(st.holders, v)
	s.settle(addr, st)
	s.shareChanged(v.req.ShareKey, addr)
	if len(st.holders) > 0 {
		return
	}
	delete(s.seats, addr)
	sh := s.shelf(addr)
	if sh != nil {
		sh.used--
	}
	until := s.now.Add(s.restTime)
	switch q, quarantined := s.rests[addr]; {
	case !quarantined:
		s.rest(Rest{Addr: addr, Until: until, Last: v.req.Key})
	case sh != nil:
		sh.rests++
		fallthrough
	default:
		if until.After(q.Until) {
			q.Until = until
			s.rest(q)
		}
	}
}

// freed tells that nobody holds addr and it does not rest.
func (s *state) freed(addr netip.Addr) {
	if p := s.poolOf(addr); p != nil {
		p.shelves[ipfam.Of(addr)].putBack(addr)
		s.mark(topic{pool: p.Name, family: ipfam.Of(addr)})
	}
	s.mark(topic{addr: addr})
}

// shareChanged is called after somebody with the sharing key came to addr,
// left it, or changed there. It keeps the index of keys and wakes
// those who could share now.
func (s *state) shareChanged(key string, addr netip.Addr) {
	inUse := false
	if st := s.seats[addr]; st != nil {
		inUse = slices.ContainsFunc(st.holders, func(v *service) bool { return v.req.ShareKey == key })
		s.mark(topic{addr: addr})
	}
	if key == "" {
		return
	}
	if inUse {
		if s.shares[key] == nil {
			s.shares[key] = map[netip.Addr]struct{}{}
		}
		s.shares[key][addr] = struct{}{}
	} else if delete(s.shares[key], addr); len(s.shares[key]) == 0 {
		delete(s.shares, key)
	}
	s.mark(topic{share: key})
}

// release ends the life of v and returns what it held.
func (s *state) release(v *service) []netip.Addr {
	s.unwait(v)
	for _, addr := range v.claimed {
		st := s.seats[addr]
		st.claims = remove(st.claims, v)
	}
	delete(s.services, v.req.Key)
	freed := v.held
	for _, addr := range freed {
		s.remember(v.req.Key, addr)
		s.leave(v, addr)
	}
	v.held, v.claimed = nil, nil
	return freed
}

// clone returns a copy that shares nothing that changes.
func (s *state) clone() *state {
	c := *s
	c.services = make(map[cluster.Key]*service, len(s.services))
	twin := make(map[*service]*service, len(s.services))
	for key, v := range s.services {
		w := *v
		w.held, w.claimed, w.added, w.removed = slices.Clone(v.held), slices.Clone(v.claimed), slices.Clone(v.added), slices.Clone(v.removed)
		c.services[key], twin[v] = &w, &w
	}
	twins := func(vs []*service) []*service {
		out := make([]*service, len(vs))
		for i, v := range vs {
			out[i] = twin[v]
		}
		return out
	}
	c.seats = make(map[netip.Addr]*seat, len(s.seats))
	for addr, st := range s.seats {
		c.seats[addr] = &seat{twins(st.holders), twins(st.claims)}
	}
	c.topics = make(map[topic][]*service, len(s.topics))
	for t, vs := range s.topics {
		c.topics[t] = twins(vs)
	}
	c.order, c.byName, c.index = slices.Clone(s.order), map[string]*pool{}, slices.Clone(s.index)
	for i, p := range c.order {
		q := *p
		for f, sh := range p.shelves {
			q.shelves[f] = sh.clone()
		}
		c.order[i], c.byName[p.Name] = &q, &q
	}
	for i, seg := range c.index {
		c.index[i].pool = c.byName[seg.pool.Name]
	}
	c.rests, c.ends = maps.Clone(s.rests), slices.Clone(s.ends)
	c.shares = map[string]map[netip.Addr]struct{}{}
	for key, addrs := range s.shares {
		c.shares[key] = maps.Clone(addrs)
	}
	c.before, c.hadBy = cloneLists(s.before), cloneLists(s.hadBy)
	c.dirty, c.served = maps.Clone(s.dirty), slices.Clone(s.served)
	return &c
}

func cloneLists[K comparable, V any](m map[K][]V) map[K][]V {
	out := make(map[K][]V, len(m))
	for k, v := range m {
		out[k] = slices.Clone(v)
	}
	return out
}

// insertSorted returns list with x at its place; an x that is there already
// is not added again.
func insertSorted[T comparable](list []T, x T, compare func(a, b T) int) []T {
	i, found := slices.BinarySearchFunc(list, x, compare)
	if found {
		return list
	}
	return slices.Insert(list, i, x)
}

func remove[T comparable](list []T, x T) []T {
	if i := slices.Index(list, x); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}
