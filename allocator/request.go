package allocator

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/iprange"
	"github.com/clarion-lb/clarion/internal/selector"
)

// A Pool is what config.Pool says about giving addresses; the fields have the
// same names and meaning.
type Pool struct {
	Name      string
	Addresses iprange.Set

	AutoAssign    bool
	AvoidBuggyIPs bool
	Priority      int

	Namespaces        []string
	NamespaceSelector *selector.Selector
	ServiceSelector   *selector.Selector
}

// A Reserved range is never given to a Service (invariant A5).
type Reserved struct {
	Range  iprange.Range
	Reason string // ends the sentence «192.0.2.11 is …», as in "the address of node n1"
}

// A Policy is spec.ipFamilyPolicy.
type Policy uint8

// The policies of KEP-563. The zero value is that of a Service that says
// nothing.
const (
	SingleStack Policy = iota
	PreferDualStack
	RequireDualStack
)

// A Port is what two Services on one address must not both have.
type Port struct {
	Protocol cluster.Protocol
	Port     uint16
}

// String returns the port as in "TCP/80".
func (p Port) String() string { return fmt.Sprintf("%v/%d", p.Protocol, p.Port) }

// A Request is everything about a Service that decides which addresses it
// gets. It is a value: the allocator keeps it and nobody changes it later.
type Request struct {
	Key     cluster.Key
	UID     string    // another UID under the same Key is another Service; empty when not known
	Created time.Time // the elder Service is served first and keeps a contested address

	Namespace       string
	NamespaceLabels map[string]string
	Labels          map[string]string

	// Families is spec.ipFamilies, the primary first. With none the Service
	// gets nothing.
	Families []ipfam.Family
	Policy   Policy

	// Addresses are asked for by name. A family with at least one gets all of
	// them or keeps what it has; a family with none is chosen for.
	Addresses []netip.Addr
	// Pool is the only pool that addresses may come from; empty means any.
	Pool string

	// ShareKey allows other Services with the same key on the same address, as
	// long as no port is used twice and, if one of them is Local, all of them
	// have the same Selector. Empty means not shared.
	ShareKey string
	Ports    []Port
	Local    bool   // externalTrafficPolicy: Local
	Selector string // the canonical pod selector, see selector.Canonical
}

// Held is one address that a Service holds.
type Held struct {
	Addr netip.Addr
	// Pool is the pool that the address is in; empty when the address is
	// stranded: it is in no pool any more, keeps working, and will not be given
	// to anybody else once it is given up.
	Pool string
	// Reserved says what else the address is, as in "the address of node n1",
	// when that became known after it was given; else it is empty.
	Reserved string
	// With are the other Services on the address, in order.
	With []cluster.Key
}

// Stranded reports whether the address is in no pool any more.
func (h Held) Stranded() bool { return h.Pool == "" }

// A Result says what a Service has after Assign, and why it has not more.
type Result struct {
	// Held is all that the Service holds now: in the order of Request.Families,
	// lowest first.
	Held []Held
	// Added and Removed are what changed since the last Assign for this Service
	// returned, be it by this call or by Serve. An address is removed only
	// because the Service asked for another one, no longer has the family, lost
	// the right to share, or was restored with somebody else's; Removed says which.
	Added   []netip.Addr
	Removed []Removed
	// Missing are the families that the Service asks for and holds nothing of.
	// With PreferDualStack that alone is no error. The Service waits for them;
	// see Serve.
	Missing []ipfam.Family
	// Refusals say, pool by pool or address by address, why something that was
	// asked for was not given. Empty when all was given.
	Refusals []Refusal
}

// Addresses returns the addresses of Held.
func (r Result) Addresses() []netip.Addr {
	var out []netip.Addr
	for _, h := range r.Held {
		out = append(out, h.Addr)
	}
	return out
}

// Removed is an address that Assign took from the Service that it was called
// for.
type Removed struct {
	Addr netip.Addr
	Why  string // a clause, as in "the Service asks for 192.0.2.7 instead"
}
