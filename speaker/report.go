package speaker

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A Report is what changed since the last one.
type Report struct {
	// Links are to be published on this node's own Node (cluster.FormatLinks);
	// nil when they are as before.
	Links []cluster.Link
	// Services are those whose standing changed; nil for one that carries no VIP
	// of ours any more.
	Services map[cluster.Key]*ServiceReport
}

// A ServiceReport says how the VIPs of a Service stand.
type ServiceReport struct {
	UID   string // of the Service, so that another one of the same name is not meant
	Units []UnitReport
	// Teller is the node that should write this to the API, so that one does:
	// the owner of the first unit, or else the heaviest of all nodes.
	Teller string
}

// A UnitReport says how a unit stands as far as this node knows. A VIP that is
// in no segment has one with a zero segment.
type UnitReport struct {
	Unit
	Standing
	Link string // of this node, in the segment
	// Withheld names the elder Service that has the address, when this Service
	// carries it without leave to share; the address is not announced for it.
	Withheld cluster.Key
	// Refused says of each node why it is no candidate. It is filled in when
	// nobody is, and by Explain; an empty refusal is a candidate's.
	Refused map[string]cluster.Refusal
	// Self says why this node, though a candidate, does not answer right now.
	Self cluster.Refusal
}

// Refusals of this node alone, which only it can know.
const (
	NoLink    cluster.Refusal = "this node has no working link in the segment at the moment"
	NotReady  cluster.Refusal = "the packet rules for the address are not yet in this node's kernel"
	NoSocket  cluster.Refusal = "this node cannot open a packet socket on the link; see its log"
	NoSegment cluster.Refusal = "no node has a link whose prefix holds the address, and none has a default gateway of its family"
)

// tell reports what changed.
func (l *loop) tell() {
	for key := range l.changed {
		now := l.service(key)
		before, known := l.told[key]
		if known == (now != nil) && reflect.DeepEqual(before, now) {
			continue
		}
		if now == nil {
			delete(l.told, key)
		} else {
			l.told[key] = now
		}
		if l.report.Services == nil {
			l.report.Services = map[cluster.Key]*ServiceReport{}
		}
		l.report.Services[key] = now
	}
	clear(l.changed)
	if l.report.Links != nil || l.report.Services != nil {
		l.cfg.Report(l.report)
		l.report = Report{}
	}
}

// service describes one Service, or returns nil when it has no VIP of ours.
func (l *loop) service(key cluster.Key) *ServiceReport {
	s := l.view.Services[key]
	vips := vipsOf(s)
	if len(vips) == 0 {
		return nil
	}
	out := &ServiceReport{UID: s.UID}
	for _, vip := range vips {
		out.Units = append(out.Units, l.unitsOf(s, vip)...)
	}
	for _, u := range out.Units {
		if u.Owner != "" {
			out.Teller = u.Owner
			return out
		}
	}
	names := slices.Collect(maps.Keys(l.view.Nodes))
	SortByWeight(rendezvousKey(s), names)
	if len(names) > 0 {
		out.Teller = names[0]
	}
	return out
}

// unitsOf describes the units of one VIP of a Service.
func (l *loop) unitsOf(s *cluster.Service, vip netip.Addr) []UnitReport {
	announced, _ := Sharers(l.services(vip))
	if !slices.Contains(announced, s) {
		return []UnitReport{{Unit: Unit{VIP: vip}, Withheld: announced[0].Key}}
	}
	if len(l.units[vip]) == 0 {
		refused := map[string]cluster.Refusal{}
		for name := range l.view.Nodes {
			refused[name] = NoSegment
		}
		return []UnitReport{{Unit: Unit{VIP: vip}, Refused: refused}}
	}
	var out []UnitReport
	for _, u := range l.units[vip] {
		seat := l.seats[u]
		r := UnitReport{Unit: u, Standing: l.cfg.Elector.Standing(u), Link: seat.Link}
		if len(seat.Candidates) == 0 {
			r.Refused = l.topology.Refusals(u, announced, (*l.rules.Load())(vip))
		}
		if slices.Contains(seat.Candidates, l.cfg.Self) && !seat.Able {
			switch {
			case seat.Link == "":
				r.Self = NoLink
			case l.failed[seat.Link] != "":
				r.Self = NoSocket
			default:
				r.Self = NotReady
			}
		}
		out = append(out, r)
	}
	return out
}

// explain describes a Service with the refusals of all nodes.
func (l *loop) explain(key cluster.Key) []UnitReport {
	r := l.service(key)
	if r == nil {
		return nil
	}
	for i, u := range r.Units {
		if u.Withheld == "" && u.Segment.IsValid() {
			announced, _ := Sharers(l.services(u.VIP))
			r.Units[i].Refused = l.topology.Refusals(u.Unit, announced, (*l.rules.Load())(u.VIP))
		}
	}
	return r.Units
}
