package allocator

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A Stray is an address that a Service holds and no pool has.
type Stray struct {
	Addr netip.Addr
	Key  cluster.Key
}

// A Diff says what an edit of the pools would do to the Services. The lists of
// addresses that are held are in order of key, then address; Served is in the
// order of service.
type Diff struct {
	Keep     []Change // held, in a pool before and after
	Stranded []Change // held and in a pool now, in no pool after the edit
	Adopted  []Change // held and stranded now, in a pool after the edit
	Astray   []Change // held and stranded, before and after
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
// nothing. A command line without a controller makes an Allocator of its own
// for it: the pools in force, the reserved ranges, Restore for every Service of
// a LIST, then Assign for each that lacks something, so that it waits.
func (a *Allocator) Plan(pools []Pool, now time.Time) Diff {
	after := a.Clone().s // nobody else has it, so it needs no lock
	after.expire(now)
	after.serve()
	after.takeServed()
	before := map[cluster.Key][]Held{}
	for key, v := range after.services {
		before[key] = after.holding(v)
	}
	after.setPools(pools)
	after.serve()

	var d Diff
	for _, key := range slices.Sorted(maps.Keys(before)) {
		for _, h := range before[key] {
			c := Change{Key: key, Addr: h.Addr, From: h.Pool, To: after.poolName(h.Addr)}
			switch {
			case c.From != "" && c.To != "":
				d.Keep = append(d.Keep, c)
			case c.From != "":
				d.Stranded = append(d.Stranded, c)
			case c.To != "":
				d.Adopted = append(d.Adopted, c)
			default:
				d.Astray = append(d.Astray, c)
			}
		}
	}
	for _, key := range after.takeServed() {
		had := func(addr netip.Addr) bool {
			return slices.ContainsFunc(before[key], func(h Held) bool { return h.Addr == addr })
		}
		for _, h := range after.holding(after.services[key]) {
			if !had(h.Addr) {
				d.Served = append(d.Served, Change{Key: key, Addr: h.Addr, To: h.Pool})
			}
		}
	}
	d.Waiting = after.waiters()
	return d
}

// poolName returns the name of the pool that addr is in, empty for none.
func (s *state) poolName(addr netip.Addr) string {
	if p := s.poolOf(addr); p != nil {
		return p.Name
	}
	return ""
}
