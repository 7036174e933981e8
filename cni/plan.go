// Package cni gives pods their network: the agent's half. It keeps the routes
// between nodes, tells the plugin what it needs to know, and installs it.
// Package cni/plugin is the other half, which runtimes call; the two share
// only files (package cni/store) and what is in the kernel.
//
// Read plan.go (which peer is reached how: pure), then apply.go (into the
// kernel), hygiene.go (what a host must be like), install.go (the plugin's
// files), and agent.go (the loop).
package cni

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// Options are what a user can choose. The zero value is what New makes of it:
// the defaults.
type Options struct {
	VNI     uint32 // of the tunnels; DefaultVNI by default
	Port    uint16 // UDP port of the tunnels; DefaultPort by default
	MTU     int    // of pods, bytes; 0 means from the paths
	DataDir string // where the plugin's state lies; store.DefaultDir by default

	NoMasquerade  bool           // pods keep their address wherever they go
	NonMasquerade []netip.Prefix // where they keep it beside the cluster
}

// The tunnels' defaults. The port is the one of RFC 7348; the identifier is
// our own, so that a flannel or Cilium on the same port is not disturbed.
const (
	DefaultVNI  = 0xc1a0
	DefaultPort = 4789
)

// TunnelPrefix begins the name of our tunnel devices; the family of the outer
// packets follows.
const TunnelPrefix = "clarion-vx"

// RouteTable holds the routes that only the pods of this node use, and
// rulePriority is the place of the rules that lead there: before the main
// table (32766), behind what administrators usually put first.
const (
	RouteTable   = 67
	rulePriority = 30067
)

// A Path says how a peer's pods are reached.
type Path string

// The paths.
const (
	Direct  Path = "direct" // the peer is a neighbour
	Tunnel  Path = "VXLAN"
	Nowhere Path = "none"
)

// A Peer is a node as this one reaches it, for one family of pod addresses.
type Peer struct {
	Node string
	CIDR netip.Prefix
	Path Path
	Via  netip.Addr // the peer's address on the path
	Link string     // the link that packets leave by
	MTU  int        // of the path, bytes
	Why  string     // why there is no path
}

// A Route is a route of ours with the name of its link. The zero Link is that
// of an unreachable route.
type Route struct {
	rtnl.Route
	Dev string
}

// An Entry is a permanent neighbour or forwarding entry with the name of its
// link.
type Entry struct {
	rtnl.Neighbour
	Dev string
}

// A TunnelAddr is an address on a tunnel device.
type TunnelAddr struct {
	Dev string
	rtnl.Address
}

// State is all that Clarion wants in the kernel of a node, apart from what
// belongs to single pods. The zero State is «Off».
type State struct {
	Tunnels   []rtnl.VXLAN
	Addresses []TunnelAddr
	Entries   []Entry
	Routes    []Route
	Rules     []rtnl.Rule
	Node      store.Node // what the plugin is told; MTU 0 when no link is up that says one
	Peers     []Peer
	Problems  []string // sentences for people: what is wrong, and what to do about it
}

// overhead is what a tunnel adds to a packet: the inner Ethernet header, the
// VXLAN and UDP headers, and the outer IP header (RFC 7348 section 5).
var overhead = map[ipfam.Family]int{ipfam.V4: 14 + 8 + 8 + 20, ipfam.V6: 14 + 8 + 8 + 40}

// View is what Plan decides by.
type View struct {
	Nodes map[string]*cluster.Node
	Self  string             // the name of this node
	Links []rtnl.Link        // of this machine
	Paths map[netip.Addr]int // the MTU of the path to a node's address, where it is known to be less than the link's
	Options
}

// Plan decides how a node reaches every other one.
func Plan(v View) State {
	nodes, self := v.Nodes, v.Self
	p := planner{self: nodes[self], links: uplinks(v.Links), paths: v.Paths, opts: v.Options.withDefaults()}
	p.state.Node = store.Node{Version: store.NodeVersion, Name: self}
	if p.self == nil {
		p.state.Node.NotReady = fmt.Sprintf("there is no Node %s in the cluster", self)
		return p.state
	}
	if len(p.self.PodCIDRs) == 0 {
		p.state.Node.NotReady = fmt.Sprintf("the Node %s has no spec.podCIDRs; run kube-controller-manager with --allocate-node-cidrs and --cluster-cidr, or set them", self)
		return p.state
	}
	others := make([]*cluster.Node, 0, len(nodes))
	for name, n := range nodes {
		if name != self && n != nil {
			others = append(others, n)
		}
	}
	slices.SortFunc(others, func(a, b *cluster.Node) int { return strings.Compare(a.Name, b.Name) })
	p.own()
	for _, n := range others {
		p.peer(n)
	}
	p.finish()
	return p.state
}

