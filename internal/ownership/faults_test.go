package ownership

import (
	"time"
)

// faults are what can happen to a cluster. Each returns for how long it lasts
// and undoes itself.
var faults = map[string]func(w *world, v *host) time.Duration{
	"poweroff": func(w *world, v *host) time.Duration {
		d := w.lasting(100*time.Millisecond, 3*time.Second)
		v.power, v.runs = false, false
		v.gen++
		w.changed()
		w.at(d, v.boot)
		return d
	},
	"kill": func(w *world, v *host) time.Duration { // the agent only; the kernel goes on
		d := w.lasting(50*time.Millisecond, 3*time.Second)
		v.runs = false
		v.gen++
		w.changed()
		w.at(d, v.boot)
		return d
	},
	"sigstop": func(w *world, v *host) time.Duration {
		d := w.lasting(50*time.Millisecond, 3*time.Second)
		v.stopped = true
		w.changed()
		w.at(d, v.resume)
		return d
	},
	"freeze": func(w *world, v *host) time.Duration { // the guest's clock stands still
		d := w.lasting(50*time.Millisecond, 3*time.Second)
		v.frozen = true
		w.changed()
		w.at(d, func() {
			v.skew += d
			v.resume()
		})
		return d
	},
	"partition": func(w *world, _ *host) time.Duration {
		p := w.fate.Uint64N(1 << min(len(w.nodes)+1, 63))
		if len(w.nodes) >= 63 {
			p = w.fate.Uint64()
		}
		side := func(i int) bool { return p>>(i%63)&1 == 1 }
		return w.cut(w.lasting(100*time.Millisecond, 3*time.Second), true, true, func(a, b int) bool { return side(a) != side(b) })
	},
	"isolate": func(w *world, v *host) time.Duration {
		return w.cut(w.lasting(100*time.Millisecond, 3*time.Second), true, true, func(a, b int) bool { return a == v.id || b == v.id })
	},
	"flap": func(w *world, v *host) time.Duration { // twenty times
		t := time.Duration(0)
		for range 20 {
			d := w.lasting(100*time.Millisecond, 1200*time.Millisecond)
			w.at(t, func() {
				w.cut(d, true, true, func(a, b int) bool { return a == v.id || b == v.id })
			})
			t += d + w.lasting(100*time.Millisecond, 1500*time.Millisecond)
		}
		return t
	},
	"gossiponly": func(w *world, _ *host) time.Duration {
		p := w.fate.Uint64N(1 << min(len(w.nodes)+1, 63))
		return w.cut(w.lasting(100*time.Millisecond, 6*time.Second), true, false, func(a, b int) bool { return p>>(a%63)&1 != p>>(b%63)&1 })
	},
	"deaf": func(w *world, v *host) time.Duration { // it sends, but hears nothing
		return w.cut(w.lasting(100*time.Millisecond, 5*time.Second), true, true, func(_, b int) bool { return b == v.id })
	},
	"drain": func(w *world, v *host) time.Duration {
		d := w.lasting(100*time.Millisecond, 3*time.Second)
		v.drained = true
		w.judge.all()
		v.tell(Drain{On: true})
		w.at(d, func() {
			v.drained = false
			w.judge.all()
			v.tell(Drain{})
		})
		return d
	},
	"rollout": func(w *world, v *host) time.Duration { // SIGTERM, then a new agent
		v.drained = true
		w.judge.all()
		v.tell(Drain{On: true, Leave: true})
		v.leftAt = 0
		restart := w.lasting(200*time.Millisecond, 2*time.Second)
		var poll func()
		began := w.now
		poll = func() {
			if v.leftAt == 0 && w.now-began < 6*time.Second {
				w.at(10*time.Millisecond, poll)
				return
			}
			v.runs = false
			v.gen++
			w.changed()
			w.at(restart, func() {
				v.drained = false
				v.boot()
			})
		}
		w.at(10*time.Millisecond, poll)
		return 6*time.Second + restart
	},
	"bounce": func(w *world, v *host) time.Duration { // shorter than detection, or just longer
		return w.carrier(v, w.lasting(50*time.Millisecond, 400*time.Millisecond))
	},
	"linkdown": func(w *world, v *host) time.Duration {
		return w.carrier(v, w.lasting(400*time.Millisecond, 3*time.Second))
	},
	"isolatelong": func(w *world, v *host) time.Duration {
		return w.cut(w.lasting(4*time.Second, 6*time.Second), true, true, func(a, b int) bool { return a == v.id || b == v.id })
	},
	"longpoweroff": func(w *world, v *host) time.Duration {
		v.power, v.runs = false, false
		v.gen++
		w.changed()
		return 3 * time.Second
	},
	"deaflong": func(w *world, v *host) time.Duration {
		return w.cut(w.lasting(4*time.Second, 6*time.Second), true, true, func(_, b int) bool { return b == v.id })
	},
	"orphans": func(w *world, v *host) time.Duration { // an owner dies while the others are apart: both sides take
		half := func(i int) bool { return (i+v.id)%2 == 0 }
		v.power, v.runs = false, false
		v.gen++
		w.at(8*time.Second, v.boot)
		w.cut(3*time.Second, true, true, func(a, b int) bool { return half(a) != half(b) })
		return 8 * time.Second
	},
	"shortbounce": func(w *world, v *host) time.Duration {
		return w.carrier(v, w.lasting(50*time.Millisecond, 150*time.Millisecond))
	},
	"onewire": func(w *world, v *host) time.Duration { // the second link only: gossip goes on
		if !v.second {
			return 0
		}
		d := w.lasting(100*time.Millisecond, 3*time.Second)
		w.setCarrier(v, 1, false)
		w.at(d, func() { w.setCarrier(v, 1, true) })
		return d
	},
}

