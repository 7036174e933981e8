package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/conntrack"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/nft"
)

// grace is how long what nothing leads to any more stays in the kernel. A
// packet that read a class may still be on its way to a slot; it takes
// microseconds.
const grace = 100 * time.Millisecond

// An engine brings the kernel to what a book wants. One goroutine uses it.
type engine struct {
	*book
	conn   *nft.Conn
	kernel kernel     // conn, or what a test puts in between
	watch  *nft.Watch // on the table; may be nil
	log    *slog.Logger

	static  map[entry]bool      // entries that come from the node and not from Services
	guarded bool                // GuardTable is ours
	touched map[entry]bool      // of those, what changed since the kernel was last brought to them
	have    mirror              // nil when it must be read anew
	sets    map[string]nft.Set  // in the sizes that the kernel has
	classes map[Class]bool      // that are in the kernel with all they need
	chains  map[string]bool     // that are in the kernel
	lengths map[length]bool     // of source prefixes for which there is a set
	synced  bool                // everything that exists is in the book
	later   map[entry]time.Time // what goes, and not before when
	whole   bool                // the next write is one transaction, or none
	failed  int                 // comparisons that failed one after another
	flows   []conntrack.Flow    // UDP and SCTP connections to where nobody is; taken by who cuts them
	told    map[string]bool     // complaints made, so that each is made once
}

func newEngine(conn *nft.Conn, log *slog.Logger) *engine {
	return &engine{
		book: newBook(), conn: conn, kernel: conn, log: log, static: map[entry]bool{},
		later: map[entry]time.Time{}, told: map[string]bool{},
	}
}

// change takes Services that changed and brings the kernel to them. When the
// kernel was never read, or something went wrong before, everything is
// compared.
func (e *engine) change(changed map[cluster.Key]*cluster.Service, now time.Time) error {
	if e.have == nil {
		return e.compare(changed, now)
	}
	cs := e.put(changed)
	maps.Copy(cs.entries, e.touched)
	e.touched = nil
	e.complain(cs)
	if err := e.bring(cs, nft.Batch{}, now); err != nil {
		e.have = nil
		return err
	}
	return nil
}

// bring makes the kernel's elements what the changeset says.
func (e *engine) bring(cs changeset, lead nft.Batch, now time.Time) error {
	var ed edits
	need := map[Class]bool{}
	for m, wanted := range cs.entries {
		_, is := e.have[m.set][m.key]
		wanted = wanted || e.static[m]
		switch {
		case wanted && !is:
			ed.put(m.set, edit{name: m.key, do: add})
		case !wanted && is && e.sets[m.set].Interval:
			// It would be in the way of the one that comes in its place.
			ed.put(m.set, edit{name: m.key, do: remove})
		case !wanted && is && e.synced:
			e.withdraw(m, now)
		}
		if wanted {
			delete(e.later, m)
		}
	}
	for f, t := range cs.fronts {
		e.front(&ed, need, f, t, now)
	}
	e.open(&lead, need)
	e.measure(&lead, &ed)
	for _, s := range ed.grow(e.have, e.sets) {
		lead.AddSet(Table, s)
		e.sets[s.Name] = s
	}
	write := func() error { return ed.write(e.kernel, e.have, e.sets, lead, e.whole) }
	var err error
	if e.watch != nil && ed.n > large {
		err = e.watch.Around(e.conn, write)
	} else {
		err = write()
	}
	if err != nil {
		return fmt.Errorf("write %d elements for %d fronts: %w", ed.n, len(cs.fronts), err)
	}
	return nil
}

// large is from how many elements on nobody listens to what is written.
const large = 10000

