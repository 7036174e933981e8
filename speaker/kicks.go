package speaker

import (
	"net/netip"
	"sync"
)

// kicks gathers the VIPs that somebody wants to be looked at again.
type kicks struct {
	mu    sync.Mutex
	vips  map[netip.Addr]struct{}
	every bool

	ready chan struct{}
}

func newKicks() *kicks { return &kicks{vips: map[netip.Addr]struct{}{}, ready: make(chan struct{}, 1)} }

func (k *kicks) some(vips []netip.Addr) {
	k.mu.Lock()
	for _, vip := range vips {
		k.vips[vip] = struct{}{}
	}
	k.mu.Unlock()
	k.signal()
}

func (k *kicks) all() {
	k.mu.Lock()
	k.every = true
	k.mu.Unlock()
	k.signal()
}

func (k *kicks) signal() {
	select {
	case k.ready <- struct{}{}:
	default: // the reader has not yet come for the last one
	}
}

// take returns what has gathered and forgets it.
func (k *kicks) take() (vips map[netip.Addr]struct{}, all bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	vips, all = k.vips, k.every
	k.vips, k.every = map[netip.Addr]struct{}{}, false
	return vips, all
}
