package proc

import (
	"bytes"
	"fmt"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Run runs a helper command that must not outlive this process, not even one that is killed. It keeps the command's
// thread: the kernel sends the parent-death signal when the thread ends that started the child.
func Run(cmd *exec.Cmd) error {
	bind(cmd)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.Run()
}

// Start starts such a command and returns a channel that gets what Wait returns.
func Start(cmd *exec.Cmd) (ended <-chan error, err error) {
	bind(cmd)
	started, over := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			over <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return over, nil
}

// Output runs the command and returns what it printed. An error has the command and what it said on stderr.
func Output(cmd *exec.Cmd) (string, error) {
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := Run(cmd); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err,
			strings.TrimSpace(problem.String()))
	}
	return out.String(), nil
}

// bind ties the command, and what it starts in its process group, to this process and to the command's context.
func bind(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &unix.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	cmd.SysProcAttr.Setpgid = true
	if cmd.Cancel != nil {
		cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	}
}
