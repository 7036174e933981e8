package main

import (
	"log/slog"
	"maps"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ownership"
)

// events turns what happens to ownership into log lines and metrics.
type events struct {
	log       *slog.Logger
	takeovers *prometheus.CounterVec
	duration  prometheus.Histogram
	conflicts prometheus.Counter
	stalls    prometheus.Counter
	silent    *prometheus.GaugeVec

	dead func(nodes map[string]bool) // told which peers do not answer

	mu      sync.Mutex
	unheard map[string]bool // peers that do not answer; guarded by mu
}

func newEvents(log *slog.Logger) *events {
	return &events{
		log:     log,
		dead:    func(map[string]bool) {},
		unheard: map[string]bool{},
		takeovers: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "clarion_takeovers_total",
			Help: "VIPs that this node began to answer for, by cause: new, silence, given-up, handover, verified."}, []string{"cause"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "clarion_takeover_duration_seconds",
			Help:    "From the last sign of life of a silent owner until this node answers for its VIP.",
			Buckets: []float64{.1, .2, .3, .4, .5, .75, 1, 2, 5, 10}}),
		conflicts: prometheus.NewCounter(prometheus.CounterOpts{Name: "clarion_conflicts_total",
			Help: "Times that a host outside the cluster was found to use a VIP."}),
		stalls: prometheus.NewCounter(prometheus.CounterOpts{Name: "clarion_stalls_total",
			Help: "Times that this agent did not run for longer than 150 ms and had to verify what it owns."}),
		silent: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "clarion_peer_silent",
			Help: "1 for a peer that does not answer this node, 0 for one that does."}, []string{"peer"}),
	}
}

func (e *events) collectors() []prometheus.Collector {
	return []prometheus.Collector{e.takeovers, e.duration, e.conflicts, e.stalls, e.silent}
}

// ownership takes a report from the speaker's loop.
func (e *events) ownership(r ownership.Report) {
	log := e.log
	if r.Unit.VIP.IsValid() {
		log = log.With("vip", r.Unit.VIP, "segment", r.Unit.Segment)
	}
	if r.Peer != "" {
		log = log.With("peer", r.Peer)
	}
	if r.MAC != (cluster.MAC{}) {
		log = log.With("mac", r.MAC)
	}
	switch r.What {
	case ownership.Took:
		e.takeovers.WithLabelValues(string(r.Cause)).Inc()
		if r.Cause == ownership.Silence {
			e.duration.Observe(r.After.Seconds())
		}
		log.Info("answering for a VIP", "cause", r.Cause, "after", r.After)
	case ownership.Released:
		log.Info("no longer answering for a VIP")
	case ownership.Conflict:
		e.conflicts.Inc()
		log.Error("a host outside the cluster uses a VIP; take the address away from it, or out of the pool")
	case ownership.Contested:
		log.Warn("a node answers for the same VIP and does not talk to this one; is its gossip port closed?")
	case ownership.HeldByWire:
		log.Warn("a silent peer still answers on the wire, so its VIPs are left to it; is its gossip port closed?")
	case ownership.PeerSilent, ownership.PeerBack:
		e.peer(r.Peer, r.What == ownership.PeerSilent)
		log.Info("a peer " + map[ownership.What]string{ownership.PeerSilent: "does not answer", ownership.PeerBack: "answers again"}[r.What])
	case ownership.Stalled:
		e.stalls.Inc()
		log.Warn("this agent was not running for a while; it answers again once it has verified what it owns", "for", r.After)
	case ownership.NoHeir:
		log.Warn("no node can take a VIP that should leave this one")
	case ownership.Refused:
		log.Warn("a peer would not take a VIP", "why", r.Why)
	case ownership.Drained:
		log.Info("everything is handed over", "left", r.Left, "took", r.After)
	case ownership.IsDeaf:
		log.Warn("nothing is heard on a segment; this node takes no VIPs there")
	case ownership.Majority:
		log.Debug("majority", "held", r.Left == 1)
	}
}

func (e *events) peer(name string, silent bool) {
	value := 0.0
	if silent {
		value = 1
	}
	e.silent.WithLabelValues(name).Set(value)
	e.mu.Lock()
	if silent {
		e.unheard[name] = true
	} else {
		delete(e.unheard, name)
	}
	now := maps.Clone(e.unheard)
	e.mu.Unlock()
	e.dead(now)
}

// forget drops what is known of a node that is no peer any more: it can
// neither be silent nor answer again.
func (e *events) forget(name string) {
	e.silent.DeleteLabelValues(name)
	e.mu.Lock()
	_, known := e.unheard[name]
	delete(e.unheard, name)
	now := maps.Clone(e.unheard)
	e.mu.Unlock()
	if known {
		e.dead(now)
	}
}
