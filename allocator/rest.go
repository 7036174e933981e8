package allocator

import (
	"container/heap"
	"net/netip"
	"time"
)

// rest keeps r.Addr from being given until r.Until. Of two rests of one address
// the longer one counts, and a quarantine counts more than a rest.
func (s *state) rest(r Rest) {
	if !r.Until.After(s.now) {
		if _, resting := s.rests[r.Addr]; !resting && s.seats[r.Addr] == nil {
			s.freed(r.Addr)
		}
		return
	}
	if old, ok := s.rests[r.Addr]; ok {
		longer := old.Until.After(r.Until)
		if (old.Why != "") != (r.Why != "") {
			longer = old.Why != ""
		}
		if longer {
			return
		}
	} else if sh := s.shelf(r.Addr); sh != nil && s.seats[r.Addr] == nil {
		sh.rests++
	}
	s.rests[r.Addr] = r
	heap.Push(&s.ends, end{r.Until, r.Addr})
}

// expire lets the clock be now and ends the rests whose time has come. A clock
// that goes back changes nothing.
func (s *state) expire(now time.Time) {
	if now.After(s.now) {
		s.now = now
	}
	for {
		until, ok := s.nextEnd()
		if !ok || until.After(s.now) {
			return
		}
		addr := heap.Pop(&s.ends).(end).addr
		delete(s.rests, addr)
		if st := s.seats[addr]; st != nil { // a quarantine under a holder: it can be shared again
			s.shareChanged(st.holders[0].req.ShareKey, addr)
			continue
		}
		if sh := s.shelf(addr); sh != nil {
			sh.rests--
		}
		s.freed(addr)
	}
}

// nextEnd returns when the next rest ends.
func (s *state) nextEnd() (time.Time, bool) {
	for len(s.ends) > 0 {
		e := s.ends[0]
		if r, ok := s.rests[e.addr]; ok && r.Until.Equal(e.at) {
			return e.at, true
		}
		heap.Pop(&s.ends) // that rest was ended or made longer
	}
	return time.Time{}, false
}

// An end is when the rest of an address ends.
type end struct {
	at   time.Time
	addr netip.Addr
}

// A restHeap has the end that comes first on top.
type restHeap []end

func (h restHeap) Len() int { return len(h) }
func (h restHeap) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].addr.Less(h[j].addr)
}
func (h restHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *restHeap) Push(x any)   { *h = append(*h, x.(end)) }
func (h *restHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
