package allocator

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/iprange"
	"github.com/clarion-lb/clarion/internal/selector"
)

// A model is the naive view of an allocator: it looks at every address of a
// small universe and knows the rules as DESIGN and the documentation state
// them, but none of the structures that make the allocator fast. After each step it
// compares what the allocator did with what it may and must do.
type model struct {
	t   *testing.T
	rnd *rand.Rand
	a   *Allocator
	now time.Time

	all      []netip.Addr // the universe
	pools    []Pool
	reserved []Reserved
	rest     time.Duration
	rests    map[netip.Addr]Rest
	had      map[cluster.Key]map[netip.Addr]bool // what a name may be given for having had it

	reqs map[cluster.Key]Request
	held map[cluster.Key][]netip.Addr
	// moving says that the user asked for another pool and the wish is not yet
	// fulfilled.
	moving map[cluster.Key]map[ipfam.Family]bool
	uid    int

	given, refused, served, moved, lost, shared, doubled, inOrder int // so that nothing is untried
}

// The universe: the start of a /24 and of a /64 and the ends of the former, so
// that skipped addresses are in it, and a bit that no pool has.
func (m *model) universe() []netip.Addr {
	if m.all == nil {
		m.all = everything()
	}
	return m.all
}

func everything() []netip.Addr {
	var out []netip.Addr
	a, b := netip.MustParseAddr("192.0.2.0"), netip.MustParseAddr("2001:db8::")
	for range 12 {
		out = append(out, a, b)
		a, b = a.Next(), b.Next()
	}
	return append(out, netip.MustParseAddr("192.0.2.255"))
}

func (m *model) pick(addrs []netip.Addr) netip.Addr { return addrs[m.rnd.IntN(len(addrs))] }

func one[T any](r *rand.Rand, options ...T) T { return options[r.IntN(len(options))] }

// some returns a few random addresses of the universe.
func (m *model) some(n int) []netip.Addr {
	var out []netip.Addr
	for range n {
		out = append(out, m.pick(m.universe()))
	}
	return out
}

func (m *model) randomPools() []Pool {
	var out []Pool
	all := everything()
	m.rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for i, name := range []string{"a", "b", "c", "d"} {
		if m.rnd.IntN(5) == 0 {
			continue
		}
		var ranges []iprange.Range
		for _, addr := range all[i*5 : i*5+1+m.rnd.IntN(5)] {
			ranges = append(ranges, iprange.One(addr))
		}
		p := Pool{Name: name, Addresses: iprange.SetOf(ranges...), AutoAssign: m.rnd.IntN(4) > 0,
			AvoidBuggyIPs: m.rnd.IntN(2) == 0, Priority: m.rnd.IntN(2)}
		switch m.rnd.IntN(6) {
		case 0:
			p.Namespaces = []string{"x"}
		case 1:
			p.NamespaceSelector = &selector.Selector{MatchLabels: map[string]string{"ns": "y"}}
		case 2:
			p.ServiceSelector = &selector.Selector{MatchLabels: map[string]string{"l": "1"}}
		}
		out = append(out, p)
	}
	return out
}

func (m *model) randomRequest(key cluster.Key) Request {
	r := m.rnd
	old, known := m.reqs[key]
	req := Request{Key: key, UID: old.UID, Created: old.Created}
	if !known || r.IntN(20) == 0 {
		m.uid++
		req.UID, req.Created = fmt.Sprint(m.uid), m.now.Add(-time.Duration(r.IntN(5))*time.Second)
	}
	req.Namespace = one(r, "x", "y")
	req.NamespaceLabels = map[string]string{"ns": req.Namespace}
	req.Labels = map[string]string{"l": one(r, "1", "2")}
	switch r.IntN(4) {
	case 0:
		req.Families = []ipfam.Family{one(r, ipfam.V4, ipfam.V6)}
		req.Policy = one(r, SingleStack, PreferDualStack)
	default:
		req.Families = one(r, []ipfam.Family{ipfam.V4, ipfam.V6}, []ipfam.Family{ipfam.V6, ipfam.V4})
		req.Policy = one(r, PreferDualStack, RequireDualStack)
	}
	if r.IntN(5) == 0 {
		req.Addresses = m.some(1 + r.IntN(3))
	}
	if r.IntN(6) == 0 {
		req.Pool = one(r, "a", "b", "c", "nowhere")
	}
	if r.IntN(2) == 0 {
		req.ShareKey = one(r, "k", "l")
	}
	for range 1 + r.IntN(2) {
		req.Ports = append(req.Ports, Port{one(r, cluster.TCP, cluster.UDP), one[uint16](r, 80, 443, 53)})
	}
	req.Local, req.Selector = r.IntN(3) == 0, one(r, "", "app=a", "app=b")
	return req
}

