package proxy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/nft"
)

// Table is the name of the table that the proxy owns.
const Table = "clarion-proxy"

// Names of the sets and maps of a family.
func mapClass(f ipfam.Family) string    { return "class" + digit(f) }    // front → class
func mapAdmitted(f ipfam.Family) string { return "admitted" + digit(f) } // front → class, once the source is checked
func mapInner(f ipfam.Family) string    { return "inner" + digit(f) }    // front → class for this node and its pods
func mapOuter(f ipfam.Family) string    { return "outer" + digit(f) }    // front → class for everybody else
func mapEps(f ipfam.Family) string      { return "eps" + digit(f) }      // front, slot or id → endpoint
func mapIDs(f ipfam.Family) string      { return "ids" + digit(f) }      // front, slot → id
func mapAffinity(f ipfam.Family) string { return "affinity" + digit(f) } // client, front → id
func setCluster(f ipfam.Family) string  { return "clusterips" + digit(f) }
func setVIPs(f ipfam.Family) string     { return "vips" + digit(f) }
func setShared(f ipfam.Family) string   { return "shared" + digit(f) }   // addresses of which only some ports are Services'
func setHairpin(f ipfam.Family) string  { return "hairpin" + digit(f) }  // an endpoint here, twice
func setHere(f ipfam.Family) string     { return "here" + digit(f) }     // endpoints on this node
func setOwnPods(f ipfam.Family) string  { return "ownpods" + digit(f) }  // the pod CIDRs of this node
func setInside(f ipfam.Family) string   { return "inside" + digit(f) }   // sources that keep their address to cluster IPs
func setPods(f ipfam.Family) string     { return "pods" + digit(f) }     // the pod CIDRs of all nodes
func setServices(f ipfam.Family) string { return "services" + digit(f) } // the service CIDRs

// setRanges names the set of fronts and source prefixes of one length: who may
// connect.
func setRanges(f ipfam.Family, bits int) string { return fmt.Sprintf("ranges%s-%d", digit(f), bits) }

// A length is a length of source prefixes that some Service uses.
type length struct {
	family ipfam.Family
	bits   int
}

// rangesOf reads what setRanges wrote.
func rangesOf(set string) (f ipfam.Family, bits int, ok bool) {
	rest, ok := strings.CutPrefix(set, "ranges")
	if !ok {
		return 0, 0, false
	}
	for _, f := range families {
		if number, mine := strings.CutPrefix(rest, digit(f)+"-"); mine {
			n, err := strconv.Atoi(number)
			return f, n, err == nil && n > 0 && n <= f.Bits() && setRanges(f, n) == set
		}
	}
	return 0, 0, false
}

// rangeSet declares the set of a length.
func rangeSet(l length) nft.Set {
	return nft.Set{Name: setRanges(l.family, l.bits), Key: []nft.Type{nft.Addr(l.family), nft.Proto, nft.Port, nft.Addr(l.family)}}
}

// sortedLengths returns lengths by family, the longest prefixes first.
func sortedLengths(lengths map[length]bool) []length {
	return slices.SortedFunc(maps.Keys(lengths), func(a, b length) int {
		return cmp.Or(cmp.Compare(a.family, b.family), cmp.Compare(b.bits, a.bits))
	})
}

// rangedChain looks in the set of each length that is used.
func rangedChain(lengths map[length]bool) nft.Chain {
	ch := nft.Chain{Name: chainRanged}
	for _, l := range sortedLengths(lengths) {
		ch.Rules = append(ch.Rules, nft.Say(
			nft.In(setRanges(l.family, l.bits), append(front(l.family), nft.Network(l.family, l.bits))...),
			nft.GoTo(chainAdmitted)))
	}
	ch.Rules = append(ch.Rules, nft.Rule{Comment: "not in loadBalancerSourceRanges", Steps: []nft.Step{nft.Drop()}})
	return ch
}

var protocols = [...]cluster.Protocol{cluster.TCP, cluster.UDP, cluster.SCTP}

func setPorts(p cluster.Protocol) string { return "ports-" + strings.ToLower(p.String()) }

// Sizes of the sets of a table that holds little. A set of fixed size never
// rehashes; it is made larger before it is full.
const (
	minElements = 1 << 14
	affinities  = 1 << 18 // clients remembered per family; see the docs of affinity
)

