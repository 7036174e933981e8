package ownership

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A world is a cluster of simulated nodes that run the real Machine and talk
// through the real codec, over links that lose, delay, reorder and cut. The
// same setup and seed give the same history, to the microsecond.
type world struct {
	t     testing.TB
	setup setup
	rng   *rand.Rand
	fate  *rand.Rand // what happens, apart from rng, so that histories with and without a rule can be compared
	now   time.Duration
	seq   uint64
	queue eventQueue

	nodes   []*host
	byName  map[string]*host
	byMAC   map[cluster.MAC]*host
	gossip  [][]bool   // [from][to]
	wires   [][][]bool // [link][from][to]; the index after the last node is the LAN: clients and gateway
	plan    []planned
	planned map[Unit]planned
	comps   [2][]int       // see components
	caches  map[Unit]*host // what the clients believe
	cutAt   time.Duration  // when links or gossip were last cut or healed
	mtu     int            // of messages, largest seen

	judge   judge
	log     []string
	tracing bool
}

// A setup is what a history is made of.
type setup struct {
	seed      uint64
	nodes     int
	vips      int
	loss      float64
	gateway   bool
	second    bool     // half of the nodes are also on a second link with VIPs of its own
	faults    []string // to choose from
	count     int
	off       rule
	log       int // of changes, in the machines
	silence   time.Duration
	pause     time.Duration // between faults, at least
	closed    bool          // one node's gossip port is closed from the start
	late      bool          // the VIPs are made when all nodes are up, and nodes hear of them within 50 ms
	oneFamily bool
	quiet     bool // no queries of clients
	pinFault  int  // the node that faults hit; -1 for any
}

func (s setup) String() string {
	return fmt.Sprintf("seed %d: %d nodes, %d VIPs, loss %.2f, gateway %v, second link %v, closed port %v, faults %d of %s",
		s.seed, s.nodes, s.vips, s.loss, s.gateway, s.second, s.closed, s.count, strings.Join(s.faults, ","))
}

// planned is a unit as the API server has it.
type planned struct {
	unit       Unit
	link       int
	key        string
	candidates []string
}

type occurrence struct {
	at  time.Duration
	seq uint64
	f   func()
}

type eventQueue []occurrence

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(occurrence)) }
func (q *eventQueue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

func (w *world) at(d time.Duration, f func()) {
	w.seq++
	heap.Push(&w.queue, occurrence{w.now + d, w.seq, f})
}

func (w *world) trace(format string, args ...any) {
	if w.tracing {
		w.log = append(w.log, fmt.Sprintf("%9.1f ", float64(w.now)/1e6)+fmt.Sprintf(format, args...))
	}
}

// between returns a random time.
func (w *world) between(a, b time.Duration) time.Duration {
	return a + time.Duration(w.rng.Int64N(int64(b-a)))
}

var (
	net4   = netip.MustParsePrefix("192.0.2.0/24")
	net6   = netip.MustParsePrefix("2001:db8:1::/64")
	net4b  = netip.MustParsePrefix("198.51.100.0/24")
	router = netip.MustParseAddr("192.0.2.1")
)

func newWorld(t testing.TB, s setup) *world {
	w := &world{t: t, setup: s, rng: rand.New(rand.NewPCG(s.seed, 1)), fate: rand.New(rand.NewPCG(s.seed, 3)), byName: map[string]*host{}, byMAC: map[cluster.MAC]*host{}, caches: map[Unit]*host{}, planned: map[Unit]planned{}}
	w.gossip = square(s.nodes)
	for range 2 {
		w.wires = append(w.wires, square(s.nodes+1))
	}
	for i := range s.nodes {
		h := &host{w: w, id: i, name: fmt.Sprintf("node%d", i+1), power: true, carrier: []bool{true, s.second && i%2 == 0}}
		h.second = s.second && i%2 == 0
		h.macs = []cluster.MAC{{2, 0, 0, 0, byte(i), 1}, {2, 0, 0, 0, byte(i), 2}}
		h.addr = netip.AddrFrom4([4]byte{192, 0, 2, byte(11 + i)})
		w.nodes = append(w.nodes, h)
		w.byName[h.name] = h
		for _, mac := range h.macs {
			w.byMAC[mac] = h
		}
	}
	for i := range s.vips {
		p := w.planUnit(i)
		w.plan = append(w.plan, p)
		w.planned[p.unit] = p
	}
	w.judge.init(w)
	return w
}

// planUnit returns the i-th unit: pairs of both families, and now and then one
// on the second link.
func (w *world) planUnit(i int) planned {
	b := byte(100 + i/2%150)
	c := byte(i / 300)
	p := planned{key: fmt.Sprintf("service-%d", i/2)}
	switch {
	case w.setup.oneFamily:
		p.key = fmt.Sprintf("service-%d", i)
		p.unit = Unit{netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)}), net4}
	case w.setup.second && i%5 == 4:
		p.link, p.unit = 1, Unit{netip.AddrFrom4([4]byte{198, 51, 100, b}), net4b}
	case i%2 == 0:
		p.unit = Unit{netip.AddrFrom4([4]byte{192, 0, 2, b}), net4}
		if i >= 300 {
			p.unit = Unit{netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, c, b}), net6}
		}
	default:
		p.unit = Unit{netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, c, b}), net6}
	}
	for _, h := range w.nodes {
		p.candidates = append(p.candidates, h.name) // who is not on the segment is found out by its facts
	}
	return p
}

