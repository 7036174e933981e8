package allocator

import (
	"net/netip"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A Stray is an address that a Service holds and no pool has.
type Stray struct {
	Addr netip.Addr
	Key  cluster.Key
}

// A Diff says what an edit of the pools would do to the Services. Every list
// is in order of key, then address; Served is in the order of service.
type Diff struct {
	Keep     []Change // held, in a pool before and after
	Stranded []Change // held and in a pool now, in no pool after the edit
	Adopted  []Change // held and stranded now, in a pool after the edit
	Served   []Change // not held now: would be given
	Waiting  []Waiter // would still lack something, the oldest first
}

// A Change is one address of one Service under an edit.
type Change struct {
	Key      cluster.Key
	Addr     netip.Addr
	From, To string // the pool before and after; empty for none
}

// Plan returns what would happen if the pools were replaced now. It changes
// nothing.
func (a *Allocator) Plan(pools []Pool, now time.Time) Diff { return Diff{} }
