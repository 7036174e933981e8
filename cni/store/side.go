package store

import (
	"net/netip"

	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// Gateway returns the address of a family on the host's side of every pod's
// interface, the same for all: a pod has no other neighbour. The IPv4 one has
// the scope of the host, so that it is never chosen as the source of the
// host's own packets to a pod; it answers ARP all the same. Proxy ARP would
// not do: it answers only while the host has a route to the address.
func Gateway(f ipfam.Family) rtnl.Address {
	if f == ipfam.V4 {
		return rtnl.Address{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254, 1, 1}), 32), Scope: rtnl.ScopeHost}
	}
	return rtnl.Address{Prefix: netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: 1}), 64)}
}

// HostRoute is the host's route to a pod that is behind the link with the
// given index.
func HostRoute(pod netip.Addr, index int) rtnl.Route {
	return rtnl.Route{Dst: netip.PrefixFrom(pod, pod.BitLen()), Link: index}
}
