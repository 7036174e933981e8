package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// InNetns lists the processes whose network namespace is the one named by the file path, as far as this process can see
// them: those in process namespaces below it are among them.
func InNetns(path string) ([]ID, error) {
	want, err := nsOf(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return filter(func(pid int) bool {
		have, err := nsOf(fmt.Sprintf("/proc/%d/ns/net", pid))
		return err == nil && have == want
	})
}

// filter lists the processes other than this one for which keep says so.
func filter(keep func(pid int) bool) ([]ID, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []ID
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// The start time is read before and after: a number that changes hands in between is not ours to judge.
		id, err := Find(pid)
		if err != nil || !keep(pid) || !id.Alive() {
			continue
		}
		found = append(found, id)
	}
	return found, nil
}

type nsID struct{ dev, ino uint64 }

// nsOf identifies the namespace behind a file of /run/netns or /proc/PID/ns.
func nsOf(path string) (nsID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nsID{}, fmt.Errorf("look at namespace %s: %w", path, err)
	}
	return nsID{dev: st.Dev, ino: st.Ino}, nil
}
