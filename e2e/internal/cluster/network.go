package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/clarion-lb/clarion/e2e/internal/netns"
	"github.com/clarion-lb/clarion/e2e/internal/plan"
	"github.com/clarion-lb/clarion/e2e/internal/proc"
)

// cable makes every host's network namespace and joins them in the switch.
func (c *Cluster) cable(ctx context.Context) error {
	hosts := c.Settings.Hosts()
	for _, h := range hosts {
		if err := netns.Add(h.Netns()); err != nil {
			return err
		}
		if err := netns.Do(h.Netns(), func() error { return setSysctls(h.Sysctls()) }); err != nil {
			return fmt.Errorf("host %s: %w", h.Name, err)
		}
	}
	lan := c.Switch().Netns()
	var cables strings.Builder
	cables.WriteString(c.Settings.SwitchLinks())
	for _, h := range hosts {
		for _, l := range h.Links {
			cables.WriteString(h.Cable(l))
		}
	}
	if err := ip(ctx, lan, cables.String()); err != nil {
		return err
	}
	for _, h := range hosts {
		if h.Role == plan.Switch {
			continue
		}
		if err := ip(ctx, h.Netns(), c.Settings.HostLinks(h)); err != nil {
			return fmt.Errorf("host %s: %w", h.Name, err)
		}
	}
	return nil
}

// ip runs «ip -batch» in a network namespace.
func ip(ctx context.Context, ns, batch string) error {
	if batch == "" {
		return nil
	}
	cmd := exec.CommandContext(ctx, "ip", "-n", ns, "-batch", "-")
	cmd.Stdin = strings.NewReader(batch)
	if _, err := proc.Output(cmd); err != nil {
		return fmt.Errorf("%w; the commands were:\n%s", err, batch)
	}
	return nil
}

// setSysctls writes the values through the namespace of the calling thread.
func setSysctls(values []plan.Sysctl) error {
	for _, v := range values {
		if err := os.WriteFile(filepath.Join("/proc/sys", v.Path), []byte(v.Value), 0); err != nil {
			return fmt.Errorf("set %s to %s: %w", v.Path, v.Value, err)
		}
	}
	return nil
}
