package proxy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A book knows what every Service wants, and who gets what when two want the
// same. It does no I/O.
type book struct {
	view     View
	services map[cluster.Key]*record
	claims   map[Front]cluster.Key   // who has a front
	rivals   map[Front][]cluster.Key // who wants a front, where there are several
	refs     map[entry]int           // how many Services want an entry
}

// A record is what one Service wanted when it was last planned.
type record struct {
	service *cluster.Service
	fronts  []Front
	entries []entry
}

// A changeset is what a change of Services touches.
type changeset struct {
	fronts  map[Front]*Target // what each is to become; nil for nothing
	entries map[entry]bool    // whether each is wanted
	lost    map[Front]cluster.Key
}

func newBook() *book {
	return &book{
		services: map[cluster.Key]*record{}, claims: map[Front]cluster.Key{},
		rivals: map[Front][]cluster.Key{}, refs: map[entry]int{},
	}
}

// put plans Services anew and returns what that touches. A nil Service is one
// that is gone.
func (b *book) put(changed map[cluster.Key]*cluster.Service) changeset {
	cs := changeset{
		fronts: make(map[Front]*Target, len(changed)), entries: make(map[entry]bool, len(changed)),
		lost: map[Front]cluster.Key{},
	}
	plans := make(map[cluster.Key]Plan, len(changed))
	for key, s := range changed {
		old := b.services[key]
		if old == nil && s == nil {
			continue
		}
		p := PlanService(s, b.view)
		plans[key] = p
		now := &record{service: s, entries: p.entries()}
		if old == nil {
			old = &record{}
		}
		// All new references are taken before any old one is given back, so that
		// what stays never counts as gone.
		for _, m := range now.entries {
			b.refs[m]++
			cs.entries[m] = true
		}
		for _, m := range old.entries {
			if b.refs[m]--; b.refs[m] == 0 {
				delete(b.refs, m)
			}
			cs.entries[m] = b.refs[m] > 0
		}
		if s == nil {
			delete(b.services, key)
		} else {
			now.fronts = make([]Front, len(p.Fronts))
			for i, x := range p.Fronts {
				now.fronts[i] = x.Front
			}
			b.services[key] = now
		}
		for _, f := range old.fronts {
			cs.fronts[f] = nil
			if p.front(f) == nil {
				b.unclaim(f, key)
			}
		}
		for _, x := range p.Fronts {
			cs.fronts[x.Front] = nil
			b.claim(x.Front, key)
		}
	}
	for m := range cs.entries {
		cs.entries[m] = b.refs[m] > 0
	}
	for f := range cs.fronts {
		winner, ok := b.winner(f)
		if !ok {
			continue
		}
		p, planned := plans[winner]
		if !planned {
			p = PlanService(b.services[winner].service, b.view)
		}
		cs.fronts[f] = p.front(f)
		for _, k := range b.rivals[f] {
			if _, new := changed[k]; new && k != winner {
				cs.lost[f] = k
			}
		}
	}
	return cs
}

// all plans all Services anew, with those that changed, and returns all fronts
// with what they are to be.
func (b *book) all(changed map[cluster.Key]*cluster.Service) changeset {
	every := make(map[cluster.Key]*cluster.Service, len(b.services)+len(changed))
	for k, r := range b.services {
		every[k] = r.service
	}
	maps.Copy(every, changed)
	return b.put(every)
}

// onNodes returns the Services with an endpoint on a node for which in holds.
func (b *book) onNodes(in func(node string) bool) map[cluster.Key]*cluster.Service {
	out := map[cluster.Key]*cluster.Service{}
	for k, r := range b.services {
		for _, p := range r.service.Ports {
			if slices.ContainsFunc(p.Endpoints, func(e cluster.Endpoint) bool { return in(e.Node) }) {
				out[k] = r.service
				break
			}
		}
	}
	return out
}

func (b *book) claim(f Front, key cluster.Key) {
	owner, taken := b.claims[f]
	switch {
	case !taken:
		b.claims[f] = key
	case owner != key && b.rivals[f] == nil:
		b.rivals[f] = []cluster.Key{owner, key}
	case owner != key && !slices.Contains(b.rivals[f], key):
		b.rivals[f] = append(b.rivals[f], key)
	}
}

func (b *book) unclaim(f Front, key cluster.Key) {
	rivals := slices.DeleteFunc(b.rivals[f], func(k cluster.Key) bool { return k == key })
	switch {
	case b.rivals[f] == nil && b.claims[f] == key:
		delete(b.claims, f)
	case len(rivals) == 1:
		delete(b.rivals, f)
		b.claims[f] = rivals[0]
	case len(rivals) > 1:
		b.rivals[f] = rivals
		if b.claims[f] == key {
			b.claims[f] = rivals[0]
		}
	}
}

// winner returns the Service that has a front. Of several the one whose
// cluster IP it is wins, then the one that is older: nobody takes traffic from
// a Service by naming its address.
func (b *book) winner(f Front) (cluster.Key, bool) {
	rivals := b.rivals[f]
	if rivals == nil {
		k, ok := b.claims[f]
		return k, ok
	}
	return slices.MinFunc(rivals, func(x, y cluster.Key) int {
		a, b := b.services[x].service, b.services[y].service
		return cmp.Or(
			cmp.Compare(rank(a, f.Addr), rank(b, f.Addr)),
			a.Created.Compare(b.Created),
			cmp.Compare(x, y))
	}), true
}

func rank(s *cluster.Service, a netip.Addr) int {
	if slices.Contains(s.ClusterIPs, a) {
		return 0
	}
	return 1
}
