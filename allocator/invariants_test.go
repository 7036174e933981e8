package allocator

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
)

// settle checks the invariants after a step and takes over what is held.
// actor is the Service that the step was about.
func (m *model) settle(n int, what string, actor cluster.Key) {
	m.t.Helper()
	before, now := m.held, map[cluster.Key][]netip.Addr{}
	owners := map[netip.Addr][]cluster.Key{}
	for key, held := range m.a.Holdings() {
		if _, known := m.reqs[key]; !known {
			m.fail(n, what, "%s does not exist and holds %v", key, held)
		}
		for _, h := range held {
			now[key] = append(now[key], h.Addr)
			owners[h.Addr] = append(owners[h.Addr], key)
		}
	}
	// A1: two on an address may share it.
	for addr, keys := range owners {
		for i, x := range keys {
			for _, y := range keys[i+1:] {
				m.shared++
				if !m.mayShare(m.reqs[x], m.reqs[y]) {
					m.fail(n, what, "%v is held by %+v and %+v", addr, m.reqs[x], m.reqs[y])
				}
			}
		}
	}
	for key, req := range m.reqs {
		for _, addr := range before[key] {
			if !slices.Contains(now[key], addr) {
				m.lost++
				m.mayLose(n, what, req, addr, now, before)
			}
		}
		had := len(before[key]) > 0
		for _, addr := range now[key] {
			if !slices.Contains(before[key], addr) {
				m.given++
				m.mayGive(n, what, req, addr, before, now)
			}
		}
		// A4: both families or none, when it begins.
		if missing := missing(req, now[key]); req.Policy == RequireDualStack && !had && len(now[key]) > 0 && len(missing) > 0 {
			m.fail(n, what, "%+v has only %v", req, now[key])
		}
		for _, f := range families {
			of := func(a netip.Addr) bool { return ipfam.Of(a) == f }
			if !slices.ContainsFunc(now[key], of) || slices.ContainsFunc(now[key], func(a netip.Addr) bool { return of(a) && m.poolOf(a) == req.Pool }) {
				m.moving[key][f] = false // fulfilled, or nothing to move
			}
		}
	}
	if what == "serve" {
		m.inTurn(n, before, now)
	}
	m.held, m.rests = now, rests(m.a, m.now)
	for key := range m.had {
		for addr := range m.had[key] {
			for _, o := range owners[addr] {
				if o != key && m.reqs[o].ShareKey == "" && !slices.Contains(before[o], addr) {
					delete(m.had[key], addr)
				}
			}
		}
	}
	m.complete(n, what, actor)
}

// inTurn holds that nobody was served with what an older one still waits for.
func (m *model) inTurn(n int, before, now map[cluster.Key][]netip.Addr) {
	m.t.Helper()
	taken := map[netip.Addr]bool{}
	for _, held := range before {
		for _, addr := range held {
			taken[addr] = true
		}
	}
	for _, w := range m.a.Waiting() {
		old := m.reqs[w.Key]
		if old.Policy == RequireDualStack && len(now[w.Key]) == 0 {
			continue // may need what the other family has not
		}
		for key, held := range now {
			young := m.reqs[key]
			for _, addr := range held {
				f := ipfam.Of(addr)
				switch {
				case len(m.a.Owners(addr)) > 1: // joined by its key somebody who may have been older
				case taken[addr] || m.had[key][addr] || cmp.Or(young.Created.Compare(old.Created), cmp.Compare(key, w.Key)) <= 0:
				case slices.Contains(missing(old, now[w.Key]), f) && len(namedOf(old, f)) == 0 && m.comesFree(nameless(old), addr, before) == "":
					m.fail(n, "serve", "%+v was given %v, for which %+v waits longer", young, addr, old)
				default:
					m.inOrder++
				}
			}
		}
	}
}

func (m *model) poolOf(addr netip.Addr) string {
	for _, p := range m.pools {
		if p.Addresses.Contains(addr) {
			return p.Name
		}
	}
	return ""
}

func (m *model) mayShare(a, b Request) bool {
	if a.ShareKey == "" || a.ShareKey != b.ShareKey {
		return false
	}
	for _, p := range a.Ports {
		for _, q := range b.Ports {
			if p == q {
				return false
			}
		}
	}
	return !a.Local && !b.Local || a.Selector == b.Selector && a.Selector != ""
}

func missing(req Request, held []netip.Addr) []ipfam.Family {
	var out []ipfam.Family
	for _, f := range req.Families {
		if !slices.ContainsFunc(held, func(a netip.Addr) bool { return ipfam.Of(a) == f }) {
			out = append(out, f)
		}
	}
	return out
}

func namedOf(req Request, f ipfam.Family) []netip.Addr {
	var out []netip.Addr
	for _, a := range req.Addresses {
		if ipfam.Of(a) == f && slices.Contains(req.Families, f) {
			out = append(out, a)
		}
	}
	return out
}

