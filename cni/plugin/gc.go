package plugin

import (
	"context"
	"errors"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// gc removes the attachments of this network that the runtime does not name as
// valid, and the records that nothing stands behind. It goes on over errors
// and reports them together.
func (p *Plugin) gc(ctx context.Context, _ *skel.CmdArgs, conf *Conf) (err error) {
	if conf.Type == TypeLoopback {
		return nil
	}
	if !conf.HasValid {
		// To take a missing list for an empty one would end the network of every
		// pod on the node.
		return failf(types.ErrInvalidNetworkConfig, "cni.dev/valid-attachments: GC needs the list of valid attachments, and there is none")
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
	valid := map[store.Key]bool{}
	for _, a := range conf.ValidAttachments {
		valid[store.Key{ContainerID: a.ContainerID, IfName: a.IfName}] = true
	}
	all, err := s.List()
	if err != nil {
		return err
	}
	var errs []error
	for _, sb := range all {
		// A record that cannot be read belongs to no known network: only Collect
		// may remove it, and only when nothing stands behind it.
		if sb.Network == conf.Name && !valid[sb.Key()] {
			errs = append(errs, p.remove(ctx, host, s, sb.Key()))
		}
	}
	_, err = s.Collect(ctx, gone(host))
	return errors.Join(append(errs, err)...)
}