// open appends what classes need that are used for the first time.
func (e *engine) open(b *nft.Batch, need map[Class]bool) {
	for _, c := range slices.Sorted(maps.Keys(need)) {
		if e.classes[c] {
			continue
		}
		e.classes[c] = true
		for _, ch := range c.chains() {
			if !e.chains[ch.Name] {
				b.AddChain(Table, ch)
				e.chains[ch.Name] = true
			}
		}
		el := c.element()
		for _, m := range c.dispatch() {
			if e.have[m][el.Key] != el.Data {
				b.Add(Table, e.sets[m], el)
				e.have[m][el.Key] = el.Data
			}
		}
	}
}

// measure appends the sets of lengths of source prefixes that are used for the
// first time, and lets the rules look into them.
func (e *engine) measure(b *nft.Batch, ed *edits) {
	fresh := map[length]bool{}
	for set := range ed.stage[stageRanges] {
		f, bits, ok := rangesOf(set)
		if l := (length{f, bits}); ok && !e.lengths[l] {
			fresh[l], e.lengths[l] = true, true
		}
	}
	for _, l := range sortedLengths(fresh) {
		s := rangeSet(l)
		e.sets[s.Name], e.have[s.Name] = s, map[string]string{}
		b.AddSet(Table, s)
	}
	if len(fresh) > 0 {
		b.Rewrite(Table, rangedChain(e.lengths))
	}
}

// front compares one front with the kernel and collects what differs.
func (e *engine) front(ed *edits, need map[Class]bool, f Front, t *Target, now time.Time) {
	stateless := f.Proto != cluster.TCP
	var before map[netip.AddrPort]bool
	if stateless {
		before = e.have.endpoints(f)
	}
	_, known := e.have[mapClass(f.family())][f.key()]
	if !e.synced {
		if t = e.additive(f, t, known); t == nil {
			return
		}
	}
	var list []want
	if t != nil {
		var classes []Class
		list, classes = t.wants(f, func(inner, affinity bool) []netip.AddrPort { return e.have.slots(f, inner, affinity) })
		for _, c := range classes {
			need[c] = true
		}
		e.tooMany(f, t)
	}
	var wanted map[entry]bool
	e.have.of(f, func(set, name, _ string) {
		if wanted == nil { // most new fronts have nothing in the kernel
			wanted = make(map[entry]bool, len(list))
			for _, w := range list {
				wanted[entry{w.set, nameOf(w.Element)}] = true
			}
		}
		m := entry{set, name}
		switch {
		case wanted[m]:
		case stageOf(set) == stageClass, isID(set, name), stageOf(set) == stageRanges && t != nil && t.Sources != nil:
			// A front that is gone is not served any longer, whoever may not connect
			// any more is not let in until later, and no client goes on to an endpoint
			// that it remembers.
			ed.put(set, edit{name: name, do: remove})
		default:
			e.withdraw(m, now)
		}
	})
	for _, w := range list {
		m := entry{w.set, nameOf(w.Element)}
		delete(e.later, m)
		old, is := e.have[m.set][m.key]
		switch {
		case !is:
			ed.put(w.set, edit{name: m.key, data: w.Data, comment: w.Comment, do: add})
		case old != w.Data:
			ed.put(w.set, edit{name: m.key, data: w.Data, comment: w.Comment, do: replace})
		}
	}
	if stateless {
		e.stale(f, before, list)
	}
}

// stale notes the flows of a front that a change leaves without an endpoint.
func (e *engine) stale(f Front, before map[netip.AddrPort]bool, list []want) {
	here := netip.AddrPortFrom(f.Addr, f.Port)
	after := map[netip.AddrPort]bool{}
	for _, w := range list {
		if w.set == mapEps(f.family()) {
			after[endpointOf(w.Data, f.family())] = true
		}
	}
	for ep := range before {
		if !after[ep] {
			e.flows = append(e.flows, conntrack.Flow{Proto: f.Proto, To: here, From: ep})
		}
	}
	if len(before) == 0 && len(after) > 0 {
		// Whoever spoke to the front before it led anywhere has a connection to the
		// front itself, and would keep it for as long as he goes on.
		e.flows = append(e.flows, conntrack.Flow{Proto: f.Proto, To: here, From: here})
	}
}

