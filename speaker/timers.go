package speaker

import (
	"container/heap"
	"time"
)

// timers holds at most one time for each key and gives out the keys that are
// due, the earliest first. It has no clock: it is told the time.
type timers[K comparable] struct {
	heap timerHeap[K]
	at   map[K]*timer[K]
}

type timer[K comparable] struct {
	key  K
	when time.Time
	i    int // its place in the heap
}

func newTimers[K comparable]() timers[K] { return timers[K]{at: map[K]*timer[K]{}} }

// set gives a key a time, in place of an earlier one.
func (t *timers[K]) set(key K, when time.Time) {
	if x := t.at[key]; x != nil {
		x.when = when
		heap.Fix(&t.heap, x.i)
		return
	}
	x := &timer[K]{key: key, when: when}
	t.at[key] = x
	heap.Push(&t.heap, x)
}

// drop forgets a key.
func (t *timers[K]) drop(key K) {
	if x := t.at[key]; x != nil {
		heap.Remove(&t.heap, x.i)
		delete(t.at, key)
	}
}

// next returns the earliest time, or the zero time when there is none.
func (t *timers[K]) next() time.Time {
	if len(t.heap) == 0 {
		return time.Time{}
	}
	return t.heap[0].when
}

// pop yields keys whose time has come, at most n, and forgets each before it
// is yielded, so that the body may set it again.
func (t *timers[K]) pop(now time.Time, n int) func(yield func(K) bool) {
	return func(yield func(K) bool) {
		for range n {
			if len(t.heap) == 0 || t.heap[0].when.After(now) {
				return
			}
			x := heap.Pop(&t.heap).(*timer[K])
			delete(t.at, x.key)
			if !yield(x.key) {
				return
			}
		}
	}
}

type timerHeap[K comparable] []*timer[K]

func (h timerHeap[K]) Len() int           { return len(h) }
func (h timerHeap[K]) Less(i, j int) bool { return h[i].when.Before(h[j].when) }
func (h timerHeap[K]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].i, h[j].i = i, j
}
func (h *timerHeap[K]) Push(x any) {
	t := x.(*timer[K])
	t.i = len(*h)
	*h = append(*h, t)
}
func (h *timerHeap[K]) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
