package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/e2e/internal/step"
)

// cgroupParent is the group of the whole lab, below the root of every hierarchy.
const cgroupParent = "clarion-lab"

// cgroup is the group of a host.
func (c *Cluster) cgroup(host string) string { return filepath.Join(cgroupParent, host) }

// removeCgroups removes the lab's groups from every hierarchy, once nothing is in them any more. They are searched for,
// because with cgroup v1 they are below the group of whoever started the lab.
func removeCgroups(ctx context.Context) error {
	var groups []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // somebody else's group that has just gone
		case err != nil:
			return err
		case d.IsDir() && d.Name() == cgroupParent:
			groups = append(groups, path)
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("find cgroups: %w", err)
	}
	for _, group := range groups {
		// The kernel lets go of a group a moment after its last process has ended.
		err := step.Until(ctx, 10*time.Second, func(context.Context) (bool, string, error) {
			err := removeGroup(group)
			if errors.Is(err, unix.EBUSY) {
				return false, err.Error(), nil
			}
			return err == nil, "", err
		})
		if err != nil {
			return fmt.Errorf("remove cgroup %s: %w", group, err)
		}
	}
	return nil
}

// removeGroup removes a group and those below it, the innermost first. Groups are directories whose files cannot and
// need not be removed.
func removeGroup(group string) error {
	entries, err := os.ReadDir(group)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := removeGroup(filepath.Join(group, e.Name())); err != nil {
			return err
		}
	}
	if err := unix.Rmdir(group); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "rmdir", Path: group, Err: err}
	}
	return nil
}