// mayLose holds A2: what a Service loses it gave up itself.
func (m *model) mayLose(n int, what string, req Request, addr netip.Addr, now, before map[cluster.Key][]netip.Addr) {
	m.t.Helper()
	f := ipfam.Of(addr)
	if !slices.Contains(req.Families, f) {
		return
	}
	if named := namedOf(req, f); len(named) > 0 && !slices.Contains(named, addr) && !slices.ContainsFunc(named, func(a netip.Addr) bool { return !slices.Contains(now[req.Key], a) }) {
		m.moved++
		return
	}
	if m.moving[req.Key][f] && slices.ContainsFunc(now[req.Key], func(a netip.Addr) bool { return ipfam.Of(a) == f && m.poolOf(a) == req.Pool }) {
		m.moved++
		return
	}
	for other, held := range before {
		if other != req.Key && slices.Contains(held, addr) && !m.mayShare(req, m.reqs[other]) {
			return // the edit of its ports, key or policy; the other one still has it
		}
	}
	m.fail(n, what, "%+v lost %v, now has %v", req, addr, now[req.Key])
}

// fits says whether the Service could be given addr when it asks for it.
func (m *model) fits(req Request, addr netip.Addr, held map[cluster.Key][]netip.Addr) string {
	i := slices.IndexFunc(m.pools, func(p Pool) bool { return p.Addresses.Contains(addr) })
	if i < 0 {
		return "it is in no pool"
	}
	p := m.pools[i]
	switch {
	case req.Pool != "" && req.Pool != p.Name:
		return "it is in another pool"
	case p.Namespaces != nil && req.Namespace != "x", p.NamespaceSelector != nil && req.Namespace != "y":
		return "the namespace is not allowed"
	case p.ServiceSelector != nil && req.Labels["l"] != "1":
		return "the labels do not match"
	case slices.ContainsFunc(m.reserved, func(r Reserved) bool { return r.Range.Contains(addr) }):
		return "it is reserved"
	}
	if r, ok := m.rests[addr]; ok && (r.Why != "" || r.Last != req.Key) {
		return "it rests"
	}
	for other, addrs := range held {
		if other != req.Key && slices.Contains(addrs, addr) && !m.mayShare(req, m.reqs[other]) {
			return "somebody holds it"
		}
	}
	return ""
}

// comesFree says whether the Service could be given addr without asking for it.
func (m *model) comesFree(req Request, addr netip.Addr, held map[cluster.Key][]netip.Addr) string {
	if no := m.fits(req, addr, held); no != "" {
		return no
	}
	p := m.pools[slices.IndexFunc(m.pools, func(p Pool) bool { return p.Addresses.Contains(addr) })]
	if !p.AutoAssign && req.Pool == "" {
		return "autoAssign is off"
	}
	if m.had[req.Key][addr] {
		return ""
	}
	if _, ok := m.rests[addr]; ok {
		return "it rests"
	}
	for _, addrs := range held {
		if slices.Contains(addrs, addr) {
			return "" // to be shared: fits has looked
		}
	}
	s := addr.String()
	if s == "2001:db8::" || p.AvoidBuggyIPs && (s == "192.0.2.0" || s == "192.0.2.255") {
		return "it is skipped"
	}
	return ""
}

// mayGive holds A5 and the rules of the pools, of rests and of choice.
func (m *model) mayGive(n int, what string, req Request, addr netip.Addr, before, now map[cluster.Key][]netip.Addr) {
	m.t.Helper()
	others := maps.Clone(now)
	delete(others, req.Key)
	no := ""
	named := slices.Contains(req.Addresses, addr)
	if named {
		no = m.fits(req, addr, others)
	} else {
		no = m.comesFree(req, addr, others)
	}
	if no != "" && what != "serve" { // several are served at once: A1 and complete look at those
		m.fail(n, what, "%+v was given %v, but %s", req, addr, no)
	}
	if named || what == "serve" || req.ShareKey != "" || m.had[req.Key][addr] {
		return
	}
	// Nothing lower in the same pool, and no pool of a higher priority.
	pools := slices.SortedFunc(slices.Values(m.pools), func(a, b Pool) int { return cmp.Or(b.Priority-a.Priority, cmp.Compare(a.Name, b.Name)) })
	for _, better := range m.universe() {
		if ipfam.Of(better) != ipfam.Of(addr) || m.comesFree(nameless(req), better, before) != "" || m.comesFree(nameless(req), better, others) != "" {
			continue
		}
		rank := func(a netip.Addr) int {
			return slices.IndexFunc(pools, func(p Pool) bool { return p.Addresses.Contains(a) })
		}
		x, y := rank(better), rank(addr)
		if x == y && better.Less(addr) || pools[x].Priority > pools[y].Priority || x < y && len(req.Families) == 1 {
			m.fail(n, what, "%+v was given %v of %s, and %v of %s was free", req, addr, pools[y].Name, better, pools[x].Name)
		}
	}
}

