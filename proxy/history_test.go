package proxy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/nft"
	"github.com/clarion-lb/clarion/internal/nstest"
)

// normal writes a table so that two that do the same are the same text: the
// endpoints of a group are a set, whatever slots they have. A hole, a class
// that does not fit its slots and an element that nothing leads to show.
func normal(m mirror) string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	used := map[entry]bool{}
	for _, fam := range families {
		for key := range m[mapClass(fam)] {
			f := frontOf(key, fam)
			say("front %v %v %d: %s", f.Addr, f.Proto, f.Port, describe(m, f, mapClass(fam), used))
		}
	}
	for set, elements := range m {
		for name, data := range elements {
			if e := (entry{set, name}); !used[e] && !strings.HasPrefix(set, "by") {
				say("element %s %x %x", set, name, data)
			}
		}
	}
	sort.Strings(out)
	return strings.Join(out, "\n")
}

func frontOf(key string, fam ipfam.Family) Front {
	n := fam.Bits() / 8
	return Front{nft.KeyAddr(key, 0, fam), cluster.Protocol(key[n]), nft.KeyPort(key, n+4)}
}

func describe(m mirror, f Front, set string, used map[entry]bool) string {
	fam, key := f.family(), f.key()
	v, ok := m[set][key]
	if !ok {
		return "NO CLASS IN " + set
	}
	used[entry{set, key}] = true
	c := Class(nft.KeyNumber(v, 0))
	if m[mapByClass][v] != c.chain() {
		return fmt.Sprintf("CLASS %x WITHOUT CHAIN", uint32(c))
	}
	switch c {
	case ClassReject, ClassDrop:
		return c.chain()
	case ClassRanged:
		var from []string
		for set, elements := range m {
			if of, bits, ok := rangesOf(set); ok && of == fam {
				for name := range elements {
					if strings.HasPrefix(name, key) {
						used[entry{set, name}] = true
						from = append(from, fmt.Sprintf("%v/%d", nft.KeyAddr(name, len(key), fam), bits))
					}
				}
			}
		}
		sort.Strings(from)
		return fmt.Sprintf("from %v %s", from, describe(m, f, mapAdmitted(fam), used))
	case ClassSplit:
		return fmt.Sprintf("outer (%s) inner (%s)", describe(m, f, mapOuter(fam), used), describe(m, f, mapInner(fam), used))
	}
	n, affinity, inner, _ := c.parts()
	first := uint32(0)
	if inner {
		first = innerSlots
	}
	var eps []string
	for i := range uint32(n) {
		k := slotKey(key, first+i)
		if affinity > 0 {
			id, ok := m[mapIDs(fam)][k]
			if !ok {
				return fmt.Sprintf("EMPTY SLOT %d", i)
			}
			used[entry{mapIDs(fam), k}] = true
			k = key + id
		}
		ep, ok := m[mapEps(fam)][k]
		if !ok {
			return fmt.Sprintf("EMPTY SLOT %d", i)
		}
		used[entry{mapEps(fam), k}] = true
		eps = append(eps, endpointOf(ep, fam).String())
	}
	sort.Strings(eps)
	return fmt.Sprintf("%s %v", c.chain(), eps)
}

// kernelMirror reads what the kernel of the lab's node really has.
func (l *lab) kernelMirror(t testing.TB) mirror {
	t.Helper()
	return readAll(t, l.engine.conn)
}

