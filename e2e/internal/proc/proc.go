// Package proc names processes so that a number that the kernel has given to somebody else is never mistaken for them,
// and finds and ends the processes of the lab, also those that nobody wrote down.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ID is one process for ever: its number, and when it started in clock ticks after boot (proc(5), stat field 22).
type ID struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// ErrGone says that there is no such process any more.
var ErrGone = errors.New("the process is gone")

// Find returns the ID of the process that has the number now.
func Find(pid int) (ID, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return ID{}, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	if err != nil {
		return ID{}, fmt.Errorf("read state of process %d: %w", pid, err)
	}
	start, state, err := parseStat(stat)
	if err != nil {
		return ID{}, fmt.Errorf("process %d: %w", pid, err)
	}
	if state == 'Z' || state == 'X' {
		return ID{}, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	return ID{PID: pid, Start: start}, nil
}

// parseStat reads start time and state out of /proc/PID/stat. The name in it may hold spaces and parentheses.
func parseStat(stat []byte) (start uint64, state byte, err error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, 0, fmt.Errorf("no command name in %q", stat)
	}
	fields := strings.Fields(string(stat[end+1:]))
	const stateField, startField = 3 - 3, 22 - 3 // numbered from 1 in proc(5), and two are cut off
	if len(fields) <= startField {
		return 0, 0, fmt.Errorf("only %d fields after the command name in %q", len(fields), stat)
	}
	start, err = strconv.ParseUint(fields[startField], 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("start time in %q: %w", stat, err)
	}
	return start, fields[stateField][0], nil
}

// Alive tells whether exactly this process still runs.
func (id ID) Alive() bool {
	now, err := Find(id.PID)
	return err == nil && now == id
}

// Kill ends the process with SIGKILL and waits until the kernel has let go of it. A process that is gone is no error,
// and neither is a number that belongs to another process now: that one is left alone.
func (id ID) Kill() error {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", id.PID, err)
	}
	defer unix.Close(fd)
	// The descriptor holds the process that has the number now; only if that is ours may it be ended.
	if !id.Alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end process %d: %w", id.PID, err)
	}
	return waitGone(fd, id.PID)
}

// killPatience is how long a killed process may take to end: all of a node's pods end with its init.
const killPatience = 20 * time.Second

func waitGone(fd, pid int) error {
	deadline := time.Now().Add(killPatience)
	for time.Now().Before(deadline) {
		const pause = 50 // milliseconds, after which to look for the other way to be gone
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, pause)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for the end of process %d: %w", pid, err)
		case n > 0 || empty(pid):
			return nil
		}
	}
	return fmt.Errorf("process %d did not end within %s of SIGKILL", pid, killPatience)
}

// empty tells whether the process has given up its namespaces, and so its mounts and links, and is nothing but a number
// any more. The first process of a process namespace stays like that while a dead process of the namespace has not been
// collected by a parent outside of it, which is for ever where that parent is a process 1 that collects nothing, as in
// many containers.
func empty(pid int) bool {
	_, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}
