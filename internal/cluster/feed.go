package cluster

import (
	"maps"
	"sync"
)

// A Delta is what changed: the new value of each thing, nil for one that is
// gone. Values are immutable. Deltas are level-triggered: only the last value
// of a thing counts, so any number of them fold into one.
type Delta struct {
	Services map[Key]*Service
	Nodes    map[string]*Node
	Pools    map[string]string // the pools in force, whole; nil when they did not change
	Synced   bool              // everything that exists has been delivered at least once
}

// Empty reports whether d says nothing.
func (d Delta) Empty() bool {
	return len(d.Services) == 0 && len(d.Nodes) == 0 && d.Pools == nil && !d.Synced
}

// merge folds later into d.
func (d *Delta) merge(later Delta) {
	if d.Services == nil {
		d.Services = map[Key]*Service{}
	}
	if d.Nodes == nil {
		d.Nodes = map[string]*Node{}
	}
	maps.Copy(d.Services, later.Services)
	maps.Copy(d.Nodes, later.Nodes)
	if later.Pools != nil {
		d.Pools = later.Pools
	}
	d.Synced = d.Synced || later.Synced
}

// A Feed carries deltas from one writer to one reader. While the reader is
// busy they fold into one, so a burst costs one run and the first change after
// silence is delivered at once. The zero value is not usable; see NewFeed.
type Feed struct {
	mu      sync.Mutex
	pending Delta

	ready chan struct{}
}

// NewFeed returns an empty feed.
func NewFeed() *Feed { return &Feed{ready: make(chan struct{}, 1)} }

// Put adds a delta. It never blocks.
func (f *Feed) Put(d Delta) {
	if d.Empty() {
		return
	}
	f.mu.Lock()
	f.pending.merge(d)
	f.mu.Unlock()
	select {
	case f.ready <- struct{}{}:
	default: // the reader has not yet come for what is pending
	}
}

// Ready is signalled when Take has something to give.
func (f *Feed) Ready() <-chan struct{} { return f.ready }

// Take returns all that came since the last Take, folded into one delta.
func (f *Feed) Take() Delta {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.pending
	f.pending = Delta{}
	return d
}
