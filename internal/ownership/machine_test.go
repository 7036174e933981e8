package ownership

import (
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

var (
	stranger = cluster.MAC{0xaa, 0, 0, 0, 0, 9}
	theVIP   = Unit{netip.MustParseAddr("192.0.2.100"), net4}
)

// A bench is one machine without peers, on a link of its own.
type bench struct {
	t    *testing.T
	m    *Machine
	now  time.Duration
	acts []Action
}

func newBench(t *testing.T, want *Want) *bench {
	b := &bench{t: t, m: New(Config{Self: "node1", Boot: 1, Seed: 1})}
	b.step(Nodes{})
	b.step(Links{net4: {Name: "eth0", Up: true, MACs: []cluster.MAC{{2, 0, 0, 0, 0, 1}}}})
	b.step(Wants{theVIP: want})
	return b
}

func (b *bench) step(ev Event) {
	b.acts = append(b.acts, b.m.Step(b.now, ev)...)
}

// run lets time pass and returns what was done meanwhile.
func (b *bench) run(d time.Duration) []Action {
	end := b.now + d
	for b.m.NextWake() <= end {
		b.now = max(b.m.NextWake(), b.now+time.Millisecond)
		b.step(Tick{})
	}
	b.now = end
	acts := b.acts
	b.acts = nil
	return acts
}

func able() *Want { return &Want{Key: "k", Candidates: []string{"node1", "node2"}, Rules: true} }

func reports(acts []Action, what What) []Report {
	var rs []Report
	for _, a := range acts {
		if r, ok := a.(Report); ok && r.What == what {
			rs = append(rs, r)
		}
	}
	return rs
}

func count[T Action](acts []Action, ok func(T) bool) int {
	n := 0
	for _, a := range acts {
		if v, is := a.(T); is && ok(v) {
			n++
		}
	}
	return n
}

func whatever[T Action](T) bool { return true }

func TestAFreshAddressIsAskedForLonger(t *testing.T) {
	for _, fresh := range []bool{false, true} {
		w := able()
		w.Fresh = fresh
		b := newBench(t, w)
		var first, answered time.Duration
		for answered == 0 && b.now < 5*time.Second {
			acts := b.run(5 * time.Millisecond)
			if first == 0 && count(acts, whatever[Probe]) > 0 {
				first = b.now
			}
			if count(acts, whatever[Answer]) > 0 {
				answered = b.now
			}
		}
		d := answered - first
		if want := map[bool]time.Duration{false: 90 * time.Millisecond, true: 300 * time.Millisecond}[fresh]; d < want || d > want+10*time.Millisecond {
			t.Errorf("fresh %v: asked for %v, want %v", fresh, d, want)
		}
	}
}

func TestNothingIsAnsweredBeforeTheRulesAreLoaded(t *testing.T) {
	w := able()
	w.Rules = false
	b := newBench(t, w)
	if n := count(b.run(5*time.Second), whatever[Answer]); n > 0 {
		t.Fatal("answered without rules (O4)")
	}
	b.step(Wants{theVIP: able()})
	if n := count(b.run(time.Second), func(a Answer) bool { return a.On }); n != 1 {
		t.Fatalf("answered %d times", n)
	}
	b.step(Wants{theVIP: w})
	if n := count(b.run(time.Millisecond), func(a Answer) bool { return !a.On }); n != 1 {
		t.Fatal("went on without rules (O4)")
	}
}

func TestAForeignHostIsNoticedBeforeTheFirstAnnouncement(t *testing.T) {
	b := newBench(t, able())
	asked := 0
	for range 1000 { // five seconds
		acts := b.run(5 * time.Millisecond)
		if n := count(acts, whatever[Probe]); n > 0 {
			asked += n
			b.step(Frame{Unit: theVIP, MAC: stranger, Kind: Answering, Stranger: true})
			acts = append(acts, b.run(time.Millisecond)...)
		}
		if count(acts, whatever[Announce]) > 0 || count(acts, func(a Answer) bool { return a.On }) > 0 {
			t.Fatal("took a foreign host's address (O5)")
		}
	}
	if asked == 0 {
		t.Fatal("nobody asked")
	}
	if v, _ := b.m.View(theVIP); v.Foreign != stranger {
		t.Fatalf("the view says %+v", v)
	}
	// When the foreign host has left, the address is taken.
	if n := count(b.run(20*time.Second), func(a Answer) bool { return a.On }); n != 1 {
		t.Fatal("the address was never taken again")
	}
	if v, _ := b.m.View(theVIP); v.Foreign != (cluster.MAC{}) || v.Owner != "node1" {
		t.Fatalf("the view says %+v", v)
	}
}

func TestAConflictIsToldOnceAndNotFought(t *testing.T) {
	b := newBench(t, able())
	b.run(4 * time.Second)
	var told, announced int
	for range 200 { // for 20 s, ten times a second
		b.step(Frame{Unit: theVIP, MAC: stranger, Kind: Announcing, Stranger: true})
		acts := b.run(100 * time.Millisecond)
		told += len(reports(acts, Conflict))
		announced += count(acts, whatever[Announce])
		if count(acts, whatever[Answer]) > 0 {
			t.Fatal("yielded (A2: an address that was announced is kept)")
		}
	}
	if told != 2 || announced > 2+3 {
		t.Fatalf("told %d times, defended %d times; want once per 10 s (RFC 5227 section 2.4 b)", told, announced)
	}
}

func TestAnUnknownHostMayBeANewNode(t *testing.T) {
	b := newBench(t, able())
	for range 1000 {
		acts := b.run(5 * time.Millisecond)
		if count(acts, whatever[Probe]) > 0 {
			b.step(Frame{Unit: theVIP, MAC: stranger, Kind: Answering})
		}
		if len(reports(acts, Conflict)) > 0 || count(acts, whatever[Announce]) > 0 {
			t.Fatal("judged a host that may be a node")
		}
	}
}

func TestDrainWithoutHeirs(t *testing.T) {
	b := newBench(t, able())
	b.run(3 * time.Second)
	b.step(Drain{On: true})
	acts := b.run(20 * time.Second)
	if len(reports(acts, NoHeir)) != 1 || count(acts, func(a Answer) bool { return !a.On }) > 0 {
		t.Fatal("a drain without heirs must say so once, and go on answering")
	}
	b.step(Drain{On: true, Leave: true})
	acts = b.run(6 * time.Second)
	if rs := reports(acts, Drained); len(rs) != 1 || rs[0].Left != 1 || count(acts, func(a Answer) bool { return !a.On }) != 1 {
		t.Fatalf("an agent that ends must let go after 5 s: %v", rs)
	}
}

func TestStandings(t *testing.T) {
	tests := []struct {
		name string
		want Want
		keep bool
	}{
		{"reluctant", Want{Key: "k", Candidates: []string{"node1", "node2"}, Rules: true, Standing: Reluctant}, true},
		{"unable", Want{Key: "k", Candidates: []string{"node2"}, Rules: true, Standing: Unable}, false},
		{"unable, but nobody is able", Want{Key: "k", Rules: true, Standing: Unable}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, able())
			b.run(3 * time.Second)
			b.step(Wants{theVIP: &tt.want})
			stopped := count(b.run(4*time.Second), func(a Answer) bool { return !a.On })
			stopped += 10 * count(b.run(4*time.Second), func(a Answer) bool { return !a.On })
			if want := map[bool]int{true: 0, false: 10}[tt.keep]; stopped != want {
				t.Fatalf("stopped %d, want %d", stopped, want)
			}
		})
	}
}

func TestEpochsDoNotWrap(t *testing.T) {
	u := &unit{high: math.MaxUint32}
	if e := u.next(0); e != math.MaxUint32 {
		t.Fatalf("epoch %d", e)
	}
}

func TestWeightsNeverChange(t *testing.T) {
	// Nodes of different versions must agree, so these numbers are for ever.
	if w := weight("key", "node1"); w != 0x614d84421ccd899f {
		t.Fatalf("%#x", w)
	}
	if got := byWeight("key", []string{"c", "a", "b", "a"}); !slices.Equal(got, byWeight("key", []string{"b", "a", "c"})) {
		t.Fatalf("%v", got)
	}
}

// The last announcements of a VIP are the slow ones; a second owner's are
// answered at most ten times a second.
func TestAnnouncementsBecomeRare(t *testing.T) {
	b := newBench(t, able())
	b.run(10 * time.Second)
	if n := count(b.run(10*time.Minute), whatever[Announce]); n < 5 || n > 10 {
		t.Fatalf("%d announcements in ten minutes, want one per one to two minutes", n)
	}
}
