package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"k8s.io/client-go/kubernetes"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/rtnl"
	"github.com/clarion-lb/clarion/internal/task"
	"github.com/clarion-lb/clarion/speaker"
)

// An announcer runs the speaker and its gossip. They begin when the gossip key
// is known, which may be long after the other parts of the agent: in a fresh
// cluster the controller that makes the key is itself a Pod, and runs only
// once this agent has given the node a pod network.
type announcer struct {
	o       options
	client  kubernetes.Interface
	feed    *cluster.Feed // for the speaker
	mesh    *cluster.Feed // for the gossip
	links   func() ([]rtnl.Link, error)
	changed <-chan struct{}
	rules   func(netip.Addr) speaker.Rule
	ready   func(netip.Addr) bool
	report  func(speaker.Report)
	events  *events
	log     *slog.Logger

	mu      sync.Mutex // guards what follows; both are nil before the key is known
	claims  *speaker.Claims
	speaker *speaker.Speaker
}

func (a *announcer) String() string { return "announcer" }

// Run waits for the key and announces until ctx ends.
func (a *announcer) Run(ctx context.Context) error {
	talk, err := newGossip(ctx, a.o, a.client, a.mesh, a.events, a.log)
	if err != nil {
		if ctx.Err() != nil {
			return nil // ended while waiting for the key
		}
		return err
	}
	s, err := speaker.New(speaker.Config{
		Self: a.o.node, Log: a.log, Feed: a.feed,
		Links: a.links, LinksChanged: a.changed, Open: speaker.OpenPacket(a.log, nil),
		Rules: a.rules, Ready: a.ready, Elector: talk.claims, Report: a.report,
	})
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.claims, a.speaker = talk.claims, s
	a.mu.Unlock()
	return task.Run(ctx, append(talk.tasks, s)...)
}

func (a *announcer) now() (*speaker.Claims, *speaker.Speaker) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.claims, a.speaker
}

// kick says that other VIPs are ready than before, or, without any, that the
// rules of pools changed.
func (a *announcer) kick(vips ...netip.Addr) {
	if _, s := a.now(); s != nil {
		s.Kick(vips...)
	}
}

// leave hands over what this node answers for. It returns a channel that is
// closed when that is done.
func (a *announcer) leave() <-chan struct{} {
	if claims, _ := a.now(); claims != nil {
		return claims.Leave()
	}
	nothing := make(chan struct{})
	close(nothing)
	return nothing
}

// Explain says how the VIPs of a Service stand; see speaker.Explain.
func (a *announcer) Explain(ctx context.Context, key cluster.Key) ([]speaker.UnitReport, error) {
	_, s := a.now()
	if s == nil {
		return nil, fmt.Errorf("explain %s: %w", key, errNoKey)
	}
	return s.Explain(ctx, key)
}

var errNoKey = errors.New("the agent waits for the gossip key, which the controller makes")

// Stats returns what the responders have counted.
func (a *announcer) Stats() map[string]speaker.Stats {
	if _, s := a.now(); s != nil {
		return s.Stats()
	}
	return nil
}
