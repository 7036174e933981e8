package member

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/nstest"
)

const patience = 30 * time.Second // against hanging; nothing here claims a speed

// A fleet is some agents, each on a host of its own.
type fleet struct {
	t     *testing.T
	hosts []*nstest.Host
	procs []*nstest.Process
	addrs []string
}

func newFleet(t *testing.T, addrs ...string) *fleet {
	t.Helper()
	lan := nstest.NewSwitch(t, "lan")
	f := &fleet{t: t, addrs: addrs, procs: make([]*nstest.Process, len(addrs))}
	for i, a := range addrs {
		bits := "/24"
		if strings.Contains(a, ":") {
			bits = "/64"
		}
		f.hosts = append(f.hosts, lan.Attach(fmt.Sprint("node", i+1), a+bits))
	}
	return f
}

// start runs the agent of the i-th node.
func (f *fleet) start(i int, flags ...string) *nstest.Process {
	f.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	args := append([]string{exe, nodeWord, "-name", fmt.Sprint("node", i+1), "-addr", f.addrs[i]}, flags...)
	for k, a := range f.addrs {
		if k != i {
			args = append(args, fmt.Sprintf("node%d=%s", k+1, a))
		}
	}
	f.procs[i] = f.hosts[i].Start(args...)
	return f.procs[i]
}

// says waits until the i-th agent has said something after what it had said
// when the mark was taken.
func (f *fleet) says(i, mark int, what string) {
	f.t.Helper()
	found := func() bool { return strings.Contains(f.procs[i].Output()[mark:], what) }
	end := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !found() {
		select {
		case <-tick.C:
		case <-end:
			f.t.Fatalf("node%d never said %q; it said:\n%s", i+1, what, f.procs[i].Output())
		}
	}
}

func (f *fleet) mark(i int) int { return len(f.procs[i].Output()) }

// signal signals the i-th agent.
func (f *fleet) signal(i int, sig syscall.Signal) {
	f.t.Helper()
	f.says(i, 0, "pid ")
	var pid int
	if _, err := fmt.Sscanf(f.procs[i].Output(), "pid %d", &pid); err != nil {
		f.t.Fatal(err)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		f.t.Fatal(err)
	}
}

func TestAKilledAgentIsSilentAndItsVIPsAreTaken(t *testing.T) {
	for _, addrs := range [][]string{{"192.0.2.11", "192.0.2.12", "192.0.2.13"}, {"2001:db8:1::11", "2001:db8:1::12", "2001:db8:1::13"}} {
		t.Run(addrs[0], func(t *testing.T) {
			f := newFleet(t, addrs...)
			f.start(2, "-vips", "12") // alone, so it takes all
			f.says(2, 0, "took 192.0.2.211")
			for i := range 2 {
				f.start(i, "-vips", "12")
				f.says(i, 0, "knows node3")
				f.says(2, 0, fmt.Sprint("knows node", i+1))
			}
			marks := []int{f.mark(0), f.mark(1), f.mark(2)}
			f.signal(2, syscall.SIGKILL)
			f.says(0, marks[0], "silent invalid IP node3")
			f.says(1, marks[1], "silent invalid IP node3")
			nstest.Wait(t, patience, "somebody took a VIP of node3 because of its silence", func() bool {
				return strings.Contains(f.procs[0].Output()[marks[0]:], "node3 silence") || strings.Contains(f.procs[1].Output()[marks[1]:], "node3 silence")
			})
			f.says(0, marks[0], "problem node3")
			for i, m := range marks[:2] {
				for line := range strings.Lines(f.procs[i].Output()[m:]) {
					if strings.Contains(line, "took") {
						t.Logf("node%d: %s", i+1, strings.TrimSpace(line))
					}
				}
			}
			m := f.mark(0)
			f.start(2, "-vips", "12")
			f.says(0, m, "back invalid IP node3")
			f.says(0, m, `problem node3: ""`)
		})
	}
}

func TestAStoppedAgentVerifiesWhenItWakes(t *testing.T) {
	f := newFleet(t, "192.0.2.11", "192.0.2.12")
	f.start(1, "-vips", "8")
	f.says(1, 0, "took 192.0.2.207")
	f.start(0, "-vips", "8")
	f.says(0, 0, "knows node2")
	m0, m1 := f.mark(0), f.mark(1)
	f.signal(1, syscall.SIGSTOP)
	f.says(0, m0, "node2 silence")
	f.signal(1, syscall.SIGCONT)
	f.says(1, m1, "stalled")
	f.says(1, m1, "released")
	f.says(0, m0, "back invalid IP node2")
}

func TestAClosedPortIsNamed(t *testing.T) {
	tests := []struct{ name, rule, want string }{
		{"UDP", "udp dport 7946 drop", "UDP port 7946 between this node and node2"},
		{"both", "meta l4proto {tcp, udp} th dport 7946 drop", "no answer from node2 (192.0.2.12) on UDP or TCP port 7946"},
		{"TCP", "tcp dport 7946 drop; add rule inet fw in tcp sport 7946 drop", "TCP port 7946 of node2 (192.0.2.12) is closed, UDP works"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(t, "192.0.2.11", "192.0.2.12")
			f.hosts[1].Run("nft", "add table inet fw; add chain inet fw in { type filter hook input priority 0; }; add rule inet fw in iif eth0 "+tt.rule)
			f.start(0)
			f.start(1)
			f.says(0, 0, tt.want)
			m := f.mark(0)
			f.hosts[1].Run("nft", "delete table inet fw")
			f.says(0, m, `problem node2: ""`)
		})
	}
}

