package speaker

import (
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"slices"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
)

// A Unit is what has one owner: a VIP in one segment. A VIP whose prefix is on
// two segments has two independent owners.
type Unit struct {
	VIP     netip.Addr
	Segment netip.Prefix // canonical: masked
}

func (u Unit) String() string { return fmt.Sprintf("%v on %v", u.VIP, u.Segment) }

// A Rule is what the pool of an address says about who may announce it. The
// zero Rule lets every node announce on every link.
type Rule struct {
	Pool       string                              // its name, for messages
	Interfaces []string                            // link names or globs (path.Match); none for every link
	Selects    func(labels map[string]string) bool // the pool's node selector; nil for every node
}

// Refusals that the plan itself gives, beside those of cluster.Node. They are
// sentences' ends for people.
const (
	NoAgent     cluster.Refusal = "the node has published no links; is Clarion's agent running on it?"
	OffSegment  cluster.Refusal = "the node has no link with an address in the segment"
	NotSelected cluster.Refusal = "the pool's nodeSelector does not choose the node"
	OtherLinks  cluster.Refusal = "the pool's announce.interfaces does not name the node's link in the segment"
	NoEndpoint  cluster.Refusal = "externalTrafficPolicy is Local and no ready endpoint runs on the node"
)

// A Plan says who may answer for a unit.
type Plan struct {
	Unit       Unit
	Key        string   // what the rendezvous weight is taken of; equal for both families of a Service
	Candidates []string // nodes that may, the heaviest first
}

// A Topology is where the nodes of a cluster are. It is built when nodes
// change and asked for each VIP.
type Topology struct {
	nodes    map[string]*cluster.Node
	names    []string                             // of nodes, in order
	segments map[netip.Prefix]map[string][]string // segment → node → its links there
	order    []netip.Prefix                       // keys of segments, in order
	fallback map[ipfam.Family][]netip.Prefix      // the segments of the default gateways
}

// NewTopology reads the segments from the links that the nodes published.
func NewTopology(nodes map[string]*cluster.Node) *Topology {
	t := &Topology{nodes: nodes, segments: map[netip.Prefix]map[string][]string{}, fallback: map[ipfam.Family][]netip.Prefix{}}
	for name, n := range nodes {
		t.names = append(t.names, name)
		for _, l := range n.Links {
			for _, p := range l.Prefixes {
				p = p.Masked()
				if t.segments[p] == nil {
					t.segments[p] = map[string][]string{}
					t.order = append(t.order, p)
				}
				t.segments[p][name] = append(t.segments[p][name], l.Name)
			}
			for _, g := range l.Gateways {
				if p, ok := segmentOf(g, l.Prefixes); ok {
					t.fallback[ipfam.Of(g)] = append(t.fallback[ipfam.Of(g)], p)
				}
			}
		}
	}
	slices.Sort(t.names)
	slices.SortFunc(t.order, netip.Prefix.Compare)
	for f, ps := range t.fallback {
		slices.SortFunc(ps, netip.Prefix.Compare)
		t.fallback[f] = slices.Compact(ps)
	}
	return t
}

// segmentOf returns the prefix that holds a gateway. An IPv6 gateway is mostly
// a link-local address, which says nothing: then it is the first prefix of its
// family on the link.
func segmentOf(gateway netip.Addr, prefixes []netip.Prefix) (netip.Prefix, bool) {
	var same []netip.Prefix
	for _, p := range prefixes {
		if p.Contains(gateway) {
			return p.Masked(), true
		}
		if ipfam.Of(p.Addr()) == ipfam.Of(gateway) {
			same = append(same, p.Masked())
		}
	}
	if !gateway.IsLinkLocalUnicast() || len(same) == 0 {
		return netip.Prefix{}, false
	}
	return slices.MinFunc(same, netip.Prefix.Compare), true
}

// Units returns the units of a VIP: the segments whose prefix holds it. Only
// when no node of the whole cluster has such a prefix it is the segments of
// the default gateways; a fallback that each node decided for itself would let
// a node of another segment win and answer where nobody asks.
func (t *Topology) Units(vip netip.Addr) []Unit {
	var units []Unit
	for _, p := range t.order {
		if p.Contains(vip) {
			units = append(units, Unit{vip, p})
		}
	}
	if units == nil {
		for _, p := range t.fallback[ipfam.Of(vip)] {
			units = append(units, Unit{vip, p})
		}
	}
	return units
}

