package proxy

import (
	"slices"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A Policy says which of a Service's traffic policies are Local.
type Policy struct {
	InternalLocal bool // internalTrafficPolicy: Local
	ExternalLocal bool // externalTrafficPolicy: Local
	External      bool // something outside the cluster can reach the Service at all
}

func (p Policy) usesCluster() bool { return !p.InternalLocal || p.External }
func (p Policy) usesLocal() bool   { return p.InternalLocal || p.External && p.ExternalLocal }

// Categories are the endpoints of one Service port that one node may use.
type Categories struct {
	Cluster   []cluster.Endpoint // for traffic under the policy Cluster
	Local     []cluster.Endpoint // for traffic under the policy Local
	Reachable []cluster.Endpoint // both, without repeats
	Any       bool               // there is a usable endpoint somewhere in the cluster
}

// Categorize sorts endpoints by who may use them on a node. A group consists
// of ready endpoints; if there is none, of those that end but still serve
// (KEP-1669), each group for itself. Hints narrow the group Cluster (KEP-2433,
// KEP-3015).
func Categorize(eps []cluster.Endpoint, p Policy, node, zone string) Categories {
	var c Categories
	local := func(e cluster.Endpoint) bool { return e.Node == node }
	ready := func(e cluster.Endpoint) bool { return e.Ready }
	ending := func(e cluster.Endpoint) bool { return e.Serving && e.Terminating }

	if p.usesCluster() {
		fits := hints(eps, node, zone)
		c.Cluster = filter(eps, func(e cluster.Endpoint) bool { return ready(e) && fits(e) })
		if len(c.Cluster) == 0 {
			c.Cluster = filter(eps, ending)
		}
		c.Any = len(c.Cluster) > 0
	}
	if p.usesLocal() {
		c.Local = filter(eps, func(e cluster.Endpoint) bool { return local(e) && ready(e) })
		if len(c.Local) == 0 {
			c.Local = filter(eps, func(e cluster.Endpoint) bool { return local(e) && !ready(e) && ending(e) })
		}
		c.Any = c.Any || slices.ContainsFunc(eps, func(e cluster.Endpoint) bool { return ready(e) || ending(e) })
	}
	c.Reachable = slices.Clip(c.Cluster)
	for _, e := range c.Local {
		if !slices.ContainsFunc(c.Cluster, func(o cluster.Endpoint) bool { return o.Addr == e.Addr }) {
			c.Reachable = append(c.Reachable, e)
		}
	}
	return c
}

// hints returns which endpoints traffic of this node should keep to. Hints
// count only when every ready endpoint has one of the kind and at least one is
// for this node or zone: else the slices are half written, or this node would
// be left with nothing.
func hints(eps []cluster.Endpoint, node, zone string) func(cluster.Endpoint) bool {
	for _, kind := range []struct {
		of   func(cluster.Endpoint) []string
		mine string
	}{
		{func(e cluster.Endpoint) []string { return e.ForNodes }, node},
		{func(e cluster.Endpoint) []string { return e.ForZones }, zone},
	} {
		all, mine := true, false
		for _, e := range eps {
			if e.Ready {
				all = all && len(kind.of(e)) > 0
				mine = mine || slices.Contains(kind.of(e), kind.mine)
			}
		}
		if all && mine {
			return func(e cluster.Endpoint) bool { return slices.Contains(kind.of(e), kind.mine) }
		}
	}
	return func(cluster.Endpoint) bool { return true }
}

// filter returns the endpoints to keep; the same slice when that is all.
func filter(eps []cluster.Endpoint, keep func(cluster.Endpoint) bool) []cluster.Endpoint {
	if !slices.ContainsFunc(eps, func(e cluster.Endpoint) bool { return !keep(e) }) {
		return eps
	}
	var out []cluster.Endpoint
	for _, e := range eps {
		if keep(e) {
			out = append(out, e)
		}
	}
	return out
}
