// Package plugin is the CNI plugin: it gives a pod an interface and takes it
// away again (CNI specification 1.1.0). It is short-lived, needs no agent, and
// may be killed at any instant.
//
// Read conf.go (what the runtime says), add.go and del.go (the two that do the
// work), then check.go, gc.go and status.go.
package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/clarion-lb/clarion/cni/store"
)

// About is what a person sees who runs the plugin by hand.
const About = "clarion-cni gives pods their network; container runtimes run it (CNI)."

// patience bounds how long a call waits for another one that works on the
// same thing. Runtimes give up on a plugin after minutes; this is sooner, so
// that the reason is told.
const patience = 20 * time.Second

// A Plugin is one call of the plugin.
type Plugin struct {
	Stdout io.Writer

	// Reached, when set, is called after each step that changed something.
	// Tests die in it.
	Reached func(step string)

	version string // of the protocol, once known
}

func (p *Plugin) reached(step string) {
	if p.Reached != nil {
		p.Reached(step)
	}
}

// Run does what the environment and stdin ask for (CNI specification section
// 2) and returns the exit code. The result or the error is on Stdout.
func (p *Plugin) Run(ctx context.Context) int {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("it did not end within "+patience.String()))
	defer cancel()
	verb := func(do func(context.Context, *skel.CmdArgs, *Conf) error) func(*skel.CmdArgs) error {
		return func(args *skel.CmdArgs) error {
			conf, err := ParseConf(args.StdinData)
			if err != nil {
				return err
			}
			p.version = conf.CNIVersion
			return coded(do(ctx, args, conf))
		}
	}
	failed := skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add: verb(p.add), Del: verb(p.del), Check: verb(p.check), GC: verb(p.gc), Status: verb(p.status),
	}, version.All, About)
	if failed == nil {
		return 0
	}
	// An error that cannot be told changes nothing about the exit code.
	_ = p.tell(failed)
	return 1
}

// tell writes the error as section 5 of the specification wants it: with the
// version, which the library's own Print leaves out.
func (p *Plugin) tell(e *types.Error) error {
	if p.version == "" {
		p.version = version.Current()
	}
	enc := json.NewEncoder(p.Stdout)
	enc.SetIndent("", "    ")
	return enc.Encode(struct {
		CNIVersion string `json:"cniVersion"`
		*types.Error
	}{p.version, e})
}

// openStore opens the records of this boot.
func (p *Plugin) openStore(conf *Conf) (*store.Store, error) {
	s, err := store.OpenThisBoot(conf.DataDir)
	if err != nil {
		return nil, fail(types.ErrIOFailure, "open the records in "+conf.DataDir, err)
	}
	s.Reached = p.Reached
	return s, nil
}