func square(n int) [][]bool {
	m := make([][]bool, n)
	for i := range m {
		m[i] = slices.Repeat([]bool{true}, n)
	}
	return m
}

// lan is the index of the clients and the gateway in a wire's matrix.
func (w *world) lan() int { return len(w.nodes) }

// A host is one simulated node: a machine in both senses.
type host struct {
	w       *world
	id      int
	name    string
	addr    netip.Addr
	macs    []cluster.MAC
	second  bool
	m       *Machine
	boots   uint64
	gen     int // of the process
	power   bool
	runs    bool // the process exists
	stopped bool // SIGSTOP
	frozen  bool // the virtual machine is paused: its clock stands still
	skew    time.Duration
	carrier []bool
	drained bool
	born    time.Duration
	wake    uint64
	inbox   []letter
	answers map[Unit]bool
	lease   time.Duration
	leftAt  time.Duration
	since   time.Duration // it runs, and its links do
}

type letter struct {
	frame bool
	f     func()
}

func (h *host) clock() time.Duration { return h.w.now - h.skew }
func (h *host) active() bool         { return h.runs && !h.stopped && !h.frozen }

// answering reports whether a question about u would be answered now.
func (h *host) answering(u Unit) bool {
	return h.active() && h.answers[u] && h.clock() <= h.lease
}

func (h *host) boot() {
	w := h.w
	h.boots++
	h.gen++
	h.power, h.runs, h.stopped, h.frozen, h.inbox = true, true, false, false, nil
	h.w.changed()
	h.answers, h.born, h.since = map[Unit]bool{}, w.now, w.now
	h.m = New(Config{Self: h.name, Boot: uint64(h.id+1)<<32 | h.boots, Seed: w.setup.seed ^ h.boots<<40, Silence: w.setup.silence, off: w.setup.off, log: w.setup.log})
	h.step(h.nodesEvent())
	h.step(h.linksEvent())
	if !w.setup.late || w.now > lateAt {
		h.step(h.wantsEvent())
	}
	if h.drained {
		h.step(Drain{On: true})
	}
}

func (h *host) wantsEvent() Wants {
	wants := Wants{}
	for _, p := range h.w.plan {
		wants[p.unit] = &Want{Key: p.key, Candidates: p.candidates, Rules: true}
	}
	return wants
}

// lateAt is when VIPs that are made late are made.
const lateAt = 2 * time.Second

func (h *host) linksEvent() Links {
	l := Links{
		net4: {Name: "eth0", Up: h.carrier[0], MACs: h.macs[:1]},
		net6: {Name: "eth0", Up: h.carrier[0], MACs: h.macs[:1]},
	}
	if h.w.setup.gateway {
		l[net4] = Link{Name: "eth0", Up: h.carrier[0], MACs: h.macs[:1], Gateway: router}
	}
	if h.second {
		l[net4b] = Link{Name: "eth1", Up: h.carrier[1], MACs: h.macs[1:]}
	}
	return l
}

