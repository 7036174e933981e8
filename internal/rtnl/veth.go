package rtnl

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

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

// Await waits until a link that was set up passes packets, and those to its
// addresses are taken in. The kernel does the last steps of both in workers
// that a busy machine delays, and drops what is sent before: the first packet
// of a pod, which then costs it a second.
func (h *Handle) Await(ctx context.Context, index int, addrs ...netip.Addr) error {
	for {
		ready, why, err := h.passes(index, addrs)
		if err != nil {
			return fmt.Errorf("wait for link %d: %w", index, err)
		}
		if ready {
			return nil
		}
		again := time.NewTimer(time.Millisecond)
		select {
		case <-ctx.Done():
			again.Stop()
			return fmt.Errorf("wait for link %d to pass packets, but %s: %w", index, why, context.Cause(ctx))
		case <-again.C:
		}
	}
}

func (h *Handle) passes(index int, addrs []netip.Addr) (ready bool, why string, err error) {
	raw, err := h.handle.LinkByIndex(index)
	if err != nil {
		return false, "", err
	}
	// The state changes in the same step that connects the queue of the link
	// (net/core/link_watch.c, linkwatch_do_dev).
	if state := raw.Attrs().OperState; state != netlink.OperUp {
		return false, "its state is " + state.String(), nil
	}
	for _, a := range addrs {
		// An IPv6 address has its local route only once a worker has seen that it
		// needs no duplicate address detection (net/ipv6/addrconf.c, addrconf_dad_work).
		routes, err := h.handle.RouteGet(ip(a))
		if err != nil && !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EHOSTUNREACH) {
			return false, "", err
		}
		if len(routes) == 0 || routes[0].Type != unix.RTN_LOCAL {
			return false, a.String() + " is not yet local", nil
		}
	}
	return true, "", nil
}
