package plugin

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// AliasPrefix begins the alias of a host's side that is complete. It is set
// last: an interface without it is what a killed ADD left.
const AliasPrefix = "clarion pod "

// loopbackIndex is the index of lo in every namespace (LOOPBACK_IFINDEX,
// include/net/flow.h).
const loopbackIndex = 1

// An attachment is everything that ADD decides before it touches the kernel.
type attachment struct {
	key      store.Key
	sandbox  store.Sandbox
	mtu      int
	veth     rtnl.Veth
	families map[ipfam.Family]netip.Addr // the pod's addresses
}

func plan(sb store.Sandbox, mtu int) attachment {
	k := sb.Key()
	a := attachment{key: k, sandbox: sb, mtu: mtu, families: map[ipfam.Family]netip.Addr{}}
	a.veth = rtnl.Veth{
		Name: k.HostIf(), PeerName: k.IfName, MTU: mtu,
		MAC: macOf(k, "host"), PeerMAC: macOf(k, "pod"),
	}
	for _, addr := range sb.Addresses {
		a.families[ipfam.Of(addr)] = addr
	}
	return a
}

// macOf derives a locally administered unicast address (IEEE 802 section 8.2)
// that is the same for every repeat.
func macOf(k store.Key, side string) cluster.MAC {
	sum := sha256.Sum256([]byte(side + " " + k.String()))
	m := cluster.MAC(sum[:6])
	m[0] = m[0]&^1 | 2
	return m
}

// linkLocal is the IPv6 link-local address that goes with a MAC (RFC 4291
// appendix A).
func linkLocal(m cluster.MAC) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80,
		8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]}), 64)
}

func (p *Plugin) add(ctx context.Context, args *skel.CmdArgs, conf *Conf) (err error) {
	pod, err := openPod(args.Netns)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pod.Close()) }()
	if conf.Type == TypeLoopback {
		return p.addLoopback(pod, args, conf)
	}
	node, err := readNode(conf.DataDir)
	if err != nil {
		return err
	}
	host, err := rtnl.OpenHandle()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	k := store.Key{ContainerID: args.ContainerID, IfName: args.IfName}
	if err := k.Validate(); err != nil {
		return fail(types.ErrInvalidEnvironmentVariables, "name the attachment", err)
	}
	s, err := p.openStore(conf)
	if err != nil {
		return err
	}
	if err := free(host, pod, k); err != nil {
		return err
	}
	held, err := s.Reserve(ctx, node, store.Sandbox{
		ContainerID: args.ContainerID, IfName: args.IfName, Network: conf.Name, Netns: args.Netns,
		Pod: podName(args.Args), Ports: conf.Ports, Bandwidth: conf.Bandwidth,
	}, gone(host))
	if err != nil {
		return err
	}
	a := plan(held.Sandbox, node.MTU)
	if err := p.attach(ctx, host, pod, s, a); err != nil {
		return errors.Join(err, p.takeDown(ctx, host, s, held)) // nothing half done
	}
	if err := held.Close(); err != nil {
		return err
	}
	return p.print(result(a, args.Netns, conf.Prev), conf)
}

// openPod opens the pod's namespace and refuses the plugin's own.
func openPod(path string) (*rtnl.Handle, error) {
	pod, err := rtnl.OpenAt(path)
	if err != nil {
		return nil, err
	}
	same, err := pod.IsHere()
	if err == nil && same {
		err = failf(types.ErrInvalidNetNS, "CNI_NETNS %s is the host's own network namespace; a pod with hostNetwork needs no plugin", path)
	}
	if err != nil {
		return nil, errors.Join(err, pod.Close())
	}
	return pod, nil
}

// free makes sure that the pod has no interface of the wanted name. What a
// killed ADD left behind is removed. What a finished ADD made stays, and so
// does what is not ours: the specification demands an error for both.
func free(host, pod *rtnl.Handle, k store.Key) error {
	_, err := pod.Link(k.IfName)
	taken := err == nil
	if err != nil && !errors.Is(err, rtnl.ErrNoLink) {
		return err
	}
	near, err := host.Link(k.HostIf())
	switch {
	case errors.Is(err, rtnl.ErrNoLink) && !taken:
		return nil
	case errors.Is(err, rtnl.ErrNoLink):
		return failf(CodeExists, "the container already has an interface %s, and it is not one that Clarion made for it", k.IfName)
	case err != nil:
		return err
	case complete(near) && taken:
		return failf(CodeExists, "the container already has the interface %s from an earlier ADD; DEL must come first", k.IfName)
	}
	return host.DelLink(k.HostIf())
}

