package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/nfnl"
	"github.com/clarion-lb/clarion/proxy"
)

// A fencer keeps the fence of VIPs in step with the Services and says for
// which VIPs it stands: nothing is announced before (invariant O4).
type fencer struct {
	fence *proxy.Fence
	feed  *cluster.Feed
	log   *slog.Logger
	kick  func(vips ...netip.Addr) // called when standing changed

	mu       sync.Mutex
	standing map[netip.Addr]bool
	informed bool // something has been delivered
}

// repairEvery is how often the fence is compared with the kernel unasked, for
// the case that somebody flushed the tables of this host.
const repairEvery = 10 * time.Second

// interruptions is how often a comparison that others' changes interrupt is
// tried again at once.
const interruptions = 10

func (f *fencer) String() string { return "fence" }

// Run follows the feed until ctx ends. The fence stays when it returns: the
// next agent finds it.
func (f *fencer) Run(ctx context.Context) error {
	var view cluster.View
	synced, retry := false, time.NewTimer(repairEvery)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return f.fence.Close()
		case <-f.feed.Ready():
			d := f.feed.Take()
			view.Apply(d)
			synced = synced || d.Synced
		case <-retry.C:
		}
		retry.Reset(f.bring(view, synced))
	}
}

// bring makes the fence hold the VIPs of view and returns when to come again.
func (f *fencer) bring(view cluster.View, synced bool) time.Duration {
	if len(view.Services) == 0 && !synced {
		return repairEvery // nothing is known yet, which does not mean that there is nothing
	}
	want := map[netip.Addr]bool{}
	for _, s := range view.Services {
		if s.Ours {
			for _, vip := range s.VIPs {
				want[vip] = true
			}
		}
	}
	if !synced {
		f.mu.Lock()
		maps.Copy(want, f.standing)
		f.mu.Unlock()
	}
	vips := slices.SortedFunc(maps.Keys(want), netip.Addr.Compare)
	err := f.fence.Set(vips)
	for tries := 1; errors.Is(err, nfnl.ErrInterrupted) && tries < interruptions; tries++ {
		err = f.fence.Set(vips) // another table was written meanwhile; reading again is all there is to do
	}
	if err != nil {
		f.log.Error("the fence of VIPs could not be brought up to date; new VIPs are not announced before it is", "err", err, "retry", time.Second)
		return time.Second
	}
	f.stand(want)
	return repairEvery
}

// stand notes for which VIPs the fence stands and kicks for those that changed.
func (f *fencer) stand(now map[netip.Addr]bool) {
	f.mu.Lock()
	var changed []netip.Addr
	for vip := range now {
		if !f.standing[vip] {
			changed = append(changed, vip)
		}
	}
	f.standing, f.informed = now, true
	f.mu.Unlock()
	if len(changed) > 0 {
		f.kick(changed...)
	}
}

// stands reports whether the rules for vip are in the kernel.
func (f *fencer) stands(vip netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.standing[vip]
}

// ready says why the agent is not ready, nil when it is.
func (f *fencer) ready() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.informed {
		return errors.New("nothing is known of the cluster yet: neither the API server has answered nor is there a stored view")
	}
	return nil
}
