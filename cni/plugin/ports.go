package plugin

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/clarion-lb/clarion/cni/nat"
	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/conntrack"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/nft"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// openPorts makes the host ports of a pod lead to it. A port that another pod
// has is an error, and nothing is changed.
func (p *Plugin) openPorts(ctx context.Context, host *rtnl.Handle, s *store.Store, a attachment) error {
	if len(a.sandbox.Ports) == 0 {
		return nil
	}
	err := s.Exclusive(ctx, func(records []store.Sandbox) error {
		others, err := finished(host, records, a.key)
		if err != nil {
			return err
		}
		if c := nat.Conflicting(others, a.sandbox); c != nil {
			return failf(CodePortTaken, "%v", c)
		}
		return setPorts(host, append(others, a.sandbox), a.sandbox.Ports)
	})
	if err != nil {
		return err
	}
	p.reached("host ports")
	if _, ok := a.families[ipfam.V4]; ok {
		// Packets from 127.0.0.1 to the pod are otherwise refused as martians. The
		// table, which is there now, guards the loopback against others.
		return host.SetSysctl("net/ipv4/conf/"+a.veth.Name+"/route_localnet", "1")
	}
	return nil
}

// closePorts takes the host ports of a pod away. It is called while the record
// is still there, so that a call that is cut off is made again.
func (p *Plugin) closePorts(ctx context.Context, host *rtnl.Handle, s *store.Store, sb store.Sandbox) error {
	if len(sb.Ports) == 0 {
		return nil
	}
	err := s.Exclusive(ctx, func(records []store.Sandbox) error {
		others, err := finished(host, records, sb.Key())
		if err != nil {
			return err
		}
		return setPorts(host, others, sb.Ports)
	})
	if err == nil {
		p.reached("host ports closed")
	}
	return err
}

// finished returns the records of pods with host ports whose ADD has come to
// its end, but for one.
func finished(host *rtnl.Handle, records []store.Sandbox, but store.Key) (out []store.Sandbox, err error) {
	for _, sb := range records {
		if len(sb.Ports) == 0 || sb.Key() == but {
			continue
		}
		l, err := host.Link(sb.Key().HostIf())
		if errors.Is(err, rtnl.ErrNoLink) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if complete(l) {
			out = append(out, sb)
		}
	}
	return out, nil
}

// setPorts writes the host ports of records and cuts the flows of those that
// changed hands.
func setPorts(host *rtnl.Handle, records []store.Sandbox, touched []store.PortMapping) (err error) {
	c, err := nft.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if _, err := nat.SetPorts(c, records); err != nil {
		return err
	}
	links, err := host.Links()
	if err != nil {
		return err
	}
	local := func(a netip.Addr) bool {
		return slices.ContainsFunc(links, func(l rtnl.Link) bool {
			return slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Addr() == a })
		})
	}
	flows, err := conntrack.Open()
	if err != nil {
		return err
	}
	return errors.Join(nat.Cut(flows, records, touched, local), flows.Close())
}
