package cni

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// paths remembers how narrow the ways to tunnel peers are known to be. Outer
// IPv4 packets may be fragmented on their way; outer IPv6 packets are dropped
// with a complaint, which the kernel keeps to itself: it goes on to take the
// pods' IPv4 packets in full size and to drop them. So the agent looks what the
// kernel has learned and narrows the tunnel, whose pods are told in turn.
type paths struct {
	mu      sync.Mutex
	peers   []netip.Addr       // whose path matters
	known   map[netip.Addr]int // bytes; the least ever learned
	uplinks []rtnl.Link        // the links with which that was learned
}

// askEvery is how often the kernel is asked: what it learns is not
// announced.
const askEvery = time.Second

// learned returns what is known. What was learned over other links is
// forgotten; otherwise it stays although the kernel forgets it after ten
// minutes, for it would be learned anew at the cost of lost packets.
func (p *paths) learned(links []rtnl.Link) map[netip.Addr]int {
	now := uplinks(links)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.EqualFunc(p.uplinks, now, rtnl.Link.Equal) {
		p.uplinks, p.known = now, nil
	}
	return maps.Clone(p.known)
}

// follow names the peers whose path matters: those with outer IPv6.
func (p *paths) follow(peers []Peer) {
	var follow []netip.Addr
	for _, peer := range peers {
		if peer.Path == Tunnel && ipfam.Of(peer.Via) == ipfam.V6 && !slices.Contains(follow, peer.Via) {
			follow = append(follow, peer.Via)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.peers = follow
}

// watch asks the kernel until ctx ends and kicks when a path has become known
// as narrower. It has a handle of its own on the namespace of h.
func (p *paths) watch(ctx context.Context, h *rtnl.Handle, log *slog.Logger, kick func()) error {
	var own *rtnl.Handle
	if err := h.Do(func() (err error) { own, err = rtnl.OpenHandle(); return err }); err != nil {
		return err
	}
	defer own.Close()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		narrower, err := p.look(own)
		if err != nil {
			log.Warn("the MTU of the paths to other nodes could not be read", "err", err)
		}
		if narrower {
			kick()
		}
	}
}

func (p *paths) look(h *rtnl.Handle) (narrower bool, err error) {
	p.mu.Lock()
	peers := p.peers
	p.mu.Unlock()
	for _, peer := range peers {
		mtu, err := h.PathMTU(peer)
		if err != nil {
			return narrower, err
		}
		if mtu == 0 {
			continue
		}
		p.mu.Lock()
		if have, ok := p.known[peer]; !ok || mtu < have {
			if p.known == nil {
				p.known = map[netip.Addr]int{}
			}
			p.known[peer] = mtu
			narrower = true
		}
		p.mu.Unlock()
	}
	return narrower, nil
}