// step does one random thing and checks what came of it.
func (m *model) step(n int) {
	r := m.rnd
	key := cluster.Key(fmt.Sprintf("s%d", r.IntN(9)))
	if r.IntN(10) == 0 {
		m.now = m.now.Add(time.Duration(r.IntN(3)) * time.Second)
	}
	// Serve first, so that every later change is that of the one action.
	m.expire()
	m.a.Serve(m.now)
	m.settle(n, "serve", "")
	what := ""
	switch k := r.IntN(40); {
	case k < 20:
		req := m.randomRequest(key)
		if old, known := m.reqs[key]; known && r.IntN(3) == 0 {
			req = old // nothing changed
		}
		what = fmt.Sprintf("assign %+v", req)
		m.request(req)
		res, err := m.a.Assign(req, m.now)
		m.settle(n, what, key)
		m.result(n, what, req, res, err)
	case k < 26:
		what = "release " + string(key)
		m.forget(key)
		m.a.Release(key, one(r, "", m.reqs[key].UID), m.now)
		delete(m.reqs, key)
		m.settle(n, what, key)
	case k < 28:
		m.pools = m.randomPools()
		what = fmt.Sprintf("pools %+v", m.pools)
		m.a.SetPools(m.pools)
		m.settle(n, what, "")
	case k < 29:
		m.reserved = nil
		for i := range r.IntN(3) {
			m.reserved = append(m.reserved, Reserved{iprange.One(m.pick(m.universe())), fmt.Sprint("the address of node n", i)})
		}
		what = "reserve"
		m.a.SetReserved(m.reserved)
		m.settle(n, what, "")
	case k < 30:
		m.rest = one(r, 0, 0, 2*time.Second)
		m.a.SetRestTime(m.rest)
	case k < 31:
		addr, until := m.pick(m.universe()), m.now.Add(time.Duration(r.IntN(4))*time.Second)
		what = fmt.Sprint("quarantine ", addr)
		m.a.Quarantine(addr, until, "MAC 02:00:00:00:00:01")
		m.settle(n, what, "")
	case k < 33 && len(m.held[key]) > 0:
		addr := m.pick(m.held[key])
		what = fmt.Sprint("exchange ", addr, " of ", key)
		res, err := m.a.Exchange(key, addr, m.now.Add(2*time.Second), "MAC 02:00:00:00:00:01", m.now)
		if pinned := slices.Contains(m.reqs[key].Addresses, addr); pinned && err == nil {
			m.fail(n, what, "a pinned address was exchanged: %+v", res)
		}
		if got, _ := m.a.Get(key); len(got) != len(m.held[key]) {
			m.fail(n, what, "went from %v to %v", m.held[key], got)
		}
		m.rests = rests(m.a, m.now)
		m.sync() // what an exchange may give is checked by the next settle's A1 only
	case k < 34:
		what = "a new leader"
		m.lead(n, what)
	case k < 36:
		m.double(n)
	case k < 37:
		if r.IntN(2) == 0 {
			m.a = m.a.Clone() // a clone is as good as the original
		}
		m.a.Plan(m.randomPools(), m.now)
		m.settle(n, "plan", "")
	default: // time goes by
		m.now = m.now.Add(time.Second)
	}
}

// request notes what the user wants from now on.
func (m *model) request(req Request) {
	old, known := m.reqs[req.Key]
	if known && old.UID != req.UID {
		m.forget(req.Key)
		known = false
	}
	if !known {
		m.moving[req.Key] = map[ipfam.Family]bool{}
	}
	for _, f := range families {
		if req.Pool == "" {
			m.moving[req.Key][f] = false
		} else if known && old.Pool != req.Pool {
			m.moving[req.Key][f] = true
		}
	}
	m.reqs[req.Key] = req
}

// forget ends the life of a Service in the model.
func (m *model) forget(key cluster.Key) {
	for _, addr := range m.held[key] {
		if m.had[key] == nil {
			m.had[key] = map[netip.Addr]bool{}
		}
		m.had[key][addr] = true
	}
	delete(m.held, key)
	delete(m.moving, key)
}

func (m *model) expire() {
	maps.DeleteFunc(m.rests, func(_ netip.Addr, r Rest) bool { return !r.Until.After(m.now) })
}

func (m *model) sync() {
	for key, held := range m.a.Holdings() {
		m.held[key] = nil
		for _, h := range held {
			m.held[key] = append(m.held[key], h.Addr)
		}
	}
}

