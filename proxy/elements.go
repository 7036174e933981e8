package proxy

import (
	"hash/fnv"
	"net/netip"
	"slices"
	"time"

	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/nft"
)

// A entry is one entry of one set, by which Services share it: an address that
// two Services use stays until neither does.
type entry struct{ set, key string }

// entries returns the entries of sets, beside its fronts, that the plan wants.
func (p Plan) entries() []entry {
	var out []entry
	addrs := func(set func(ipfam.Family) string, list []netip.Addr, times int) {
		for _, a := range list {
			key := nft.Val{}
			for range times {
				key = key.Addr(a)
			}
			out = append(out, entry{set(ipfam.Of(a)), string(key)})
		}
	}
	addrs(setCluster, p.ClusterIPs, 1)
	addrs(setVIPs, p.VIPs, 1)
	addrs(setShared, p.Foreign, 1)
	addrs(setHere, p.Local, 1)
	addrs(setHairpin, p.Local, 2)
	for _, u := range p.Ports {
		out = append(out, entry{setPorts(u.Proto), string(nft.Val{}.Port(u.Port))})
	}
	slices.SortFunc(out, func(a, b entry) int {
		if c := cmpString(a.set, b.set); c != 0 {
			return c
		}
		return cmpString(a.key, b.key)
	})
	return slices.Compact(out)
}

func cmpString(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// A want is one element that a front wants to have.
type want struct {
	set string
	nft.Element
}

// key returns the front as maps know it.
func (f Front) key() string {
	return string(make(nft.Val, 0, 24).Addr(f.Addr).Proto(f.Proto).Port(f.Port))
}

func (f Front) family() ipfam.Family { return ipfam.Of(f.Addr) }

// slotKey returns the key of a slot or an id of a front.
func slotKey(front string, slot uint32) string {
	return string(nft.Val(make([]byte, 0, len(front)+4)).Raw(front).Number(slot))
}

// isID reports whether an element leads from an id, and not from a slot, to an
// endpoint.
func isID(set, key string) bool {
	return stageOf(set) == stageSlots && nft.KeyNumber(key, len(key)-4)&idBit != 0
}

func number(m uint32) string { return string(nft.Val{}.Number(m)) }

// place gives each endpoint a slot: it stays in the one that it has, so that a
// change of one endpoint changes one slot however many there are; new ones go
// into what is free. The slots are dense from 0. Pure, so a restart that reads
// the slots from the kernel goes on where the last process stopped.
func place(have, want []netip.AddrPort) []netip.AddrPort {
	out := make([]netip.AddrPort, len(want))
	placed := make(map[netip.AddrPort]bool, len(want))
	for i := range min(len(have), len(want)) {
		if _, ok := slices.BinarySearchFunc(want, have[i], netip.AddrPort.Compare); ok && !placed[have[i]] {
			out[i] = have[i]
			placed[have[i]] = true
		}
	}
	free := 0
	for _, e := range want {
		if placed[e] {
			continue
		}
		for out[free].IsValid() {
			free++
		}
		out[free] = e
	}
	return out
}

// ids returns a stable id for each endpoint: a digest of its address, so that
// neither the others nor a restart changes it. Two digests that collide get
// neighbouring numbers.
func ids(eps []netip.AddrPort, inner bool) map[netip.AddrPort]uint32 {
	base := uint32(idBit)
	if inner {
		base |= innerID
	}
	sorted := slices.Clone(eps)
	slices.SortFunc(sorted, netip.AddrPort.Compare)
	out := make(map[netip.AddrPort]uint32, len(eps))
	taken := make(map[uint32]bool, len(eps))
	for _, e := range sorted {
		h := fnv.New32a()
		b, err := e.MarshalBinary()
		if err != nil {
			panic(err) // it never fails for a value in memory
		}
		_, _ = h.Write(b) // neither does this
		id := base | h.Sum32()&(innerID-1)
		for taken[id] {
			id = base | (id+1)&(innerID-1)
		}
		taken[id] = true
		out[e] = id
	}
	return out
}

// wants returns all elements of a front, given the slots its endpoints have
// now. Elements that others lead to come first.
func (t Target) wants(f Front, have func(inner bool, affinity bool) []netip.AddrPort) (out []want, classes []Class) {
	fam, key := f.family(), f.key()
	add := func(set, key, data string) {
		out = append(out, want{set, nft.Element{Key: key, Data: data}})
	}
	use := func(c Class) string {
		classes = append(classes, c)
		return number(uint32(c))
	}
	sticky := t.sticky()
	group := func(g Group, inner bool) Class {
		eps := g.Endpoints
		switch {
		case len(eps) == 0 && g.Elsewhere:
			return ClassDrop
		case len(eps) == 0:
			return ClassReject
		}
		eps = place(have(inner, sticky), eps[:min(len(eps), maxSlots)])
		first := uint32(0)
		if inner {
			first = innerSlots
		}
		if !sticky {
			for i, e := range eps {
				add(mapEps(fam), slotKey(key, first+uint32(i)), endpointValue(e))
			}
		} else {
			id := ids(eps, inner)
			for _, e := range eps {
				add(mapEps(fam), slotKey(key, id[e]), endpointValue(e))
			}
			for i, e := range eps {
				add(mapIDs(fam), slotKey(key, first+uint32(i)), number(id[e]))
			}
		}
		if !sticky {
			return balance(len(eps), 0, inner)
		}
		return balance(len(eps), t.Affinity, inner)
	}
	class := group(t.Outer, false)
	if t.Inner != nil && !same(*t.Inner, t.Outer) {
		add(mapOuter(fam), key, use(class))
		add(mapInner(fam), key, use(group(*t.Inner, true)))
		class = ClassSplit
	}
	if t.Sources != nil {
		for _, p := range t.Sources {
			add(setRanges(fam, p.Bits()), string(nft.Val{}.Raw(key).Addr(p.Addr())), "")
		}
		add(mapAdmitted(fam), key, use(class))
		class = ClassRanged
	}
	out = append(out, want{mapClass(fam), nft.Element{Key: key, Data: use(class), Comment: t.Service}})
	return out, classes
}

// sticky reports whether clients are remembered. The API gives whole seconds.
func (t Target) sticky() bool { return t.Affinity >= time.Second }

func same(a, b Group) bool {
	return a.Elsewhere == b.Elsewhere && slices.Equal(a.Endpoints, b.Endpoints)
}

func endpointValue(e netip.AddrPort) string {
	return string(nft.Val{}.Addr(e.Addr()).Port(e.Port()))
}

// endpointOf reads what endpointValue wrote.
func endpointOf(v string, f ipfam.Family) netip.AddrPort {
	n := f.Bits() / 8
	return netip.AddrPortFrom(nft.KeyAddr(v, 0, f), nft.KeyPort(v, n))
}