func (o Options) withDefaults() Options {
	o.VNI = cmp.Or(o.VNI, DefaultVNI)
	o.Port = cmp.Or(o.Port, DefaultPort)
	o.DataDir = cmp.Or(o.DataDir, store.DefaultDir)
	return o
}

// uplinks returns the links that can lead to another machine, by index.
func uplinks(links []rtnl.Link) []rtnl.Link {
	out := slices.DeleteFunc(slices.Clone(links), func(l rtnl.Link) bool { return l.Loopback || !l.Up || ours(l.Name) })
	slices.SortFunc(out, func(a, b rtnl.Link) int { return a.Index - b.Index })
	return out
}

type planner struct {
	self    *cluster.Node
	links   []rtnl.Link
	paths   map[netip.Addr]int
	opts    Options
	state   State
	tunnels map[ipfam.Family]*rtnl.VXLAN
	mtus    []int // of all paths
	claimed []claim
}

// A claim is a pod CIDR with the node it belongs to.
type claim struct {
	netip.Prefix
	node string
}

func (p *planner) problemf(format string, args ...any) {
	p.state.Problems = append(p.state.Problems, fmt.Sprintf(format, args...))
}

// own plans what this node needs for itself.
func (p *planner) own() {
	for _, c := range p.self.PodCIDRs {
		p.claimed = append(p.claimed, claim{c, p.self.Name})
		// A packet to a pod that does not exist is refused here. It would
		// otherwise follow the default route, come back, and go round until its
		// hop limit ends.
		p.state.Routes = append(p.state.Routes, Route{Route: rtnl.Route{Dst: c, Kind: rtnl.Unreachable}})
		// The first address is the node's own end of the tunnels, whether there
		// is one today or not: paths change while pods live.
		p.state.Node.Excluded = append(p.state.Node.Excluded, endpoint(c))
		for _, l := range p.links {
			for _, q := range l.OnLink {
				if c.Overlaps(q) {
					p.problemf("the pod CIDR %s overlaps the network %s that this node has on %s: hosts there are not reached from pods; give the cluster another --cluster-cidr", c, q, l.Name)
				}
			}
		}
	}
	p.state.Node.PodCIDRs = p.self.PodCIDRs
	if l, ok := p.uplink(); ok {
		p.mtus = append(p.mtus, l.MTU)
	}
}

// endpoint is the address in a node's pod CIDR that its end of a tunnel has:
// the first that a host can have.
func endpoint(c netip.Prefix) netip.Addr {
	if c.IsSingleIP() {
		return c.Addr()
	}
	return c.Addr().Next()
}

// uplink returns the link by which the node is known, else one that leads
// further.
func (p *planner) uplink() (rtnl.Link, bool) {
	for _, a := range p.self.Addresses {
		if l, ok := p.linkOf(a); ok {
			return l, true
		}
	}
	for _, l := range p.links {
		if len(l.Gateways) > 0 {
			return l, true
		}
	}
	return rtnl.Link{}, false
}

// linkOf returns the link that has an address.
func (p *planner) linkOf(a netip.Addr) (rtnl.Link, bool) {
	for _, l := range p.links {
		if slices.ContainsFunc(l.Addrs, func(q netip.Prefix) bool { return q.Addr() == a }) {
			return l, true
		}
	}
	return rtnl.Link{}, false
}

// onLink returns the link on which an address is a neighbour: of several, one
// that has its carrier, then the one with the longest prefix, then the first.
func (p *planner) onLink(a netip.Addr) (rtnl.Link, bool) {
	var best rtnl.Link
	bestBits, found := 0, false
	for _, l := range p.links {
		for _, q := range l.OnLink {
			if !q.Contains(a) || l.NoARP {
				continue
			}
			if !found || l.Carrier && !best.Carrier || l.Carrier == best.Carrier && q.Bits() > bestBits {
				best, bestBits, found = l, q.Bits(), true
			}
		}
	}
	return best, found
}