// additive returns what may be done for a front while not everything is known:
// «not synced» never means «empty», so nothing is taken from what the kernel
// has, and no front is refused.
func (e *engine) additive(f Front, t *Target, known bool) *Target {
	if t == nil || len(t.Outer.Endpoints) == 0 && (t.Inner == nil || len(t.Inner.Endpoints) == 0) {
		return nil
	}
	if !known {
		return t
	}
	u := *t
	join := func(g Group, inner bool) Group {
		have := e.have.slots(f, inner, t.sticky())
		g.Endpoints = append(slices.Clone(g.Endpoints), have...)
		slices.SortFunc(g.Endpoints, netip.AddrPort.Compare)
		g.Endpoints = slices.Compact(g.Endpoints)
		return g
	}
	_, split := e.have[mapInner(f.family())][f.key()]
	if split != (t.Inner != nil) {
		return nil // another policy than before: that waits until all is known
	}
	u.Outer = join(t.Outer, false)
	if t.Inner != nil {
		in := join(*t.Inner, true)
		u.Inner = &in
	}
	return &u
}

// withdraw notes an element that goes after the grace, if it does not go yet.
func (e *engine) withdraw(m entry, now time.Time) {
	if _, going := e.later[m]; !going {
		e.later[m] = now.Add(grace)
	}
}

// sweep removes what has to go by now and returns when there is more.
func (e *engine) sweep(now time.Time) (next time.Time, err error) {
	if e.have == nil {
		return time.Time{}, nil
	}
	var ed edits
	for m, due := range e.later {
		switch _, is := e.have[m.set][m.key]; {
		case !is:
			delete(e.later, m)
		case due.After(now):
			if next.IsZero() || due.Before(next) {
				next = due
			}
		default:
			delete(e.later, m)
			ed.put(m.set, edit{name: m.key, do: remove})
		}
	}
	if err := ed.write(e.kernel, e.have, e.sets, nft.Batch{}, false); err != nil {
		e.have = nil
		return time.Time{}, fmt.Errorf("remove %d elements: %w", ed.n, err)
	}
	return next, nil
}

// compare takes Services that changed, reads the whole table and makes it what
// the book wants. What is right is not touched.
func (e *engine) compare(changed map[cluster.Key]*cluster.Service, now time.Time) error {
	cs := e.all(changed)
	for m := range e.static {
		cs.entries[m] = true
	}
	e.touched = nil
	e.complain(cs)
	if err := e.tryCompare(cs, now); err != nil {
		e.have = nil
		if stays(err) {
			e.failed++
		} else {
			e.failed = 0
		}
		return fmt.Errorf("compare table %s with the kernel: %w", Table, err)
	}
	e.failed = 0
	e.guard()
	return nil
}

// maxFailures is how many comparisons may fail, for a reason that stays, before
// the table is replaced as a whole: what is in the way then goes with it.
const maxFailures = 3

// stays reports whether the kernel refused a change for what is in the table,
// so that the next attempt would fail as well. Short memory, an interruption or
// a missing permission is no reason to give up a table that works.
func stays(err error) bool {
	return slices.ContainsFunc([]error{unix.EEXIST, unix.ENOENT, unix.EBUSY, unix.ENFILE, unix.EMLINK, unix.EINVAL},
		func(e error) bool { return errors.Is(err, e) })
}

