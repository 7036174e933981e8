package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/e2e/internal/hostinit"
	"github.com/clarion-lb/clarion/e2e/internal/plan"
	"github.com/clarion-lb/clarion/e2e/internal/proc"
	"github.com/clarion-lb/clarion/e2e/internal/wire"
)

// Boot switches a host on again that has crashed. It comes back with the files it had and with nothing else of before:
// no process, mount, pod, link, route, rule, connection or neighbour.
func (h *Host) Boot(ctx context.Context) error {
	if init, err := h.Init(); err == nil {
		return fmt.Errorf("boot %s: it runs already, with process %d", h.Name, init.PID)
	}
	if err := wire.Remake(ctx, h.lab.Settings, h.Host); err != nil {
		return fmt.Errorf("boot %s: %w", h.Name, err)
	}
	routes, err := os.ReadFile(h.file(routesFile))
	if err != nil {
		return fmt.Errorf("boot %s: %w", h.Name, err)
	}
	rules, err := os.ReadFile(h.file(rulesFile))
	if err != nil {
		return fmt.Errorf("boot %s: %w", h.Name, err)
	}
	if err := h.apply(ctx, string(routes), string(rules)); err != nil {
		return fmt.Errorf("boot %s: %w", h.Name, err)
	}
	return h.StartInit()
}

const (
	routesFile = "routes.ip"
	rulesFile  = "rules.nft"
)

// Configure gives the host the routes («ip -batch») and rules («nft -f») that its administrator would have made
// permanent: they are there again after a boot. Only the lab's own commands call it.
func (h *Host) Configure(ctx context.Context, routes, rules string) error {
	if err := os.MkdirAll(h.lab.HostDir(h.Name), 0o755); err != nil {
		return fmt.Errorf("configure %s: %w", h.Name, err)
	}
	for name, text := range map[string]string{routesFile: routes, rulesFile: rules} {
		if err := os.WriteFile(h.file(name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("configure %s: %w", h.Name, err)
		}
	}
	return h.apply(ctx, routes, rules)
}

func (h *Host) apply(ctx context.Context, routes, rules string) error {
	if err := wire.IP(ctx, h.Netns(), routes); err != nil {
		return fmt.Errorf("routes of %s: %w", h.Name, err)
	}
	if err := wire.NFT(ctx, h.Netns(), rules); err != nil {
		return fmt.Errorf("rules of %s: %w", h.Name, err)
	}
	return nil
}

func (h *Host) file(name string) string { return filepath.Join(h.lab.HostDir(h.Name), name) }

// Spec is the file that says what the host's init does.
func (h *Host) Spec() string { return h.file("spec.json") }

// initPatience is how long an init may take to set up its host.
const initPatience = 10 * time.Second

// StartInit starts the host's init in its network namespace and in namespaces of its own for processes, mounts and the
// host name. The init outlives this process. Only the lab's own commands call it.
func (h *Host) StartInit() error {
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
	var relays []*net.TCPListener
	if h.Role == plan.ControlPlane {
		if relays, err = h.lab.openRelays(); err != nil {
			return fmt.Errorf("start host %s: %w", h.Name, err)
		}
		defer closeAll(relays)
	}
	for _, l := range relays {
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
