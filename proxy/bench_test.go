package proxy

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/nstest"
)

var report = flag.String("report", "", "write the results of BenchmarkProxy to this file, as JSON")

// A sample is what one measurement repeated some times gave.
type sample struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	N      int     `json:"n"`
}

func summarize(v []float64) sample {
	slices.Sort(v)
	return sample{v[len(v)/2], v[0], v[len(v)-1], len(v)}
}

type result struct {
	Name    string `json:"name"`
	Unit    string `json:"unit"`
	Clarion sample `json:"clarion"`
}

// meter tells when the proxy has applied something.
type meter struct{ applied chan time.Duration }

func (m meter) Applied(kind string, took time.Duration, _ int, err error) {
	if err != nil {
		panic(err)
	}
	if kind == "change" {
		m.applied <- took
	}
}
func (meter) Repaired() {}

// many returns n Services with e endpoints each, one TCP port, one family, a
// cluster IP: what most Services of a large cluster are.
func many(n, e int) []*cluster.Service {
	out := make([]*cluster.Service, n)
	for i := range out {
		s := &cluster.Service{
			Key: cluster.Key(fmt.Sprintf("default/service-%d", i)), Created: time.Unix(int64(i), 0),
			ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)})},
			Ports:      []cluster.Port{{Name: "http", Protocol: cluster.TCP, Port: 80}},
		}
		for j := range e {
			s.Ports[0].Endpoints = append(s.Ports[0].Endpoints, someEndpoint(i*e+j))
		}
		out[i] = s
	}
	return out
}

func someEndpoint(i int) cluster.Endpoint {
	a := netip.AddrFrom4([4]byte{10, 128 + byte(i>>16), byte(i >> 8), byte(i)})
	return cluster.Endpoint{Addr: netip.AddrPortFrom(a, 8080), Node: fmt.Sprintf("n%d", i>>6), Ready: true, Serving: true}
}

// swap returns the Service with its first endpoint exchanged for another.
func swap(s *cluster.Service, i int) *cluster.Service {
	next := *s
	next.Ports = slices.Clone(s.Ports)
	next.Ports[0].Endpoints = slices.Clone(s.Ports[0].Endpoints)
	next.Ports[0].Endpoints[0] = someEndpoint(1<<21 + i)
	return &next
}

// BenchmarkProxy measures what docs/results and DESIGN §8 name. Each run has a
// network namespace of its own.
func BenchmarkProxy(b *testing.B) {
	var results []result
	for _, size := range []struct{ n, e, cold int }{{1000, 2, 5}, {10000, 2, 5}, {50000, 2, 3}} {
		name := fmt.Sprintf("%dx%d", size.n, size.e)
		b.Run(name, func(b *testing.B) {
			for range b.N {
				var cold, kernel, latency, rss []float64
				services := many(size.n, size.e)
				for round := range size.cold {
					runtime.GC()
					feed, m, stop := benchProxy(b)
					d := cluster.Delta{Services: map[cluster.Key]*cluster.Service{}, Synced: true,
						Nodes: map[string]*cluster.Node{"n0": {Name: "n0", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.128.0.0/24")}}}}
					for _, s := range services {
						d.Services[s.Key] = s
					}
					start := time.Now()
					feed.Put(d)
					<-m.applied
					cold = append(cold, time.Since(start).Seconds())
					if round == size.cold-1 {
						d = cluster.Delta{}
						changeOne(feed, m, services, &kernel, &latency)
						rss = append(rss, resident(b))
					}
					stop()
				}
				slices.Sort(kernel)
				slices.Sort(latency)
				at := func(v []float64, p float64) sample { return summarize([]float64{v[int(p*float64(len(v)-1))]}) }
				results = append(results,
					result{"cold-start/" + name, "s", summarize(cold)},
					result{"change-one/" + name + "/p50", "s", at(kernel, .5)},
					result{"change-one/" + name + "/p99", "s", at(kernel, .99)},
					result{"event-to-kernel/" + name + "/p99", "s", at(latency, .99)},
					result{"rss/" + name, "bytes", summarize(rss)},
				)
				b.ReportMetric(summarize(cold).Median, "cold-s")
				b.ReportMetric(at(kernel, .5).Median*1e6, "change-p50-µs")
				b.ReportMetric(at(kernel, .99).Median*1e6, "change-p99-µs")
			}
		})
	}
	for _, r := range results {
		fmt.Printf("%-34s %12.6g %s  (min %.6g, max %.6g, n %d)\n", r.Name, r.Clarion.Median, r.Unit, r.Clarion.Min, r.Clarion.Max, r.Clarion.N)
	}
	if *report != "" {
		writeReport(b, results)
	}
}

func benchProxy(b *testing.B) (*cluster.Feed, meter, func()) {
	h := nstest.NewHost(b, "n0")
	feed, m := cluster.NewFeed(), meter{make(chan time.Duration, 1)}
	var p *Proxy
	h.Do(func() {
		var err error
		if p, err = New(Options{Node: "n0", Feed: feed, Observe: m}); err != nil {
			b.Fatal(err)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return feed, m, func() {
		cancel()
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		if err := p.engine.conn.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// changeOne exchanges one endpoint at a time, 100 times a second: how long the
// proxy works on it, and how long it takes from the event to the kernel.
func changeOne(feed *cluster.Feed, m meter, services []*cluster.Service, kernel, latency *[]float64) {
	r := rand.New(rand.NewPCG(1, 2))
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := range 1000 {
		<-tick.C
		s := swap(services[r.IntN(len(services))], i)
		start := time.Now()
		feed.Put(cluster.Delta{Services: map[cluster.Key]*cluster.Service{s.Key: s}})
		*kernel = append(*kernel, (<-m.applied).Seconds())
		*latency = append(*latency, time.Since(start).Seconds())
	}
}

// resident returns how much memory the process has now, its garbage collected.
func resident(b *testing.B) float64 {
	runtime.GC()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for _, line := range strings.Split(string(text), "\n") {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(kb), " kB"), 64)
			if err != nil {
				b.Fatal(err)
			}
			return n * 1024
		}
	}
	b.Fatal("the kernel does not tell the memory of a process")
	return 0
}

func writeReport(b *testing.B, results []result) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		b.Fatal(err)
	}
	text, err := json.MarshalIndent(map[string]any{
		"bench":   "proxy",
		"host":    map[string]any{"kernel": unix.ByteSliceToString(u.Release[:]), "cpus": runtime.NumCPU()},
		"results": results,
	}, "", "  ")
	if err != nil {
		b.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(*report), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(*report, append(text, '\n'), 0o644); err != nil {
		b.Fatal(err)
	}
}
