package watch

import "sync"

type kind int

const (
	kindService kind = iota
	kindNode
	kindPools
)

// marks are the things whose values must be made anew.
type marks struct {
	services, nodes map[string]bool
	pools           bool
}

// dirty gathers marks from informers for the one goroutine that builds.
type dirty struct {
	mu  sync.Mutex
	now marks

	ready chan struct{}
}

func newDirty() *dirty { return &dirty{now: noMarks(), ready: make(chan struct{}, 1)} }

func noMarks() marks { return marks{services: map[string]bool{}, nodes: map[string]bool{}} }

// mark says that the thing of this kind and key changed. An empty key, from
// an object that belongs to nothing, is ignored.
func (d *dirty) mark(k kind, key string) {
	if key == "" {
		return
	}
	d.mu.Lock()
	switch k {
	case kindService:
		d.now.services[key] = true
	case kindNode:
		d.now.nodes[key] = true
	case kindPools:
		d.now.pools = true
	}
	d.mu.Unlock()
	select {
	case d.ready <- struct{}{}:
	default: // the reader has not yet come for what is marked
	}
}

// take returns all marks since the last take.
func (d *dirty) take() marks {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.now
	d.now = noMarks()
	return m
}
