package plugin

import (
	"context"
	"errors"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/clarion-lb/clarion/internal/rtnl"
)

// status says whether an ADD could succeed now. Code 50 means that it could
// not; 51 does not occur, since pods that have their network keep it.
func (p *Plugin) status(ctx context.Context, _ *skel.CmdArgs, conf *Conf) (err error) {
	if conf.Type == TypeLoopback {
		return nil
	}
	node, err := readNode(conf.DataDir)
	if err != nil {
		return unavailable(err)
	}
	s, err := p.openStore(conf)
	if err != nil {
		return unavailable(err)
	}
	if s.Free(node) == nil {
		return nil
	}
	// An ADD would look for records that nothing stands behind; so must this.
	host, err := rtnl.OpenHandle()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	if _, err := s.Collect(ctx, gone(host)); err != nil {
		return unavailable(err)
	}
	if err := s.Free(node); err != nil {
		return unavailable(err)
	}
	return nil
}

func unavailable(err error) error {
	if e, ok := errors.AsType[*types.Error](err); ok {
		return types.NewError(types.ErrPluginNotAvailable, e.Msg, e.Details)
	}
	return types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
}
