package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// machineSysctls are settings of the whole machine that a cluster needs. The kubelet insists on the first ones and sets
// them itself; three nodes on one machine need more watches than one. The lab puts the old values back when it goes.
var machineSysctls = map[string]int{
	"vm/overcommit_memory":          1,
	"vm/panic_on_oom":               0,
	"kernel/panic":                  10,
	"kernel/panic_on_oops":          1,
	"kernel/keys/root_maxkeys":      1_000_000,
	"kernel/keys/root_maxbytes":     25_000_000,
	"fs/inotify/max_user_instances": 8192,
	"fs/inotify/max_user_watches":   524_288,
}

func (c *Cluster) sysctlPath() string { return filepath.Join(c.Dir, "sysctls.json") }

// saveMachineSysctls notes the old values before any is changed.
func (c *Cluster) saveMachineSysctls() error {
	old := map[string]int{}
	for path := range machineSysctls {
		value, err := readSysctl(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without it needs no value
		}
		if err != nil {
			return err
		}
		old[path] = value
	}
	text, err := json.MarshalIndent(old, "", "  ")
	if err != nil {
		return fmt.Errorf("note the machine's settings: %w", err)
	}
	if err := os.WriteFile(c.sysctlPath()+".part", append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("note the machine's settings: %w", err)
	}
	if err := os.Rename(c.sysctlPath()+".part", c.sysctlPath()); err != nil {
		return fmt.Errorf("note the machine's settings: %w", err)
	}
	for path, value := range old {
		want := machineSysctls[path]
		if strings.HasPrefix(path, "fs/") {
			want = max(want, value)
		}
		if err := writeSysctl(path, want); err != nil {
			return err
		}
	}
	return nil
}

// restoreMachineSysctls puts the noted values back. Without a note there was no change.
func (c *Cluster) restoreMachineSysctls() error {
	text, err := os.ReadFile(c.sysctlPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the machine's old settings: %w", err)
	}
	var old map[string]int
	if err := json.Unmarshal(text, &old); err != nil {
		return fmt.Errorf("read the machine's old settings: %w", err)
	}
	var problems []error
	for path, value := range old {
		problems = append(problems, writeSysctl(path, value))
	}
	return errors.Join(problems...)
}

func readSysctl(path string) (int, error) {
	text, err := os.ReadFile(filepath.Join("/proc/sys", path))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	value, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	return value, nil
}

func writeSysctl(path string, value int) error {
	have, err := readSysctl(path)
	if err != nil {
		return err
	}
	if have == value {
		return nil
	}
	if err := os.WriteFile(filepath.Join("/proc/sys", path), []byte(strconv.Itoa(value)), 0); err != nil {
		return fmt.Errorf("set %s to %d: %w", path, value, err)
	}
	return nil
}
