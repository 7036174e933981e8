package proxy

import (
	"net/netip"
	"slices"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// This file is the Service contract in small, written from the documentation
// (kubernetes.io: Service, virtual IPs, EndpointSlices, KEP-1669) and not from
// the proxy: who may answer whom, and whom it sees. It is the judge of what
// packets do.

// A contract is the state of a cluster as seen from node a.
type contract struct {
	services map[cluster.Key]*cluster.Service
	dead     map[string]bool
}

// An asked question names a Service's front by its kind.
type asked struct {
	from    string // client, a, a1, a2
	service cluster.Key
	kind    string // cluster, node, vip
	network string
	fam     int
}

// answers returns what may come back.
func (c contract) answers(q asked) []string {
	s := c.services[q.service]
	proto := map[string]cluster.Protocol{"tcp": cluster.TCP, "udp": cluster.UDP}[q.network]
	var port cluster.Port
	for _, p := range s.Ports {
		if p.Protocol == proto {
			port = p
		}
	}
	if q.kind == "vip" && len(s.SourceRanges) > 0 {
		from := at(q.from, q.fam)
		if !slices.ContainsFunc(s.SourceRanges, func(p netip.Prefix) bool { return p.Contains(from) }) {
			return []string{"silence"}
		}
	}
	var eps []cluster.Endpoint
	for _, e := range port.Endpoints {
		if e.Addr.Addr().Is4() == (q.fam == 0) {
			eps = append(eps, e)
		}
	}
	eps = c.withoutDead(eps)
	usable := func(local bool) []cluster.Endpoint {
		pick := func(ok func(cluster.Endpoint) bool) []cluster.Endpoint {
			var out []cluster.Endpoint
			for _, e := range eps {
				if ok(e) && (!local || e.Node == "a") {
					out = append(out, e)
				}
			}
			return out
		}
		if ready := pick(func(e cluster.Endpoint) bool { return e.Ready }); len(ready) > 0 {
			return ready
		}
		return pick(func(e cluster.Endpoint) bool { return e.Serving && e.Terminating })
	}
	inside := q.from == "a" || q.from == "a1" || q.from == "a2"
	local := q.kind == "cluster" && s.InternalLocal || q.kind != "cluster" && s.ExternalLocal && !inside
	chosen := usable(local)
	switch {
	case len(usable(false)) == 0:
		return []string{"refused"}
	case len(chosen) == 0:
		return []string{"silence"}
	}
	if !local {
		chosen = near(chosen)
	}
	var out []string
	for _, e := range chosen {
		pod := who(e.Addr.Addr().String())
		sees := "a"
		if e.Node == "a" || q.from == "a1" || q.from == "a2" {
			sees = q.from
		}
		if pod == q.from {
			sees = "not itself"
		}
		out = append(out, pod+" sees "+sees)
	}
	return out
}

func (c contract) withoutDead(eps []cluster.Endpoint) []cluster.Endpoint {
	serves := func(e cluster.Endpoint) bool { return e.Ready || e.Serving }
	var alive []cluster.Endpoint
	for _, e := range eps {
		if !c.dead[e.Node] {
			alive = append(alive, e)
		}
	}
	if slices.ContainsFunc(alive, serves) {
		return alive
	}
	return eps
}

// near keeps to the endpoints that are hinted for node a, or else for its zone,
// if every ready endpoint has such a hint and one is for a.
func near(eps []cluster.Endpoint) []cluster.Endpoint {
	for _, kind := range []struct {
		hints func(cluster.Endpoint) []string
		mine  string
	}{
		{func(e cluster.Endpoint) []string { return e.ForNodes }, "a"},
		{func(e cluster.Endpoint) []string { return e.ForZones }, "za"},
	} {
		var mine []cluster.Endpoint
		all := true
		for _, e := range eps {
			if !e.Ready {
				return eps
			}
			all = all && len(kind.hints(e)) > 0
			if slices.Contains(kind.hints(e), kind.mine) {
				mine = append(mine, e)
			}
		}
		if all && len(mine) > 0 {
			return mine
		}
	}
	return eps
}
