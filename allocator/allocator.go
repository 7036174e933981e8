// Package allocator decides which addresses a Service of type LoadBalancer
// gets. It is pure: in memory, without I/O, clock or log; time is an argument.
// Who writes the result to the API is provider; who parses the pools is config.
//
// Read allocator.go (what can be done), request.go (the values), assign.go and
// choose.go (how it is decided), share.go (who may stand on one address), wait.go
// (who is next), state.go and pool.go (what is known).
package allocator

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// An Allocator knows which Service holds which address. All methods may be
// called from several goroutines; each is atomic. Make one with New.
//
// Whatever happens, no address is held by two Services that may not share it
// (A1). The pools decide only what is given, never what is kept: a Service
// keeps its address until it is released, asks for another one, drops the
// family, or is edited so that it may no longer share (A2).
//
// A controller that becomes leader makes a new Allocator, calls SetPools,
// SetReserved, and Restore for every Service with an address in its status or
// in the ledger, and only then the first Assign.
type Allocator struct {
	mu sync.Mutex
	s  *state // guarded by mu
}

// locked runs f on what a knows.
func locked[T any](a *Allocator, f func(s *state) T) T {
	a.mu.Lock()
	defer a.mu.Unlock()
	return f(a.s)
}

// New returns an allocator without pools.
func New() *Allocator { return &Allocator{s: newState()} }

// SetPools replaces the pools. No Service loses an address by it: those outside
// every pool are stranded from now on. Should two pools overlap, which config
// does not let happen, the common part belongs to the first by name. Call Serve
// afterwards.
func (a *Allocator) SetPools(pools []Pool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.s.setPools(pools)
}

// SetReserved replaces the ranges that no Service may get: the addresses of
// the nodes, the pod CIDRs, the service CIDRs (A5). An address in them that is
// held already stays, and Held.Reserved says what it collides with. Of several
// reasons for one address the first is told. Call Serve afterwards.
func (a *Allocator) SetReserved(ranges []Reserved) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.s.setReserved(ranges)
}

// SetRestTime sets how long an address rests from its release until another
// Service may get it. It counts for releases from now on. 0, the default, is
// none. The Service that had the address, or one of the same name created
// again, may have it back at any time.
func (a *Allocator) SetRestTime(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.s.restTime = d
}

// Assign gives r.Key what it asks for and is cheap when nothing changes, so
// call it for every event of the Service: a change of its spec, labels,
// annotations, or of its namespace's labels.
//
// What the Service holds it keeps. A missing family is added without touching
// the other one (A4); RequireDualStack gets its first addresses for both
// families at once or none. Free choice is deterministic: the address that a
// Service of this name had before, if it is free; then an address that
// can be shared by r.ShareKey; then pools by priority and name, both families
// from one pool if pools of the same priority allow it, the lowest free
// address first. The all-zero interface identifier of a /64 (the subnet-router
// anycast address, RFC 4291 section 2.6.1) is given only when it is asked for
// by address.
//
// Addresses or a pool that are asked for newly and not held are changed in one
// step: the new address is taken, then the old one released; if the new one
// cannot be had the old one stays and the refusal is told. An edit of
// the pools is never taken as such a wish: r.Pool moves a Service only when it
// differs from the Pool of the call before.
//
// The error is nil or a *Refused: the Service lacks a family that it must have
// (for PreferDualStack: it has none at all), or something that it asked for by
// name. The Result is valid in both cases. A Service that lacks anything waits;
// see Serve.
func (a *Allocator) Assign(r Request, now time.Time) (Result, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.s.assign(r, now)
}

// Restore records that a Service has addrs, as its status or the ledger says.
// It never refuses, whatever pools and reserved ranges say. Addresses that
// are no addresses of a host are ignored. It adds to what the Service has
// already.
//
// When an address is claimed by Services that may not share it, the elder
// holds it, in whatever order they are restored; the claim of the younger is
// told by Conflicts until its next Assign, which gives it another address.
func (a *Allocator) Restore(r Request, addrs []netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.s.restore(r, addrs)
}

// A Conflict is an address that the status of two Services carried though
// they may not share it.
type Conflict struct {
	Addr    netip.Addr
	Holder  cluster.Key // the elder: keeps the address
	Claimed cluster.Key // the younger: gets another one with its next Assign
}

// Conflicts returns the double claims that Restore found and no Assign has
// yet resolved, in order of address.
func (a *Allocator) Conflicts() []Conflict { return locked(a, (*state).conflicts) }

// Release ends the life of a Service: its addresses become free, after their
// rest, and it waits no more. It does nothing when the Service is unknown, or
// when uid is not empty and another Service of the same name has come since.
// It returns the addresses that were freed. Call Serve afterwards.
func (a *Allocator) Release(key cluster.Key, uid string, now time.Time) []netip.Addr {
	return locked(a, func(s *state) []netip.Addr {
		s.expire(now)
		v := s.services[key]
		if v == nil || !v.is(uid) {
			return nil
		}
		return s.release(v)
	})
}

// Exchange puts addr, which a foreign host uses, into quarantine until then,
// and gives the Service another address in its place if there is one. It
// refuses when the Service asks for addr by name, or when there is no other
// address: then the Service keeps addr. Call it only for an address that was
// never announced (A2). The error is nil or a *Refused, as with Assign.
func (a *Allocator) Exchange(key cluster.Key, addr netip.Addr, until time.Time, why string, now time.Time) (Result, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.s.exchange(a.s.services[key], quarantine(addr, until, why), now)
}

