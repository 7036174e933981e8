package ownership

import (
	"container/heap"
	"time"
)

// timers wake units. A unit has one timer, unit.at; an entry in the heap that
// no longer agrees with it is skipped.
type timers struct{ q timerQueue }

type timer struct {
	at  time.Duration
	seq uint64 // units that are due together are handled in the order they were set
	u   *unit
}

type timerQueue struct {
	e   []timer
	seq uint64
}

func (q *timerQueue) Len() int { return len(q.e) }
func (q *timerQueue) Less(i, j int) bool {
	return q.e[i].at < q.e[j].at || q.e[i].at == q.e[j].at && q.e[i].seq < q.e[j].seq
}
func (q *timerQueue) Swap(i, j int) { q.e[i], q.e[j] = q.e[j], q.e[i] }
func (q *timerQueue) Push(x any)    { q.e = append(q.e, x.(timer)) }
func (q *timerQueue) Pop() any {
	last := q.e[len(q.e)-1]
	q.e = q.e[:len(q.e)-1]
	return last
}

// set arms the timer of u for at; 0 disarms it.
func (t *timers) set(u *unit, at time.Duration) {
	u.at = at
	if at > 0 {
		t.q.seq++
		heap.Push(&t.q, timer{at, t.q.seq, u})
	}
}

func (t *timers) skipStale() {
	for len(t.q.e) > 0 && t.q.e[0].u.at != t.q.e[0].at {
		heap.Pop(&t.q)
	}
}

func (t *timers) next() (time.Duration, bool) {
	t.skipStale()
	if len(t.q.e) == 0 {
		return 0, false
	}
	return t.q.e[0].at, true
}

// pop returns a unit whose timer has run out by now, and disarms it.
func (t *timers) pop(now time.Duration) (*unit, bool) {
	at, ok := t.next()
	if !ok || at > now {
		return nil, false
	}
	u := heap.Pop(&t.q).(timer).u
	u.at = 0
	return u, true
}

// A bucket paces: it gives out burst tokens at once and rate per second after.
type bucket struct {
	rate, burst int
	tokens      float64
	at          time.Duration
}

func (b *bucket) fill(now time.Duration) {
	b.tokens = min(float64(b.burst), b.tokens+float64(b.rate)*(now-b.at).Seconds())
	b.at = now
}

func (b *bucket) take(now time.Duration) bool {
	b.fill(now)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// when returns the time of the next token.
func (b *bucket) when(now time.Duration) time.Duration {
	b.fill(now)
	if b.tokens >= 1 {
		return now
	}
	return now + time.Duration((1-b.tokens)/float64(b.rate)*float64(time.Second)) + time.Microsecond
}
