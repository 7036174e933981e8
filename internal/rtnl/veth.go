package rtnl

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A Veth is a cable between two namespaces.
type Veth struct {
	Name, PeerName string
	MAC, PeerMAC   cluster.MAC // set at creation, so that udev leaves them alone
	MTU            int         // of both ends, bytes
}

// AddVeth makes a cable from the handle's namespace to another one. Both ends
// are down. The far end is made where it belongs, under its own name, so no
// crash leaves one of a temporary name behind. It returns the index of both
// ends. Error: ErrExists when one of the names is taken.
func (h *Handle) AddVeth(v Veth, peer *Handle) (near, far int, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = v.Name, v.MTU, net.HardwareAddr(v.MAC[:])
	link := netlink.NewVeth(attrs)
	link.PeerName, link.PeerMTU, link.PeerHardwareAddr = v.PeerName, uint32(v.MTU), net.HardwareAddr(v.PeerMAC[:])
	link.PeerNamespace = netlink.NsFd(peer.ns)
	if err := h.handle.LinkAdd(link); err != nil {
		if errors.Is(err, unix.EEXIST) {
			err = ErrExists
		}
		return 0, 0, fmt.Errorf("make the cable %s to %s: %w", v.Name, v.PeerName, err)
	}
	for _, end := range []struct {
		*Handle
		name  string
		index *int
	}{{h, v.Name, &near}, {peer, v.PeerName, &far}} {
		raw, err := end.raw(end.name)
		if err != nil {
			return 0, 0, err
		}
		*end.index = raw.Attrs().Index
	}
	return near, far, nil
}
