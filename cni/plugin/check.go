package plugin

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// check compares what ADD made with what is there. It names every difference.
// Routes inside the pod are compared only when prevResult still lists them,
// since later plugins of the chain may change them.
func (p *Plugin) check(ctx context.Context, args *skel.CmdArgs, conf *Conf) (err error) {
	if conf.Prev == nil {
		return failf(types.ErrInvalidNetworkConfig, "prevResult: CHECK needs the result of the ADD, and there is none")
	}
	pod, err := openPod(args.Netns)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pod.Close()) }()
	if conf.Type == TypeLoopback {
		return checkLoopback(pod)
	}
	host, err := rtnl.OpenHandle()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	s, err := p.openStore(conf)
	if err != nil {
		return err
	}
	k := store.Key{ContainerID: args.ContainerID, IfName: args.IfName}
	held, err := s.Take(ctx, k)
	if err != nil {
		return err
	}
	if held == nil {
		return failf(CodeNotAsAdded, "no address is reserved for %s: it was never added here, or was deleted", k)
	}
	whole, err := s.Whole(held)
	if err = errors.Join(err, held.Close()); err != nil {
		return err
	}
	var wrong []error
	if !whole {
		wrong = append(wrong, fmt.Errorf("the record of %s does not hold its addresses %v", k, held.Addresses))
	}
	a := plan(held.Sandbox, 0)
	wrong = append(wrong, checkResult(a, conf.Prev)...)
	more, err := checkHost(host, a)
	wrong = append(wrong, more...)
	if err == nil {
		more, err = checkPod(pod, a, conf.Prev)
		wrong = append(wrong, more...)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(wrong...); err != nil {
		return fail(CodeNotAsAdded, "the network of "+k.String()+" is not as it was added", err)
	}
	return nil
}

// checkResult compares our record with what the runtime remembers.
func checkResult(a attachment, prev *current.Result) (wrong []error) {
	if !slices.ContainsFunc(prev.Interfaces, func(i *current.Interface) bool { return i.Name == a.key.IfName && i.Sandbox != "" }) {
		wrong = append(wrong, fmt.Errorf("prevResult has no interface %s in the container", a.key.IfName))
	}
	for _, addr := range a.sandbox.Addresses {
		if !slices.ContainsFunc(prev.IPs, func(c *current.IPConfig) bool { return c.Address.IP.Equal(addr.AsSlice()) }) {
			wrong = append(wrong, fmt.Errorf("prevResult lacks the address %s that is reserved for the pod", addr))
		}
	}
	return wrong
}

func checkHost(host *rtnl.Handle, a attachment) (wrong []error, err error) {
	l, err := host.Link(a.veth.Name)
	if errors.Is(err, rtnl.ErrNoLink) {
		return []error{fmt.Errorf("the host has no interface %s", a.veth.Name)}, nil
	}
	if err != nil {
		return nil, err
	}
	if !l.Up {
		wrong = append(wrong, fmt.Errorf("%s is down on the host", l.Name))
	}
	if !complete(l) {
		wrong = append(wrong, fmt.Errorf("%s was never finished: the ADD was cut off", l.Name))
	}
	routes, err := host.Routes()
	if err != nil {
		return wrong, err
	}
	for _, addr := range a.sandbox.Addresses {
		if gw := store.Gateway(ipfam.Of(addr)); !slices.Contains(l.Addrs, gw.Prefix) {
			wrong = append(wrong, fmt.Errorf("%s lacks the gateway address %s on the host", l.Name, gw.Addr()))
		}
		if !slices.Contains(routes, store.HostRoute(addr, l.Index)) {
			wrong = append(wrong, fmt.Errorf("the host has no route to %s through %s", addr, l.Name))
		}
	}
	return wrong, nil
}

func checkPod(pod *rtnl.Handle, a attachment, prev *current.Result) (wrong []error, err error) {
	l, err := pod.Link(a.key.IfName)
	if errors.Is(err, rtnl.ErrNoLink) {
		return []error{fmt.Errorf("the pod has no interface %s", a.key.IfName)}, nil
	}
	if err != nil {
		return nil, err
	}
	if l.MAC != a.veth.PeerMAC || l.Kind != "veth" {
		wrong = append(wrong, fmt.Errorf("%s in the pod is not the interface that was added", l.Name))
	}
	if !l.Up {
		wrong = append(wrong, fmt.Errorf("%s is down in the pod", l.Name))
	}
	routes, err := pod.Routes()
	if err != nil {
		return wrong, err
	}
	for i := range routes {
		routes[i].Metric = 0 // freeMetric chose it by what was there at that time
	}
	for _, addr := range a.sandbox.Addresses {
		if !slices.Contains(l.Addrs, netip.PrefixFrom(addr, addr.BitLen())) {
			wrong = append(wrong, fmt.Errorf("%s in the pod lacks the address %s", l.Name, addr))
		}
	}
	for _, r := range podRoutes(a, l.Index) {
		listed := slices.ContainsFunc(prev.Routes, func(t *types.Route) bool {
			ones, bits := t.Dst.Mask.Size()
			return r.Via.IsValid() && ones == r.Dst.Bits() && bits == r.Dst.Addr().BitLen() && t.GW.Equal(r.Via.AsSlice())
		})
		if listed && !slices.Contains(routes, r) {
			wrong = append(wrong, fmt.Errorf("the pod has no route to %s by %s through %s", r.Dst, r.Via, l.Name))
		}
	}
	return wrong, nil
}
