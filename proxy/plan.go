package proxy

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A Front is where a Service port can be reached: an address, a protocol and a
// port as packets carry them before anything is changed.
type Front struct {
	Addr  netip.Addr
	Proto cluster.Protocol
	Port  uint16
}

// A Target is what happens to new connections to a Front.
type Target struct {
	Service string // "namespace/name:port", for people
	Outer   Group  // for everybody, or for traffic from outside when Inner is set
	Inner   *Group // for this node and its own pods; nil when there is no difference

	Affinity time.Duration  // a client stays with its endpoint this long; 0 for none
	Sources  []netip.Prefix // who may connect, of the front's family; nil for everybody
}

// A Group is a set of endpoints to choose from, or why there is nothing to
// choose.
type Group struct {
	Endpoints []netip.AddrPort // sorted, no repeats
	// Elsewhere says that an empty group has endpoints on other nodes only, which
	// a policy Local forbids. Its packets are dropped and not rejected, so that
	// a client whose packets will soon come by another node tries again
	// (kube-proxy does the same).
	Elsewhere bool
}

// A View is what a plan needs to know about the node it is made for.
type View struct {
	Node      string
	Zone      string
	NodePorts []netip.Addr // the addresses on which NodePorts answer
	Dead      func(node string) bool
}

// A Plan is everything that one Service wants of the node's kernel.
type Plan struct {
	Fronts []Planned // each Front once

	ClusterIPs []netip.Addr // belong to the Service wholly: what it does not serve is refused
	VIPs       []netip.Addr // the same, and they answer ping
	Foreign    []netip.Addr // external IPs and others' VIPs: only the Service's ports are its own
	Ports      []PortUse    // the ports that it uses on Foreign addresses and as NodePorts
	Local      []netip.Addr // endpoints on this node
}

// Planned is what one Front is to do.
type Planned struct {
	Front
	*Target
}

// A PortUse is a port of a protocol.
type PortUse struct {
	Proto cluster.Protocol
	Port  uint16
}

// PlanService returns what s wants of the kernel of the node that sees v. A
// nil or headless Service wants nothing, nor does one that another proxy serves.
func PlanService(s *cluster.Service, v View) Plan {
	var p Plan
	if s == nil || len(s.ClusterIPs) == 0 || s.OtherProxy {
		return p
	}
	p.ClusterIPs = sound(s.ClusterIPs)
	if s.Ours {
		p.VIPs = sound(s.VIPs)
	} else {
		p.Foreign = append(p.Foreign, sound(s.VIPs)...)
	}
	p.Foreign = append(p.Foreign, sound(s.ExternalIPs)...)

	for _, port := range s.Ports {
		for _, is4 := range []bool{true, false} {
			if reachable(s, v, is4) {
				p.port(s, port, v, is4)
			}
		}
	}
	slices.SortFunc(p.Local, netip.Addr.Compare)
	p.Local = slices.Compact(p.Local)
	return p
}

// sound leaves out what no packet can carry as its destination. The API keeps
// such addresses out; a mistake on the way must not spoil other Services.
func sound(list []netip.Addr) []netip.Addr {
	if !slices.ContainsFunc(list, func(a netip.Addr) bool { return !isSound(a) }) {
		return list
	}
	return slices.DeleteFunc(slices.Clone(list), func(a netip.Addr) bool { return !isSound(a) })
}

func isSound(a netip.Addr) bool { return a.IsValid() && !a.Is4In6() && a.Zone() == "" }

// reachable reports whether a Service has any address of a family.
func reachable(s *cluster.Service, v View, is4 bool) bool {
	own := func(a netip.Addr) bool { return a.Is4() == is4 }
	return slices.ContainsFunc(s.ClusterIPs, own) || slices.ContainsFunc(s.VIPs, own) ||
		slices.ContainsFunc(s.ExternalIPs, own) || slices.ContainsFunc(v.NodePorts, own)
}

