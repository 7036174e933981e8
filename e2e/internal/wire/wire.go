// Package wire makes the lab's network namespaces and the links between them, as plan says.
package wire

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

// MakeAll makes every host and joins them in the switch.
func MakeAll(ctx context.Context, s plan.Settings) error {
	for _, h := range s.Hosts() {
		if err := makeHost(h); err != nil {
			return err
		}
	}
	if err := IP(ctx, switchNetns(s), s.SwitchLinks()); err != nil {
		return err
	}
	for _, h := range s.Hosts() {
		if err := plug(ctx, s, h); err != nil {
			return err
		}
	}
	return nil
}

// Remake gives a host an empty network namespace and new cables in place of what it had: no link, route, rule,
// connection or neighbour of before is left, as after a loss of power.
func Remake(ctx context.Context, s plan.Settings, h plan.Host) error {
	for _, l := range h.Links {
		// The other end goes with it, even if something still holds the old namespace.
		if err := IP(ctx, switchNetns(s), "link del "+l.Port+"\n"); err != nil {
			return fmt.Errorf("unplug %s: %w", h.Name, err)
		}
	}
	if err := netns.Delete(h.Netns()); err != nil {
		return err
	}
	if err := makeHost(h); err != nil {
		return err
	}
	return plug(ctx, s, h)
}

func makeHost(h plan.Host) error {
	if err := netns.Add(h.Netns()); err != nil {
		return err
	}
	if err := netns.Do(h.Netns(), func() error { return setSysctls(h.Sysctls()) }); err != nil {
		return fmt.Errorf("host %s: %w", h.Name, err)
	}
	return nil
}

// plug lays the host's cables to the switch and gives its ends their addresses and default routes.
func plug(ctx context.Context, s plan.Settings, h plan.Host) error {
	if h.Role == plan.Switch {
		return nil
	}
	for _, l := range h.Links {
		if err := IP(ctx, switchNetns(s), h.Cable(l)); err != nil {
			return fmt.Errorf("cable of %s: %w", h.Name, err)
		}
	}
	if err := IP(ctx, h.Netns(), s.HostLinks(h)); err != nil {
		return fmt.Errorf("host %s: %w", h.Name, err)
	}
	return nil
}

func switchNetns(s plan.Settings) string { return s.HostsWith(plan.Switch)[0].Netns() }

// IP runs «ip -batch» in a network namespace.
func IP(ctx context.Context, ns, batch string) error {
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

// NFT runs «nft -f» in a network namespace.
func NFT(ctx context.Context, ns, rules string) error {
	if rules == "" {
		return nil
	}
	cmd := exec.CommandContext(ctx, "nsenter", "--net="+netns.Path(ns), "--", "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	_, err := proc.Output(cmd)
	return err
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
