package proxy

import (
	"fmt"
	"time"

	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/nft"
)

// A Class says what the kernel does with a new connection to a Front: choose
// one of so many slots, perhaps with affinity, or one of the special cases.
// It is the number that the class maps hold and that the packet's priority carries
// from there to the chain of the class. Fronts of the same class share the
// chain, so there are tens of chains whatever the number of Services.
//
//	bits 0-13   how many slots; 0 in special cases
//	bits 14-30  seconds of affinity; Kubernetes allows up to 86,400
//	bit 31      the slots are those of the group Inner
type Class uint32

// The special cases: a number of seconds that no affinity has.
const (
	ClassReject Class = 0xffffff01 + iota // there is no endpoint anywhere
	ClassDrop                             // there are endpoints, but none that may be used here
	ClassRanged                           // sources are checked first; the map admitted has the class then
	ClassSplit                            // the maps inner and outer have the class, depending on the source
)

// maxSlots is the largest number of slots of a class. Endpoints beyond it get
// no connections on this node, which is reported.
const maxSlots = 1<<14 - 1

// maxAffinity is the longest affinity, as the API allows it.
const maxAffinity = 24 * time.Hour

const innerBit = 1 << 31

// balance returns the class that chooses one of n slots, n ≥ 1.
func balance(n int, affinity time.Duration, inner bool) Class {
	if n < 1 || n > maxSlots {
		panic(fmt.Sprintf("proxy: a class of %d slots", n))
	}
	c := Class(n) | Class(min(affinity, maxAffinity)/time.Second)<<14
	if inner {
		c |= innerBit
	}
	return c
}

// parts takes a class apart. ok is false for special cases and for numbers
// that are no class.
func (c Class) parts() (n int, affinity time.Duration, inner, ok bool) {
	n = int(c & maxSlots)
	seconds := c &^ innerBit >> 14
	affinity = time.Duration(seconds) * time.Second
	return n, affinity, c&innerBit != 0, n > 0 && affinity <= maxAffinity
}

// Slots: keys of the map eps, together with the front. Slots of the group
// Inner begin at innerSlots. With affinity, slots lead to the stable id of an
// endpoint by the map ids, and ids to endpoints by the map eps; ids have the
// highest bit set, and the one below it for the group Inner.
const (
	innerSlots = 1 << 16
	idBit      = 1 << 31
	innerID    = 1 << 30
)

// Names of chains that many places mention.
const (
	chainServices = "services"
	chainAgain    = "again"
	chainRefuse   = "refuse"
	chainReject   = "no-endpoint"
	chainDrop     = "elsewhere"
	chainRanged   = "ranged"
	chainAdmitted = "admitted"
	chainSplit    = "split"
	chainInner    = "inner"
)

// chain returns the name of the chain of a class.
func (c Class) chain() string {
	switch c {
	case ClassReject:
		return chainReject
	case ClassDrop:
		return chainDrop
	case ClassRanged:
		return chainRanged
	case ClassSplit:
		return chainSplit
	}
	n, affinity, inner, ok := c.parts()
	if !ok {
		panic(fmt.Sprintf("proxy: %#x is no class", uint32(c)))
	}
	name := fmt.Sprintf("n%d", n)
	if inner {
		name = "inner-" + name
	}
	if affinity > 0 {
		name = fmt.Sprintf("a%d-%s", affinity/time.Second, name)
	}
	return name
}

// The maps that lead from a class to its chain. There are three, or the kernel
// would see a loop: what is behind a check of sources or a choice by source
// must not lead to such a check again.
const (
	mapByClass    = "byclass"
	mapByAdmitted = "byadmitted"
	mapBySplit    = "bysplit"
)

// dispatch returns the maps in which the class stands.
func (c Class) dispatch() []string {
	switch c {
	case ClassRanged:
		return []string{mapByClass}
	case ClassSplit:
		return []string{mapByClass, mapByAdmitted}
	}
	return []string{mapByClass, mapByAdmitted, mapBySplit}
}

// element returns the element of the class in those maps.
func (c Class) element() nft.Element {
	return nft.Element{Key: string(nft.Val{}.Number(uint32(c))), Data: c.chain()}
}