func (e *engine) tryCompare(cs changeset, now time.Time) error {
	present, err := e.conn.Read(Table)
	if err != nil {
		return err
	}
	e.lengths = map[length]bool{}
	for name := range present.Sets {
		if f, bits, ok := rangesOf(name); ok {
			e.lengths[length{f, bits}] = true
		}
	}
	table := layout(e.count(cs), e.lengths)
	e.sets = setsByName(table)
	for name, s := range present.Sets { // a set never shrinks
		if mine, ok := e.sets[name]; ok && s.Size > mine.Size {
			mine.Size = s.Size
			e.sets[name] = mine
		}
	}
	e.have, err = readMirror(e.conn, table.Sets)
	if err != nil {
		return err
	}
	e.later = map[entry]time.Time{}
	e.classes = map[Class]bool{}
	dispatch := []string{mapByClass, mapByAdmitted, mapBySplit}
	var wrong []entry
	for _, m := range dispatch {
		for key, chain := range e.have[m] {
			c := Class(nft.KeyNumber(key, 0))
			if !c.valid() || c.chain() != chain || !slices.Contains(c.dispatch(), m) {
				wrong = append(wrong, entry{m, key})
			}
		}
	}
	for _, w := range wrong {
		delete(e.have[w.set], w.key)
	}
	if len(e.static) > 0 {
		// Intervals may not overlap, so the wrong ones go before the right ones come.
		for name, s := range e.sets {
			for key := range e.have[name] {
				if m := (entry{name, key}); s.Interval && len(s.Key) == 1 && !e.static[m] {
					cs.entries[m] = false
				}
			}
		}
	}
	known := map[Class]bool{}
	for _, m := range dispatch {
		for key := range e.have[m] {
			known[Class(nft.KeyNumber(key, 0))] = true
		}
	}
	e.chains = map[string]bool{}
	for _, c := range slices.Sorted(maps.Keys(known)) {
		for _, ch := range c.chains() {
			if !e.chains[ch.Name] {
				e.chains[ch.Name] = true
				table.Chains = append(table.Chains, ch)
			}
		}
	}
	var lead nft.Batch
	err = table.Ensure(&lead, present)
	if err == nil && e.failed >= maxFailures {
		err = fmt.Errorf("it could not be corrected in %d attempts", e.failed)
	}
	switch {
	case errors.Is(err, nft.ErrIncompatible), err != nil && present.Exists:
		return e.replace(cs, table, err, now)
	case err != nil:
		return err
	}
	// A class that leads to another chain than its own sends packets anywhere;
	// the right element cannot be added while the wrong one is there.
	for _, w := range wrong {
		lead.Delete(Table, e.sets[w.set], nft.Element{Key: w.key})
	}
	table.Surplus(&lead, present)
	if err := e.bring(cs, lead, now); err != nil {
		return err
	}
	if !e.synced || !present.Exists {
		return nil // what is gone may not have come yet, or there is nothing but what we wrote
	}
	return e.surplus(cs, now)
}

// replace puts a new table into the place of one with another layout, in one
// transaction: no packet sees the gap. If it does not fit into one, nothing is
// changed.
func (e *engine) replace(cs changeset, table nft.Table, why error, now time.Time) error {
	e.log.Warn("the table in the kernel is replaced as a whole", "table", Table, "why", why)
	var lead nft.Batch
	lead.DeleteTable(Table)
	if err := table.Ensure(&lead, nft.Present{}); err != nil {
		return err
	}
	// Lengths in use keep their sets; those of the old table that are not cost
	// nothing.
	e.have = mirror{}
	for _, s := range table.Sets {
		e.have[s.Name] = map[string]string{}
	}
	e.sets = setsByName(table)
	e.classes = map[Class]bool{}
	e.chains = map[string]bool{}
	e.whole = true
	defer func() { e.whole = false }()
	return e.bring(cs, lead, now)
}

