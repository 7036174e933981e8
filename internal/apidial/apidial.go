// Package apidial connects to an API server that can be reached at several
// places. An agent that is the cluster's own service proxy cannot begin with
// the API server's cluster IP: that works only once the agent has programmed
// it. So every way that is known is tried, the last good one first.
package apidial

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

// A Way is one place where the API server may answer.
type Way struct {
	Address string // host:port
	From    string // where it is known from, for people
}

// patience is how long one way may take to accept a connection. A machine
// that is off does not answer at all, so it has to be short; one on the same
// continent answers in a tenth of it.
const patience = 2 * time.Second

// A Dialer dials the ways in order, beginning with the one that worked last.
type Dialer struct {
	log  *slog.Logger
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu     sync.Mutex // guards what follows
	ways   []Way      // the last good one first
	using  Way        // the last good one
	failed bool       // the last attempt failed on every way
}

// New returns a Dialer. At least one way is needed.
func New(log *slog.Logger, ways ...Way) (*Dialer, error) {
	if len(ways) == 0 {
		return nil, errors.New("no address of the API server is known: pass --apiserver=https://HOST:6443")
	}
	d := &net.Dialer{Timeout: patience}
	return &Dialer{log: log, dial: d.DialContext, ways: slices.Clone(ways)}, nil
}

// DialContext connects to the first way that accepts. The address that the
// caller asks for is not used: it is a name for the API server, whose
// certificate the caller checks.
func (d *Dialer) DialContext(ctx context.Context, network, _ string) (net.Conn, error) {
	d.mu.Lock()
	ways := slices.Clone(d.ways)
	d.mu.Unlock()
	var errs []error
	for i, w := range ways {
		conn, err := d.dial(ctx, network, w.Address)
		if err == nil {
			d.worked(w, i > 0)
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("%s (from %s): %w", w.Address, w.From, err))
		if ctx.Err() != nil {
			break
		}
	}
	d.mu.Lock()
	first := !d.failed
	d.failed = true
	d.mu.Unlock()
	err := errors.Join(errs...)
	if first && ctx.Err() == nil {
		d.log.Error("the API server cannot be reached in any way that is known; trying on. If none of these is right, pass --apiserver=https://HOST:6443", "tried", err.Error())
	}
	return nil, fmt.Errorf("connect to the API server: %w", err)
}

// worked puts w first and says so when that is news.
func (d *Dialer) worked(w Way, moved bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	news := d.using != w || d.failed
	d.using, d.failed = w, false
	if moved {
		d.ways = slices.DeleteFunc(d.ways, func(o Way) bool { return o == w })
		d.ways = slices.Insert(d.ways, 0, w)
	}
	if news {
		d.log.Info("connected to the API server", "address", w.Address, "from", w.From)
	}
}
