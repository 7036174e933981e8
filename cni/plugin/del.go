package plugin

import (
	"context"
	"errors"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// del removes what add made, or what is left of it. It needs neither the
// pod's namespace nor the record nor the agent: the host's side has a name
// that follows from the arguments, and with it the far end goes as well.
func (p *Plugin) del(ctx context.Context, args *skel.CmdArgs, conf *Conf) (err error) {
	if conf.Type == TypeLoopback {
		return nil // it goes with the namespace
	}
	k := store.Key{ContainerID: args.ContainerID, IfName: args.IfName}
	if err := k.Validate(); err != nil {
		return fail(types.ErrInvalidEnvironmentVariables, "name the attachment", err)
	}
	host, err := rtnl.OpenHandle()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	s, err := p.openStore(conf)
	if err != nil {
		// The interface goes all the same; the runtime tries again for the address.
		return errors.Join(err, host.DelLink(k.HostIf()))
	}
	return p.remove(ctx, host, s, k)
}

// remove takes down one attachment: first the interface, then the record, so
// that an address is never free while a pod still has it.
func (p *Plugin) remove(ctx context.Context, host *rtnl.Handle, s *store.Store, k store.Key) error {
	// The lock keeps an ADD for the same attachment, whose runtime died, from
	// building on what we are about to take down.
	held, err := s.Take(ctx, k)
	if err != nil {
		return err
	}
	if held == nil {
		err := host.DelLink(k.HostIf())
		p.reached("interface removed")
		return err
	}
	return p.takeDown(ctx, host, s, held)
}

// takeDown removes an attachment whose record is held.
func (p *Plugin) takeDown(ctx context.Context, host *rtnl.Handle, s *store.Store, held *store.Held) error {
	if err := host.DelLink(held.Key().HostIf()); err != nil {
		return errors.Join(err, held.Close())
	}
	p.reached("interface removed")
	if err := p.closePorts(ctx, host, s, held.Sandbox); err != nil {
		return errors.Join(err, held.Close())
	}
	return s.Release(ctx, held)
}
