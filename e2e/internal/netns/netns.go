// Package netns makes, enters and removes named network namespaces.
//
// It does not use «ip netns add», which turns /run/netns itself into a mount of the host that nobody removes.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is where named network namespaces are found, by agreement with ip-netns(8).
const Dir = "/run/netns"

// Path is the file of the namespace.
func Path(name string) string { return filepath.Join(Dir, name) }

// Add makes an empty namespace. It fails if the name is taken.
func Add(name string) error {
	if err := os.MkdirAll(Dir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", Dir, err)
	}
	f, err := os.OpenFile(Path(name), os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("name network namespace %s: %w", name, err)
	}
	f.Close()
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace %s: %w", name, err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", Path(name), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("keep network namespace %s: %w", name, err)
		}
		return nil
	})
}

// Delete takes the name away; the namespace ends with its last process. A missing name is no error.
func Delete(name string) error {
	path := Path(name)
	// A name that was left between its creation and its mount is a plain file: not being a mount is no error.
	for {
		err := unix.Unmount(path, unix.MNT_DETACH)
		if err == nil {
			continue // a name may have been mounted on twice
		}
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("release network namespace %s: %w", name, err)
		}
		break
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove network namespace %s: %w", name, err)
	}
	return nil
}

// List returns the names that begin with prefix.
func List(prefix string) ([]string, error) {
	entries, err := os.ReadDir(Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Do runs f on a thread that is in the namespace. Sockets that f opens stay in the namespace; goroutines that f starts
// are not in it.
func Do(name string, f func() error) error {
	ns, err := os.Open(Path(name))
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", name, err)
	}
	defer ns.Close()
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", name, err)
		}
		return f()
	})
}

// onThread runs f, which changes the network namespace of its thread, and puts the thread back where it was. A thread
// that cannot be put back is not used again; but it must be tried, because a first thread never ends, and the process is
// known by where that one is.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- fmt.Errorf("open this thread's network namespace: %w", err)
			return
		}
		defer home.Close()
		err = f()
		if backErr := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); backErr != nil {
			done <- errors.Join(err, fmt.Errorf("return to this thread's network namespace: %w", backErr))
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}