// nameless returns a request that no memory and no rest belongs to.
func nameless(req Request) Request {
	req.Key = ""
	return req
}

// others returns what all but key hold.
func (m *model) others(key cluster.Key) map[cluster.Key][]netip.Addr {
	out := maps.Clone(m.held)
	delete(out, key)
	return out
}

// complete holds that nobody waits for what could be had. The step's own
// Service was attempted by the step; the others after Serve.
func (m *model) complete(n int, what string, actor cluster.Key) {
	m.t.Helper()
	if actor == "" && (what != "serve" || n%3 > 0) {
		return
	}
	for _, w := range m.a.Waiting() {
		if actor != "" && w.Key != actor {
			continue
		}
		m.served++
		req, held := m.reqs[w.Key], m.held[w.Key]
		others, anybody := m.others(w.Key), nameless(req) // what the name had before may have been forgotten
		could := map[ipfam.Family]bool{}
		for _, f := range req.Families {
			if named := namedOf(req, f); len(named) > 0 {
				could[f] = !slices.ContainsFunc(named, func(a netip.Addr) bool {
					return !slices.Contains(held, a) && m.fits(req, a, m.held) != ""
				})
			} else {
				could[f] = slices.ContainsFunc(m.universe(), func(a netip.Addr) bool {
					return ipfam.Of(a) == f && m.comesFree(anybody, a, others) == ""
				})
			}
		}
		lacks := missing(req, held)
		bad := slices.ContainsFunc(lacks, func(f ipfam.Family) bool { return could[f] })
		if req.Policy == RequireDualStack && len(held) == 0 {
			bad = len(lacks) > 0 && !slices.ContainsFunc(lacks, func(f ipfam.Family) bool { return !could[f] })
		}
		for _, f := range req.Families {
			if named := namedOf(req, f); len(named) > 0 && len(held) > 0 && could[f] && !slices.Contains(lacks, f) {
				bad = bad || slices.ContainsFunc(named, func(a netip.Addr) bool { return !slices.Contains(held, a) })
			}
		}
		if bad {
			m.fail(n, what, "%+v has %v and waits (%v), though %v; %+v", req, held, w.Refusals, could, m.pools)
		}
	}
}

// result compares what Assign returned with what is so.
func (m *model) result(n int, what string, req Request, res Result, err error) {
	m.t.Helper()
	got, want := res.Addresses(), m.held[req.Key]
	if !slices.Equal(got, want) {
		m.fail(n, what, "returned %v, holds %v", got, want)
	}
	if lacks := missing(req, want); !slices.Equal(lacks, res.Missing) {
		m.fail(n, what, "missing %v, returned %v", lacks, res.Missing)
	}
	satisfied := len(res.Missing) == 0 || req.Policy == PreferDualStack && len(want) > 0
	if err == nil && !satisfied || (err != nil || len(res.Missing) > 0) != (len(res.Refusals) > 0) && err != nil {
		m.fail(n, what, "error %v with %+v", err, res)
	}
	waits := slices.ContainsFunc(m.a.Waiting(), func(w Waiter) bool { return w.Key == req.Key })
	if waits != (len(res.Refusals) > 0) {
		m.fail(n, what, "waits: %v, refusals %v", waits, res.Refusals)
	}
	if err != nil {
		m.refused++
	}
	for _, r := range res.Refusals {
		if r.String() == string(r.Reason) {
			m.fail(n, what, "%+v has no sentence", r)
		}
	}
	for _, h := range res.Held {
		if h.Pool != m.poolOf(h.Addr) {
			m.fail(n, what, "%v is said to be in the pool %q", h.Addr, h.Pool)
		}
	}
}

// checkUsage counts by hand.
func (m *model) checkUsage(n int) {
	m.expire()
	for _, u := range m.a.Usage(m.now) {
		p := m.pools[slices.IndexFunc(m.pools, func(p Pool) bool { return p.Name == u.Pool })]
		var total, used, resting, free int
		for _, addr := range m.universe() {
			if !p.Addresses.Contains(addr) || ipfam.Of(addr) != u.Family {
				continue
			}
			total++
			_, rests := m.rests[addr]
			switch {
			case len(m.a.Owners(addr)) > 0:
				used++
			case rests:
				resting++
			case m.comesFree(Request{Pool: p.Name, Namespace: one(m.rnd, "x", "y"), Labels: map[string]string{"l": "1"}}, addr, nil) == "":
				free++
			}
		}
		restricted := p.Namespaces != nil || p.NamespaceSelector != nil
		if u.Total.Int64() != int64(total) || u.Used != used || u.Resting != resting || !restricted && u.Free.Int64() != int64(free) {
			m.fail(n, "usage", "%+v, by hand %d used %d resting %d free %d", u, total, used, resting, free)
		}
	}
}
