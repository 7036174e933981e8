package failover

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/clarion-lb/clarion/e2e/lab"
)

// interval is between two requests to one address.
const interval = 5 * time.Millisecond

// answerWithin is how long an answer may take before the request counts as lost.
const answerWithin = time.Second

// requests asks one address for the pod's name in a UDP packet each interval, each from a port of its own so that each is
// balanced anew, and remembers when answered ones were sent.
type requests struct {
	vip netip.Addr

	mu   sync.Mutex // guards what follows
	sent []time.Time
	ok   []bool
}

// run asks from the host until ctx ends, and returns when the last answer is in or lost.
func (r *requests) run(ctx context.Context, from *lab.Host) error {
	var readers sync.WaitGroup
	defer readers.Wait()
	err := from.Do(func() error { // sockets that are made on this thread are the host's
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(r.vip, echoPort)))
			r.mu.Lock()
			at := len(r.sent)
			r.sent, r.ok = append(r.sent, time.Now()), append(r.ok, false)
			r.mu.Unlock()
			if err != nil {
				continue // no route at the moment: a lost request
			}
			if _, err := conn.Write([]byte("hostname")); err != nil {
				conn.Close()
				continue
			}
			readers.Go(func() { r.read(conn, at) })
		}
	})
	if err != nil {
		return fmt.Errorf("ask %s: %w", r.vip, err)
	}
	return nil
}

func (r *requests) read(conn *net.UDPConn, at int) {
	defer conn.Close()
	if conn.SetReadDeadline(time.Now().Add(answerWithin)) != nil {
		return
	}
	var buf [256]byte
	if n, err := conn.Read(buf[:]); err == nil && n > 0 {
		r.mu.Lock()
		r.ok[at] = true
		r.mu.Unlock()
	}
}

// answered reports whether one of the requests sent after t was answered.
func (r *requests) answered(t time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.sent) - 1; i >= 0 && r.sent[i].After(t); i-- {
		if r.ok[i] {
			return true
		}
	}
	return false
}

// gap returns the longest time between two answered requests of which the second was sent after the fault, and how many
// requests between the two were lost.
func (r *requests) gap(fault time.Time) (longest time.Duration, lost int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var last time.Time
	missing := 0
	for i, sent := range r.sent {
		if !r.ok[i] {
			missing++
			continue
		}
		if !last.IsZero() && sent.After(fault) {
			if d := sent.Sub(last) - interval; d > longest {
				longest, lost = d, missing
			}
		}
		last, missing = sent, 0
	}
	return longest, lost
}
