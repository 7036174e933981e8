package allocator

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
)

// A topic is something that a Service can wait for: a free address of a pool
// in a family, one address, or somebody to share with. Exactly one of pool,
// addr and share is set. Everything else that can help a Service is an edit of
// the pools or of the reserved ranges, after which all are tried again.
type topic struct {
	pool   string
	family ipfam.Family
	addr   netip.Addr
	share  string
}

func compareTopics(a, b topic) int {
	return cmp.Or(strings.Compare(a.pool, b.pool), cmp.Compare(a.family, b.family), a.addr.Compare(b.addr), strings.Compare(a.share, b.share))
}

// wait lets v wait because of refusals.
func (s *state) wait(v *service, refusals []Refusal) {
	v.waits, v.refusals = true, refusals
	add := func(t topic) {
		if !slices.Contains(v.topics, t) {
			v.topics = append(v.topics, t)
			s.topics[t] = insertSorted(s.topics[t], v, compareAge)
		}
	}
	for _, r := range refusals {
		switch r.Reason {
		case Exhausted:
			add(topic{pool: r.Pool, family: r.Family})
		case Taken, ShareKeyDiffers, PortTaken, PolicyDiffers, Resting, Quarantined:
			add(topic{addr: r.Addr})
		}
	}
	if v.req.ShareKey != "" {
		add(topic{share: v.req.ShareKey})
	}
	for _, addr := range s.before[v.req.Key] {
		add(topic{addr: addr})
	}
}

// unwait ends the waiting of v.
func (s *state) unwait(v *service) {
	for _, t := range v.topics {
		if s.topics[t] = remove(s.topics[t], v); len(s.topics[t]) == 0 {
			delete(s.topics, t)
		}
	}
	v.waits, v.refusals, v.topics = false, nil, nil
}

// mark notes that those who wait for t may be lucky now. Who begins to wait
// later has just been refused, so nobody is missed.
func (s *state) mark(t topic) {
	if len(s.topics[t]) > 0 {
		s.dirty[t] = struct{}{}
	}
}

// serve gives what has become free to those who wait, the oldest first.
func (s *state) serve() {
	for s.all || len(s.dirty) > 0 {
		if s.all {
			s.all = false
			clear(s.dirty)
			for _, v := range s.waiting() {
				s.retry(v)
			}
			continue
		}
		t := slices.MinFunc(slices.Collect(maps.Keys(s.dirty)), compareTopics)
		delete(s.dirty, t)
		for _, v := range slices.Clone(s.topics[t]) {
			if p := s.byName[t.pool]; p != nil {
				if _, ok := s.lowest(p, t.family); !ok {
					break // the younger ones need not try
				}
			}
			s.retry(v)
		}
	}
}

// retry attempts to serve v and notes when that brought it something.
func (s *state) retry(v *service) {
	had := slices.Clone(v.held)
	s.attempt(v)
	if !slices.Equal(had, v.held) {
		s.served = append(remove(s.served, v.req.Key), v.req.Key)
	}
}

// waiting returns those who wait, the oldest first.
func (s *state) waiting() []*service {
	var out []*service
	for _, v := range s.services {
		if v.waits {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, compareAge)
	return out
}

// takeServed returns the keys of those who were served while waiting, once.
func (s *state) takeServed() []cluster.Key {
	out := s.served
	s.served = nil
	return slices.DeleteFunc(out, func(k cluster.Key) bool { return s.services[k] == nil })
}