func (h *host) nodesEvent() Nodes {
	ns := Nodes{}
	for _, o := range h.w.nodes {
		if o == h {
			continue
		}
		p := Peer{Addr: o.addr, Links: map[netip.Prefix][]cluster.MAC{net4: o.macs[:1], net6: o.macs[:1]}}
		if o.second {
			p.Links[net4b] = o.macs[1:]
		}
		ns[o.name] = p
	}
	return ns
}

// step gives the machine an event and does what it wants.
func (h *host) step(ev Event) {
	acts := slices.Clone(h.m.Step(h.clock(), ev))
	h.lease = h.m.AnswerUntil()
	for _, a := range acts {
		h.perform(a)
	}
	h.wake++
	wake, gen := h.wake, h.gen
	h.w.at(h.m.NextWake()-h.clock()+h.w.between(0, 3*time.Millisecond), func() {
		if wake == h.wake && gen == h.gen && h.active() {
			h.step(Tick{})
		}
	})
}

// deliver hands something over to the process, or queues it in a socket.
func (h *host) deliver(frame bool, f func()) {
	switch {
	case !h.runs || !h.power:
	case h.active():
		f()
	case len(h.inbox) < 400:
		h.inbox = append(h.inbox, letter{frame, f})
	}
}

// resume lets a stopped or frozen process run again; the worst comes first:
// what has queued up is read before any timer.
func (h *host) resume() {
	h.stopped, h.frozen, h.since = false, false, h.w.now
	h.w.changed()
	in := h.inbox
	h.inbox = nil
	gen := h.gen
	if h.w.rng.IntN(2) == 0 {
		h.step(Tick{})
	}
	for _, l := range in {
		if gen == h.gen && !(l.frame && len(h.inbox) > 0) {
			h.deliver(l.frame, l.f)
		}
	}
	if gen == h.gen && h.active() {
		h.step(Tick{})
	}
}

func (h *host) perform(a Action) {
	w := h.w
	switch a := a.(type) {
	case Send:
		h.send(a)
	case Answer:
		h.answers[a.Unit] = a.On
		w.judge.unit(a.Unit)
	case Listen:
		if h.answers[a.Unit] {
			w.t.Errorf("%s listens for %v that it answers for", h.name, a.Unit)
		}
	case Announce:
		w.judge.announced++
		w.trace("%s announces %s", h.name, a.Unit.VIP)
		h.broadcast(a.Unit, func(o *host) { o.frame(Frame{Unit: a.Unit, MAC: h.mac(a.Unit), Kind: Announcing}) }, func() { w.learn(a.Unit, h) })
	case Probe:
		w.judge.probed++
		w.judge.probe(h, a.Unit)
		ask := func(o *host) {
			o.frame(Frame{Unit: a.Unit, MAC: h.mac(a.Unit), Kind: Probing})
			if o.answering(a.Unit) {
				o.toHost(w.link(a.Unit), h, func() { h.frame(Frame{Unit: a.Unit, MAC: o.mac(a.Unit), Kind: Answering}) })
			}
		}
		if a.To != (cluster.MAC{}) {
			if o := w.byMAC[a.To]; o != nil {
				h.toHost(w.link(a.Unit), o, func() { ask(o) })
			}
			return
		}
		h.broadcast(a.Unit, ask, nil)
	case Ask:
		h.ask(a)
	case Discard:
		h.inbox = slices.DeleteFunc(h.inbox, func(l letter) bool { return l.frame })
	case Report:
		w.judge.report(h, a)
	}
}

func (h *host) mac(u Unit) cluster.MAC { return h.macs[h.w.link(u)] }

func (w *world) link(u Unit) int {
	if u.Segment == net4b {
		return 1
	}
	return 0
}

