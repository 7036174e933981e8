package hostinit

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// setUpMounts turns the copy of the machine's mounts into the host's own. Nothing of it is seen outside, and it ends
// with the last process of the host.
func setUpMounts(s Spec) error {
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := releaseNetns(); err != nil {
		return err
	}
	if err := mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	if err := os.MkdirAll("/run/lock", 0o1777); err != nil {
		return fmt.Errorf("make /run/lock: %w", err)
	}
	if err := setUpSys(); err != nil {
		return err
	}
	for _, dir := range s.Private {
		if err := overlay(dir, filepath.Join(s.Upper, strings.ReplaceAll(strings.Trim(dir, "/"), "/", "-"))); err != nil {
			return err
		}
	}
	for target, source := range s.Binds {
		if err := os.MkdirAll(target, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", target, err)
		}
		if err := mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return err
		}
	}
	// Containers may ask for mount propagation in both directions, as on a real host, where / is shared.
	return mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

// releaseNetns drops this copy of the machine's named network namespaces: a copy would keep a removed namespace alive.
func releaseNetns() error {
	points, err := mountPoints("/run/netns/")
	if err != nil {
		return err
	}
	for _, p := range points {
		// A mount that is hidden under another one is listed, but is no mount point any more.
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("release %s: %w", p, err)
		}
	}
	return nil
}

// mountPoints lists the mounts below a path, deepest first.
func mountPoints(prefix string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	var points []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		const pointField = 4
		fields := strings.Fields(lines.Text())
		if len(fields) > pointField && strings.HasPrefix(fields[pointField], prefix) {
			points = append(points, fields[pointField])
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	slices.Reverse(points)
	return points, nil
}

// setUpSys mounts a /sys that shows this host's links and not the machine's, with this host's view of cgroups in it.
func setUpSys() error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	if err := mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := mountCgroups(all); err != nil {
		return err
	}
	// A BPF file system per host, as hosts do not share pinned programs. A kernel without BPF has no such directory.
	if _, err := os.Stat("/sys/fs/bpf"); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return mount("bpf", "/sys/fs/bpf", "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700")
}

// overlay gives dir a layer of its own. The layer stands in upper on the machine's disk.
func overlay(dir, upper string) error {
	changes, work := filepath.Join(upper, "changes"), filepath.Join(upper, "work")
	for _, d := range []string{changes, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", d, err)
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, changes, work)
	return mount("overlay", dir, "overlay", 0, options)
}

func mount(source, target, kind string, flags uintptr, options string) error {
	if err := unix.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s %s on %s (%s): %w", kind, source, target, options, err)
	}
	return nil
}
