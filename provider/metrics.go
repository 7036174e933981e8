package provider

import (
	"math/big"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what the controller counts. The gauges about addresses are read
// from the allocator when they are asked for, and only the leader has one.
type metrics struct {
	// leader is 1 while this replica gives addresses, else 0. The sum over the
	// replicas is 1 except during a change of leader.
	leader prometheus.Gauge
	// writes counts the patches of Services that the API server accepted, by
	// kind: assign (finalizer, addresses and condition in one), take (the same,
	// with no address left), condition (the condition alone), clear (all of it
	// taken off).
	writes *prometheus.CounterVec
	// conflicts counts the patches that the API server refused because the
	// Service had changed; each is decided anew.
	conflicts prometheus.Counter
	// refusals counts, by reason (allocator.Reason, or Malformed), what a
	// Service asked for and was not given, at each attempt.
	refusals *prometheus.CounterVec
	// eventsDropped counts Events that could not be written or queued.
	eventsDropped prometheus.Counter
	// problems is the number of mistakes in the ConfigMap clarion-pools now.
	problems prometheus.Gauge
	// ledgerWrite is the time that one write of the ledger took, in seconds;
	// ledgerBatch is the number of allocations that one write served; ledgerWait
	// is what one allocation waited for its write, in seconds.
	ledgerWrite, ledgerBatch, ledgerWait prometheus.Histogram

	provider atomic.Pointer[Provider] // nil unless leading
}

func newMetrics(reg prometheus.Registerer) *metrics {
	seconds := prometheus.ExponentialBuckets(0.001, 2, 14) // 1 ms to 8 s
	m := &metrics{
		leader: prometheus.NewGauge(prometheus.GaugeOpts{Name: "clarion_controller_leader",
			Help: "1 while this replica gives addresses, else 0."}),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "clarion_service_writes_total",
			Help: "Patches of Services that were accepted, by kind: assign, take, condition, clear."}, []string{"kind"}),
		conflicts: prometheus.NewCounter(prometheus.CounterOpts{Name: "clarion_service_write_conflicts_total",
			Help: "Patches of Services that were refused because the Service had changed."}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "clarion_refusals_total",
			Help: "Wishes of Services that were not met, by reason, at each attempt."}, []string{"reason"}),
		eventsDropped: prometheus.NewCounter(prometheus.CounterOpts{Name: "clarion_events_dropped_total",
			Help: "Events that could not be written; conditions say the same."}),
		problems: prometheus.NewGauge(prometheus.GaugeOpts{Name: "clarion_pools_problems",
			Help: "Mistakes in the ConfigMap clarion-pools."}),
		ledgerWrite: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "clarion_ledger_write_seconds",
			Help: "Time of one write of the ledger clarion-intents.", Buckets: seconds}),
		ledgerBatch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "clarion_ledger_batch_size",
			Help: "Allocations that one write of the ledger served.", Buckets: prometheus.ExponentialBuckets(1, 2, 10)}),
		ledgerWait: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "clarion_ledger_wait_seconds",
			Help: "Time that one allocation waited for the ledger.", Buckets: seconds}),
	}
	reg.MustRegister(m.leader, m.writes, m.conflicts, m.refusals, m.eventsDropped, m.problems, m.ledgerWrite, m.ledgerBatch, m.ledgerWait, usage{m})
	return m
}

// usage reads the gauges about addresses from the leader's allocator:
//
//   - clarion_pool_addresses{pool,family,state}: addresses of a pool, state
//     being total, free, used, shared (used by more than one Service), resting
//     or unusable (reserved or skipped).
//   - clarion_services_waiting: Services that lack an address.
//   - clarion_addresses_stranded: addresses held that are in no pool any more.
type usage struct{ m *metrics }

func poolAddresses() *prometheus.Desc {
	return prometheus.NewDesc("clarion_pool_addresses", "Addresses of a pool by family and state: total, free, used, shared, resting, unusable.",
		[]string{"pool", "family", "state"}, nil)
}

func servicesWaiting() *prometheus.Desc {
	return prometheus.NewDesc("clarion_services_waiting", "Services that lack an address.", nil, nil)
}

func addressesStranded() *prometheus.Desc {
	return prometheus.NewDesc("clarion_addresses_stranded", "Addresses held that are in no pool any more.", nil, nil)
}

// Describe implements prometheus.Collector.
func (usage) Describe(ch chan<- *prometheus.Desc) {
	ch <- poolAddresses()
	ch <- servicesWaiting()
	ch <- addressesStranded()
}

// Collect implements prometheus.Collector.
func (u usage) Collect(ch chan<- prometheus.Metric) {
	p := u.m.provider.Load()
	if p == nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	addresses := poolAddresses()
	for _, line := range p.alloc.Usage(time.Now()) {
		family := line.Family.String()
		gauge(addresses, float(line.Total), line.Pool, family, "total")
		gauge(addresses, float(line.Free), line.Pool, family, "free")
		gauge(addresses, float(line.Unusable), line.Pool, family, "unusable")
		gauge(addresses, float64(line.Used), line.Pool, family, "used")
		gauge(addresses, float64(line.Shared), line.Pool, family, "shared")
		gauge(addresses, float64(line.Resting), line.Pool, family, "resting")
	}
	gauge(servicesWaiting(), float64(len(p.alloc.Waiting())))
	gauge(addressesStranded(), float64(len(p.alloc.Stranded())))
}

// float is n as metrics carry it; a /64 has more addresses than an integer of
// theirs could count exactly.
func float(n *big.Int) float64 {
	f, _ := new(big.Float).SetInt(n).Float64()
	return f
}
