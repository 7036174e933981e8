package main

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"

	"github.com/clarion-lb/clarion/config"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/speaker"
)

// rules follows the pools in force and says what they say about who may
// announce.
type rules struct {
	feed *cluster.Feed
	log  *slog.Logger
	kick func(vips ...netip.Addr) // called when they changed

	now atomic.Pointer[config.Config]
}

// of returns the rule for vip as the pools are now.
func (r *rules) of(vip netip.Addr) speaker.Rule {
	c := r.now.Load()
	if c == nil {
		return speaker.Rule{}
	}
	return ruleFor(*c, vip)
}

func (r *rules) String() string { return "pool rules" }

// Run follows the feed until ctx ends.
func (r *rules) Run(ctx context.Context) error {
	var last config.Config
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.feed.Ready():
		}
		pools := r.feed.Take().Pools
		if pools == nil {
			continue
		}
		now, err := config.Parse(pools, last)
		if err != nil {
			// The controller publishes only what it could parse; another version
			// of it may know more.
			r.log.Warn("a pool in force cannot be read by this agent; its last good form stays", "err", err)
		}
		last = now
		r.now.Store(&now)
		r.kick()
	}
}

// ruleFor returns what the pool of vip says. An address in no pool is stranded:
// its Service keeps it and every node may announce it.
func ruleFor(c config.Config, vip netip.Addr) speaker.Rule {
	for _, p := range c.Pools {
		if !p.Addresses.Contains(vip) {
			continue
		}
		rule := speaker.Rule{Pool: p.Name, Interfaces: p.Announce.Interfaces}
		if p.Announce.NodeSelector != nil {
			rule.Selects = p.Announce.NodeSelector.Matches
		}
		return rule
	}
	return speaker.Rule{}
}
