package cluster

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/clarion-lb/clarion/e2e/internal/build"
	"github.com/clarion-lb/clarion/e2e/internal/netns"
	"github.com/clarion-lb/clarion/e2e/internal/plan"
	"github.com/clarion-lb/clarion/e2e/internal/step"
	"github.com/clarion-lb/clarion/e2e/internal/wire"
	"github.com/clarion-lb/clarion/e2e/lab"
)

// Up brings the lab up. A healthy lab with the same settings stays as it is, but for Clarion, which is replaced if the
// sources have changed since it was installed; any other lab is taken down first. After an
// error the lab stays as far as it came, to be looked at, and the next Up or Down clears it away.
func (c *Cluster) Up(ctx context.Context) error {
	if err := c.check(); err != nil {
		return err
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	c.steps.Say("lab: %s", c.Settings)
	why := c.unhealthy(ctx)
	if why == nil {
		c.steps.Say("the lab is up and healthy already; «make lab-down» takes it down")
		if c.Settings.InstallsClarion() {
			return c.refreshClarion(ctx)
		}
		return nil
	}
	if c.traces() {
		c.steps.Say("there is a lab already, but %v; it is taken down and started anew", why)
		if err := c.steps.Do("take down the old lab", func(s *step.Step) error { return c.down(ctx) }); err != nil {
			return err
		}
	}
	if err := c.start(ctx); err != nil {
		if _, statErr := os.Stat(c.Dir); statErr == nil {
			_ = c.Mark(lab.Failed) // the error that is returned matters more
		}
		return err
	}
	if err := c.Mark(lab.Up); err != nil {
		return err
	}
	c.steps.Say("the lab is up: %s", c.Settings)
	c.steps.Say("  export KUBECONFIG=%s PATH=%s:$PATH", c.Kubeconfig(), filepath.Dir(c.Bin("kubectl")))
	return nil
}

// part is one step of the start.
type part struct {
	what string
	run  func(ctx context.Context, s *step.Step) error
}

func (c *Cluster) start(ctx context.Context) error {
	parts := []part{
		{"install Debian packages", c.installPackages},
		{"compile the cluster's programs", c.buildPrograms},
		{"pack images", c.packImages},
	}
	if c.Settings.InstallsClarion() {
		parts = append(parts, part{"build Clarion's images", c.buildClarion})
	}
	parts = append(parts,
		part{"make hosts and cables", c.makeNetwork},
		part{"start the hosts", c.startHosts},
		part{"control plane ready", c.waitControlPlane},
		part{"nodes registered", c.registerNodes},
		part{"pod network", c.setUpPodNetwork},
	)
	clarion := part{"install Clarion", c.installClarion}
	if c.Settings.InstallsClarion() && c.Settings.Profile == plan.Full {
		parts = append(parts, clarion) // it brings the network that nodes need to become Ready
	}
	if c.Settings.Profile == plan.Full && !c.Settings.InstallsClarion() {
		c.steps.Say("without Clarion nobody brings a pod network: nodes stay NotReady and the wait for them is left out")
	} else {
		parts = append(parts,
			part{"all nodes Ready", c.waitNodesReady},
			part{"cluster DNS answers", c.waitDNS},
		)
	}
	if c.Settings.InstallsClarion() && c.Settings.Profile == plan.LB {
		parts = append(parts, clarion)
	}
	for _, p := range parts {
		if err := c.steps.Do(p.what, func(s *step.Step) error { return p.run(ctx, s) }); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) buildPrograms(ctx context.Context, s *step.Step) error {
	built := 0
	for _, p := range build.Programs() {
		fresh, err := c.cache.Build(ctx, p, s)
		if err != nil {
			return err
		}
		if fresh {
			built++
			c.steps.Say("  compiled %s", p.Name)
		}
	}
	if built == 0 {
		s.Result("kept from before")
	}
	return nil
}

func (c *Cluster) packImages(_ context.Context, s *step.Step) error {
	for _, img := range build.Images() {
		s.Now("packing %s", img.Name)
		if _, err := c.cache.Pack(img); err != nil {
			return err
		}
	}
	return nil
}

// makeNetwork also makes the lab's directory: from here on there is something to take down.
func (c *Cluster) makeNetwork(ctx context.Context, _ *step.Step) error {
	for _, dir := range []string{"logs", "bin", "pki", "hosts"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, dir), 0o755); err != nil {
			return fmt.Errorf("make the lab's directory: %w", err)
		}
	}
	if err := c.Mark(lab.Starting); err != nil {
		return err
	}
	if err := c.saveMachineSysctls(); err != nil {
		return err
	}
	if err := c.linkPrograms(); err != nil {
		return err
	}
	return wire.MakeAll(ctx, c.Settings)
}

// linkPrograms puts every program into the lab's bin directory under its own name, so that it shows there and in ps.
func (c *Cluster) linkPrograms() error {
	kube, err := c.cache.Path(build.Kube)
	if err != nil {
		return err
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"} {
		if err := os.Symlink(kube, c.Bin(name)); err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the lab's own binary: %w", err)
	}
	// A copy, because the next «go build» may replace the original while hosts run from it.
	return copyFile(self, c.Bin("lab"))
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return out.Close()
}

// traces tells whether there is anything of a lab on this machine.
func (c *Cluster) traces() bool {
	if _, err := os.Stat(c.Dir); err == nil {
		return true
	}
	names, err := netns.List(plan.Prefix)
	return err != nil || len(names) > 0
}