func TestAnotherKeyIsNamed(t *testing.T) {
	f := newFleet(t, "192.0.2.11", "192.0.2.12")
	f.start(0)
	f.start(1, "-key", "another key 1234")
	f.says(0, 0, "uses another key")
}

func TestAnAgentThatIsMissingIsNamed(t *testing.T) {
	f := newFleet(t, "192.0.2.11", "192.0.2.12")
	f.start(0)
	f.says(0, 0, "no agent listens on port 7946 of node2")
}

func TestProblem(t *testing.T) {
	at := netip.MustParseAddrPort("192.0.2.12:7946")
	tests := []struct {
		name           string
		alive, answers bool
		err            error
		want           string
	}{
		{name: "all is well", alive: true, answers: true},
		{name: "UDP closed", alive: true, want: "UDP port 7946"},
		{name: "TCP closed", answers: true, err: errors.New("i/o timeout"), want: "TCP port 7946"},
		{name: "nothing listens", err: errors.New("dial tcp: connection refused"), want: "is the agent's Pod running"},
		{name: "another key", err: errors.New("EOF"), want: "another key"},
		{name: "nothing at all", err: errors.New("i/o timeout"), want: "the node is down, or a firewall"},
		{name: "not tried", want: "not tried yet"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := problem(Peer{Name: "node2", Addr: at, Alive: tt.alive, Answers: tt.answers}, tt.err)
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Fatalf("got %q", got)
			}
		})
	}
}

func TestBadConfigsAreRefused(t *testing.T) {
	good := func() Config {
		return Config{Name: "node1", Addr: netip.MustParseAddr("127.0.0.1"), Bind: netip.MustParseAddr("127.0.0.1"), Keys: [][]byte{make([]byte, 32)},
			Log: slog.New(slog.DiscardHandler), Receive: func(string, []byte) {}}
	}
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no name", func(c *Config) { c.Name = "" }, "0 bytes"},
		{"no key", func(c *Config) { c.Keys = nil }, "at least one"},
		{"a short key", func(c *Config) { c.Keys = [][]byte{[]byte("short")} }, "keys of the messages"},
		{"an address that is not here", func(c *Config) { c.Bind = netip.MustParseAddr("203.0.113.1") }, "port 7946"},
		{"a label that is too long", func(c *Config) { c.Cluster = strings.Repeat("x", 300) }, "too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := good()
			tt.change(&c)
			if _, err := New(c); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("err = %v", err)
			}
		})
	}
}

func TestKeysAreChangedWithoutLosingAMessage(t *testing.T) {
	got := make(chan string, 100)
	one, two := make([]byte, 32), []byte("0123456789abcdef")
	start := func(name, addr string, keys ...[]byte) *Members {
		a := netip.MustParseAddr(addr)
		m, err := New(Config{Name: name, Addr: a, Bind: a, Keys: keys, Log: slog.New(slog.DiscardHandler),
			Receive: func(from string, b []byte) { got <- from + ":" + string(b) }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		return m
	}
	a, b := start("a", "127.0.0.2", one), start("b", "127.0.0.3", one)
	a.SetNodes(map[string]netip.AddrPort{"b": netip.MustParseAddrPort("127.0.0.3:0")})
	b.SetNodes(map[string]netip.AddrPort{"a": netip.MustParseAddrPort("127.0.0.2:0")})
	talk := func(step string) {
		t.Helper()
		for _, s := range []struct {
			from *Members
			to   string
			want string
		}{{a, "b", "a:" + step}, {b, "a", "b:" + step}} {
			if err := s.from.Send(s.to, []byte(step)); err != nil {
				t.Fatal(err)
			}
			select {
			case g := <-got:
				if g != s.want {
					t.Fatalf("got %q, want %q", g, s.want)
				}
			case <-time.After(patience):
				t.Fatalf("%s: nothing arrived", step)
			}
		}
	}
	set := func(m *Members, keys ...[]byte) {
		t.Helper()
		if err := m.SetKeys(keys); err != nil {
			t.Fatal(err)
		}
	}
	talk("the old key")
	set(a, one, two)
	talk("one knows the new one")
	set(b, one, two)
	set(a, two, one)
	talk("one uses the new one")
	set(b, two, one)
	set(a, two)
	talk("one has dropped the old one")
	set(b, two)
	talk("the new key")
	if err := a.SetKeys([][]byte{[]byte("bad")}); err == nil {
		t.Fatal("a bad key was taken")
	}
	talk("the bad key changed nothing")
	if err := a.Send("c", nil); err == nil {
		t.Fatal("sent to an unknown node")
	}
}

func FuzzSplit(f *testing.F) {
	f.Add([]byte("\x05node1hello"))
	f.Add([]byte{0})
	f.Add([]byte{255, 1})
	f.Fuzz(func(t *testing.T, packet []byte) {
		from, message, ok := split(packet)
		if ok && 1+len(from)+len(message) != len(packet) {
			t.Fatalf("%q: %q and %q", packet, from, message)
		}
	})
}

func TestPickAddr(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	if got := PickAddr(v6, []netip.Addr{v4, v6}); got != v6 {
		t.Fatalf("got %v", got)
	}
	if got := PickAddr(v4, []netip.Addr{v6}); got != v6 {
		t.Fatalf("got %v", got)
	}
	if got := PickAddr(v4, nil); got.IsValid() {
		t.Fatalf("got %v", got)
	}
}