// Plan decides who may answer for a VIP that services share; see Sharers for
// who shares it. There is one plan for each unit.
func (t *Topology) Plan(vip netip.Addr, services []*cluster.Service, rule Rule) []Plan {
	if len(services) == 0 {
		return nil
	}
	key, local := rendezvousKey(services[0]), localNodes(services)
	var plans []Plan
	for _, u := range t.Units(vip) {
		p := Plan{Unit: u, Key: key}
		for _, name := range t.names {
			if t.refuse(u, name, rule, local) == cluster.Eligible {
				p.Candidates = append(p.Candidates, name)
			}
		}
		SortByWeight(key, p.Candidates)
		plans = append(plans, p)
	}
	return plans
}

// Refusals says for every node of the cluster why it may not answer for u;
// a candidate has an empty refusal. It is for explaining, so it is computed
// when asked for and not kept.
func (t *Topology) Refusals(u Unit, services []*cluster.Service, rule Rule) map[string]cluster.Refusal {
	out, local := map[string]cluster.Refusal{}, localNodes(services)
	for _, name := range t.names {
		out[name] = t.refuse(u, name, rule, local)
	}
	return out
}

// refuse says why a node is no candidate for a unit. local holds the nodes
// that externalTrafficPolicy allows; nil allows all.
func (t *Topology) refuse(u Unit, name string, rule Rule, local map[string]bool) cluster.Refusal {
	n, links := t.nodes[name], t.segments[u.Segment][name]
	switch {
	case n == nil:
		return cluster.Gone
	case n.Refused != cluster.Eligible:
		return n.Refused
	case len(n.Links) == 0:
		return NoAgent
	case len(links) == 0:
		return OffSegment
	case rule.Selects != nil && !rule.Selects(n.Labels):
		return NotSelected
	case !slices.ContainsFunc(links, rule.allows):
		return OtherLinks
	case local != nil && !local[name]:
		return NoEndpoint
	}
	return cluster.Eligible
}

// allows reports whether the pool may be announced on a link of this name.
func (r Rule) allows(link string) bool {
	return len(r.Interfaces) == 0 || slices.ContainsFunc(r.Interfaces, func(glob string) bool {
		ok, err := path.Match(glob, link)
		return ok && err == nil // A glob that cannot be read was refused with its pool.
	})
}

// Sharers sorts the Services that carry one VIP: those it is announced for,
// the eldest first, and those that may not have it. Two Services may carry one
// address only if both name the same share key; without that leave the elder
// keeps it, so that a duplicate given in error moves nobody's traffic.
func Sharers(services []*cluster.Service) (announced, refused []*cluster.Service) {
	sorted := slices.SortedFunc(slices.Values(services), func(a, b *cluster.Service) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Key, b.Key))
	})
	for i, s := range sorted {
		if i == 0 || s.ShareKey != "" && s.ShareKey == sorted[0].ShareKey {
			announced = append(announced, s)
		} else {
			refused = append(refused, s)
		}
	}
	return announced, refused
}

// rendezvousKey is the share key or the UID, never the address: so both
// families of a Service, and all that share with it, normally have one owner.
func rendezvousKey(eldest *cluster.Service) string {
	if eldest.ShareKey != "" {
		return "share/" + eldest.ShareKey
	}
	return "uid/" + eldest.UID
}

// localNodes returns the nodes that can serve all the Local ones of services,
// or nil when every node can. A sharer that would leave no node, because it has
// no endpoint at all or none beside its elders', is left out: a VIP without an
// endpoint stays announced and refuses at once, which is an answer, and the
// elder's clients are served rather than nobody's.
func localNodes(services []*cluster.Service) map[string]bool {
	var nodes map[string]bool
	for _, s := range services {
		if !s.ExternalLocal {
			continue
		}
		next := map[string]bool{}
		for _, n := range servingNodes(s) {
			if nodes == nil || nodes[n] {
				next[n] = true
			}
		}
		if len(next) > 0 {
			nodes = next
		}
	}
	return nodes
}

// servingNodes returns the nodes with ready endpoints or, when no endpoint is
// ready anywhere, those whose terminating endpoints still serve (KEP-1669).
func servingNodes(s *cluster.Service) []string {
	if ready := s.ReadyNodes(); len(ready) > 0 {
		return ready
	}
	var nodes []string
	for _, p := range s.Ports {
		for _, e := range p.Endpoints {
			if e.Serving && e.Node != "" {
				nodes = append(nodes, e.Node)
			}
		}
	}
	return nodes
}
