package plan

import (
	"fmt"
	"strings"
)

// Sysctl is one file below /proc/sys, as the namespace itself sees it, and what is written into it.
type Sysctl struct{ Path, Value string }

// Sysctls are set in the host's namespace before it gets its links, so that new links inherit them.
func (h Host) Sysctls() []Sysctl {
	set := []Sysctl{
		// A lab's addresses are unique by construction; duplicate address detection would only delay every start.
		{"net/ipv6/conf/default/accept_dad", "0"},
		{"net/ipv6/conf/all/accept_dad", "0"},
		{"net/ipv6/conf/default/accept_ra", "0"},
		{"net/ipv6/conf/all/accept_ra", "0"},
	}
	if h.Role == Client || h.Role == ControlPlane {
		return set
	}
	// The switch forwards too: it is the gateway of the flat topology and refuses what it has no route for. A redirect
	// would teach hosts shortcuts that are not in the plan.
	return append(set,
		Sysctl{"net/ipv4/ip_forward", "1"},
		Sysctl{"net/ipv6/conf/all/forwarding", "1"},
		Sysctl{"net/ipv4/conf/all/send_redirects", "0"},
		Sysctl{"net/ipv4/conf/default/send_redirects", "0"},
	)
}

// SwitchLinks is the input for «ip -batch» in the switch's namespace: its bridges, without ports.
func (s Settings) SwitchLinks() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("link set lo up")
	segments := []Segment{LAN}
	if s.Topology == Routed {
		segments = append(segments, Second)
	}
	for _, seg := range segments {
		// No spanning tree, no forwarding delay and no multicast snooping: a dumb switch, as most racks have.
		line("link add %s type bridge stp_state 0 forward_delay 0 mcast_snooping 0", seg.Bridge)
		line("link set %s up", seg.Bridge)
	}
	if s.Topology == Flat {
		// The gateway lives on the switch, so that default routes exist. What goes anywhere else is refused at once.
		line("addr add %s/%d dev %s", LAN.Addr4(Gateway), LAN.V4.Bits(), LAN.Bridge)
		line("addr add %s/%d dev %s nodad", LAN.Addr6(Gateway), LAN.V6.Bits(), LAN.Bridge)
		line("route add unreachable 0.0.0.0/0")
		line("route add unreachable ::/0")
	}
	return b.String()
}

// Cable is the input for «ip -batch» in the switch's namespace that makes one link of h and plugs it in.
func (h Host) Cable(l Link) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("link add %s type veth peer name %s address %s netns %s", l.Port, l.Dev, l.MAC, h.Netns())
	line("link set %s master %s addrgenmode none", l.Port, l.Segment.Bridge)
	line("link set %s up", l.Port)
	return b.String()
}

// HostLinks is the input for «ip -batch» in the namespace of h, once its cables are there.
func (s Settings) HostLinks(h Host) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("link set lo up")
	for _, l := range h.Links {
		line("link set %s up", l.Dev)
		line("addr add %s/%d dev %s", l.V4, l.Segment.V4.Bits(), l.Dev)
		line("addr add %s/%d dev %s nodad", l.V6, l.Segment.V6.Bits(), l.Dev)
	}
	if h.Role == Router {
		line("route add unreachable 0.0.0.0/0")
		line("route add unreachable ::/0")
		return b.String()
	}
	seg := h.Segment()
	line("route add 0.0.0.0/0 via %s", seg.Addr4(Gateway))
	line("route add ::/0 via %s", seg.Addr6(Gateway))
	return b.String()
}
