package plan

import (
	"fmt"
	"net/netip"
	"strings"
)

// PodRoutes is the input for «ip -batch» in the namespace of h that leads to the pods of the nodes. cidrs are the
// nodes' pod ranges by node name.
//
// With the upstream pod network the lab plays the part that a routing daemon plays elsewhere, so every node, the
// control plane and the router get routes: through the node itself if it is on the same segment, else through the router.
// With Clarion's pod network only the control plane does, on which no agent runs; it reaches a node behind the router
// through the first node, so that the router need not know pods.
func (s Settings) PodRoutes(h Host, cidrs map[string][]netip.Prefix) string {
	switch {
	case h.Role == ControlPlane:
	case s.Profile.HasUpstreamNetwork() && (h.Role == Node || h.Role == Router):
	default:
		return ""
	}
	var b strings.Builder
	for _, node := range s.HostsWith(Node) {
		if node.Name == h.Name {
			continue
		}
		for _, cidr := range cidrs[node.Name] {
			fmt.Fprintf(&b, "route replace %s via %s proto static\n", cidr, s.nextHop(h, node, cidr.Addr().Is4()))
		}
	}
	return b.String()
}

func (s Settings) nextHop(from, to Host, v4 bool) netip.Addr {
	for _, mine := range from.Links {
		if mine.Segment == to.Segment() {
			if v4 {
				return to.V4()
			}
			return to.V6()
		}
	}
	if !s.Profile.HasUpstreamNetwork() {
		return s.nextHop(from, s.HostsWith(Node)[0], v4)
	}
	if v4 {
		return from.Segment().Addr4(Gateway)
	}
	return from.Segment().Addr6(Gateway)
}

// Masquerade is the nftables table of a node of the upstream pod network. What pods send to anything but pods and the
// cluster's own machines leaves under the node's address, because nobody else has a route back to pods.
func (s Settings) Masquerade() string {
	machines := map[bool][]string{}
	for _, h := range s.Hosts() {
		if h.Role == Node || h.Role == ControlPlane {
			machines[true] = append(machines[true], h.V4().String())
			machines[false] = append(machines[false], h.V6().String())
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table inet clarion-lab {\n\tchain postrouting {\n\t\ttype nat hook postrouting priority srcnat + 10\n")
	for _, cidr := range ClusterCIDRs {
		family := "ip6"
		if cidr.Addr().Is4() {
			family = "ip"
		}
		fmt.Fprintf(&b, "\t\t%s saddr %s %s daddr != { %s, %s } masquerade\n",
			family, cidr, family, cidr, strings.Join(machines[cidr.Addr().Is4()], ", "))
	}
	b.WriteString("\t}\n}\n")
	return b.String()
}
