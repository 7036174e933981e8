package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/clarion-lb/clarion/e2e/internal/step"
)

// needed are the commands that the lab, its hosts and its tests call, with the Debian packages that bring them.
var needed = []struct{ command, debian string }{
	{"ip", "iproute2"},
	{"nsenter", "util-linux"},
	{"containerd", "containerd"},
	{"ctr", "containerd"},
	{"runc", "runc"},
	{"nft", "nftables"}, // kube-proxy and the portmap plugin call it
	{"conntrack", "conntrack"},
	{"tcpdump", "tcpdump"},
	{"arping", "arping"},
	{"ndisc6", "ndisc6"},
	{"curl", "curl"},
	{"ping", "iputils-ping"},
}

// installPackages brings what is missing, and nothing if nothing is.
func (c *Cluster) installPackages(ctx context.Context, s *step.Step) error {
	var missing []string
	for _, n := range needed {
		if _, err := exec.LookPath(n.command); err != nil {
			missing = append(missing, n.debian)
		}
	}
	if len(missing) == 0 {
		s.Result("all present")
		return nil
	}
	s.Result("%s", strings.Join(missing, " "))
	c.steps.Say("  installing with apt-get: %s", strings.Join(missing, " "))
	s.Now("apt-get install %s", strings.Join(missing, " "))
	install := append([]string{"install", "--yes", "--no-install-recommends"}, missing...)
	if err := apt(ctx, install...); err == nil {
		return nil
	}
	s.Now("apt-get update")
	if err := apt(ctx, "update"); err != nil {
		return err
	}
	s.Now("apt-get install %s", strings.Join(missing, " "))
	return apt(ctx, install...)
}

// apt is not tied to this process's life as other helpers are: a package half installed is worse than one too many.
func apt(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