// front are the fields by which a packet tells its Front.
func front(f ipfam.Family) []nft.Field {
	return []nft.Field{nft.Daddr(f), nft.L4Proto(), nft.Dport()}
}

// frontAnd are the fields of a Front and the packet's priority.
func frontAnd(f ipfam.Family) []nft.Field { return append(front(f), nft.Priority()) }

// client are the fields of affinity: who, and to which Front.
func client(f ipfam.Family) []nft.Field { return append([]nft.Field{nft.Saddr(f)}, front(f)...) }

var families = [...]ipfam.Family{ipfam.V4, ipfam.V6}

// each makes one rule per family.
func each(rule func(f ipfam.Family) nft.Rule) []nft.Rule {
	var rules []nft.Rule
	for _, f := range families {
		rules = append(rules, rule(f))
	}
	return rules
}

func dnat() []nft.Rule {
	return each(func(f ipfam.Family) nft.Rule { return nft.Say(nft.DNAT(f, mapEps(f), frontAnd(f)...)) })
}

// chains returns the chains that the class needs, in the order in which they
// can be made.
func (c Class) chains() []nft.Chain {
	n, affinity, inner, ok := c.parts()
	if !ok {
		return nil // the special cases are part of every table
	}
	first := uint32(0)
	if inner {
		first = innerSlots
	}
	draw := nft.Say(nft.SetPriorityRandom(uint32(n), first))
	// Before Linux 6.17 a lookup may miss an element that is replaced at that
	// moment. A second look, at a slot that every size of the class has, finds it.
	again := nft.Rule{Comment: "a slot was missed", Steps: []nft.Step{nft.Count(), nft.SetPriority(first)}}
	give := nft.Rule{Comment: "no slot was found", Steps: []nft.Step{nft.Count(), nft.Drop()}}
	if affinity == 0 {
		ch := nft.Chain{Name: c.chain()}
		ch.Rules = append(append(append(append(append(ch.Rules, draw), dnat()...), again), dnat()...), give)
		return []nft.Chain{ch}
	}
	seconds := int(affinity / time.Second)
	hit := nft.Chain{Name: fmt.Sprintf("a%d-known", seconds)}
	hit.Rules = append(hit.Rules, each(func(f ipfam.Family) nft.Rule {
		return nft.Say(nft.Refresh(mapAffinity(f), affinity, nft.Priority(), client(f)...))
	})...)
	hit.Rules = append(hit.Rules, dnat()...)
	forget := each(func(f ipfam.Family) nft.Rule {
		r := nft.Say(nft.Forget(mapAffinity(f), nft.Priority(), client(f)...))
		r.Comment = "its endpoint is gone"
		return r
	})
	hit.Rules = append(hit.Rules, forget...)
	chosen := nft.Chain{Name: fmt.Sprintf("a%d-new", seconds)}
	chosen.Rules = append(chosen.Rules, each(func(f ipfam.Family) nft.Rule {
		return nft.Say(nft.Remember(mapAffinity(f), affinity, nft.Priority(), client(f)...))
	})...)
	chosen.Rules = append(chosen.Rules, dnat()...)
	chosen.Rules = append(chosen.Rules, forget...)

	toID := each(func(f ipfam.Family) nft.Rule {
		return nft.Say(nft.SetPriorityFrom(mapIDs(f), frontAnd(f)...), nft.Jump(chosen.Name))
	})
	ch := nft.Chain{Name: c.chain()}
	ch.Rules = append(ch.Rules, each(func(f ipfam.Family) nft.Rule {
		return nft.Say(nft.SetPriorityFrom(mapAffinity(f), client(f)...), nft.Jump(hit.Name))
	})...)
	ch.Rules = append(append(append(append(append(ch.Rules, draw), toID...), again), toID...), give)
	return []nft.Chain{hit, chosen, ch}
}

// valid reports whether c is a class that this version knows.
func (c Class) valid() bool {
	_, _, _, ok := c.parts()
	return ok || c >= ClassReject && c <= ClassSplit
}
