package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/e2e/internal/proc"
)

// Capture is a running tcpdump.
type Capture struct {
	File  string // pcap
	cmd   *exec.Cmd
	ended <-chan error
}

// Capture records what passes a device of the host («any» for all) and matches the filter of pcap-filter(7) into a
// file. When it returns, packets are being recorded. Stop it, or end ctx.
func (h *Host) Capture(ctx context.Context, dev, filter, file string) (*Capture, error) {
	args := []string{"tcpdump", "-i", dev, "-n", "-U", "-Z", "root", "--immediate-mode", "-w", file}
	if filter != "" {
		args = append(args, filter)
	}
	cmd := h.NetCommand(ctx, args...)
	said := &watcher{word: "listening on", seen: make(chan struct{})}
	cmd.Stderr = said
	ended, err := proc.Start(cmd)
	if err != nil {
		return nil, fmt.Errorf("capture on %s: %w", h.Name, err)
	}
	select {
	case <-said.seen:
		return &Capture{File: file, cmd: cmd, ended: ended}, nil
	case err := <-ended:
		if err == nil {
			err = errors.New("it ended at once")
		}
		return nil, fmt.Errorf("capture on %s: tcpdump: %w: %s", h.Name, err, strings.TrimSpace(said.text()))
	}
}

// Stop ends the capture; everything that was seen before is in the file afterwards.
func (c *Capture) Stop() error {
	if err := c.cmd.Process.Signal(unix.SIGINT); err != nil {
		return fmt.Errorf("stop tcpdump: %w", err)
	}
	if err := <-c.ended; err != nil {
		return fmt.Errorf("tcpdump: %w", err)
	}
	return nil
}

// Packets prints what is in the file, one line per packet, with link addresses and seconds since the epoch.
func (c *Capture) Packets(ctx context.Context) ([]string, error) {
	out, err := proc.Output(exec.CommandContext(ctx, "tcpdump", "-r", c.File, "-n", "-e", "-tt"))
	if err != nil {
		return nil, fmt.Errorf("read capture: %w", err)
	}
	if out = strings.TrimSpace(out); out == "" {
		return nil, nil
	}
	return strings.Split(out, "\n"), nil
}

// watcher keeps what a command says and tells when a word was among it.
type watcher struct {
	word string
	seen chan struct{} // closed when the word was seen

	mu   sync.Mutex // guards buf and told
	buf  bytes.Buffer
	told bool
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(p)
	if !w.told && strings.Contains(w.buf.String(), w.word) {
		w.told = true
		close(w.seen)
	}
	return len(p), nil
}

func (w *watcher) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}