// gone returns a function that reports whether nothing stands behind a record
// any more: the kernel removes both ends of a cable with either namespace, and
// an ADD that has not yet made its cable holds the lock on its record.
func gone(host *rtnl.Handle) func(store.Sandbox) (bool, error) {
	return func(sb store.Sandbox) (bool, error) {
		_, err := host.Link(sb.Key().HostIf())
		if errors.Is(err, rtnl.ErrNoLink) {
			return true, nil
		}
		return false, err
	}
}

// attach makes the cable and everything that goes with it. The alias of the
// host's side comes last and says that all is done.
func (p *Plugin) attach(ctx context.Context, host, pod *rtnl.Handle, s *store.Store, a attachment) error {
	near, far, err := host.AddVeth(a.veth, pod)
	if err != nil {
		return err
	}
	p.reached("cable")
	if err := shape(host, pod, near, far, a); err != nil {
		return err
	}
	if err := p.buildPod(pod, far, a); err != nil {
		return fmt.Errorf("in the pod: %w", err)
	}
	if err := p.buildHost(host, near, a); err != nil {
		return fmt.Errorf("on the host: %w", err)
	}
	if err := p.openPorts(ctx, host, s, a); err != nil {
		return err
	}
	if err := errors.Join(pod.Await(ctx, far, a.sandbox.Addresses...), host.Await(ctx, near)); err != nil {
		return err
	}
	if err := host.SetAlias(near, alias(a.sandbox)); err != nil {
		return err
	}
	p.reached("alias")
	return nil
}

// shape limits the traffic of a pod. What goes to the pod waits at the host's
// side of the cable, what comes from it at its own: in both cases at the end
// that sends, so that nothing is dropped that could wait.
func shape(host, pod *rtnl.Handle, near, far int, a attachment) error {
	b := a.sandbox.Bandwidth
	if b.IngressRate > 0 {
		if err := host.Limit(near, b.IngressRate, b.IngressBurst, a.mtu); err != nil {
			return fmt.Errorf("limit what goes to the pod: %w", err)
		}
	}
	if b.EgressRate > 0 {
		if err := pod.Limit(far, b.EgressRate, b.EgressBurst, a.mtu); err != nil {
			return fmt.Errorf("limit what comes from the pod: %w", err)
		}
	}
	return nil
}

func (p *Plugin) buildPod(pod *rtnl.Handle, index int, a attachment) error {
	v6, hasV6 := a.families[ipfam.V6]
	if hasV6 {
		if err := enableIPv6(pod, a.key.IfName); err != nil {
			return err
		}
		if err := pod.NoAutoAddr(index); err != nil {
			return err
		}
		// Given by hand, it needs no duplicate address detection, which would
		// keep the pod from sending for a second.
		if err := pod.AddAddr(index, rtnl.Address{Prefix: linkLocal(a.veth.PeerMAC)}); err != nil {
			return err
		}
		if err := pod.AddAddr(index, rtnl.Address{Prefix: netip.PrefixFrom(v6, v6.BitLen())}); err != nil {
			return err
		}
	}
	if v4, ok := a.families[ipfam.V4]; ok {
		if err := pod.AddAddr(index, rtnl.Address{Prefix: netip.PrefixFrom(v4, v4.BitLen())}); err != nil {
			return err
		}
	}
	p.reached("pod addresses")
	// Runtimes set the loopback up by themselves or by a plugin of their own; a
	// pod reaches itself under its own address only through it.
	for _, i := range []int{loopbackIndex, index} {
		if err := pod.SetUp(i); err != nil {
			return err
		}
	}
	p.reached("pod up")
	// Neither side ever has to ask for the other's MAC, which it knows: no first
	// packet waits or is lost over it, and no table of neighbours overflows.
	for f := range a.families {
		if err := pod.SetNeighbour(rtnl.Neighbour{Link: index, Addr: store.Gateway(f).Addr(), MAC: a.veth.MAC}); err != nil {
			return err
		}
	}
	p.reached("pod neighbours")
	metric, err := freeMetric(pod, index)
	if err != nil {
		return err
	}
	for _, r := range podRoutes(a, index) {
		r.Metric = metric
		if err := pod.SetRoute(r); err != nil {
			return err
		}
		p.reached("pod route " + r.Dst.String())
	}
	return nil
}

