package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/e2e/internal/netns"
	"github.com/clarion-lb/clarion/e2e/internal/plan"
	"github.com/clarion-lb/clarion/e2e/internal/proc"
	"github.com/clarion-lb/clarion/e2e/internal/step"
)

// Down removes every trace of the lab: processes, mounts, namespaces, cgroups, files. It works from what is there and
// not from what should be, so it also clears up after a start that was killed at any point.
func (c *Cluster) Down(ctx context.Context) error {
	if err := c.check(); err != nil {
		return err
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	if !c.traces() {
		c.steps.Say("there is no lab")
		return nil
	}
	return c.steps.Do("take down the lab", func(*step.Step) error { return c.down(ctx) })
}

func (c *Cluster) down(ctx context.Context) error {
	namespaces, err := netns.List(plan.Prefix)
	if err != nil {
		return err
	}
	if err := c.endProcesses(ctx, namespaces); err != nil {
		return err
	}
	for _, name := range namespaces {
		if err := netns.Delete(name); err != nil {
			return err
		}
	}
	// Only an empty directory that is no mount goes away, and then the next «ip netns add» makes it again.
	_ = unix.Rmdir(netns.Dir)
	if err := unmountBelow(c.Dir); err != nil {
		return err
	}
	if err := removeCgroups(ctx); err != nil {
		return err
	}
	if err := c.restoreMachineSysctls(); err != nil {
		return err
	}
	if err := os.RemoveAll(c.Dir); err != nil {
		return fmt.Errorf("remove the lab's directory: %w", err)
	}
	return nil
}

// endProcesses ends everything that runs in the lab's network namespaces, noted or not. With a host's init the kernel
// ends all processes of the host, also those of pods, which live in network namespaces without a name.
func (c *Cluster) endProcesses(ctx context.Context, namespaces []string) error {
	noted, err := c.Book().Entries()
	if err != nil {
		return err
	}
	for _, e := range noted {
		if err := e.Kill(); err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
	}
	// A process may start another while the list is read, so this goes on until the list is empty.
	return step.Until(ctx, 30*time.Second, func(context.Context) (bool, string, error) {
		count := 0
		for _, name := range namespaces {
			found, err := proc.InNetns(netns.Path(name))
			if err != nil {
				return false, "", err
			}
			for _, id := range found {
				count++
				if err := id.Kill(); err != nil {
					return false, "", fmt.Errorf("in %s: %w", name, err)
				}
			}
		}
		return count == 0, fmt.Sprintf("%d processes were still there", count), nil
	})
}

// unmountBelow unmounts what is mounted in the directory, the innermost first. A healthy lab mounts nothing there.
func unmountBelow(dir string) error {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	defer mounts.Close()
	var points []string
	lines := bufio.NewScanner(mounts)
	for lines.Scan() {
		const pointField = 4
		fields := strings.Fields(lines.Text())
		if len(fields) > pointField && strings.HasPrefix(fields[pointField], filepath.Clean(dir)+"/") {
			points = append(points, fields[pointField])
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	for _, point := range slices.Backward(points) {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	return nil
}
