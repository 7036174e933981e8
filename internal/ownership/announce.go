package ownership

import (
	"container/heap"
	"time"
)

// burst is when a new owner announces a VIP, counted from the first time. The
// early repeats are against loss, the late ones for machines whose neighbour
// table takes nothing new about an entry for a second (Linux: locktime). They
// exceed the pace of RFC 4861 section 7.2.6 (three, a second apart).
var burst = [...]time.Duration{0, 60 * time.Millisecond, 160 * time.Millisecond,
	1100 * time.Millisecond, 2200 * time.Millisecond, 3300 * time.Millisecond}

// After the burst a VIP is announced every one to two minutes, before switches
// forget the port (300 s).
const refresh = time.Minute

// A schedule is where a unit stands in its announcements.
type schedule struct {
	gen  uint64 // entries in the queue with another one are void
	from time.Duration
	step int
}

// An announcer paces the announcements. First ones go before repeats.
type announcer struct {
	bucket bucket
	first  announceQueue
	repeat announceQueue
	gen    uint64
}

type announcement struct {
	at  time.Duration
	gen uint64
	u   *unit
}

type announceQueue []announcement

func (q announceQueue) Len() int { return len(q) }
func (q announceQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].gen < q[j].gen
}
func (q announceQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *announceQueue) Push(x any)   { *q = append(*q, x.(announcement)) }
func (q *announceQueue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// start begins the burst of u anew.
func (a *announcer) start(u *unit, now time.Duration) {
	a.gen++
	u.ann = schedule{gen: a.gen, from: now}
	heap.Push(&a.first, announcement{now, a.gen, u})
}

// once announces u a single time and goes on with the slow refresh.
func (a *announcer) once(u *unit, now time.Duration) {
	a.start(u, now)
	u.ann.step = len(burst) - 1
}

func (a *announcer) cancel(u *unit) { u.ann.gen = 0 }

func (q *announceQueue) skipStale() {
	for len(*q) > 0 && (*q)[0].u.ann.gen != (*q)[0].gen {
		heap.Pop(q)
	}
}

func (a *announcer) next(now time.Duration) (time.Duration, bool) {
	at, ok := time.Duration(0), false
	for _, q := range [...]*announceQueue{&a.first, &a.repeat} {
		if q.skipStale(); len(*q) > 0 && (!ok || (*q)[0].at < at) {
			at, ok = (*q)[0].at, true
		}
	}
	if ok && at <= now {
		at = a.bucket.when(now)
	}
	return at, ok
}

// announcements sends what is due, as far as the pace allows.
func (m *Machine) announcements() {
	for _, q := range [...]*announceQueue{&m.ann.first, &m.ann.repeat} {
		for {
			q.skipStale()
			if len(*q) == 0 || (*q)[0].at > m.now {
				break
			}
			u := (*q)[0].u
			if m.mute(u.seg) {
				// A node that hears nothing would only pull traffic into the void.
				(*q)[0].at = m.after(deafAfter)
				heap.Fix(q, 0)
				continue
			}
			if !m.ann.bucket.take(m.now) {
				return
			}
			heap.Pop(q)
			m.do(Announce{u.Unit})
			m.scheduleNext(u)
		}
	}
}

func (m *Machine) scheduleNext(u *unit) {
	if u.ann.step == 0 {
		u.ann.from = m.now // repeats count from when the first one was sent
	}
	u.ann.step++
	at := m.after(refresh + time.Duration(m.rng.Int64N(int64(refresh))))
	if u.ann.step < len(burst) {
		at = max(u.ann.from+burst[u.ann.step], m.now)
	}
	heap.Push(&m.ann.repeat, announcement{at, u.ann.gen, u})
}