// lasting returns a random time that is part of what happens.
func (w *world) lasting(a, b time.Duration) time.Duration {
	return a + time.Duration(w.fate.Int64N(int64(b-a)))
}

// single are the faults that strike alone in the tables of figures.
var single = []string{"poweroff", "kill", "sigstop", "freeze", "partition", "isolate", "gossiponly", "deaf", "drain", "rollout", "bounce", "linkdown"}

// tell gives a live agent an event.
func (h *host) tell(ev Event) {
	h.deliver(false, func() { h.step(ev) })
}

func (w *world) carrier(v *host, d time.Duration) time.Duration {
	w.setCarrier(v, 0, false)
	w.at(d, func() { w.setCarrier(v, 0, true) })
	return d
}

func (w *world) setCarrier(v *host, link int, up bool) {
	v.carrier[link] = up
	v.since = w.now
	w.changed()
	v.tell(v.linksEvent())
}

// cut separates machines for a while, in gossip, on all links, or both. Cuts
// that overlap heal together.
func (w *world) cut(d time.Duration, gossip, wire bool, apart func(from, to int) bool) time.Duration {
	for a := range len(w.nodes) + 1 {
		for b := range len(w.nodes) + 1 {
			if !apart(a, b) {
				continue
			}
			if gossip && a < len(w.nodes) && b < len(w.nodes) {
				w.gossip[a][b] = false
			}
			for link := range w.wires {
				if wire {
					w.wires[link][a][b] = false
				}
			}
		}
	}
	w.cutAt = w.now + d
	w.changed()
	w.at(d, func() {
		w.gossip = square(len(w.nodes))
		w.closePorts()
		for link := range w.wires {
			w.wires[link] = square(len(w.nodes) + 1)
		}
		w.trace("healed")
		w.changed()
	})
	return d
}

// closePorts keeps the gossip port of the first node closed for others' packets
// if the setup says so.
func (w *world) closePorts() {
	if w.setup.closed {
		for i := range w.nodes {
			w.gossip[i][0] = false
		}
	}
}

// play runs a whole history: start, faults one after the other, and a quiet
// end. It returns what is wrong at the end, if anything.
func play(w *world) string {
	w.closePorts()
	for _, h := range w.nodes {
		w.at(w.between(0, 200*time.Millisecond), h.boot)
	}
	if w.setup.late {
		for _, h := range w.nodes {
			w.at(lateAt+w.between(0, 50*time.Millisecond), func() { h.tell(h.wantsEvent()) })
		}
	}
	if !w.setup.quiet {
		w.at(time.Second, w.clients)
	}
	start := 3500*time.Millisecond + time.Duration(w.setup.vips)*20*time.Millisecond/time.Duration(w.setup.nodes)
	w.run(start)
	w.judge.begin()
	for range w.setup.count {
		kind := w.setup.faults[w.fate.IntN(len(w.setup.faults))]
		v := w.nodes[w.fate.IntN(len(w.nodes))]
		if w.setup.pinFault > 0 {
			v = w.nodes[w.setup.pinFault-1]
		}
		w.trace("FAULT %s %s", kind, v.name)
		d := faults[kind](w, v)
		w.trace("  for %v", d)
		w.run(w.now + d + w.lasting(1500*time.Millisecond, 4*time.Second) + w.setup.pause)
	}
	w.run(w.now + 2500*time.Millisecond)
	w.judge.all()
	return w.judge.settled()
}
