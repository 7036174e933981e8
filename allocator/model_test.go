package allocator

import (
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
