// Package nstest gives tests hosts of their own: network namespaces that are
// connected by virtual cables and switches, with the real kernel in each.
//
// The test binary runs itself again in a new user, network and mount
// namespace, so `go test` needs no root and cannot touch the machine:
//
//	func TestMain(m *testing.M) { nstest.Main(m) }
//
//	func TestPing(t *testing.T) {
//		lan := nstest.NewSwitch(t, "lan")
//		a := lan.Attach("a", "192.0.2.1/24", "2001:db8::1/64")
//		b := lan.Attach("b", "192.0.2.2/24", "2001:db8::2/64")
//		a.Run("ping", "-c1", "192.0.2.2")
//		b.Do(func() { … sockets opened here are b's … })
//	}
//
// A skip from this package means that the machine cannot make namespaces, or
// that a tool which serves as an outside judge is not installed; it names
// which.
package nstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inside is the environment variable that tells the second run of the test
// binary where it is; why tells a first run that has to go on why it may not
// make hosts.
const (
	inside = "CLARION_NSTEST_INSIDE"
	why    = "CLARION_NSTEST_UNAVAILABLE"
)

// Main runs the tests of a package inside namespaces of their own and exits.
// It is the whole of a TestMain. On a machine that refuses user namespaces the
// tests run outside, and those that ask for a Host are skipped with the
// kernel's reason.
func Main(m *testing.M) {
	if os.Getenv(inside) != "" {
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, "nstest:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	// The death signal below follows the thread that starts the child.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		// Root inside is the caller outside, whoever that is.
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		// tcpdump wants to call setgroups. Only root outside may allow that.
		GidMappingsEnableSetgroups: os.Geteuid() == 0,
		Pdeathsig:                  syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		if !refused(err) {
			fmt.Fprintln(os.Stderr, "nstest: run the tests in new namespaces:", err)
			os.Exit(1)
		}
		runtime.UnlockOSThread()
		if err := os.Setenv(why, err.Error()); err != nil {
			panic(err) // The name and value are our own.
		}
		os.Exit(m.Run())
	}
	var exit *exec.ExitError
	switch err := cmd.Wait(); {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit) && exit.Exited():
		os.Exit(exit.ExitCode())
	default:
		fmt.Fprintln(os.Stderr, "nstest: the tests inside the namespaces:", err)
		os.Exit(1)
	}
}

// refused reports whether err is the kernel's way of saying that user
// namespaces are switched off, used up or not compiled in.
func refused(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOSPC) ||
		errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS)
}

// prepare makes the first namespace fit for use: loopback up, and /sys that
// shows its links where the kernel allows the mount (it does not when parts
// of the outer /sys are hidden, as in most containers; nothing here needs it).
func prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil && !refused(err) && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount /sys: %w", err)
	}
	return loopbackUp()
}

// loopbackUp sets the flag IFF_UP of lo in the calling thread's namespace.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// need skips t when hosts cannot be made here, and fails it when the package
// has no TestMain.
func need(t testing.TB) {
	t.Helper()
	if reason := os.Getenv(why); reason != "" {
		t.Skipf("this machine refuses user namespaces: %s", reason)
	}
	if os.Getenv(inside) == "" {
		t.Fatal("nstest: the package needs func TestMain(m *testing.M) { nstest.Main(m) }")
	}
}

// Tool skips t when an outside judge, such as arping, is not installed.
func Tool(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("the tool %s is not installed: %v", name, err)
		}
	}
}