// surplus removes what nothing in the changeset, which must be everything,
// wants.
func (e *engine) surplus(cs changeset, now time.Time) error {
	wanted := make(map[entry]bool, len(cs.entries))
	for m, w := range cs.entries {
		wanted[m] = w
	}
	for f := range cs.fronts {
		if cs.fronts[f] != nil {
			e.have.of(f, func(set, name, _ string) { wanted[entry{set, name}] = true })
		}
	}
	var ed edits
	for set, elements := range e.have {
		for name := range elements {
			m := entry{set, name}
			switch {
			case wanted[m] || e.sets[set].Data != nil && e.sets[set].Data[0] == nft.Goto:
			case stageOf(set) == stageClass:
				ed.put(set, edit{name: name, do: remove})
			default:
				e.withdraw(m, now)
			}
		}
	}
	if err := ed.write(e.kernel, e.have, e.sets, nft.Batch{}, false); err != nil {
		return fmt.Errorf("remove %d fronts that nobody wants: %w", ed.n, err)
	}
	return nil
}

// count estimates how many elements each set is to hold.
func (e *engine) count(cs changeset) func(set string) int {
	n := map[string]int{}
	for m := range cs.entries {
		n[m.set]++
	}
	for f, t := range cs.fronts {
		if t == nil {
			continue
		}
		fam := f.family()
		eps := len(t.Outer.Endpoints)
		n[mapClass(fam)]++
		if t.Inner != nil {
			eps += len(t.Inner.Endpoints)
			n[mapInner(fam)]++
			n[mapOuter(fam)]++
		}
		if t.sticky() {
			n[mapIDs(fam)] += eps
		}
		if t.Sources != nil {
			n[mapAdmitted(fam)]++
		}
		n[mapEps(fam)] += eps
	}
	return func(set string) int { return n[set] }
}

// orphan reports whether a connection goes to a front by an endpoint that the
// front does not have. It finds what a process left behind that was killed
// between the change of a rule and the cut of its flows.
func (e *engine) orphan(c conntrack.Flow) bool {
	f := Front{c.To.Addr(), c.Proto, c.To.Port()}
	_, mine := e.have[mapClass(f.family())][f.key()]
	return mine && c.Proto != cluster.TCP && !e.have.endpoints(f)[c.From]
}

// setStatic sets the entries that the node itself gives, and touches them.
func (e *engine) setStatic(now map[entry]bool) map[entry]bool {
	touched := map[entry]bool{}
	for m := range e.static {
		touched[m] = now[m] || e.refs[m] > 0
	}
	for m := range now {
		touched[m] = true
	}
	e.static = now
	return touched
}

// touch lets the next change look at entries that the node itself gives.
func (e *engine) touch(entries map[entry]bool) { e.touched = entries }

// intervals returns the entries of an interval set per family for prefixes.
func intervals(set func(ipfam.Family) string, prefixes []netip.Prefix) map[entry]bool {
	out := map[entry]bool{}
	var b netipx.IPSetBuilder
	for _, p := range prefixes {
		b.AddPrefix(p)
	}
	s, err := b.IPSet()
	if err != nil {
		return out // an invalid prefix; the caller checks them where they come in
	}
	for _, r := range s.Ranges() {
		for _, el := range nft.Interval(r.From(), r.To()) {
			out[entry{set(ipfam.Of(r.From())), nameOf(el)}] = true
		}
	}
	return out
}

// complain tells of fronts that two Services want, once each.
func (e *engine) complain(cs changeset) {
	for f, loser := range cs.lost {
		winner, _ := e.winner(f)
		e.once(fmt.Sprintf("rivals %v %s", f, loser), func() {
			e.log.Warn("two Services want the same address and port; the older one has it",
				"address", f.Addr, "protocol", f.Proto, "port", f.Port, "service", loser, "has", winner)
		})
	}
}

// tooMany tells of a front with more endpoints than a class has slots.
func (e *engine) tooMany(f Front, t *Target) {
	if n := len(t.Outer.Endpoints); n > maxSlots {
		e.once(fmt.Sprintf("many %v", f), func() {
			e.log.Warn("a Service has more endpoints than are used", "service", t.Service, "endpoints", n, "used", maxSlots)
		})
	}
}

func (e *engine) once(what string, tell func()) {
	if !e.told[what] {
		e.told[what] = true
		tell()
	}
}
