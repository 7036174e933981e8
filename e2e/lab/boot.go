package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/e2e/internal/hostinit"
	"github.com/clarion-lb/clarion/e2e/internal/proc"
)

// Boot starts the host's programs, and plugs its cables in. A host that has crashed comes back with the files it had,
// without any process, mount or pod of before. What a crash does not clear, because the network namespace has a name:
// links, routes and firewall rules of the host itself.
func (h *Host) Boot(ctx context.Context) error {
	if err := h.StartInit(nil); err != nil {
		return err
	}
	return h.CableIn(ctx)
}

// Spec is the file that says what the host's init does.
func (h *Host) Spec() string { return h.lab.HostDir(h.Name) + "/spec.json" }

// initPatience is how long an init may take to set up its host.
const initPatience = 10 * time.Second

// StartInit starts the host's init in its network namespace and in namespaces of its own for processes, mounts and the
// host name. The init outlives this process. It inherits the listeners. Only the lab's own commands call it.
func (h *Host) StartInit(listeners []*net.TCPListener) error {
	if init, err := h.Init(); err == nil {
		return fmt.Errorf("start host %s: it runs already, with process %d", h.Name, init.PID)
	}
	log, err := os.Create(h.lab.Log(h.Name + "-init"))
	if err != nil {
		return fmt.Errorf("start host %s: %w", h.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(h.lab.Bin("lab"), "init", h.Spec())
	cmd.Stdout, cmd.Stderr = log, log
	// What stands in this process's environment is no business of the hosts.
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	cmd.SysProcAttr = &unix.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS,
	}
	for _, l := range listeners {
		f, err := l.File()
		if err != nil {
			return fmt.Errorf("start host %s: pass on a listener: %w", h.Name, err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	// The child is a member of the host's network namespace from its first moment, so it is found there even if this
	// process dies before it can note the number.
	if err := h.Do(cmd.Start); err != nil {
		return fmt.Errorf("start host %s: %w", h.Name, err)
	}
	id, err := proc.Find(cmd.Process.Pid)
	if err != nil {
		return fmt.Errorf("start host %s: %w", h.Name, err)
	}
	if err := h.lab.Book().Add(h.Name, id); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // until this process or the host ends
	return h.waitInit(ended)
}

// waitInit waits until the init says that its programs have been started.
func (h *Host) waitInit(ended <-chan error) error {
	path := h.lab.Log(h.Name + "-init")
	deadline := time.After(initPatience)
	for {
		said, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("start host %s: %w", h.Name, err)
		}
		if bytes.Contains(said, []byte(hostinit.Ready)) {
			return nil
		}
		select {
		case err := <-ended:
			if err == nil {
				err = errors.New("it ended")
			}
			return fmt.Errorf("start host %s: %w: %s", h.Name, err, strings.TrimSpace(string(said)))
		case <-deadline:
			return fmt.Errorf("start host %s: not set up within %s: %s", h.Name, initPatience, said)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
