package rtnl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
)

// arphrdEther is ARPHRD_ETHER (linux/if_arp.h) as the library spells it.
const arphrdEther = "ether"

// A Reader reads the namespace in which it was opened. It is not safe for
// concurrent use.
type Reader struct{ handle *netlink.Handle }

// Open opens a reader on the network namespace of the calling thread.
func Open() (*Reader, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a route netlink socket: %w", err)
	}
	return &Reader{h}, nil
}

// Close frees the socket.
func (r *Reader) Close() { r.handle.Close() }

// Links returns all links of the namespace by index. A change that happens
// meanwhile is followed by a signal of a Watch, so a torn picture does not
// last.
func (r *Reader) Links() ([]Link, error) {
	raw, err := dump(r.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return r.handle.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var routes []netlink.Route
	for _, f := range []ipfam.Family{ipfam.V4, ipfam.V6} {
		found, err := dump(func() ([]netlink.Route, error) {
			return r.handle.RouteListFiltered(f.AF(), &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list %s routes: %w", f, err)
		}
		routes = append(routes, found...)
	}
	return assemble(raw, addrs, routes), nil
}

// dump repeats a listing that the kernel says was torn by a change.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for range 5 {
		got, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return got, err
		}
	}
	return nil, fmt.Errorf("it changed during each of five attempts: %w", netlink.ErrDumpInterrupted)
}

// assemble puts the three listings together.
func assemble(raw []netlink.Link, addrs []netlink.Addr, routes []netlink.Route) []Link {
	names := map[int]string{}
	for _, l := range raw {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	out := make([]Link, 0, len(raw))
	at := map[int]int{}
	for _, l := range raw {
		a := l.Attrs()
		link := Link{
			Index: a.Index, Name: a.Name, Kind: l.Type(), MTU: a.MTU,
			Ethernet:     a.EncapType == arphrdEther && len(a.HardwareAddr) == len(cluster.MAC{}),
			Up:           a.RawFlags&unix.IFF_UP != 0,
			Carrier:      a.RawFlags&unix.IFF_LOWER_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0,
			Loopback:     a.RawFlags&unix.IFF_LOOPBACK != 0,
			PointToPoint: a.RawFlags&unix.IFF_POINTOPOINT != 0,
			NoARP:        a.RawFlags&unix.IFF_NOARP != 0,
			Master:       names[a.MasterIndex],
		}
		if link.Ethernet {
			link.MAC = cluster.MAC(a.HardwareAddr)
		}
		at[a.Index] = len(out)
		out = append(out, link)
	}
	for _, a := range addrs {
		if i, ok := at[a.LinkIndex]; ok {
			if p, ok := prefix(a.IPNet); ok && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
				out[i].Addrs = append(out[i].Addrs, p)
				out[i].addOnLink(p)
			}
		}
	}
	addRoutes(out, at, routes)
	for i := range out {
		slices.SortFunc(out[i].OnLink, netip.Prefix.Compare)
		out[i].OnLink = slices.Compact(out[i].OnLink)
	}
	slices.SortFunc(out, func(a, b Link) int { return a.Index - b.Index })
	return out
}

// addRoutes fills OnLink and Gateways from the main table.
func addRoutes(links []Link, at map[int]int, routes []netlink.Route) {
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return a.Priority - b.Priority })
	for _, r := range routes {
		hops := r.MultiPath
		if len(hops) == 0 {
			hops = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw, Via: r.Via}}
		}
		for _, hop := range hops {
			i, ok := at[hop.LinkIndex]
			if !ok {
				continue
			}
			gateway, hasGateway := addr(hop.Gw)
			switch {
			case isDefault(r.Dst) && hasGateway:
				if !slices.Contains(links[i].Gateways, gateway) {
					links[i].Gateways = append(links[i].Gateways, gateway)
				}
			case !isDefault(r.Dst) && hop.Gw == nil && hop.Via == nil && (r.Protocol == unix.RTPROT_KERNEL || r.Protocol == unix.RTPROT_RA):
				if p, ok := prefix(r.Dst); ok {
					links[i].addOnLink(p)
				}
			}
		}
	}
}

// addOnLink adds the prefix that p lies in, if neighbours can share it.
func (l *Link) addOnLink(p netip.Prefix) {
	a := p.Addr()
	if p.Bits() < a.BitLen() && p.Bits() > 0 && !a.IsLinkLocalUnicast() && !a.IsMulticast() && !a.IsLoopback() {
		l.OnLink = append(l.OnLink, p.Masked())
	}
}

func isDefault(dst *net.IPNet) bool {
	if dst == nil {
		return true
	}
	ones, _ := dst.Mask.Size()
	return ones == 0
}

func addr(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	return a.Unmap(), ok
}

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := addr(n.IP)
	ones, bits := n.Mask.Size()
	return netip.PrefixFrom(a, ones), ok && bits == a.BitLen()
}
