package provider

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// A waiting Service is told once and asked for nothing: no retries, however
// long it waits. Time is synctest's, so the half hour is over at once.
func TestWaitingCostsNothing(t *testing.T) {
	const waiters = 200
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		setPools(a, "default", "192.0.2.200")
		one := lead(t, a, "one")
		gets(t, a, create(a, "web"), "192.0.2.200")
		for i := range waiters {
			create(a, fmt.Sprintf("waits-%03d", i))
		}
		time.Sleep(time.Minute) // fake time: everything that will happen has happened
		a.mu.Lock()
		events := len(a.events)
		a.mu.Unlock()
		if events != waiters {
			t.Errorf("%d Events for %d Services that wait", events, waiters)
		}
		if n := a.count("patch services/status"); n != 1+waiters {
			t.Errorf("%d writes to 1 + %d Services", n, waiters)
		}
		all := func() (n int) {
			a.mu.Lock()
			defer a.mu.Unlock()
			for name, c := range a.counts {
				if name != "one list services" {
					n += c
				}
			}
			return n
		}
		before := all()
		time.Sleep(30 * time.Minute)
		if n := all() - before; n != 0 {
			t.Errorf("%d requests in half an hour in which nothing happened: %v", n, a.counts)
		}

		started := time.Now()
		a.remove("services", "shop/web")
		gets(t, a, "shop/waits-000", "192.0.2.200") // the oldest

		if lag := time.Since(started); lag > 100*time.Millisecond {
			t.Errorf("served after %v of fake time: somebody slept", lag)
		}
		time.Sleep(time.Minute)
		if n := a.count("patch services/status"); n != 1+waiters+2 {
			t.Errorf("%d writes in all; only the one that went and the one that was served change", n)
		}
		one.end()
	})
}
