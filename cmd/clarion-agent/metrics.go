package main

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/clarion-lb/clarion/speaker"
)

// A statser says what the responders have counted, by link.
type statser interface {
	Stats() map[string]speaker.Stats
}

// metrics serves the agent's metrics in the Prometheus text format.
func metrics(s statser, more []prometheus.Collector) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), responders{s})
	registry.MustRegister(more...)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// responders collects the counters of the ARP and NDP responders when asked.
type responders struct{ statser }

// counters are the metrics of a responder; each has the label link.
var counters = []struct {
	name, help string
	value      func(speaker.Stats) uint64
}{
	{"received_total", "ARP and NDP frames that reached the responder.", func(s speaker.Stats) uint64 { return s.Received }},
	{"malformed_total", "Frames that were no valid ARP or NDP message.", func(s speaker.Stats) uint64 { return s.Malformed }},
	{"answered_total", "Answers sent for VIPs of this node.", func(s speaker.Stats) uint64 { return s.Answered }},
	{"withheld_total", "Answers not given because this agent had not been running for a while; see clarion_stalls_total.", func(s speaker.Stats) uint64 { return s.Withheld }},
	{"unsent_total", "Answers that the kernel refused to send.", func(s speaker.Stats) uint64 { return s.Unsent }},
	{"lost_events_total", "Events that the speaker's loop was too slow to take; not zero means an overloaded node.", func(s speaker.Stats) uint64 { return s.Lost }},
}

func description(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("clarion_responder_"+name, help, []string{"link"}, nil)
}

func (responders) Describe(out chan<- *prometheus.Desc) {
	for _, c := range counters {
		out <- description(c.name, c.help)
	}
}

func (r responders) Collect(out chan<- prometheus.Metric) {
	for link, stats := range r.Stats() {
		for _, c := range counters {
			out <- prometheus.MustNewConstMetric(description(c.name, c.help), prometheus.CounterValue, float64(c.value(stats)), link)
		}
	}
}