// Quarantine keeps addr from being given to anybody until then, because a
// foreign host uses it; why describes the host, as in "MAC 02:00:00:00:00:01
// on segment 192.0.2.0/24". A Service that holds addr keeps it.
func (a *Allocator) Quarantine(addr netip.Addr, until time.Time, why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.s.rest(quarantine(addr, until, why))
}

// quarantine makes the Rest of an address that a foreign host uses. That it is
// a quarantine shows by its Why, so there is always one.
func quarantine(addr netip.Addr, until time.Time, why string) Rest {
	return Rest{Addr: addr, Until: until, Why: cmp.Or(why, "not known")}
}

// A Rest is an address that nobody may get for some time.
type Rest struct {
	Addr  netip.Addr
	Until time.Time
	Last  cluster.Key // the Service that gave it up and may have it back; empty for a quarantine
	Why   string      // for a quarantine: who uses it; else empty
}

// Rests returns the addresses that rest at the time now, in order.
func (a *Allocator) Rests(now time.Time) []Rest {
	return locked(a, func(s *state) []Rest {
		s.expire(now)
		return slices.SortedFunc(maps.Values(s.rests), func(a, b Rest) int { return a.Addr.Compare(b.Addr) })
	})
}

// Rest takes over a rest that another leader's Rests returned. A rest of an
// address that somebody holds is nothing, a quarantine of one goes on.
func (a *Allocator) Rest(r Rest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.Why != "" || a.s.seats[r.Addr] == nil {
		a.s.rest(r)
	}
}

// Remember tells that a Service of this name had addrs, so that it gets them
// back if they are still free when it is created again. Release does that by
// itself; Remember carries it over to a new leader.
func (a *Allocator) Remember(key cluster.Key, addrs []netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, addr := range addrs {
		a.s.remember(key, addr)
	}
}

// Remembered returns, by name, the addresses that a Service had before and that
// nobody else took since.
func (a *Allocator) Remembered() map[cluster.Key][]netip.Addr {
	return locked(a, func(s *state) map[cluster.Key][]netip.Addr { return cloneLists(s.before) })
}

// Serve gives what has become free to the Services that wait, the oldest
// first, and returns the keys of those that were given something since
// the last call, in the order in which they were served. Call Assign for each:
// it returns what the Service now holds. Serve costs next to nothing when
// nothing became free, so call it after everything that can free an address
// (Release, Exchange, SetPools, SetReserved, an Assign with Removed) and at Next.
func (a *Allocator) Serve(now time.Time) []cluster.Key {
	return locked(a, func(s *state) []cluster.Key {
		s.expire(now)
		s.serve()
		return s.takeServed()
	})
}

// Next returns when the next rest ends, which is when Serve is due, and false
// when nothing rests.
func (a *Allocator) Next() (time.Time, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.s.nextEnd()
}

// A Waiter is a Service that lacks something.
type Waiter struct {
	Key      cluster.Key
	Created  time.Time
	Refusals []Refusal // as of its last attempt
}

// Waiting returns the Services that lack something, the oldest first. One that
// has a part, as PreferDualStack may, is among them.
func (a *Allocator) Waiting() []Waiter { return locked(a, (*state).waiters) }

func (s *state) waiters() []Waiter {
	var out []Waiter
	for _, v := range s.waiting() {
		out = append(out, Waiter{Key: v.req.Key, Created: v.req.Created, Refusals: slices.Clone(v.refusals)})
	}
	return out
}

// Get returns what the Service holds, and false when it is unknown: neither
// assigned nor restored, or released. A Service that waits is known and may
// hold nothing.
func (a *Allocator) Get(key cluster.Key) ([]Held, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	v := a.s.services[key]
	if v == nil {
		return nil, false
	}
	return a.s.holding(v), true
}

// Owners returns the Services that hold addr, in order. More than one means
// that they share it.
func (a *Allocator) Owners(addr netip.Addr) []cluster.Key {
	return locked(a, func(s *state) []cluster.Key {
		st := s.seats[addr]
		if st == nil {
			return nil
		}
		var out []cluster.Key
		for _, v := range st.holders {
			out = append(out, v.req.Key)
		}
		slices.Sort(out)
		return out
	})
}

// Holdings returns what every known Service holds.
func (a *Allocator) Holdings() map[cluster.Key][]Held {
	return locked(a, func(s *state) map[cluster.Key][]Held {
		out := make(map[cluster.Key][]Held, len(s.services))
		for key, v := range s.services {
			out[key] = s.holding(v)
		}
		return out
	})
}

// Usage returns a line for each pool and each family that it has, in order of
// name and family. Its cost grows with the number of addresses that are held
// or rest, and of ranges.
func (a *Allocator) Usage(now time.Time) []Usage {
	return locked(a, func(s *state) []Usage {
		s.expire(now)
		return s.usage()
	})
}

// Stranded returns the addresses that are held and in no pool any more, with
// who holds them, in order.
func (a *Allocator) Stranded() []Stray { return locked(a, (*state).stranded) }

// Clone returns an independent copy: what happens to one does not show in the
// other.
func (a *Allocator) Clone() *Allocator {
	a.mu.Lock()
	defer a.mu.Unlock()
	return &Allocator{s: a.s.clone()}
}