// readAll reads the table of the namespace of a connection.
func readAll(t testing.TB, conn *nft.Conn) mirror {
	t.Helper()
	present, err := conn.Read(Table)
	if err != nil {
		t.Fatal(err)
	}
	lengths := map[length]bool{}
	for name := range present.Sets {
		if f, bits, ok := rangesOf(name); ok {
			lengths[length{f, bits}] = true
		}
	}
	m, err := readMirror(conn, layout(func(string) int { return 0 }, lengths).Sets)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// fresh returns the table that an engine writes for the same Services into a
// kernel that has nothing.
func (l *lab) fresh(t testing.TB) mirror {
	t.Helper()
	h := nstest.NewHost(t, "fresh")
	var conn *nft.Conn
	var err error
	h.Do(func() { conn, err = nft.Open() })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	e := newEngine(conn, l.engine.log)
	e.synced, e.view = true, l.engine.view
	e.setStatic(l.engine.static)
	all := map[cluster.Key]*cluster.Service{}
	for k, r := range l.engine.services {
		all[k] = r.service
	}
	if err := e.change(all, l.now); err != nil {
		t.Fatal(err)
	}
	return readAll(t, conn)
}

// checkKernel fails when the kernel has something else than a fresh table, or
// when the engine believes something else than the kernel has.
func (l *lab) checkKernel(t testing.TB) {
	t.Helper()
	l.sweep()
	real := l.kernelMirror(t)
	got, want := normal(real), normal(l.fresh(t))
	if got != want {
		t.Fatalf("the kernel differs from a fresh table:\n%s", diff(want, got))
	}
	for set, elements := range l.engine.have {
		if !maps.Equal(elements, real[set]) {
			t.Fatalf("the engine is wrong about set %s: it believes %d elements, the kernel has %d", set, len(elements), len(real[set]))
		}
	}
}

// randomService returns a Service in any state that a cluster can have it in.
func randomService(r *rand.Rand, i int) *cluster.Service {
	name := []string{"svc", "svc2"}[i%2]
	pods := []string{"a1", "a2", "b1", "b2"}
	r.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
	s := service(name, pods[:r.IntN(5)]...)
	chance := func(n int) bool { return r.IntN(n) == 0 }
	hinted := chance(4)
	for i := range s.Ports {
		for j := range s.Ports[i].Endpoints {
			e := &s.Ports[i].Endpoints[j]
			switch r.IntN(6) {
			case 0:
				e.Ready, e.Serving = false, false
			case 1:
				e.Ready, e.Terminating = false, true
			case 2:
				e.Ready, e.Serving, e.Terminating = false, false, true
			}
			if hinted {
				e.ForZones = []string{e.Zone}
				if chance(2) {
					e.ForNodes = []string{e.Node}
				}
			}
		}
	}
	if chance(3) {
		nodePort(s, uint16(30080+i%2))
	}
	if chance(2) {
		withVIP(s, []string{"vip", "vip2"}[i%2])
		if chance(3) {
			for _, p := range []string{"10.244.0.0/16", "10.244.1.2/32", "2001:db8::/64", "192.0.2.0/24", "192.0.2.1/32", "fd44:1::2/127", "0.0.0.0/0"} {
				if chance(2) {
					s.SourceRanges = append(s.SourceRanges, netip.MustParsePrefix(p))
				}
			}
		}
	}
	s.ExternalLocal, s.InternalLocal = chance(3), chance(4)
	if chance(3) {
		s.Affinity = time.Duration(1+r.IntN(2)) * time.Hour
	}
	return s
}

func TestRandomHistories(t *testing.T) {
	seeds, steps := 6, 25
	if testing.Short() {
		seeds, steps = 2, 10
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			l := newLab(t)
			c := contract{services: map[cluster.Key]*cluster.Service{}, dead: map[string]bool{}}
			l.engine.view.Dead = func(n string) bool { return c.dead[n] }
			for step := range steps {
				changed := map[cluster.Key]*cluster.Service{}
				switch r.IntN(10) {
				case 0: // a Service goes
					for k := range c.services {
						changed[k] = nil
						break
					}
				case 1: // a node dies or comes back
					c.dead["b"] = !c.dead["b"]
					changed = l.engine.onNodes(func(n string) bool { return n == "b" })
				case 2: // the process is killed
					view := l.engine.view
					l.restart()
					l.engine.view = view
					changed = maps.Clone(c.services)
				default:
					for range 1 + r.IntN(2) {
						s := randomService(r, r.IntN(2))
						changed[s.Key] = s
					}
				}
				for k, s := range changed {
					c.services[k] = s
				}
				maps.DeleteFunc(c.services, func(_ cluster.Key, s *cluster.Service) bool { return s == nil })
				if err := l.engine.change(changed, l.now); err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
				if r.IntN(2) == 0 {
					l.checkKernel(t)
				}
				for range 6 {
					l.judge(t, r, c, step)
				}
			}
			l.checkKernel(t)
			l.set()
			l.sweep()
			if left := normal(l.kernelMirror(t)); strings.Contains(left, "front") || strings.Contains(left, "element eps") {
				t.Errorf("something was left:\n%s", left)
			}
		})
	}
}

// judge asks one random question and compares with the contract.
func (l *lab) judge(t *testing.T, r *rand.Rand, c contract, step int) {
	t.Helper()
	keys := slices.Sorted(maps.Keys(c.services))
	if len(keys) == 0 {
		return
	}
	q := asked{
		from: []string{"client", "a", "a1", "a2"}[r.IntN(4)], service: keys[r.IntN(len(keys))],
		network: []string{"tcp", "udp"}[r.IntN(2)], fam: r.IntN(2),
	}
	s := c.services[q.service]
	to, port := strings.TrimPrefix(string(q.service), "default/"), uint16(80)
	q.kind = "cluster"
	switch r.IntN(3) {
	case 0:
		if s.Ports[0].NodePort != 0 {
			q.kind, to, port = "node", "a", s.Ports[0].NodePort
		}
	case 1:
		if len(s.VIPs) > 0 {
			q.kind, to = "vip", who(s.VIPs[0].String())
		}
	}
	want := c.answers(q)
	wait := patience
	if slices.Contains(want, "silence") {
		wait = 100 * time.Millisecond
	}
	got := l.asksFor(q.from, q.network, to, q.fam, port, wait)
	if pod, sees, ok := strings.Cut(got, " sees "); ok && pod == q.from && sees != q.from {
		got = pod + " sees not itself"
	}
	if got == "refused" && q.from == "a" && q.network == "udp" && slices.Contains(want, "silence") {
		return // the node's own packet that is dropped fails at once
	}
	if !slices.Contains(want, got) {
		t.Fatalf("step %d: %+v: %s, want one of %q\n%+v", step, q, got, want, *s)
	}
}
