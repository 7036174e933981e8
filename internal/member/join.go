package member

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// joinEvery is how often nodes that are missing are sought, with some jitter.
// memberlist itself never contacts a node again that it holds for dead.
const joinEvery = time.Second

// joiners is how many missing nodes are sought at once: an attempt at a dead
// one blocks for the TCP timeout.
const joiners = 8

// join seeks missing nodes until ctx ends. It returns when no attempt is under
// way any more.
func (m *Members) join(ctx context.Context) {
	var attempts sync.WaitGroup
	defer attempts.Wait()
	slots := make(chan struct{}, joiners)
	busy := map[string]bool{} // nodes that are being sought now
	done := make(chan string, joiners)
	next := time.After(0)
	for {
		select {
		case <-ctx.Done():
			return
		case name := <-done:
			delete(busy, name)
		case <-next:
			next = time.After(joinEvery - joinEvery/4 + rand.N(joinEvery/2))
			for name, at := range m.missing() {
				if busy[name] {
					continue
				}
				select {
				case slots <- struct{}{}:
				default:
					continue // all slots are taken; map order gives everybody a turn
				}
				busy[name] = true
				attempts.Go(func() {
					defer func() { <-slots }()
					m.joinOne(name, at)
					select {
					case done <- name:
					case <-ctx.Done():
					}
				})
			}
		}
	}
}

func (m *Members) joinOne(name string, at netip.AddrPort) {
	_, err := m.list.Join([]string{joinAddress(name, at)})
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, still := m.nodes[name]; !still {
		return
	}
	if err == nil {
		delete(m.fails, name)
	} else {
		m.fails[name] = err
	}
}

// missing returns the nodes that exist and are not alive for memberlist.
func (m *Members) missing() map[string]netip.AddrPort {
	alive := m.alive()
	m.mu.Lock()
	defer m.mu.Unlock()
	missing := map[string]netip.AddrPort{}
	for name, at := range m.nodes {
		if !alive[name] {
			missing[name] = at
		}
	}
	return missing
}
