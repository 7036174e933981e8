package allocator

import (
	"net/netip"
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
	Exhausted           Reason = "Exhausted"           // Pool has no free address of Family; Until, if some are resting
	AutoAssignOff       Reason = "AutoAssignOff"       // Pool must be asked for by name
	NamespaceNotAllowed Reason = "NamespaceNotAllowed" // Pool is not for this namespace
	SelectorMismatch    Reason = "SelectorMismatch"    // Pool's serviceSelector does not match; Detail is the selector
	OutsidePools        Reason = "OutsidePools"        // Addr is in no pool
	OutsidePool         Reason = "OutsidePool"         // Addr is in By's pool Pool, not in the pool asked for, which is Detail
	Taken               Reason = "Taken"               // Addr is held by By, and one of the two does not share
	ShareKeyDiffers     Reason = "ShareKeyDiffers"     // Addr is held by By under another sharing key
	PortTaken           Reason = "PortTaken"           // Addr is shared, and By has port Detail
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
func (r Refusal) String() string { return string(r.Reason) }

// Refused is the error of Assign: the Service has less than it must have.
type Refused struct {
	Key      cluster.Key
	Missing  []ipfam.Family // families without any address
	Refusals []Refusal      // at least one
}

// Error is one sentence that names the Service, what it lacks, and every pool
// or address that was tried with its reason (the first few when there are
// very many).
func (e *Refused) Error() string { return string(e.Key) }
