package rtnl

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/ipfam"
)

// Protocol is the number by which the routes and rules that Clarion makes are
// told from everybody else's (rtnetlink(7), rtm_protocol). Nothing is known
// to use it.
const Protocol = 67

// A Kind says what a route does with a packet.
type Kind uint8

// The kinds in use. The zero value forwards.
const (
	Unicast     Kind = iota
	Unreachable      // answers with an ICMP error
)

// A Route is a route of ours. It is comparable: two equal routes are one.
type Route struct {
	Dst    netip.Prefix // the whole of a family for a default route
	Kind   Kind
	Table  int        // 0 is the main table
	Link   int        // index; 0 for an unreachable route
	Via    netip.Addr // next hop; the zero Addr means that the destination is on the link
	OnLink bool       // the next hop is on the link although no prefix says so
	Src    netip.Addr // the source that the node's own packets get; the zero Addr leaves it to the kernel
	MTU    int        // of the path, bytes; 0 is the link's
	Metric int
}

func (r Route) String() string {
	s := r.Dst.String()
	if r.Kind == Unreachable {
		s = "unreachable " + s
	}
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	return fmt.Sprintf("%s dev %d table %d", s, r.Link, r.Table)
}

// Key names the place in the table that a route takes. A route with the same
// key is replaced in one step.
func (r Route) Key() RouteKey { return RouteKey{r.Dst, r.Table, r.Metric} }

// A RouteKey is the identity of a route in the kernel.
type RouteKey struct {
	Dst    netip.Prefix
	Table  int
	Metric int
}

// ErrForeign says that somebody else's route has the place of ours.
var ErrForeign = errors.New("a route that somebody else made is in its place")

// SetRoute adds a route or replaces the one of ours with the same key. A route
// of somebody else is left alone; the error is ErrForeign then.
func (h *Handle) SetRoute(r Route) error {
	err := h.handle.RouteAdd(r.netlink())
	if errors.Is(err, unix.EEXIST) {
		err = h.replaceRoute(r)
	}
	if err != nil {
		return fmt.Errorf("set route %s: %w", r, err)
	}
	return nil
}

// replaceRoute replaces a route in one step, so that no packet finds none.
func (h *Handle) replaceRoute(r Route) error {
	ours, err := h.Routes()
	if err != nil {
		return err
	}
	for _, have := range ours {
		if have == r {
			return nil
		}
		if have.Key() == r.Key() {
			return h.handle.RouteReplace(r.netlink())
		}
	}
	return ErrForeign
}

// DelRoute removes a route of ours.
func (h *Handle) DelRoute(r Route) error {
	err := h.handle.RouteDel(r.netlink())
	if err != nil && !errors.Is(err, unix.ESRCH) && !notFound(err) {
		return fmt.Errorf("delete route %s: %w", r, err)
	}
	return nil
}

func (r Route) netlink() *netlink.Route {
	n := &netlink.Route{
		Dst: ipNet(r.Dst), Table: r.Table, LinkIndex: r.Link, Gw: ip(r.Via), Src: ip(r.Src),
		MTU: r.MTU, Priority: r.Metric, Protocol: Protocol, Family: ipfam.Of(r.Dst.Addr()).AF(),
	}
	switch {
	case r.Kind == Unreachable:
		n.Type = unix.RTN_UNREACHABLE
	case !r.Via.IsValid():
		n.Scope = unix.RT_SCOPE_LINK
	}
	if r.OnLink {
		n.Flags = unix.RTNH_F_ONLINK
	}
	return n
}

// Routes returns the routes of all tables that carry our protocol number.
func (h *Handle) Routes() ([]Route, error) {
	var out []Route
	for _, f := range []ipfam.Family{ipfam.V4, ipfam.V6} {
		raw, err := dump(func() ([]netlink.Route, error) {
			// Table 0 with the table filter means all tables.
			return h.handle.RouteListFiltered(f.AF(), &netlink.Route{Protocol: Protocol}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list %s routes of protocol %d: %w", f, Protocol, err)
		}
		for _, n := range raw {
			if r, ok := fromNetlink(n, f); ok {
				out = append(out, r)
			}
		}
	}
	return out, nil
}

// unsetMetric is the metric that IPv6 gives a route that names none
// (IP6_RT_PRIO_USER, include/net/ip6_route.h).
const unsetMetric = 1024

func fromNetlink(n netlink.Route, f ipfam.Family) (Route, bool) {
	r := Route{Link: n.LinkIndex, Table: n.Table, MTU: n.MTU, Metric: n.Priority, OnLink: n.Flags&unix.RTNH_F_ONLINK != 0}
	if r.Table == unix.RT_TABLE_MAIN {
		r.Table = 0
	}
	if f == ipfam.V6 && r.Metric == unsetMetric {
		r.Metric = 0
	}
	switch n.Type {
	case unix.RTN_UNREACHABLE:
		r.Kind = Unreachable
		r.Link = 0 // IPv6 shows lo
	case unix.RTN_UNICAST:
	default:
		return Route{}, false // we make none of this kind
	}
	var ok bool
	if r.Dst, ok = prefix(n.Dst); !ok {
		if n.Dst != nil {
			return Route{}, false
		}
		r.Dst = Default(f)
	}
	r.Via, _ = addr(n.Gw)
	r.Src, _ = addr(n.Src)
	return r, true
}

// Default returns the prefix of a default route.
func Default(f ipfam.Family) netip.Prefix {
	if f == ipfam.V4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// PathMTU returns the MTU, in bytes, that the kernel has learned for the path
// to an address from somebody's complaint (RFC 8201), and 0 when it has
// learned none.
func (h *Handle) PathMTU(to netip.Addr) (int, error) {
	routes, err := h.handle.RouteGet(ip(to))
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look up the route to %s: %w", to, err)
	}
	if len(routes) == 0 {
		return 0, nil
	}
	return routes[0].MTU, nil
}
