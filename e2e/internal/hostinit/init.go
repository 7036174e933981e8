package hostinit

import (
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Ready is printed by an init whose programs have been started; whoever starts it waits for that line.
const Ready = "clarion-lab host is up"

// Main is the init. It returns only if the host cannot be set up, or on SIGTERM.
//
// It runs in two stages, because a cgroup namespace takes the groups that its maker is in as roots: the first stage
// joins the host's groups and replaces itself by the second, which is in the new namespace with all its threads.
func Main(specPath string) error {
	spec, err := readSpec(specPath)
	if err != nil {
		return err
	}
	if os.Getenv(stageVariable) == "" {
		return enterCgroups(spec)
	}
	if err := os.Unsetenv(stageVariable); err != nil {
		return fmt.Errorf("begin the second stage: %w", err)
	}
	logger := log.New(os.Stderr, spec.Host+" ", log.LstdFlags|log.Lmicroseconds|log.Lmsgprefix)
	if err := unix.Sethostname([]byte(spec.Host)); err != nil {
		return fmt.Errorf("name the host %s: %w", spec.Host, err)
	}
	if err := setUpMounts(spec); err != nil {
		return err
	}
	if err := startRelays(spec, logger); err != nil {
		return err
	}
	return supervise(spec.Programs, logger)
}

const stageVariable = "CLARION_LAB_STAGE"

func enterCgroups(spec Spec) error {
	if err := joinCgroups(spec.Cgroup); err != nil {
		return err
	}
	runtime.LockOSThread() // the namespace belongs to this thread, and exec makes it the process
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make a cgroup namespace: %w", err)
	}
	err := unix.Exec(os.Args[0], os.Args, append(os.Environ(), stageVariable+"=2"))
	return fmt.Errorf("begin the second stage: %w", err)
}

// restartDelay keeps a program that ends at once from eating the machine.
const restartDelay = time.Second

// supervise starts the programs, collects every process that ends, and starts programs again.
func supervise(programs []Program, logger *log.Logger) error {
	ended := make(chan os.Signal, 1)
	stop := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	signal.Notify(stop, unix.SIGTERM)
	running := map[int]Program{}
	again := make(chan Program)
	for _, p := range programs {
		if p.Gate != "" {
			go func() {
				waitGate(p.Gate)
				again <- p
			}()
			continue
		}
		pid, err := start(p)
		if err != nil {
			return err
		}
		running[pid] = p
	}
	fmt.Println(Ready)
	for {
		select {
		case <-stop:
			return nil
		case p := <-again:
			pid, err := start(p)
			if err != nil {
				return err
			}
			running[pid] = p
		case <-ended:
			for {
				var status unix.WaitStatus
				pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
				if errors.Is(err, unix.EINTR) {
					continue
				}
				if err != nil || pid <= 0 {
					break
				}
				p, ours := running[pid]
				if !ours {
					continue
				}
				delete(running, pid)
				logger.Printf("%s ended (%s); starting it again in %s", p.Name, describe(status), restartDelay)
				time.AfterFunc(restartDelay, func() { again <- p })
			}
		}
	}
}

// waitGate returns once the file exists.
func waitGate(path string) {
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// start does not use os/exec: its Wait would race with the loop above for the exit status.
func start(p Program) (int, error) {
	out, err := os.OpenFile(p.Log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return 0, fmt.Errorf("open the log of %s: %w", p.Name, err)
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer null.Close()
	process, err := os.StartProcess(p.Args[0], p.Args, &os.ProcAttr{
		Dir: "/", Env: append(os.Environ(), p.Env...), Files: []*os.File{null, out, out},
		Sys: &unix.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", p.Name, err)
	}
	pid := process.Pid
	return pid, process.Release()
}

func describe(status unix.WaitStatus) string {
	if status.Signaled() {
		return status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

// startRelays serves the inherited listeners, which belong to other network namespaces than this host's.
func startRelays(s Spec, logger *log.Logger) error {
	const firstInherited = 3
	for i := range s.Listeners {
		f := os.NewFile(uintptr(firstInherited+i), "listener")
		listener, err := net.FileListener(f)
		if err != nil {
			return fmt.Errorf("take over listener %d: %w", i, err)
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("take over listener %d: %w", i, err)
		}
		go relay(listener, s.Relay, logger)
	}
	return nil
}