// freeMetric returns the metric for the pod's routes: none for the first
// interface, and one of its own for each further interface, whose routes then
// stand behind the first one's instead of replacing them.
func freeMetric(pod *rtnl.Handle, index int) (int, error) {
	links, err := pod.Links()
	if err != nil {
		return 0, err
	}
	for _, l := range links {
		if l.Index != index && len(l.Gateways) > 0 {
			return 1000 + index, nil
		}
	}
	return 0, nil
}

// podRoutes are the routes inside the pod: everything goes to the gateway.
func podRoutes(a attachment, index int) []rtnl.Route {
	var routes []rtnl.Route
	for _, f := range []ipfam.Family{ipfam.V4, ipfam.V6} {
		if _, ok := a.families[f]; !ok {
			continue
		}
		gw := store.Gateway(f).Addr()
		if f == ipfam.V4 { // link-local IPv6 is on every link anyway
			routes = append(routes, rtnl.Route{Dst: netip.PrefixFrom(gw, gw.BitLen()), Link: index})
		}
		routes = append(routes, rtnl.Route{Dst: rtnl.Default(f), Via: gw, Link: index})
	}
	return routes
}

func (p *Plugin) buildHost(host *rtnl.Handle, index int, a attachment) error {
	if _, ok := a.families[ipfam.V6]; ok {
		if err := enableIPv6(host, a.veth.Name); err != nil {
			return err
		}
		if err := host.NoAutoAddr(index); err != nil {
			return err
		}
		// A pod must not be able to give the host routes by advertising itself
		// as a router.
		if err := host.SetSysctl("net/ipv6/conf/"+a.veth.Name+"/accept_ra", "0"); err != nil {
			return err
		}
	}
	for f := range a.families {
		if err := host.AddAddr(index, store.Gateway(f)); err != nil {
			return err
		}
	}
	p.reached("host addresses")
	if err := host.SetUp(index); err != nil {
		return err
	}
	p.reached("host up")
	for _, addr := range a.sandbox.Addresses {
		if err := host.SetRoute(store.HostRoute(addr, index)); err != nil {
			return err
		}
		if err := host.SetNeighbour(rtnl.Neighbour{Link: index, Addr: addr, MAC: a.veth.PeerMAC}); err != nil {
			return err
		}
		p.reached("host route " + ipfam.Of(addr).String())
	}
	return nil
}

func alias(sb store.Sandbox) string {
	what := sb.Pod
	if what == "" {
		what = sb.Key().String()
	}
	return AliasPrefix + what
}

func complete(l rtnl.Interface) bool { return l.Alias != "" }

// enableIPv6 undoes a default of the host or the runtime that switches IPv6
// off on new links: the cluster gave the pod an IPv6 address.
func enableIPv6(h *rtnl.Handle, link string) error {
	return h.SetSysctl("net/ipv6/conf/"+link+"/disable_ipv6", "0")
}

// result tells the runtime what ADD made, after what earlier plugins of the
// chain made.
func result(a attachment, netns string, prev *current.Result) *current.Result {
	r := &current.Result{CNIVersion: current.ImplementedSpecVersion}
	if prev != nil {
		r.Interfaces, r.IPs, r.Routes, r.DNS = prev.Interfaces, prev.IPs, prev.Routes, prev.DNS
	}
	mac := func(m cluster.MAC) string { return net.HardwareAddr(m[:]).String() }
	r.Interfaces = append(r.Interfaces,
		&current.Interface{Name: a.veth.Name, Mac: mac(a.veth.MAC), Mtu: a.mtu},
		&current.Interface{Name: a.veth.PeerName, Mac: mac(a.veth.PeerMAC), Mtu: a.mtu, Sandbox: netns})
	inPod := len(r.Interfaces) - 1
	for _, addr := range a.sandbox.Addresses {
		gw := store.Gateway(ipfam.Of(addr)).Addr()
		r.IPs = append(r.IPs, &current.IPConfig{
			Interface: current.Int(inPod), Gateway: gw.AsSlice(),
			Address: net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())},
		})
		r.Routes = append(r.Routes, &types.Route{
			Dst: net.IPNet{IP: rtnl.Default(ipfam.Of(addr)).Addr().AsSlice(), Mask: net.CIDRMask(0, addr.BitLen())}, GW: gw.AsSlice(),
		})
	}
	return r
}

func (p *Plugin) print(r *current.Result, conf *Conf) error {
	as, err := r.GetAsVersion(conf.CNIVersion)
	if err != nil {
		return fail(types.ErrIncompatibleCNIVersion, "put the result in the form of version "+conf.CNIVersion, err)
	}
	if err := as.PrintTo(p.Stdout); err != nil {
		return fail(types.ErrIOFailure, "write the result", err)
	}
	return nil
}
