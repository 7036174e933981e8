package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrBusy says that another process works on the same thing and did not end in
// time. It is worth trying again later.
var ErrBusy = errors.New("busy")

// flock waits until f is locked by nobody else and locks it. The kernel undoes
// the lock when the last copy of the descriptor closes, so a killed process
// never leaves one behind.
func flock(ctx context.Context, f *os.File) error {
	if err := flockNow(f); !errors.Is(err, ErrBusy) {
		return err
	}
	// The system call cannot be broken off. A waiter that was given up goes on
	// with a descriptor of its own, which it closes as soon as it has it.
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	got := make(chan error, 1)
	go func() { got <- retryEINTR(func() error { return unix.Flock(fd, unix.LOCK_EX) }) }()
	select {
	case err := <-got:
		// Both descriptors share one lock: closing this one does not undo it.
		if err = errors.Join(err, unix.Close(fd)); err != nil {
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		return nil
	case <-ctx.Done():
		go func() { <-got; unix.Close(fd) }()
		return fmt.Errorf("%w: another process holds the lock on %s: %w", ErrBusy, f.Name(), context.Cause(ctx))
	}
}

// flockNow locks f or returns ErrBusy.
func flockNow(f *os.File) error {
	err := retryEINTR(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w: another process holds the lock on %s", ErrBusy, f.Name())
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil
}

func retryEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// openLocked opens the record of a key and locks it. While it waited, the
// record may have been released and made anew; then it waits for the new one.
// It returns nil when there is none. wait false means not to wait but to
// return ErrBusy.
func (s *Store) openLocked(ctx context.Context, name string, wait bool) (*os.File, error) {
	path := filepath.Join(s.dir, sandboxes, name)
	for {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		lock := flockNow
		if wait {
			lock = func(f *os.File) error { return flock(ctx, f) }
		}
		if err := lock(f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		same, err := sameFile(f, path)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if same {
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

// sameFile reports whether path still leads to f. A path that leads nowhere
// does not.
func sameFile(f *os.File, path string) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return os.SameFile(mine, there), nil
}
