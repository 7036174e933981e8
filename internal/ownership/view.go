package ownership

import (
	"maps"
	"slices"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A View is what this node knows of a unit, for people.
type View struct {
	Unit    Unit
	State   string          // idle, waiting, probing, owning, verifying
	Owner   string          // empty when nobody is known to own it
	Why     cluster.Refusal // why this node may not take it; empty when it may
	Epoch   uint32          // of this node's claim, if it has one
	Since   time.Duration
	Foreign cluster.MAC // a machine outside the cluster that uses the address; zero if there is none
}

// View returns what this node knows of a unit, and false if it is not wanted.
func (m *Machine) View(unit Unit) (View, bool) {
	u := m.units[unit]
	if u == nil {
		return View{}, false
	}
	v := View{Unit: u.Unit, State: u.state.String(), Why: u.want.Why, Foreign: u.foreign}
	if u.state == owning || u.state == verifying {
		v.Owner, v.Epoch, v.Since = m.cfg.Self, u.epoch, u.took
	} else if p := m.best(u); p != nil {
		v.Owner = p.name
	}
	return v, true
}

// Changed returns the units whose View may have changed since the last call,
// in their order; units that are gone among them.
func (m *Machine) Changed() []Unit {
	us := slices.SortedFunc(maps.Keys(m.shown), compareUnits)
	clear(m.shown)
	return us
}

func (m *Machine) show(u *unit) { m.shown[u.Unit] = struct{}{} }

// A PeerView is what this node knows of another one, for people.
type PeerView struct {
	Name   string
	Silent bool
	Heard  time.Duration // when the last HELLO that it answered was sent
	Known  bool          // its set is known
	Claims int
	Ready  bool // it may take units
}

// Peers returns all other nodes, by name. In clusters of more than 33 nodes
// Heard is only kept fresh for those that this node watches.
func (m *Machine) Peers() []PeerView {
	vs := make([]PeerView, len(m.sorted))
	for i, p := range m.sorted {
		vs[i] = PeerView{p.name, p.silent, p.heard, p.known, len(p.claims), p.facts.Ready && !p.facts.Draining}
	}
	return vs
}