// layout returns the table without the chains of the classes that are used.
// size tells how many elements a set has to hold; lengths are those of the
// source prefixes in use.
func layout(size func(set string) int, lengths map[length]bool) nft.Table {
	t := nft.Table{Name: Table}
	grow := func(name string) uint32 {
		n := minElements
		for n < 2*size(name) {
			n *= 2
		}
		return uint32(n)
	}
	key := func(f ipfam.Family, more ...nft.Type) []nft.Type {
		return append([]nft.Type{nft.Addr(f), nft.Proto, nft.Port}, more...)
	}
	entry := []nft.Type{nft.ClassID}
	for _, f := range families {
		addr := []nft.Type{nft.Addr(f)}
		t.Sets = append(t.Sets,
			nft.Set{Name: mapClass(f), Key: key(f), Data: entry, Size: grow(mapClass(f))},
			nft.Set{Name: mapAdmitted(f), Key: key(f), Data: entry, Size: grow(mapAdmitted(f))},
			nft.Set{Name: mapInner(f), Key: key(f), Data: entry, Size: grow(mapInner(f))},
			nft.Set{Name: mapOuter(f), Key: key(f), Data: entry, Size: grow(mapOuter(f))},
			nft.Set{Name: mapEps(f), Key: key(f, nft.ClassID), Data: []nft.Type{nft.Addr(f), nft.Port}, Size: grow(mapEps(f))},
			nft.Set{Name: mapIDs(f), Key: key(f, nft.ClassID), Data: entry, Size: grow(mapIDs(f))},
			nft.Set{Name: mapAffinity(f), Key: append(addr, key(f)...), Data: entry, Dynamic: true, Size: affinities},
			nft.Set{Name: setCluster(f), Key: addr, Size: grow(setCluster(f))},
			nft.Set{Name: setVIPs(f), Key: addr, Size: grow(setVIPs(f))},
			nft.Set{Name: setShared(f), Key: addr},
			nft.Set{Name: setHairpin(f), Key: append(addr, addr...)},
			nft.Set{Name: setHere(f), Key: addr},
			nft.Set{Name: setOwnPods(f), Key: addr, Interval: true},
			nft.Set{Name: setInside(f), Key: addr, Interval: true},
			nft.Set{Name: setPods(f), Key: addr, Interval: true},
			nft.Set{Name: setServices(f), Key: addr, Interval: true},
		)
	}
	for _, p := range protocols {
		t.Sets = append(t.Sets, nft.Set{Name: setPorts(p), Key: []nft.Type{nft.Port}})
	}
	for _, name := range []string{mapByClass, mapByAdmitted, mapBySplit} {
		t.Sets = append(t.Sets, nft.Set{Name: name, Key: entry, Data: []nft.Type{nft.Goto}})
	}

	classify := func(m func(ipfam.Family) string, by string) []nft.Rule {
		return each(func(f ipfam.Family) nft.Rule {
			return nft.Say(nft.SetPriorityFrom(m(f), front(f)...), nft.Dispatch(by))
		})
	}
	chain := func(name string, rules ...[]nft.Rule) {
		ch := nft.Chain{Name: name}
		for _, r := range rules {
			ch.Rules = append(ch.Rules, r...)
		}
		t.Chains = append(t.Chains, ch)
	}
	one := func(r ...nft.Rule) []nft.Rule { return r }
	if4and6 := func(steps func(f ipfam.Family) []nft.Step) []nft.Rule {
		return each(func(f ipfam.Family) nft.Rule { return nft.Say(steps(f)...) })
	}

	refuse := one(nft.Say(nft.Reset()), nft.Say(nft.Reject()))
	chain(chainReject, refuse)
	chain(chainDrop, one(nft.Say(nft.Drop())))
	for _, l := range sortedLengths(lengths) {
		t.Sets = append(t.Sets, rangeSet(l))
	}
	t.Chains = append(t.Chains, rangedChain(lengths))
	lost := one(nft.Rule{Comment: "no class was found", Steps: []nft.Step{nft.Count(), nft.Drop()}})
	chain(chainAdmitted, classify(mapAdmitted, mapByAdmitted), classify(mapAdmitted, mapByAdmitted), lost)
	chain(chainInner, classify(mapInner, mapBySplit), classify(mapInner, mapBySplit), lost)
	chain(chainSplit,
		one(nft.Say(nft.FromThisHost(), nft.GoTo(chainInner))),
		if4and6(func(f ipfam.Family) []nft.Step {
			return []nft.Step{nft.In(setOwnPods(f), nft.Saddr(f)), nft.GoTo(chainInner)}
		}),
		classify(mapOuter, mapBySplit), classify(mapOuter, mapBySplit), lost)

	// What is for a Service's address but no port of it. The second look is for
	// kernels before 6.17, on which a lookup may miss an element that is replaced
	// at that moment: for those a living Service must not be refused.
	chain(chainAgain, classify(mapClass, mapByClass))
	chain(chainRefuse,
		classify(mapClass, mapByClass),
		if4and6(func(f ipfam.Family) []nft.Step {
			return []nft.Step{nft.In(setVIPs(f), nft.Daddr(f)), nft.EchoRequest(f), nft.RedirectHere()}
		}),
		refuse)
	var served []nft.Rule
	for _, set := range []func(ipfam.Family) string{setCluster, setVIPs} {
		served = append(served, if4and6(func(f ipfam.Family) []nft.Step {
			return []nft.Step{nft.In(set(f), nft.Daddr(f)), nft.GoTo(chainRefuse)}
		})...)
	}
	chain(chainServices,
		classify(mapClass, mapByClass),
		served,
		if4and6(func(f ipfam.Family) []nft.Step {
			return []nft.Step{nft.In(setShared(f), nft.Daddr(f)), nft.GoTo(chainAgain)}
		}),
		if4and6(func(f ipfam.Family) []nft.Step {
			return []nft.Step{nft.In(setServices(f), nft.Daddr(f)), nft.Drop()}
		}))

	// ours returns a rule for each way in which a connection's first destination
	// tells that it is one of ours, and does then.
	ours := func(sets []func(ipfam.Family) string, shared []cluster.Protocol, then ...nft.Step) []nft.Rule {
		var rules []nft.Rule
		for _, set := range sets {
			rules = append(rules, if4and6(func(f ipfam.Family) []nft.Step {
				return append([]nft.Step{nft.In(set(f), nft.Original(f))}, then...)
			})...)
		}
		for _, p := range shared {
			rules = append(rules, if4and6(func(f ipfam.Family) []nft.Step {
				return append([]nft.Step{nft.In(setShared(f), nft.Original(f)), nft.ProtoIs(p), nft.In(setPorts(p), nft.OriginalPort())}, then...)
			})...)
		}
		return rules
	}
	// What the source becomes. The answers of an endpoint here, and answers to a
	// pod here, pass this node whatever their source, so the client keeps its
	// address. The priority that led to the endpoint is not left on the packet.
	const chainSource, chainToCluster, chainFromOutside = "source", "source-cluster", "source-outside"
	keep := append(append(append(
		one(nft.Say(nft.SetPriority(0))),
		if4and6(func(f ipfam.Family) []nft.Step {
			return []nft.Step{nft.In(setHairpin(f), nft.Saddr(f), nft.Daddr(f)), nft.Masquerade()}
		})...),
		if4and6(func(f ipfam.Family) []nft.Step {
			return []nft.Step{nft.In(setHere(f), nft.Daddr(f)), nft.Return()}
		})...),
		if4and6(func(f ipfam.Family) []nft.Step {
			return []nft.Step{nft.In(setOwnPods(f), nft.Saddr(f)), nft.Return()}
		})...)
	chain(chainToCluster,
		keep,
		one(nft.Say(nft.FromThisHost(), nft.Masquerade())),
		if4and6(func(f ipfam.Family) []nft.Step {
			return []nft.Step{nft.NotIn(setInside(f), nft.Saddr(f)), nft.Masquerade()}
		}))
	chain(chainFromOutside, keep, one(nft.Say(nft.Masquerade())))
	chain(chainSource,
		ours([]func(ipfam.Family) string{setCluster}, nil, nft.GoTo(chainToCluster)),
		ours([]func(ipfam.Family) string{setVIPs}, protocols[:], nft.GoTo(chainFromOutside)))

	base := func(name, typ string, at nft.Point, priority int32, rules ...nft.Rule) {
		t.Chains = append(t.Chains, nft.Chain{Name: name, Hook: &nft.Hook{Type: typ, Point: at, Priority: priority}, Rules: rules})
	}
	toServices := nft.Say(nft.Jump(chainServices))
	base("nat-prerouting", "nat", nft.Prerouting, nft.PriorityDNAT, toServices)
	base("nat-output", "nat", nft.Output, nft.PriorityDNAT, toServices)
	base("nat-postrouting", "nat", nft.Postrouting, nft.PrioritySNAT, nft.Say(nft.WasDNAT(), nft.Jump(chainSource)))
	// A packet of a pod that conntrack holds for invalid would leave with the
	// pod's address instead of the Service's, and the client's answer, a reset,
	// would kill a healthy connection (kubernetes/kubernetes#74839).
	base("filter-forward", "filter", nft.Forward, nft.PriorityFilter, each(func(f ipfam.Family) nft.Rule {
		return nft.Say(nft.StateInvalid(), nft.In(setPods(f), nft.Saddr(f)), nft.Drop())
	})...)
	return t
}
