package proxy

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/clarion-lb/clarion/internal/conntrack"
	"github.com/clarion-lb/clarion/internal/ipfam"
)

// secondCut is when flows are cut once more: a packet that was on its way when
// they were cut first may have made the connection again.
const secondCut = time.Second

// A cutter cuts flows in its own time, so that a large connection table does
// not hold up the rules.
type cutter struct {
	conn *conntrack.Conn
	log  *slog.Logger
	busy sync.Mutex // held while conn is in use

	mu   sync.Mutex
	todo []conntrack.Flow // guarded by mu
	wake chan struct{}
}

func newCutter(conn *conntrack.Conn, log *slog.Logger) *cutter {
	return &cutter{conn: conn, log: log, wake: make(chan struct{}, 1)}
}

// cut asks for flows to be cut, now and again later. It never blocks.
func (c *cutter) cut(flows []conntrack.Flow) {
	if len(flows) == 0 {
		return
	}
	c.mu.Lock()
	c.todo = append(c.todo, flows...)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// each calls f for every connection of a family.
func (c *cutter) each(fam ipfam.Family, f func(conntrack.Flow)) error {
	c.busy.Lock()
	defer c.busy.Unlock()
	return c.conn.Each(fam, func(e conntrack.Entry) { f(e.Flow) })
}

func (c *cutter) run(ctx context.Context) {
	type round struct {
		flows []conntrack.Flow
		due   time.Time
	}
	var again []round
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-timer.C:
		}
		c.mu.Lock()
		now := c.todo
		c.todo = nil
		c.mu.Unlock()
		if len(now) > 0 {
			again = append(again, round{now, time.Now().Add(secondCut)})
		}
		for len(again) > 0 && !again[0].due.After(time.Now()) {
			now = append(now, again[0].flows...)
			again = again[1:]
		}
		if len(now) > 0 {
			c.busy.Lock()
			err := c.conn.DeleteAll(now)
			c.busy.Unlock()
			if err != nil && !errors.Is(err, context.Canceled) {
				c.log.Error("flows to endpoints that are gone could not be cut", "err", err)
			}
		}
		if len(again) > 0 {
			timer.Reset(time.Until(again[0].due))
		}
	}
}
