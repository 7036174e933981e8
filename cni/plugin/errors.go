package plugin

import (
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// The error codes of our own (100 and above are the plugin's, CNI
// specification section 5).
const (
	CodeNoAddress  uint = 100 // every address of the node's pod CIDR is in use
	CodeExists     uint = 101 // the container has an interface of that name already
	CodeNotAsAdded uint = 102 // CHECK found a difference
	CodeNodeFile   uint = 103 // the agent's description of the node cannot be used
	CodePortTaken  uint = 104 // another pod of the node has the host port
)

// fail makes an error of the protocol: what was tried, and why it failed.
func fail(code uint, tried string, err error) error {
	return types.NewError(code, tried, err.Error())
}

func failf(code uint, format string, args ...any) error {
	return types.NewError(code, fmt.Sprintf(format, args...), "")
}

// coded gives an error the code that the runtime can act on.
func coded(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*types.Error](err); ok {
		return e
	}
	code := types.ErrInternal
	_, full := errors.AsType[*store.Exhausted](err)
	switch {
	case full:
		code = CodeNoAddress
	case errors.Is(err, store.ErrBusy):
		code = types.ErrTryAgainLater
	case errors.Is(err, rtnl.ErrNoNS), errors.Is(err, rtnl.ErrNotNS):
		code = types.ErrInvalidNetNS
	case isDisk(err):
		code = types.ErrIOFailure
	}
	return types.NewError(code, err.Error(), "")
}
