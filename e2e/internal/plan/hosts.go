package plan

import (
	"fmt"
	"net/netip"
	"strings"
)

// Prefix begins the name of every network namespace of the lab.
const Prefix = "clarion-"

// Role is what a host is for.
type Role string

const (
	Switch       Role = "lan"
	ControlPlane Role = "cp"
	Node         Role = "node"
	Client       Role = "client"
	Router       Role = "router"
)

// Segment is a piece of wire that hosts share: one bridge in the switch.
type Segment struct {
	Bridge string
	V4, V6 netip.Prefix
}

// LAN is the segment of every host; Second is the one behind the router.
var (
	LAN    = Segment{Bridge: "br0", V4: netip.MustParsePrefix("192.0.2.0/24"), V6: netip.MustParsePrefix("2001:db8:1::/64")}
	Second = Segment{Bridge: "br1", V4: netip.MustParsePrefix("198.51.100.0/24"), V6: netip.MustParsePrefix("2001:db8:2::/64")}
)

// The cluster's own ranges, as kube-apiserver and kube-controller-manager are told.
var (
	ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd44::/48")}
	ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd96::/112")}
	DNSAddress   = netip.MustParseAddr("10.96.0.10")
)

// Addr4 is the address of host number n on the segment: 11 gives 192.0.2.11.
func (s Segment) Addr4(n int) netip.Addr {
	a := s.V4.Masked().Addr().As4()
	a[3] = byte(n)
	return netip.AddrFrom4(a)
}

// Addr6 is the address whose last group reads as the decimal number n: 11 gives 2001:db8:1::11, not ::b, so that both
// addresses of a host end alike.
func (s Segment) Addr6(n int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("%s%d", s.V6.Masked().Addr(), n))
}

// Gateway is the number of the router, or of the switch where there is no router, on every segment.
const Gateway = 1

// Link is a cable between a host and a port of the switch.
type Link struct {
	Dev     string // the host's end
	Port    string // the switch's end, in clarion-lan
	Segment Segment
	V4, V6  netip.Addr
	MAC     string
}

// Host is a network namespace that stands for a machine.
type Host struct {
	Name  string // node1
	Role  Role
	Links []Link
}

// Netns is the name of the host's network namespace.
func (h Host) Netns() string { return Prefix + h.Name }

// V4 is the host's first IPv4 address, by which others know it.
func (h Host) V4() netip.Addr { return h.Links[0].V4 }

// V6 is the host's first IPv6 address.
func (h Host) V6() netip.Addr { return h.Links[0].V6 }

// Segment is the segment of the host's first link.
func (h Host) Segment() Segment { return h.Links[0].Segment }

// Hosts lists every host of the lab: the switch, the control plane, the nodes, the client, and the router if there is
// one.
func (s Settings) Hosts() []Host {
	hosts := []Host{
		{Name: "lan", Role: Switch},
		{Name: "cp", Role: ControlPlane, Links: []Link{newLink("eth0", "v-cp", LAN, 10)}},
	}
	for i := 1; i <= s.Nodes; i++ {
		segment := LAN
		if s.Topology == Routed && i == s.Nodes {
			segment = Second
		}
		name := fmt.Sprintf("node%d", i)
		hosts = append(hosts, Host{Name: name, Role: Node, Links: []Link{newLink("eth0", "v-"+name, segment, 10+i)}})
	}
	hosts = append(hosts, Host{Name: "client", Role: Client, Links: []Link{newLink("eth0", "v-client", LAN, 100)}})
	if s.Topology == Routed {
		hosts = append(hosts, Host{Name: "router", Role: Router, Links: []Link{
			newLink("eth0", "v-router", LAN, Gateway),
			newLink("eth1", "v-router2", Second, Gateway),
		}})
	}
	return hosts
}

// HostsWith lists the hosts of one role, in order.
func (s Settings) HostsWith(role Role) []Host {
	var found []Host
	for _, h := range s.Hosts() {
		if h.Role == role {
			found = append(found, h)
		}
	}
	return found
}

// Host finds a host by its name, with or without the prefix of its namespace.
func (s Settings) Host(name string) (Host, bool) {
	name = strings.TrimPrefix(name, Prefix)
	for _, h := range s.Hosts() {
		if h.Name == name {
			return h, true
		}
	}
	return Host{}, false
}

func newLink(dev, port string, segment Segment, n int) Link {
	v4 := segment.Addr4(n)
	a := v4.As4()
	return Link{
		Dev: dev, Port: port, Segment: segment, V4: v4, V6: segment.Addr6(n),
		// A locally administered MAC that spells the IPv4 address, so that a capture can be read without a table.
		MAC: fmt.Sprintf("02:c1:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3]),
	}
}
