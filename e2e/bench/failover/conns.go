package failover

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/clarion-lb/clarion/e2e/lab"
)

// connections are TCP connections that stay open and are used all the time.
type connections struct {
	conns []net.Conn

	mu     sync.Mutex
	broken map[net.Conn]bool
	used   map[net.Conn]time.Time // when the last answered request was sent
}

// open opens n connections to each address.
func open(ctx context.Context, from *lab.Host, vips []netip.Addr, n int) (*connections, error) {
	c := &connections{broken: map[net.Conn]bool{}, used: map[net.Conn]time.Time{}}
	for _, vip := range vips {
		for range n {
			conn, err := from.Dial(ctx, "tcp", netip.AddrPortFrom(vip, webPort).String())
			if err != nil {
				return nil, errors.Join(fmt.Errorf("open a connection to %s: %w", vip, err), c.close())
			}
			c.conns = append(c.conns, conn)
		}
	}
	return c, nil
}

// run uses every connection until ctx ends.
func (c *connections) run(ctx context.Context) {
	var all sync.WaitGroup
	for _, conn := range c.conns {
		all.Go(func() {
			in := bufio.NewReader(conn)
			for ctx.Err() == nil {
				sent := time.Now()
				if err := ask(conn, in); err != nil {
					c.mu.Lock()
					c.broken[conn] = true
					c.mu.Unlock()
					return
				}
				c.mu.Lock()
				c.used[conn] = sent
				c.mu.Unlock()
				select {
				case <-ctx.Done():
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
	all.Wait()
}

func ask(conn net.Conn, in *bufio.Reader) error {
	if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "GET /hostname HTTP/1.1\r\nHost: vip\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// kept returns which share of the connections was answered after t.
func (c *connections) kept(t time.Time) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := 0
	for _, conn := range c.conns {
		if !c.broken[conn] && c.used[conn].After(t) {
			kept++
		}
	}
	return float64(kept) / float64(len(c.conns))
}

func (c *connections) close() error {
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}
