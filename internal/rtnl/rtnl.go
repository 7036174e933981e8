// Package rtnl reads the links, addresses and default routes of one network
// namespace as plain values, and tells when they change. It owns the library
// vishvananda/netlink: nobody else imports it.
//
// Read rtnl.go (the values), usable.go (which links can carry VIPs), read.go
// (from the kernel to values), watch.go (changes).
package rtnl

import (
	"net/netip"
	"slices"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A Link is a network interface as the kernel describes it.
type Link struct {
	Index int
	Name  string
	Kind  string // "veth", "bridge", "bond", …; "device" for hardware
	MAC   cluster.MAC
	MTU   int // bytes

	Ethernet     bool // frames carry 48-bit MAC addresses (ARPHRD_ETHER)
	Up           bool // set up by the administrator (IFF_UP)
	Carrier      bool // it can pass frames now (IFF_LOWER_UP and IFF_RUNNING)
	Loopback     bool
	PointToPoint bool
	NoARP        bool   // IFF_NOARP: neighbours are not resolved on it
	Master       string // the bridge, bond or VRF that it belongs to; empty for none

	Addrs []netip.Prefix // the link's own addresses with the length of their prefix
	// OnLink holds the prefixes whose addresses are neighbours on this link:
	// those of the addresses, and routes without a gateway that the kernel or a
	// router advertisement made (DHCPv6 gives a /128 beside such a route).
	// Masked, in order, without link-local and host prefixes.
	OnLink []netip.Prefix
	// Gateways are the next hops of the default routes through this link, the
	// preferred one first.
	Gateways []netip.Addr
}

// Equal reports whether l and o say the same.
func (l Link) Equal(o Link) bool {
	return slices.Equal(l.Addrs, o.Addrs) && slices.Equal(l.OnLink, o.OnLink) && slices.Equal(l.Gateways, o.Gateways) &&
		l.scalars() == o.scalars()
}

type scalars struct {
	index, mtu                                                int
	name, kind, master                                        string
	mac                                                       cluster.MAC
	ethernet, up, carrier, loopback, pointToPoint, withoutARP bool
}

func (l Link) scalars() scalars {
	return scalars{l.Index, l.MTU, l.Name, l.Kind, l.Master, l.MAC, l.Ethernet, l.Up, l.Carrier, l.Loopback, l.PointToPoint, l.NoARP}
}
