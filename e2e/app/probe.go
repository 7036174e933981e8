package app

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/clarion-lb/clarion/e2e/lab"
)

// A Gap is a time in which requests to an address failed.
type Gap struct {
	VIP    netip.Addr
	Length time.Duration // from the last request that was answered to the next one that was, by the time they were sent
	Failed int           // requests that got no answer
}

// A Probe sends requests to addresses without pause and remembers how each went.
type Probe struct {
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu      sync.Mutex // guards results
	results map[netip.Addr][]result
}

type result struct {
	sent time.Time
	ok   bool
}

// StartProbe sends a request over a new connection to every address each interval, from the host. A request that is not
// answered within the patience has failed; others go on meanwhile, so that a gap is measured to one interval.
func StartProbe(ctx context.Context, from *lab.Host, vips []netip.Addr, interval, patience time.Duration) *Probe {
	ctx, cancel := context.WithCancel(ctx)
	p := &Probe{cancel: cancel, results: map[netip.Addr][]result{}}
	client := from.HTTP(patience)
	for _, vip := range vips {
		p.group.Go(func() {
			tick := time.NewTicker(interval)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				sent := time.Now()
				p.mu.Lock()
				at := len(p.results[vip])
				p.results[vip] = append(p.results[vip], result{sent: sent})
				p.mu.Unlock()
				p.group.Go(func() {
					_, err := ask(context.WithoutCancel(ctx), client, vip)
					p.mu.Lock()
					p.results[vip][at].ok = err == nil
					p.mu.Unlock()
				})
			}
		})
	}
	return p
}

// Recovered reports whether each address answered a request that was sent after t.
func (p *Probe) Recovered(t time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, results := range p.results {
		if n := len(results); n == 0 || !answered(results, t) {
			return false
		}
	}
	return len(p.results) > 0
}

func answered(results []result, after time.Time) bool {
	for _, r := range results {
		if r.ok && r.sent.After(after) {
			return true
		}
	}
	return false
}

// Failing reports whether any address has left a request unanswered that was sent after t.
func (p *Probe) Failing(t, now time.Time, patience time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, results := range p.results {
		for _, r := range results {
			if !r.ok && r.sent.After(t) && now.Sub(r.sent) > patience {
				return true
			}
		}
	}
	return false
}

// Stop ends the probe, waits for the last answers, and returns the longest gap of each address and how many requests
// were sent in all.
func (p *Probe) Stop() (gaps map[netip.Addr]Gap, sent int) {
	p.cancel()
	p.group.Wait()
	gaps = map[netip.Addr]Gap{}
	for vip, results := range p.results {
		sent += len(results)
		gaps[vip] = longest(vip, results)
	}
	return gaps, sent
}

// longest finds the longest gap. Requests that were never followed by an answered one count up to the last request.
func longest(vip netip.Addr, results []result) Gap {
	worst := Gap{VIP: vip}
	last, failed, total := time.Time{}, 0, 0
	if len(results) > 0 {
		last = results[0].sent
	}
	for i, r := range results {
		if !r.ok {
			failed++
			total++
		}
		if r.ok || i == len(results)-1 {
			if length := r.sent.Sub(last); failed > 0 && length > worst.Length {
				worst.Length = length
			}
			last, failed = r.sent, 0
		}
	}
	worst.Failed = total
	return worst
}
