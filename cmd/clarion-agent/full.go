package main

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/clarion-lb/clarion/cni"
	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/rtnl"
	"github.com/clarion-lb/clarion/internal/task"
	"github.com/clarion-lb/clarion/proxy"
)

// full is what the profile of that name adds: the service proxy and the pod
// network of the node.
type full struct {
	proxy *proxy.Proxy
	tasks []task.Task

	mu     sync.Mutex // guards served
	served map[netip.Addr]bool
	kick   func(vips ...netip.Addr)
}

// Where kube-proxy serves the same, so that what watches it goes on working.
const (
	proxyHealthAddress = ":10256"
	proxyModeAddress   = "127.0.0.1:10249"
)

// newFull makes both parts. feed returns a new feed for each.
func newFull(o options, feed func() *cluster.Feed, log *slog.Logger, stats *proxyStats) (f *full, err error) {
	f = &full{served: map[netip.Addr]bool{}, kick: func(...netip.Addr) {}}
	if f.proxy, err = proxy.New(proxy.Options{
		Node: o.node, Feed: feed(), Log: log, ServiceCIDRs: o.serviceCIDRs, Observe: stats, OnVIPs: f.serves,
	}); err != nil {
		return nil, err
	}
	handle, err := rtnl.OpenHandle()
	if err != nil {
		return nil, err
	}
	pods, err := cni.New(cni.Config{
		Node: o.node, Feed: feed(), Log: log, Handle: handle,
		Options: cni.Options{DataDir: store.DefaultDir},
		Install: cni.Install{Program: o.plugin, BinDir: o.cniBin, ConfDir: o.cniConf},
	})
	if err != nil {
		return nil, err
	}
	health, err := listen(proxyHealthAddress)
	if err != nil {
		return nil, err
	}
	mode, err := listen(proxyModeAddress)
	if err != nil {
		return nil, errors.Join(err, health.Close())
	}
	f.tasks = []task.Task{f.proxy, pods, serve("proxy health", health, f.proxy.Healthz()), serve("proxy mode", mode, proxy.Mode())}
	return f, nil
}

func listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w; does kube-proxy still run on this node? Profile full takes its place", address, err)
	}
	return l, nil
}

// serves notes for which VIPs the proxy's rules are in the kernel.
func (f *full) serves(now map[netip.Addr]bool) {
	f.mu.Lock()
	var changed []netip.Addr
	for vip := range now {
		if !f.served[vip] {
			changed = append(changed, vip)
		}
	}
	for vip := range f.served {
		if !now[vip] {
			changed = append(changed, vip)
		}
	}
	f.served = maps.Clone(now)
	f.mu.Unlock()
	if len(changed) > 0 {
		f.kick(changed...)
	}
}

// stands reports whether the proxy's rules for vip are in the kernel.
func (f *full) stands(vip netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.served[vip]
}

// proxyStats counts what the proxy does.
type proxyStats struct {
	sync              prometheus.Histogram
	failures, repairs prometheus.Counter
	writes            *prometheus.CounterVec
}

func newProxyStats() *proxyStats {
	buckets := prometheus.ExponentialBuckets(0.0001, 4, 10)
	return &proxyStats{
		sync: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "clarion_proxy_apply_duration_seconds",
			Help: "From taking a batch of changes until it is in the kernel.", Buckets: buckets}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "clarion_proxy_apply_failures_total",
			Help: "Attempts to bring the kernel to a change that failed and are tried again."}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{Name: "clarion_proxy_repairs_total",
			Help: "Times that somebody else had changed the proxy's table."}),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "clarion_proxy_applies_total",
			Help: "Attempts to bring the kernel to what should be, by kind: change, compare, sweep."}, []string{"kind"}),
	}
}

func (s *proxyStats) collectors() []prometheus.Collector {
	return []prometheus.Collector{s.sync, s.failures, s.repairs, s.writes}
}

// Applied implements proxy.Observer.
func (s *proxyStats) Applied(kind string, took time.Duration, _ int, err error) {
	s.writes.WithLabelValues(kind).Inc()
	s.sync.Observe(took.Seconds())
	if err != nil {
		s.failures.Inc()
	}
}

// Repaired implements proxy.Observer.
func (s *proxyStats) Repaired() { s.repairs.Inc() }
