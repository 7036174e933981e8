package speaker

import (
	"time"
)

// burst is when a new owner announces, counted from the first time. The first
// moves every cache that listens; 60 and 160 ms are against a lost frame; 1.1 s
// and later are for stacks that ignore an update within a second of the last
// (Linux: locktime). IPv6 gets the same, which is more than the three at one
// second each of RFC 4861 §7.2.6: an owner that is late by a second costs more
// than six small frames.
var burst = [...]time.Duration{0, 60 * time.Millisecond, 160 * time.Millisecond, 1100 * time.Millisecond, 2200 * time.Millisecond, 3300 * time.Millisecond}

// After the burst a VIP is announced again after a random time between these,
// for ever: switches forget where a MAC is (often after 300 s) long before
// hosts forget it.
const (
	refreshMin = 60 * time.Second
	refreshMax = 120 * time.Second
)

// What a speaker says unasked on one link is paced: switches police ARP (some
// drop what is above 100 to 1,000 frames per second), so a node that takes
// over hundreds of VIPs at once must not send everything in one go. First
// announcements go before probes of further VIPs, and both before all repeats.
const (
	paceRate  = 500 // frames per second
	paceBurst = 200 // frames that may go at once after silence

	announceFrames = 2          // of one announcement at most: ARP request and reply, or NA to all nodes and to all routers
	probeFrames    = probeCount // of one round
)

// schedule decides when which VIP of one link is probed for and announced. It
// is told the time and a random number in [0,1), so its decisions can be
// tested.
type schedule struct {
	random  func() float64
	probes  []Unit // waiting for their turn to be probed, in order
	fresh   []Unit // waiting for their first announcement, in order
	repeats timers[Unit]
	at      map[Unit]*progress
	budget  float64 // frames that may be sent now
	counted time.Time
}

type progress struct {
	first time.Time // zero until the first announcement
	done  int       // of burst
	isNew bool
	queue bool // in fresh
}

// A turn is what a schedule says is to be done now.
type turn struct {
	announce []Order
	probe    []Unit // a round for each may begin
}

func newSchedule(random func() float64) *schedule {
	return &schedule{random: random, repeats: newTimers[Unit](), at: map[Unit]*progress{}, budget: paceBurst}
}

// start begins the burst of a unit, anew if it is announced already.
func (s *schedule) start(u Unit, isNew bool) {
	s.repeats.drop(u)
	p := s.at[u]
	if p == nil {
		p = &progress{}
		s.at[u] = p
	}
	if !p.queue {
		s.fresh = append(s.fresh, u)
	}
	*p = progress{isNew: isNew, queue: true}
}

// stop ends the announcements of a unit at once.
func (s *schedule) stop(u Unit) {
	s.repeats.drop(u)
	delete(s.at, u) // An entry left in fresh is skipped when its turn comes.
}

// probe queues a unit for a round of probes.
func (s *schedule) probe(u Unit) { s.probes = append(s.probes, u) }

// due returns what to do now, as much as the pace allows. wanted says whether
// a queued unit is still to be probed.
func (s *schedule) due(now time.Time, wanted func(Unit) bool) (t turn) {
	s.refill(now)
	for len(s.fresh) > 0 {
		u := s.fresh[0]
		p := s.at[u]
		if p == nil || !p.queue { // stopped meanwhile, or stopped, started and sent
			s.fresh = s.fresh[1:]
			continue
		}
		if !s.spend(announceFrames) {
			return t
		}
		s.fresh = s.fresh[1:]
		p.queue, p.first, p.done = false, now, 1
		s.repeats.set(u, now.Add(burst[1]))
		t.announce = append(t.announce, Order{Do: DoAnnounce, Unit: u, New: p.isNew})
	}
	for len(s.probes) > 0 {
		if wanted(s.probes[0]) {
			if !s.spend(probeFrames) {
				return t
			}
			t.probe = append(t.probe, s.probes[0])
		}
		s.probes = s.probes[1:]
	}
	for s.repeatDue(now) && s.spend(announceFrames) {
		for u := range s.repeats.pop(now, 1) {
			s.repeats.set(u, s.after(s.at[u], now))
			t.announce = append(t.announce, Order{Do: DoAnnounce, Unit: u})
		}
	}
	return t
}

func (s *schedule) repeatDue(now time.Time) bool {
	next := s.repeats.next()
	return !next.IsZero() && !next.After(now)
}

// after counts an announcement and returns when the next one is due. A late
// one does not bring the following ones together.
func (s *schedule) after(p *progress, now time.Time) time.Time {
	p.done++
	if p.done >= len(burst) {
		return now.Add(refreshMin + time.Duration(s.random()*float64(refreshMax-refreshMin)))
	}
	when := p.first.Add(burst[p.done])
	if least := now.Add((burst[p.done] - burst[p.done-1]) / 2); when.Before(least) {
		return least
	}
	return when
}

// next returns when due has something to give, or the zero time for never.
func (s *schedule) next(now time.Time) time.Time {
	when, need := s.repeats.next(), announceFrames
	if len(s.fresh) > 0 {
		when = now
	} else if len(s.probes) > 0 {
		when, need = now, probeFrames
	}
	if when.IsZero() {
		return when
	}
	if s.refill(now); s.budget < float64(need) {
		// A nanosecond more, against the rounding that would wake us too early.
		paid := now.Add(time.Duration((float64(need)-s.budget)/paceRate*float64(time.Second)) + 1)
		if paid.After(when) {
			return paid
		}
	}
	return when
}

func (s *schedule) refill(now time.Time) {
	if !s.counted.IsZero() {
		s.budget = min(paceBurst, s.budget+now.Sub(s.counted).Seconds()*paceRate)
	}
	s.counted = now
}

// spend pays for frames if it can.
func (s *schedule) spend(frames float64) bool {
	if s.budget < frames {
		return false
	}
	s.budget -= frames
	return true
}