// peer plans how another node's pods are reached.
func (p *planner) peer(n *cluster.Node) {
	for _, c := range n.PodCIDRs {
		if i := slices.IndexFunc(p.claimed, func(q claim) bool { return q.Overlaps(c) }); i >= 0 {
			p.problemf("the pod CIDR %s of node %s overlaps %s of node %s; its pods are not reached until one of the two is recreated with another CIDR",
				c, n.Name, p.claimed[i].Prefix, p.claimed[i].node)
			p.state.Peers = append(p.state.Peers, Peer{Node: n.Name, CIDR: c, Path: Nowhere, Why: "its pod CIDR overlaps another node's"})
			continue
		}
		p.claimed = append(p.claimed, claim{c, n.Name})
		if !slices.ContainsFunc(p.self.PodCIDRs, func(q netip.Prefix) bool { return ipfam.Of(q.Addr()) == ipfam.Of(c.Addr()) }) {
			continue // no pod here has an address of that family
		}
		peer, ok := p.direct(n, c)
		if !ok {
			peer = p.tunnel(n, c)
		}
		p.state.Peers = append(p.state.Peers, peer)
		if peer.Path != Nowhere {
			p.mtus = append(p.mtus, peer.MTU)
		}
	}
}

// direct plans a plain route, if the peer is a neighbour.
func (p *planner) direct(n *cluster.Node, c netip.Prefix) (Peer, bool) {
	for _, a := range n.Addresses {
		if ipfam.Of(a) != ipfam.Of(c.Addr()) {
			continue
		}
		l, ok := p.onLink(a)
		if !ok {
			continue
		}
		p.state.Routes = append(p.state.Routes, Route{rtnl.Route{Dst: c, Via: a}, l.Name})
		return Peer{Node: n.Name, CIDR: c, Path: Direct, Via: a, Link: l.Name, MTU: l.MTU}, true
	}
	return Peer{}, false
}

// tunnel plans a way through a tunnel of the first family of addresses that
// both nodes have.
func (p *planner) tunnel(n *cluster.Node, c netip.Prefix) Peer {
	peer := Peer{Node: n.Name, CIDR: c, Path: Nowhere}
	for _, remote := range n.Addresses {
		outer := ipfam.Of(remote)
		i := slices.IndexFunc(p.self.Addresses, func(a netip.Addr) bool { return ipfam.Of(a) == outer })
		if i < 0 {
			continue
		}
		t := p.device(outer, p.self.Addresses[i], remote)
		if t == nil {
			peer.Why = "no link of this node that is up leads to it"
			continue
		}
		inner := endpoint(c)
		own := p.ownEndpoint(ipfam.Of(inner))
		mac := TunnelMAC(n.Name, outer)
		p.entry(Entry{rtnl.Neighbour{Addr: inner, MAC: mac}, t.Name})
		p.entry(Entry{rtnl.Neighbour{Addr: remote, MAC: mac, Forward: true}, t.Name})
		// IPv6 refuses a next hop that the table shows on another link, as it does
		// while a direct route to the CIDR is still there: hence the first route.
		p.state.Routes = append(p.state.Routes, Route{rtnl.Route{Dst: netip.PrefixFrom(inner, inner.BitLen()), Src: own}, t.Name})
		if !c.IsSingleIP() {
			p.state.Routes = append(p.state.Routes, Route{rtnl.Route{Dst: c, Via: inner, OnLink: true, Src: own}, t.Name})
		}
		// Our pods reach the peer itself by the same way: a router between the
		// nodes knows no pod addresses and may drop packets from them. The node's
		// own packets to the peer stay outside.
		for _, a := range n.Addresses {
			if ipfam.Of(a) == ipfam.Of(inner) {
				p.state.Routes = append(p.state.Routes, Route{rtnl.Route{
					Dst: netip.PrefixFrom(a, a.BitLen()), Table: RouteTable, Via: inner, OnLink: true, Src: own}, t.Name})
			}
		}
		return Peer{Node: n.Name, CIDR: c, Path: Tunnel, Via: remote, Link: t.Name, MTU: t.MTU}
	}
	switch {
	case len(n.Addresses) == 0:
		peer.Why = "the Node has no address of type InternalIP"
	case peer.Why == "":
		peer.Why = "the two nodes have no addresses of one family"
	}
	p.problemf("the pods %s of node %s cannot be reached: %s", c, n.Name, peer.Why)
	return peer
}

func (p *planner) entry(e Entry) {
	if !slices.Contains(p.state.Entries, e) {
		p.state.Entries = append(p.state.Entries, e)
	}
}

func (p *planner) ownEndpoint(f ipfam.Family) netip.Addr {
	for _, c := range p.self.PodCIDRs {
		if ipfam.Of(c.Addr()) == f {
			return endpoint(c)
		}
	}
	return netip.Addr{}
}