func (h *host) send(a Send) {
	w, o := h.w, h.w.byName[a.To]
	b := Encode(a.Message)
	w.mtu = max(w.mtu, len(b))
	w.judge.sent++
	w.judge.bytes += len(b)
	if !w.gossip[h.id][o.id] || w.rng.Float64() < w.setup.loss || !h.carrier[0] {
		return
	}
	delay := w.between(200*time.Microsecond, 1700*time.Microsecond)
	if w.rng.IntN(100) == 0 {
		delay += w.between(0, 40*time.Millisecond) // overtaken by others
	}
	w.at(delay, func() {
		if !w.gossip[h.id][o.id] || !o.carrier[0] {
			return
		}
		o.deliver(false, func() {
			msg, err := Decode(b)
			if err != nil {
				w.t.Fatalf("%T does not survive the codec: %v", a.Message, err)
			}
			o.step(Received{h.name, msg})
		})
	})
}

// toHost carries a frame to one machine.
func (h *host) toHost(link int, o *host, f func()) {
	w := h.w
	if h == o || !w.reaches(link, h.id, o.id) || w.rng.Float64() < w.setup.loss {
		return
	}
	w.at(w.between(100*time.Microsecond, time.Millisecond), func() {
		if w.reaches(link, h.id, o.id) {
			o.deliver(true, f)
		}
	})
}

// broadcast carries a frame to all machines on a unit's link.
func (h *host) broadcast(u Unit, f func(*host), clients func()) {
	w, link := h.w, h.w.link(u)
	for _, o := range w.nodes {
		h.toHost(link, o, func() { f(o) })
	}
	if clients != nil && w.reaches(link, h.id, w.lan()) && w.rng.Float64() >= w.setup.loss {
		w.at(w.between(100*time.Microsecond, time.Millisecond), clients)
	}
}

// reaches reports whether frames get from one machine to another.
func (w *world) reaches(link, from, to int) bool {
	for _, i := range [2]int{from, to} {
		if i < len(w.nodes) && !(w.nodes[i].power && w.nodes[i].carrier[link]) {
			return false
		}
	}
	return w.wires[link][from][to]
}

func (h *host) frame(f Frame) {
	if h.runs && h.active() && h.carrier[h.w.link(f.Unit)] {
		h.step(f)
	}
}

// ask carries a question for a node's or the gateway's own address, which the
// kernel of the asked machine answers, whatever its agent does.
func (h *host) ask(a Ask) {
	w, link, lan := h.w, 0, h.w.lan()
	reply := func() { h.deliver(true, func() { h.step(Heard{a.Segment, a.Target}) }) }
	if a.Target == router {
		if w.reaches(link, h.id, lan) && w.reaches(link, lan, h.id) && w.rng.Float64() >= 2*w.setup.loss {
			w.at(400*time.Microsecond, reply)
		}
		return
	}
	for _, o := range w.nodes {
		if o.addr == a.Target && o.power && !o.frozen && w.reaches(link, h.id, o.id) && w.reaches(link, o.id, h.id) && w.rng.Float64() >= 2*w.setup.loss {
			w.at(400*time.Microsecond, reply)
		}
	}
}

// learn is a client's neighbour table taking an announcement or an answer.
func (w *world) learn(u Unit, h *host) {
	if w.caches[u] != h {
		w.caches[u] = h
		w.judge.traffic(u)
	}
}

// clients ask for some VIP now and then.
func (w *world) clients() {
	if len(w.plan) > 0 {
		p := w.plan[w.rng.IntN(len(w.plan))]
		for _, h := range w.nodes {
			if w.reaches(p.link, w.lan(), h.id) && w.rng.Float64() >= w.setup.loss {
				h.deliver(true, func() {
					// The responder answers beside the loop, so before it.
					if h.answering(p.unit) && w.reaches(p.link, h.id, w.lan()) {
						if h.since == w.now {
							w.judge.late++
						}
						w.at(w.between(100*time.Microsecond, time.Millisecond), func() { w.learn(p.unit, h) })
					}
					h.step(Heard{Segment: p.unit.Segment})
				})
			}
		}
	}
	w.at(w.between(50*time.Millisecond, 300*time.Millisecond), w.clients)
}

// run plays the history up to a time.
func (w *world) run(until time.Duration) {
	for len(w.queue) > 0 && w.queue[0].at <= until {
		o := heap.Pop(&w.queue).(occurrence)
		w.now = o.at
		o.f()
	}
	w.now = until
}
