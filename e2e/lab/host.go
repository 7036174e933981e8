package lab

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"time"

	"github.com/clarion-lb/clarion/e2e/internal/netns"
	"github.com/clarion-lb/clarion/e2e/internal/plan"
	"github.com/clarion-lb/clarion/e2e/internal/proc"
)

// Host is a machine of the lab.
type Host struct {
	plan.Host
	lab *Lab
}

// Command is a command on the host, not started yet. On a host that runs programs (cp and the nodes) it sees the host's
// processes, files and name; on the others only the network is the host's. The command ends with ctx and with this
// process. Run it with Output, or with proc.Run and proc.Start.
func (h *Host) Command(ctx context.Context, args ...string) *exec.Cmd {
	init, err := h.Init()
	if err != nil { // a host without programs, or one whose power is off
		return h.NetCommand(ctx, args...)
	}
	enter := []string{"--target", strconv.Itoa(init.PID), "--mount", "--uts", "--net", "--pid", "--"}
	return exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
}

// NetCommand is a command of the machine that the lab runs on, with the host's network and nothing else of it. Signals
// reach the command itself.
func (h *Host) NetCommand(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + netns.Path(h.Netns()), "--"}, args...)...)
}

// Output runs a command on the host and returns what it printed; an error holds what it said on stderr.
func (h *Host) Output(ctx context.Context, args ...string) (string, error) {
	return proc.Output(h.Command(ctx, args...))
}

// Init is the host's first process. Hosts without programs have none.
func (h *Host) Init() (proc.ID, error) { return h.lab.Book().Get(h.Name) }

// Do runs f on a thread in the host's network namespace. Sockets that f opens stay there; goroutines it starts do not.
func (h *Host) Do(f func() error) error { return netns.Do(h.Netns(), f) }

// Dial opens a connection from the host. The address must be numeric.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := h.Do(func() error {
		var err error
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("from %s: %w", h.Name, err)
	}
	return conn, nil
}

// HTTP is an HTTP client on the host that makes a new connection for every request, so that each one is balanced anew.
func (h *Host) HTTP(timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{DialContext: h.Dial, DisableKeepAlives: true}}
}
