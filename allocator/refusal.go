package allocator

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
)

// A Reason is why an address or a pool was refused. The values are stable:
// metrics count them and conditions carry them (CamelCase, as a condition's
// reason must be).
type Reason string

// The reasons, each with the fields of Refusal that it fills beside Family.
const (
	NoPools             Reason = "NoPools"             // there is no pool at all
	NoSuchPool          Reason = "NoSuchPool"          // Pool is asked for and does not exist
	NoFamily            Reason = "NoFamily"            // Pool has no range of Family
	Exhausted           Reason = "Exhausted"           // Pool has no free address of Family; Detail counts what is in use
	AutoAssignOff       Reason = "AutoAssignOff"       // Pool must be asked for by name
	NamespaceNotAllowed Reason = "NamespaceNotAllowed" // Pool is not for the namespace Detail; Addr, when that was asked for
	SelectorMismatch    Reason = "SelectorMismatch"    // Pool's serviceSelector, which is Detail, does not match; Addr, when that was asked for
	OutsidePools        Reason = "OutsidePools"        // Addr is in no pool
	OutsidePool         Reason = "OutsidePool"         // Addr is in Pool, not in the pool asked for, which is Detail
	Taken               Reason = "Taken"               // Addr is held by By, and one of the two does not share
	ShareKeyDiffers     Reason = "ShareKeyDiffers"     // Addr is held by By under another sharing key
	PortTaken           Reason = "PortTaken"           // Addr is shared, and By has the port Detail
	PolicyDiffers       Reason = "PolicyDiffers"       // Addr is shared, and By selects other pods while one of the two is Local
	Resting             Reason = "Resting"             // Addr was given up by By and rests until Until
	Quarantined         Reason = "Quarantined"         // Addr is used by a foreign host, which Detail describes, until Until
	IsReserved          Reason = "Reserved"            // Addr is Detail, as in "the address of node n1"
	FamilyNotAsked      Reason = "FamilyNotAsked"      // Addr is asked for, but its family is not in ipFamilies
	OtherFamilyMissing  Reason = "OtherFamilyMissing"  // Family could be had, but RequireDualStack wants both or none
)

// A Refusal is one reason why a Service was not given what it asks for. It is
// a value; String makes the sentence of it.
type Refusal struct {
	Reason Reason
	Family ipfam.Family
	Pool   string
	Addr   netip.Addr
	By     cluster.Key
	Until  time.Time
	Detail string
}

// String says what was refused, why, and what to do about it, in a clause
// without a final full stop that can stand after «no IPv4 address: ».
func (r Refusal) String() string {
	switch r.Reason {
	case NoPools:
		return "there is no pool: list the addresses that you own in the ConfigMap clarion-pools"
	case NoSuchPool:
		return fmt.Sprintf("there is no pool %q: correct the annotation clarion.dev/pool or add the pool", r.Pool)
	case NoFamily:
		return fmt.Sprintf("the pool %q has no %v range", r.Pool, r.Family)
	case Exhausted:
		return fmt.Sprintf("the pool %q has no free %v address (%s): add addresses to it or delete a Service", r.Pool, r.Family, r.Detail)
	case AutoAssignOff:
		return fmt.Sprintf("the pool %q is for Services that ask for it (autoAssign is off): set the annotation clarion.dev/pool: %s", r.Pool, r.Pool)
	case NamespaceNotAllowed:
		return fmt.Sprintf("%sthe pool %q is not for the namespace %s: add it to namespaces or use another pool", r.wanted(), r.Pool, r.Detail)
	case SelectorMismatch:
		return fmt.Sprintf("%sthe pool %q is only for Services with the labels %s", r.wanted(), r.Pool, r.Detail)
	case OutsidePools:
		return fmt.Sprintf("%v is in no pool: ask for another address or add this one to a pool", r.Addr)
	case OutsidePool:
		return fmt.Sprintf("%v is in the pool %q, and the Service asks for the pool %q: make the two agree", r.Addr, r.Pool, r.Detail)
	case Taken:
		return fmt.Sprintf("%v is held by %s: ask for another address, or give both Services the same clarion.dev/share", r.Addr, r.By)
	case ShareKeyDiffers:
		return fmt.Sprintf("%v is held by %s, which shares it under another key: give both Services the same clarion.dev/share", r.Addr, r.By)
	case PortTaken:
		return fmt.Sprintf("%v is shared, and its port %s belongs to %s: use another port or another address", r.Addr, r.Detail, r.By)
	case PolicyDiffers:
		return fmt.Sprintf("%v is shared with %s, and with externalTrafficPolicy: Local all Services on an address must have the same pod selector", r.Addr, r.By)
	case Resting:
		return fmt.Sprintf("%v was given up by %s and rests until %s", r.Addr, r.By, clock(r.Until))
	case Quarantined:
		return fmt.Sprintf("%v is used by a foreign host (%s) and is not given out until %s", r.Addr, r.Detail, clock(r.Until))
	case IsReserved:
		return fmt.Sprintf("%v is %s: ask for another address", r.Addr, r.Detail)
	case FamilyNotAsked:
		return fmt.Sprintf("%v is %v, which is not in the Service's ipFamilies: add the family or remove the address", r.Addr, r.Family)
	case OtherFamilyMissing:
		return fmt.Sprintf("%v would be free, but ipFamilyPolicy is RequireDualStack and the other family has none", r.Family)
	}
	return string(r.Reason)
}

// wanted names the address whose pool refuses the Service.
func (r Refusal) wanted() string {
	if r.Addr.IsValid() {
		return r.Addr.String() + " cannot be had: "
	}
	return ""
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Refused is the error of Assign: the Service has less than it must have.
type Refused struct {
	Key      cluster.Key
	Held     []netip.Addr   // what it has, and keeps
	Missing  []ipfam.Family // families without any address
	Refusals []Refusal      // at least one
}

// mostClauses keeps the sentence short when there are very many pools.
const mostClauses = 5

// Error is one sentence that names the Service, what it lacks, and every pool
// or address that was tried with its reason (the first few when there are
// very many).
func (e *Refused) Error() string {
	var clauses []string
	for i, r := range e.Refusals {
		if i == mostClauses {
			clauses = append(clauses, fmt.Sprintf("and %d more reasons", len(e.Refusals)-i))
			break
		}
		clauses = append(clauses, r.String())
	}
	var what string
	switch {
	case len(e.Missing) == 0:
		what = fmt.Sprintf("%s keeps %s and does not get what it asks for", e.Key, list(e.Held))
	case len(e.Missing) == 1:
		what = fmt.Sprintf("%s has no %v address", e.Key, e.Missing[0])
	default:
		what = fmt.Sprintf("%s has no address", e.Key)
	}
	return what + ": " + strings.Join(clauses, "; ")
}

// list names addresses, for people.
func list(addrs []netip.Addr) string {
	words := make([]string, len(addrs))
	for i, a := range addrs {
		words[i] = a.String()
	}
	return strings.Join(words, ", ")
}
