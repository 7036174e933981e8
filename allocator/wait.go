package allocator

import (
	"net/netip"
	"slices"

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

// A line is what waits for one topic, the oldest first, or all that waits.
type line struct {
	topic topic // the zero topic for all
	queue []*service
}

// serve gives what has become free to those who wait. Of all lines together
// the oldest is next: it may want more than what its line is for, and take it from
// an older one in another line otherwise.
func (s *state) serve() {
	var lines []*line
	for {
		lines = s.callUp(lines)
		v := s.next(lines)
		if v == nil {
			return
		}
		s.retry(v)
	}
}

// callUp adds a line for everything that became available since it was
// called last. Serving can make things available, when somebody moves.
func (s *state) callUp(lines []*line) []*line {
	if s.all {
		s.all = false
		clear(s.dirty)
		return []*line{{queue: s.waiting()}}
	}
	for t := range s.dirty {
		lines = slices.DeleteFunc(lines, func(l *line) bool { return l.topic == t })
		lines = append(lines, &line{t, slices.Clone(s.topics[t])})
	}
	clear(s.dirty)
	return lines
}

// next takes the oldest of all lines out of them, nil when they are empty. A
// line for a pool that is used up has ended: its younger ones need not try.
func (s *state) next(lines []*line) *service {
	var oldest *service
	for _, l := range lines {
		for len(l.queue) > 0 && !l.queue[0].waits {
			l.queue = l.queue[1:]
		}
		if p := s.byName[l.topic.pool]; p != nil {
			if _, ok := s.lowest(p, l.topic.family); !ok {
				l.queue = nil
			}
		}
		if len(l.queue) > 0 && (oldest == nil || compareAge(l.queue[0], oldest) < 0) {
			oldest = l.queue[0]
		}
	}
	for _, l := range lines {
		if len(l.queue) > 0 && l.queue[0] == oldest {
			l.queue = l.queue[1:]
		}
	}
	return oldest
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
