package main

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ownership"
)

// The proxy is told of silent peers as a whole set, and a node that is deleted
// is neither in it nor in the metrics.
func TestSilentPeersAreToldUntilTheyAnswerOrAreGone(t *testing.T) {
	e := newEvents(slog.New(slog.DiscardHandler))
	var dead []string
	e.dead = func(now map[string]bool) { dead = slices.Sorted(maps.Keys(now)) }
	for _, peer := range []string{"b", "c"} {
		e.ownership(ownership.Report{What: ownership.PeerSilent, Peer: peer})
	}
	if !slices.Equal(dead, []string{"b", "c"}) {
		t.Fatalf("dead: %v", dead)
	}
	e.ownership(ownership.Report{What: ownership.PeerBack, Peer: "b"})
	e.forget("c")
	if len(dead) != 0 {
		t.Errorf("dead: %v", dead)
	}
	if n := testutil.CollectAndCount(e.silent); n != 1 {
		t.Errorf("%d peers in the metric, want b alone", n)
	}
}

func TestTheMeshIsTheNodesWithAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		feed := cluster.NewFeed()
		var now map[string]netip.AddrPort
		var gone []string
		m := &mesh{feed: feed, self: "a", ours: netip.MustParseAddr("2001:db8:1::11"),
			set:  func(nodes map[string]netip.AddrPort) { now = nodes },
			gone: func(name string) { gone = append(gone, name) }}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		agent := &cluster.Node{Links: []cluster.Link{{Name: "eth0"}}, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.12"), netip.MustParseAddr("2001:db8:1::12")}}
		feed.Put(cluster.Delta{Nodes: map[string]*cluster.Node{"a": agent, "b": agent, "without-agent": {Addresses: agent.Addresses}}})
		synctest.Wait()
		if len(now) != 1 || now["b"].Addr() != netip.MustParseAddr("2001:db8:1::12") {
			t.Errorf("mesh: %v", now)
		}
		feed.Put(cluster.Delta{Nodes: map[string]*cluster.Node{"b": nil}})
		synctest.Wait()
		if len(now) != 0 || !slices.Equal(gone, []string{"b"}) {
			t.Errorf("mesh: %v, gone: %v", now, gone)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
