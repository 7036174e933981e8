package ownership

import (
	"testing"
	"time"
)

// Stalls that are shorter than the silence move no VIP, however many there
// are: garbage collection, compiles and busy neighbours are no failures.
func TestShortStallsMoveNothing(t *testing.T) {
	for _, tt := range []struct {
		longest time.Duration
		loss    float64
	}{{100 * time.Millisecond, 0.01}, {200 * time.Millisecond, 0.01}, {250 * time.Millisecond, 0}} {
		longest := tt.longest
		t.Run(longest.String(), func(t *testing.T) {
			s := alone("none", 5, 20, tt.loss, true)
			s.seed, s.count, s.late = *base, 0, true
			w := newWorld(t, s)
			if wrong := play(w); wrong != "" {
				t.Fatal(wrong)
			}
			w.judge.begin()
			for range 60 {
				for _, h := range w.nodes {
					w.at(w.between(0, time.Second/2), func() { w.hiccup(h, w.between(20*time.Millisecond, longest)) })
				}
				w.run(w.now + time.Second)
			}
			w.run(w.now + 2*time.Second)
			w.judge.all()
			t.Logf("300 stalls of up to %v: %d moves, %d verifications, %d times silent, two owners %v, nobody answers %v",
				longest, w.judge.moves, w.judge.verified, w.judge.reports[PeerSilent], w.judge.double, w.judge.gap)
			if w.judge.moves > 0 || w.judge.double > maxDouble {
				t.Errorf("%d moves, two owners for %v", w.judge.moves, w.judge.double)
			}
			if wrong := w.judge.settled(); wrong != "" {
				t.Error(wrong)
			}
		})
	}
}

// hiccup stops a process for a moment.
func (w *world) hiccup(h *host, d time.Duration) {
	if !h.active() {
		return
	}
	h.stopped = true
	w.trace("%s stops for %v", h.name, d)
	w.changed()
	w.at(d, h.resume)
}
