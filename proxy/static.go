package proxy

import (
	"maps"
	"net/netip"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/nft"
)

// staticEntries returns the entries of sets that come from nodes and settings
// and not from Services. extra are pod CIDRs that no Node says.
func staticEntries(v View, nodes map[string]*cluster.Node, extra, services []netip.Prefix) map[entry]bool {
	out := map[entry]bool{}
	for _, a := range v.NodePorts {
		out[entry{setShared(ipfam.Of(a)), string(nft.Val{}.Addr(a))}] = true
	}
	var own, all []netip.Prefix
	for name, n := range nodes {
		if n == nil {
			continue
		}
		all = append(all, n.PodCIDRs...)
		if name == v.Node {
			own = append(own, n.PodCIDRs...)
		}
	}
	all = append(all, extra...)
	maps.Copy(out, intervals(setOwnPods, own))
	// Where nobody says which addresses are pods', every source of traffic to a
	// cluster IP is taken for one, and keeps its address.
	maps.Copy(out, intervals(setInside, orAny(own)))
	maps.Copy(out, intervals(setPods, orAny(all)))
	maps.Copy(out, intervals(setServices, services))
	return out
}

// orAny adds, for a family without a prefix, the prefix that holds everything.
func orAny(prefixes []netip.Prefix) []netip.Prefix {
	out := append([]netip.Prefix(nil), prefixes...)
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		found := false
		for _, p := range prefixes {
			found = found || p.Addr().Is4() == any.Is4()
		}
		if !found {
			out = append(out, netip.PrefixFrom(any, 0))
		}
	}
	return out
}
