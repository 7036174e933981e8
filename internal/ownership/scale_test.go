package ownership

import (
	"fmt"
	"testing"
	"time"
)

// A hundred VIPs that are made while all nodes run are spread evenly, and so
// they are when a node has died (issue: at most 1.3 times the mean).
func TestVIPsAreSpreadEvenly(t *testing.T) {
	for nodes := 3; nodes <= 10; nodes++ {
		t.Run(fmt.Sprint(nodes, " nodes"), func(t *testing.T) {
			s := late(alone("longpoweroff", nodes, 100, 0.01, true))
			s.seed, s.count, s.oneFamily = *base, 1, true
			w := newWorld(t, s)
			w.setup.count = 0
			if wrong := play(w); wrong != "" {
				t.Fatal(wrong)
			}
			before := w.judge.fullest()
			faults["longpoweroff"](w, w.nodes[0])
			w.run(w.now + 5*time.Second)
			if wrong := w.judge.settled(); wrong != "" {
				t.Fatal(wrong)
			}
			after := w.judge.fullest()
			t.Logf("the fullest node has %.2f times the mean, %.2f after another died", before, after)
			if max(before, after) > 1.3 {
				t.Errorf("%.2f and %.2f times the mean, want at most 1.3", before, after)
			}
			w.nodes[0].boot()
			w.run(w.now + 3*time.Second)
			for _, h := range w.nodes {
				h.step(Rebalance{})
			}
			w.judge.begin()
			w.run(w.now + 5*time.Second)
			w.judge.all()
			t.Logf("%.2f after it is back and a rebalance of %d moves", w.judge.fullest(), w.judge.moves)
			if f := w.judge.fullest(); f > 1.3 || w.judge.gap > 0 {
				t.Errorf("after a rebalance: %.2f times the mean, a gap of %v", f, w.judge.gap)
			}
		})
	}
}

// A thousand VIPs on five nodes: one dies, and all are answered for within a
// second, at a pace that switches stand.
func TestAThousandVIPs(t *testing.T) {
	s := late(alone("longpoweroff", 5, 1000, 0.01, true))
	s.seed, s.count, s.quiet = *base, 0, true
	w := newWorld(t, s)
	if wrong := play(w); wrong != "" {
		t.Fatal(wrong)
	}
	w.judge.begin()
	start := w.now
	v := w.nodes[1]
	faults["longpoweroff"](w, v)
	var peak, announced int
	for w.now < start+2*time.Second {
		before := w.judge.announced
		w.run(w.now + 100*time.Millisecond)
		peak = max(peak, w.judge.announced-before)
	}
	w.judge.all()
	announced = w.judge.announced
	if wrong := w.judge.settled(); wrong != "" {
		t.Fatal(wrong)
	}
	t.Logf("nobody answered for at most %v, clients lost at most %v; %d announcements in 2s, at most %d in 100ms; %d probes; messages up to %d bytes",
		w.judge.gap, w.judge.loss, announced, peak, w.judge.probed, w.mtu)
	if w.judge.gap > time.Second || w.judge.loss > time.Second {
		t.Errorf("a gap of %v, clients lost %v", w.judge.gap, w.judge.loss)
	}
	if w.mtu > maxMessage {
		t.Errorf("a message of %d bytes", w.mtu)
	}
	if limit := 4 * (announceRate/10 + announceBurst); peak > limit {
		t.Errorf("%d announcements in 100ms, the pace of four nodes allows %d", peak, limit)
	}
}

// In clusters in which not everybody watches everybody the promises are the
// same. All but the first take minutes and belong to the long run, with
// -histories=1000 or more.
func TestLargeClusters(t *testing.T) {
	type large struct {
		nodes int
		fault string
	}
	clusters := []large{{40, "poweroff"}}
	if *histories >= 1000 {
		clusters = append(clusters, large{40, "partition"}, large{40, "isolate"}, large{40, "freeze"}, large{100, "poweroff"}, large{100, "partition"})
	}
	for _, tt := range clusters {
		t.Run(fmt.Sprint(tt.nodes, " nodes, ", tt.fault), func(t *testing.T) {
			s := alone(tt.fault, tt.nodes, 60, 0.01, true)
			s.seed, s.count, s.late, s.pinFault = *base, 2, true, 0
			w := newWorld(t, s)
			end := play(w)
			t.Logf("two owners %v, nobody answers %v, clients lost %v; %d moves; %.0f messages and %.1f kB a second and node",
				w.judge.double, w.judge.gap, w.judge.loss, w.judge.moves, w.perSecond(w.judge.sent), w.perSecond(w.judge.bytes)/1000)
			for _, bad := range w.verdict(end) {
				t.Error(bad)
			}
		})
	}
}

func (w *world) perSecond(n int) float64 {
	return float64(n) / (w.now - w.judge.since).Seconds() / float64(len(w.nodes))
}

// What a step costs must not grow with the number of VIPs when nothing
// happens to them.
func BenchmarkHello(b *testing.B) {
	for _, vips := range []int{100, 5000} {
		b.Run(fmt.Sprint(vips, " VIPs"), func(b *testing.B) {
			s := setup{seed: 1, nodes: 5, vips: vips, gateway: true, quiet: true, late: true}
			w := newWorld(b, s)
			play(w)
			h := w.nodes[0]
			now := h.clock()
			hello := Received{"node2", Hello{Boot: h.m.peers["node2"].boot, Version: h.m.peers["node2"].ver}}
			b.ReportAllocs()
			for b.Loop() {
				now += 10 * time.Microsecond
				h.m.Step(now, hello)
			}
		})
	}
}
