package nstest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// A Host is a machine on a wire of its own: a network namespace. It lives as
// long as the test that made it.
type Host struct {
	Name string

	t  testing.TB
	ns netns.NsHandle
}

// NewHost returns a host without cables, with its loopback up.
func NewHost(t testing.TB, name string) *Host {
	t.Helper()
	need(t)
	h := &Host{Name: name, t: t}
	runtime.LockOSThread()
	back, err := netns.Get()
	if err != nil {
		t.Fatalf("host %s: open the present namespace: %v", name, err)
	}
	defer back.Close()
	if h.ns, err = netns.New(); err != nil {
		t.Fatalf("host %s: make a network namespace: %v", name, err)
	}
	up := loopbackUp()
	leave(back)
	if up != nil {
		t.Fatalf("host %s: %v", name, up)
	}
	t.Cleanup(func() {
		if err := h.ns.Close(); err != nil {
			t.Errorf("host %s: close its namespace: %v", name, err)
		}
	})
	return h
}

// leave puts the thread back into the namespace it came from. A thread that
// cannot go back stays locked, so that it ends with its goroutine and nobody
// else ever runs on it.
func leave(back netns.NsHandle) {
	if err := netns.Set(back); err != nil {
		panic(fmt.Sprintf("nstest: go back to the first namespace: %v", err))
	}
	runtime.UnlockOSThread()
}

// Do runs f on the calling goroutine with the thread in the host's namespace:
// sockets that f opens belong to the host for their whole life, processes that
// f starts run on it, and /proc/sys/net shows its values. A goroutine that f
// starts runs elsewhere. Do may be nested, and f may end the test.
func (h *Host) Do(f func()) {
	h.t.Helper()
	runtime.LockOSThread()
	back, err := netns.Get()
	if err != nil {
		panic(fmt.Sprintf("nstest: open the present namespace: %v", err))
	}
	defer back.Close()
	if err := netns.Set(h.ns); err != nil {
		panic(fmt.Sprintf("nstest: enter host %s: %v", h.Name, err))
	}
	defer leave(back)
	f()
}

// Command runs a program on the host and returns what it wrote to both its
// outputs, trimmed, and how it ended.
func (h *Host) Command(args ...string) (string, error) {
	p, err := h.start(args)
	if err != nil {
		return "", err
	}
	err = p.cmd.Wait()
	return p.Output(), err
}

// Run is Command for programs that must succeed.
func (h *Host) Run(args ...string) string {
	h.t.Helper()
	out, err := h.Command(args...)
	if err != nil {
		h.t.Fatalf("on %s: %s: %v\n%s", h.Name, strings.Join(args, " "), err, out)
	}
	return out
}

// A Process is a program that runs on a host while the test goes on.
type Process struct {
	cmd *exec.Cmd
	out *buffer
}

// Start starts a program on the host. It is killed when the test ends.
func (h *Host) Start(args ...string) *Process {
	h.t.Helper()
	p, err := h.start(args)
	if err != nil {
		h.t.Fatalf("on %s: %v", h.Name, err)
	}
	h.t.Cleanup(func() { p.Stop() })
	return p
}

func (h *Host) start(args []string) (*Process, error) {
	p := &Process{cmd: exec.Command(args[0], args[1:]...), out: &buffer{}}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	var err error
	h.Do(func() { err = p.cmd.Start() })
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", strings.Join(args, " "), err)
	}
	return p, nil
}

// Output returns what the program has written up to now, trimmed.
func (p *Process) Output() string { return strings.TrimSpace(p.out.String()) }

// Wait waits for the program to end by itself.
func (p *Process) Wait() error { return p.cmd.Wait() }

// Stop asks the program to end (SIGTERM, then SIGKILL after 2 s), waits for
// it and returns its output. It may be called again.
func (p *Process) Stop() string {
	if p.cmd.ProcessState == nil {
		// An error here means that it is gone already, and Wait says how.
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(2*time.Second, func() { _ = p.cmd.Process.Kill() })
		defer kill.Stop()
		_ = p.cmd.Wait() // A killed program reports the signal; that is no news.
	}
	return p.Output()
}

// Sysctl sets a value of the host, as in Sysctl("net.ipv4.ip_forward", "1").
// A dot in the name of a link is written as a slash.
func (h *Host) Sysctl(key, value string) {
	h.t.Helper()
	swap := strings.NewReplacer(".", "/", "/", ".")
	var err error
	h.Do(func() { err = os.WriteFile("/proc/sys/"+swap.Replace(key), []byte(value), 0) })
	if err != nil {
		h.t.Fatalf("on %s: set %s to %s: %v", h.Name, key, value, err)
	}
}

// IP runs the ip command with arguments split at spaces.
func (h *Host) IP(format string, args ...any) string {
	h.t.Helper()
	return h.Run(append([]string{"ip"}, strings.Fields(fmt.Sprintf(format, args...))...)...)
}

// Addr gives a link addresses, in the form "192.0.2.1/24". IPv6 addresses are
// usable at once: nobody waits for duplicate address detection.
func (h *Host) Addr(link string, addrs ...string) {
	h.t.Helper()
	for _, a := range addrs {
		nodad := ""
		if strings.Contains(a, ":") {
			nodad = "nodad"
		}
		h.IP("addr add %s dev %s %s", a, link, nodad)
	}
}

// A Switch is a host that is nothing but a bridge. Its port to a host carries
// the name "v-" and the host's.
type Switch struct{ *Host }

// NewSwitch returns a switch without ports. It forwards at once: no spanning
// tree, and no multicast snooping unless the test switches it on.
func NewSwitch(t testing.TB, name string) *Switch {
	t.Helper()
	s := &Switch{NewHost(t, name)}
	s.IP("link add br0 type bridge forward_delay 0 mcast_snooping 0")
	s.IP("link set br0 up")
	return s
}

// Attach returns a new host whose eth0 is plugged into the switch and has the
// given addresses.
func (s *Switch) Attach(name string, addrs ...string) *Host {
	s.t.Helper()
	h := NewHost(s.t, name)
	s.Plug(h, "eth0")
	h.Addr("eth0", addrs...)
	return h
}

// Plug runs a cable from a new link of h to a new port of the switch and sets
// both up. The port is called v-HOST, or v-HOST-LINK for links but eth0.
func (s *Switch) Plug(h *Host, link string) (port string) {
	s.t.Helper()
	port = "v-" + h.Name
	if link != "eth0" {
		port += "-" + link
	}
	Connect(h, link, s.Host, port)
	s.IP("link set %s master br0", port)
	return port
}

// Connect runs a cable between two hosts: a veth pair with the given names,
// both ends up. IPv6 link-local addresses are usable at once.
func Connect(a *Host, aLink string, b *Host, bLink string) {
	a.t.Helper()
	// A path under /run/netns is not needed: any path that opens to a namespace
	// will do, and ours is held by a descriptor of this process.
	a.IP("link add %s type veth peer name %s netns /proc/%d/fd/%d", aLink, bLink, os.Getpid(), int(b.ns))
	for _, end := range []struct {
		*Host
		link string
	}{{a, aLink}, {b, bLink}} {
		end.Sysctl("net.ipv6.conf."+strings.ReplaceAll(end.link, ".", "/")+".accept_dad", "0")
		end.IP("link set %s up", end.link)
	}
}

// Wait calls ok every few milliseconds until it says yes, and fails the test
// after limit, which is a bound against hanging and not a claim about speed.
func Wait(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	end := time.After(limit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("after %v still not true: %s", limit, what)
		}
	}
}

// A buffer may be read while a program writes into it.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
