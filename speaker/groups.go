package speaker

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// groups holds the multicast memberships of one link. They are made by plain
// UDP sockets that never receive anything: the kernel then opens the network
// card's filter and reports the groups to snooping switches (MLD), again after
// each bounce of the link.
//
// One socket holds about 2,340 memberships with today's net.core.optmem_max and
// about 365 with that of older kernels (measured), so there are as many sockets
// as it takes.
type groups struct {
	socket  SocketFunc
	index   int
	sockets []int
	at      map[netip.Addr]int // group → the socket that holds it
}

func newGroups(socket SocketFunc, index int) *groups {
	return &groups{socket: socket, index: index, at: map[netip.Addr]int{}}
}

// join makes the memberships that are missing. It tries all of them and tells
// which failed.
func (g *groups) join(want map[netip.Addr]struct{}) error {
	var errs []error
	for group := range want {
		if _, ok := g.at[group]; !ok {
			if err := g.add(group); err != nil {
				errs = append(errs, fmt.Errorf("join multicast group %v: %w", group, err))
			}
		}
	}
	return errors.Join(errs...)
}

// add tries the sockets there are, the newest first, and then a new one.
func (g *groups) add(group netip.Addr) error {
	for _, fd := range slices.Backward(g.sockets) {
		err := g.membership(fd, unix.IPV6_JOIN_GROUP, group)
		switch {
		case err == nil:
			g.at[group] = fd
			return nil
		case !full(err):
			return err
		}
	}
	fd, err := g.socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open an IPv6 socket: %w", err)
	}
	if err := g.membership(fd, unix.IPV6_JOIN_GROUP, group); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	g.sockets = append(g.sockets, fd)
	g.at[group] = fd
	return nil
}

// full reports whether a socket has no room for another membership.
func full(err error) bool { return errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENOBUFS) }

// leave gives up the memberships that nobody wants any more.
func (g *groups) leave(want map[netip.Addr]struct{}) error {
	var errs []error
	for group, fd := range g.at {
		if _, ok := want[group]; ok {
			continue
		}
		delete(g.at, group)
		// A link that is gone took its memberships with it.
		err := g.membership(fd, unix.IPV6_LEAVE_GROUP, group)
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("leave multicast group %v: %w", group, err))
		}
	}
	return errors.Join(errs...)
}

func (g *groups) membership(fd, option int, group netip.Addr) error {
	return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, option, &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(g.index)})
}

func (g *groups) close() error {
	var errs []error
	for _, fd := range g.sockets {
		errs = append(errs, unix.Close(fd))
	}
	g.sockets, g.at = nil, map[netip.Addr]int{}
	return errors.Join(errs...)
}