// port adds the fronts of one port in one family: a Service of two families
// has endpoints of both, and each front takes those of its own.
func (p *Plan) port(s *cluster.Service, port cluster.Port, v View, is4 bool) {
	own := func(a netip.Addr) bool { return a.Is4() == is4 && isSound(a) }
	eps := filter(port.Endpoints, func(e cluster.Endpoint) bool { return own(e.Addr.Addr()) && e.Addr.Port() != 0 })
	name := string(s.Key)
	if port.Name != "" {
		name += ":" + port.Name
	}
	// externalTrafficPolicy has no meaning for a Service that nothing outside can reach.
	outside := port.NodePort != 0 || len(s.ExternalIPs) > 0 || len(s.VIPs) > 0
	c := Categorize(living(eps, v.Dead), Policy{
		InternalLocal: s.InternalLocal, ExternalLocal: s.ExternalLocal && outside, External: outside,
	}, v.Node, v.Zone)
	for _, e := range c.Reachable {
		if e.Node == v.Node && v.Node != "" {
			p.Local = append(p.Local, e.Addr.Addr())
		}
	}

	add := func(a netip.Addr, number uint16, t *Target) {
		if !own(a) || number == 0 {
			return
		}
		f := Front{a, port.Protocol, number}
		// A Service's own cluster IP comes first and cannot be taken by another of
		// its addresses.
		if !slices.ContainsFunc(p.Fronts, func(x Planned) bool { return x.Front == f }) {
			p.Fronts = append(p.Fronts, Planned{f, t})
		}
	}
	internal := &Target{Service: name, Affinity: s.Affinity, Outer: group(c.Cluster, false)}
	if s.InternalLocal {
		internal.Outer = group(c.Local, c.Any)
	}
	for _, a := range s.ClusterIPs {
		add(a, port.Port, internal)
	}
	if !outside {
		return
	}
	external := &Target{Service: name, Affinity: s.Affinity, Outer: group(c.Cluster, false)}
	if s.ExternalLocal {
		// This node and its pods reach every endpoint, as if they had gone out and
		// come back in by a load balancer that knows where the endpoints are.
		inner := external.Outer
		external.Inner = &inner
		external.Outer = group(c.Local, c.Any)
	}
	used := false
	for _, a := range s.ExternalIPs {
		add(a, port.Port, external)
		used = used || own(a)
	}
	guarded := *external
	guarded.Sources = sources(s.SourceRanges, is4)
	for _, a := range s.VIPs {
		add(a, port.Port, &guarded)
		used = used || own(a) && !s.Ours
	}
	for _, a := range v.NodePorts {
		add(a, port.NodePort, external)
	}
	if used {
		p.use(port.Protocol, port.Port)
	}
	if port.NodePort != 0 && len(v.NodePorts) > 0 {
		p.use(port.Protocol, port.NodePort)
	}
}

// front returns what a front is to do, or nil when it is none of the plan's.
func (p Plan) front(f Front) *Target {
	for _, x := range p.Fronts {
		if x.Front == f {
			return x.Target
		}
	}
	return nil
}

func (p *Plan) use(proto cluster.Protocol, port uint16) {
	if u := (PortUse{proto, port}); !slices.Contains(p.Ports, u) {
		p.Ports = append(p.Ports, u)
	}
}

// living leaves out the endpoints of nodes that are known to be dead, unless
// none would remain: then the word about the nodes is more likely wrong than
// that all of them died.
func living(eps []cluster.Endpoint, dead func(string) bool) []cluster.Endpoint {
	if dead == nil {
		return eps
	}
	ready := func(e cluster.Endpoint) bool { return e.Ready || e.Serving }
	if !slices.ContainsFunc(eps, func(e cluster.Endpoint) bool { return e.Node != "" && dead(e.Node) }) {
		return eps
	}
	alive := slices.DeleteFunc(slices.Clone(eps), func(e cluster.Endpoint) bool { return e.Node != "" && dead(e.Node) })
	if slices.ContainsFunc(eps, ready) && !slices.ContainsFunc(alive, ready) {
		return eps
	}
	return alive
}

func group(eps []cluster.Endpoint, any bool) Group {
	g := Group{Elsewhere: len(eps) == 0 && any, Endpoints: make([]netip.AddrPort, 0, len(eps))}
	for _, e := range eps {
		g.Endpoints = append(g.Endpoints, e.Addr)
	}
	slices.SortFunc(g.Endpoints, netip.AddrPort.Compare)
	g.Endpoints = slices.Compact(g.Endpoints)
	return g
}

// sources returns the prefixes of a family, masked and each once; nil, when
// everybody of the family may connect. A Service that names prefixes of one
// family only lets nobody in by the other.
func sources(prefixes []netip.Prefix, is4 bool) []netip.Prefix {
	if len(prefixes) == 0 {
		return nil
	}
	out := []netip.Prefix{}
	for _, p := range prefixes {
		switch {
		case !p.IsValid() || !isSound(p.Addr()) || p.Addr().Is4() != is4:
			// Nobody may come in by a prefix that is not valid; the others stand.
		case p.Bits() == 0:
			return nil
		default:
			out = append(out, p.Masked())
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
	})
	return slices.Compact(out)
}
