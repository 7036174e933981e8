package plugin

import (
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/clarion-lb/clarion/internal/rtnl"
)

// containerd asks for the loopback of a pod in a network of its own, of the
// type "loopback", and without a plugin of that name no pod starts. On a bare
// machine Clarion brings it along.

const lo = "lo"

func (p *Plugin) addLoopback(pod *rtnl.Handle, args *skel.CmdArgs, conf *Conf) error {
	l, err := pod.Link(lo)
	if err != nil {
		return err
	}
	if err := pod.SetUp(l.Index); err != nil {
		return err
	}
	r := conf.Prev
	if r == nil {
		if l, err = pod.Link(lo); err != nil {
			return err
		}
		r = &current.Result{CNIVersion: current.ImplementedSpecVersion,
			Interfaces: []*current.Interface{{Name: lo, Mac: net.HardwareAddr(make([]byte, 6)).String(), Sandbox: args.Netns}}}
		for _, a := range l.Addrs {
			r.IPs = append(r.IPs, &current.IPConfig{Interface: current.Int(0),
				Address: net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}})
		}
	}
	return p.print(r, conf)
}

func checkLoopback(pod *rtnl.Handle) error {
	l, err := pod.Link(lo)
	if err != nil {
		return err
	}
	if !l.Up || !slices.Contains(l.Addrs, netip.MustParsePrefix("127.0.0.1/8")) {
		return failf(CodeNotAsAdded, "the pod's loopback is not up")
	}
	return nil
}