// device returns the tunnel of a family of outer addresses, narrow enough for
// the path to a remote end, and nil when no link leads there.
func (p *planner) device(outer ipfam.Family, local, remote netip.Addr) *rtnl.VXLAN {
	l, ok := p.onLink(remote)
	if !ok {
		l, ok = p.toward(outer)
	}
	if !ok {
		l, ok = p.uplink()
	}
	if !ok {
		return nil
	}
	mtu := l.MTU - overhead[outer]
	if path, known := p.paths[remote]; known {
		// Not below what pods need: the node then fragments the outer packets, and
		// nobody who forges complaints can keep pods from starting.
		mtu = min(mtu, max(path-overhead[outer], p.lowestMTU()))
	}
	t := p.tunnels[outer]
	if t == nil {
		if p.tunnels == nil {
			p.tunnels = map[ipfam.Family]*rtnl.VXLAN{}
		}
		t = &rtnl.VXLAN{Name: TunnelName(outer), VNI: p.opts.VNI, Port: p.opts.Port, MAC: TunnelMAC(p.self.Name, outer), MTU: mtu}
		// An address that no link has, such as one that a cloud translates,
		// cannot be a source; the kernel then chooses one by the route.
		if _, ours := p.linkOf(local); ours {
			t.Local = local
		}
		p.tunnels[outer] = t
	}
	t.MTU = min(t.MTU, mtu)
	return t
}

// toward returns the link of the default route of a family.
func (p *planner) toward(f ipfam.Family) (rtnl.Link, bool) {
	for _, l := range p.links {
		if slices.ContainsFunc(l.Gateways, func(g netip.Addr) bool { return ipfam.Of(g) == f }) {
			return l, true
		}
	}
	return rtnl.Link{}, false
}

// TunnelName returns the name of the tunnel device with outer packets of a
// family.
func TunnelName(outer ipfam.Family) string {
	return TunnelPrefix + strings.TrimPrefix(outer.String(), "IPv")
}

// TunnelMAC returns the MAC of a node's tunnel device. It follows from the
// node's name, so that peers know it without being told.
func TunnelMAC(node string, outer ipfam.Family) cluster.MAC {
	sum := sha256.Sum256([]byte(TunnelName(outer) + " " + node))
	m := cluster.MAC(sum[:6])
	m[0] = m[0]&^1 | 2 // locally administered, unicast
	return m
}

// finish plans what depends on all peers.
func (p *planner) finish() {
	var dev string // the first tunnel carries the node's endpoints
	for _, f := range []ipfam.Family{ipfam.V4, ipfam.V6} {
		if t := p.tunnels[f]; t != nil {
			p.state.Tunnels = append(p.state.Tunnels, *t)
			dev = cmp.Or(dev, t.Name)
		}
	}
	if dev != "" {
		for _, c := range p.self.PodCIDRs {
			a := endpoint(c)
			// Quiet, and for IPv4 of the scope of the link: it is a source only where
			// a route names it, never for packets to pods of this node or to others.
			p.state.Addresses = append(p.state.Addresses, TunnelAddr{dev, rtnl.Address{Prefix: netip.PrefixFrom(a, a.BitLen()), Scope: rtnl.ScopeLink, Quiet: true}})
			p.state.Rules = append(p.state.Rules, rtnl.Rule{Priority: rulePriority, From: c, Table: RouteTable})
		}
	}
	p.mtu()
}

// mtu sets what pods get: the smallest of all paths, so that no packet of a
// pod is ever too big for one of them and none depends on an ICMP error that
// somebody may drop.
func (p *planner) mtu() {
	switch {
	case p.opts.MTU != 0:
		p.state.Node.MTU = p.opts.MTU
	case len(p.mtus) == 0:
		return // no link is up: nothing is known, and what pods have is as good as anything
	default:
		p.state.Node.MTU = slices.Min(p.mtus)
	}
	if lowest := p.lowestMTU(); p.state.Node.MTU < lowest {
		p.state.Node.NotReady = fmt.Sprintf("the MTU of the pods would be %d and must be at least %d; raise the MTU of the node's links", p.state.Node.MTU, lowest)
	}
}

// lowestMTU is what the pods' families need: see package store.
func (p *planner) lowestMTU() int {
	if slices.ContainsFunc(p.self.PodCIDRs, func(c netip.Prefix) bool { return c.Addr().Is6() }) {
		return 1280
	}
	return 576
}