// lead replaces the allocator by one that knows only what the API says, in any
// order, and what it is told of rests.
func (m *model) lead(n int, what string) {
	fresh := New()
	fresh.SetRestTime(m.rest)
	first := m.rnd.IntN(2) == 0
	if first {
		fresh.SetPools(m.pools)
		fresh.SetReserved(m.reserved)
	}
	keys := slices.Sorted(maps.Keys(m.reqs))
	m.rnd.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	for _, key := range keys {
		held := slices.Clone(m.held[key])
		if len(held) > 1 && m.rnd.IntN(2) == 0 { // status has one of them, the ledger both
			fresh.Restore(m.reqs[key], held[:1])
		}
		fresh.Restore(m.reqs[key], append(held, netip.Addr{}, netip.IPv6Unspecified()))
		m.moving[key] = map[ipfam.Family]bool{}
	}
	for _, r := range m.a.Rests(m.now) {
		fresh.Rest(r)
	}
	for key, addrs := range m.a.Remembered() {
		fresh.Remember(key, addrs)
	}
	if !first {
		fresh.SetReserved(m.reserved)
		fresh.SetPools(m.pools)
	}
	m.a = fresh
	if c := fresh.Conflicts(); len(c) > 0 {
		m.fail(n, what, "conflicts %v", c)
	}
	for key, held := range fresh.Holdings() {
		var got []netip.Addr
		for _, h := range held {
			got = append(got, h.Addr)
		}
		slices.SortFunc(got, netip.Addr.Compare)
		want := slices.SortedFunc(slices.Values(m.held[key]), netip.Addr.Compare)
		if !slices.Equal(got, want) {
			m.fail(n, what, "%s has %v, had %v", key, got, want)
		}
	}
	for _, key := range keys { // what a controller does at its start
		if _, err := fresh.Assign(m.reqs[key], m.now); err != nil {
			m.refused++
		}
		m.settle(n, what+", assign "+string(key), key)
	}
}

// double restores a Service with an address of another one, as it would be
// after a race that this program does not have.
func (m *model) double(n int) {
	var keys []cluster.Key
	for key, held := range m.held {
		if len(held) > 0 {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return
	}
	slices.Sort(keys)
	victim := one(m.rnd, keys...)
	addr := m.pick(m.held[victim])
	key := cluster.Key("double")
	if _, known := m.reqs[key]; known {
		return
	}
	req := m.randomRequest(key)
	req.Addresses, req.Pool, req.Created = nil, "", m.now.Add(time.Hour) // the younger
	m.a.Restore(req, []netip.Addr{addr})
	conflicts := m.a.Conflicts()
	if owners := m.a.Owners(addr); !slices.Contains(owners, victim) || slices.Contains(owners, key) == (len(conflicts) > 0) {
		m.fail(n, "double", "%v is owned by %v, conflicts %v", addr, owners, conflicts)
	}
	m.doubled += len(conflicts)
	m.request(req)
	m.sync()
	res, err := m.a.Assign(req, m.now)
	if c := m.a.Conflicts(); len(c) > 0 {
		m.fail(n, "double", "conflicts are left: %v", c)
	}
	m.settle(n, "double", key)
	m.result(n, "double", req, res, err)
	m.forget(key)
	m.a.Release(key, "", m.now)
	delete(m.reqs, key)
	m.settle(n, "double released", key)
}

// rests returns the rests by address.
func rests(a *Allocator, now time.Time) map[netip.Addr]Rest {
	out := map[netip.Addr]Rest{}
	for _, r := range a.Rests(now) {
		out[r.Addr] = r
	}
	return out
}

func (m *model) fail(n int, what, format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("step %d, %s: %s", n, what, fmt.Sprintf(format, args...))
}

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

func TestRandomHistoriesKeepTheInvariants(t *testing.T) {
	const histories, steps = 200, 500
	var sums [2]model
	t.Run("histories", func(t *testing.T) {
		for half := range sums {
			t.Run(fmt.Sprint(half), func(t *testing.T) {
				t.Parallel()
				for h := half; h < histories; h += len(sums) {
					runHistory(t, h, steps, &sums[half])
				}
			})
		}
	})
	a, b := &sums[0], &sums[1]
	for what, n := range map[string]int{
		"given": a.given + b.given, "refused": a.refused + b.refused, "waiting": a.served + b.served, "moved": a.moved + b.moved,
		"served in order": a.inOrder + b.inOrder, "lost": a.lost + b.lost, "shared": a.shared + b.shared, "doubled": a.doubled + b.doubled,
	} {
		t.Logf("%s: %d", what, n)
		if n < 100 {
			t.Errorf("the histories tried hardly anything: %s %d", what, n)
		}
	}
}

func newModel(t *testing.T, seed uint64) *model {
	return &model{
		t: t, rnd: rand.New(rand.NewPCG(seed, 7)), a: New(), now: time.Unix(1_000_000, 0),
		rests: map[netip.Addr]Rest{}, had: map[cluster.Key]map[netip.Addr]bool{},
		reqs: map[cluster.Key]Request{}, held: map[cluster.Key][]netip.Addr{},
		moving: map[cluster.Key]map[ipfam.Family]bool{},
	}
}

func runHistory(t *testing.T, h, steps int, sum *model) {
	m := newModel(t, uint64(h))
	for i := range steps {
		m.step(h*steps + i)
		if i%10 == 0 {
			m.checkUsage(h*steps + i)
		}
	}
	sum.given += m.given
	sum.refused += m.refused
	sum.served += m.served
	sum.moved += m.moved
	sum.lost += m.lost
	sum.shared += m.shared
	sum.doubled += m.doubled
	sum.inOrder += m.inOrder
}
