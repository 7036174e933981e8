package hostinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A host sees its own group as the root of every cgroup hierarchy, so that the kubelet and the container runtime may
// use their usual paths, and everything that they make is found below one group of the machine.

const cgroupRoot = "/sys/fs/cgroup"

// hierarchy is one mounted cgroup hierarchy: one per controller with cgroup v1, one for all with v2, or both.
type hierarchy struct {
	Point   string // below cgroupRoot, or cgroupRoot itself
	Version int
	Options string // v1: the controllers, as mount wants them
}

// pure tells whether this is the only hierarchy.
func (h hierarchy) pure() bool { return h.Point == cgroupRoot }

func hierarchies() ([]hierarchy, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	return parseHierarchies(string(text)), nil
}

// parseHierarchies reads /proc/self/mountinfo, whose lines are «ID PARENT DEV ROOT POINT OPTIONS … - TYPE SOURCE SUPER»
// (proc(5)).
func parseHierarchies(mountinfo string) []hierarchy {
	var found []hierarchy
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		const point = 4
		if !ok || len(left) <= point || len(right) < 3 {
			continue
		}
		if left[point] == cgroupRoot {
			found = nil // it hides what was mounted there before, which is listed all the same
		}
		if left[point] != cgroupRoot && !strings.HasPrefix(left[point], cgroupRoot+"/") {
			continue
		}
		switch right[0] {
		case "cgroup2":
			found = append(found, hierarchy{Point: left[point], Version: 2})
		case "cgroup":
			found = append(found, hierarchy{Point: left[point], Version: 1, Options: controllers(right[2])})
		}
	}
	return found
}

// controllers drops what is not the name of a controller from the super block's options.
func controllers(options string) string {
	var names []string
	for _, o := range strings.Split(options, ",") {
		if o != "rw" && o != "ro" && o != "clone_children" && o != "xattr" && !strings.HasPrefix(o, "release_agent=") {
			names = append(names, o)
		}
	}
	return strings.Join(names, ",")
}

// joinCgroups moves this process into the group in every hierarchy. Everything on the host follows it there.
//
// With v1 the group is made below the one that this process is in, so that the limits of whoever started the lab stay in
// force. With v2 as the only hierarchy it is made below the root: a group that holds processes, as the starter's does,
// cannot hand controllers to groups below it.
func joinCgroups(group string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return fmt.Errorf("find my cgroups: %w", err)
	}
	mine := parseGroups(string(text))
	for _, h := range all {
		base := ""
		if !h.pure() {
			base = mine[h.Options]
		}
		if err := h.join(filepath.Join(base, group)); err != nil {
			return fmt.Errorf("cgroup hierarchy %s: %w", h.Point, err)
		}
	}
	return nil
}

// parseGroups reads /proc/PID/cgroup, whose lines are «NUMBER:CONTROLLERS:GROUP» (cgroups(7)). The v2 hierarchy has no
// controllers, as its Options are empty.
func parseGroups(text string) map[string]string {
	groups := map[string]string{}
	for line := range strings.Lines(text) {
		if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); len(fields) == 3 {
			groups[fields[1]] = fields[2]
		}
	}
	return groups
}

func (h hierarchy) join(group string) error {
	dir := h.Point
	for _, name := range strings.Split(strings.Trim(group, "/"), "/") {
		if h.pure() {
			if err := enableControllers(dir); err != nil {
				return err
			}
		}
		parent := dir
		dir = filepath.Join(dir, name)
		err := os.Mkdir(dir, 0o755)
		made := err == nil
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make group: %w", err)
		}
		// A v1 cpuset group is born without processors and memory, and nothing can join it before it has some.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if h.Version == 1 && made {
				if err := inherit(parent, dir, file); err != nil {
					return err
				}
			}
		}
	}
	return join(dir)
}

func join(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("join group: %w", err)
	}
	return nil
}

func inherit(parent, dir, file string) error {
	text, err := os.ReadFile(filepath.Join(parent, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // not the cpuset hierarchy
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), text, 0); err != nil {
		return fmt.Errorf("set %s: %w", file, err)
	}
	return nil
}

// enableControllers lets the children of a v2 group use all controllers that the group has.
func enableControllers(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("list controllers: %w", err)
	}
	for _, name := range strings.Fields(string(text)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0); err != nil {
			return fmt.Errorf("enable controller %s in %s: %w", name, dir, err)
		}
	}
	return nil
}

// mountCgroups mounts every hierarchy again, as seen from the cgroup namespace that this process is in by now.
func mountCgroups(all []hierarchy) error {
	for _, h := range all {
		if !h.pure() {
			if err := mount("tmpfs", cgroupRoot, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755"); err != nil {
				return err
			}
			break
		}
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, h := range all {
		if err := os.MkdirAll(h.Point, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", h.Point, err)
		}
		kind, options := "cgroup", h.Options
		if h.Version == 2 {
			kind, options = "cgroup2", ""
		}
		if err := mount(kind, h.Point, kind, flags, options); err != nil {
			return err
		}
		if h.pure() {
			// A v2 group that hands controllers to its children may hold no process itself, except the machine's root.
			if err := h.join("host"); err != nil {
				return err
			}
		}
	}
	return nil
}
