package member

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/nstest"
	"github.com/clarion-lb/clarion/internal/ownership"
)

// nodeWord as first argument makes the test binary an agent: the members and
// the decision of one node, without a wire. It prints what it is told to
// report, one line each.
const nodeWord = "agent-of"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == nodeWord {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := runNode(ctx, os.Args[2:]); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		return
	}
	nstest.Main(m)
}

const segment = "192.0.2.0/24"

type inbound struct {
	from string
	b    []byte
}

// runNode is an agent: -name, -addr, -key, -vips and then the other nodes as
// NAME=ADDRESS.
func runNode(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet(nodeWord, flag.ContinueOnError)
	name := fs.String("name", "", "")
	addr := fs.String("addr", "", "")
	key := fs.String("key", "0123456789abcdef", "")
	vips := fs.Int("vips", 0, "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	fmt.Println("pid", os.Getpid())
	inbox := make(chan inbound, 4096)
	m, err := New(Config{
		Name: *name, Addr: netip.MustParseAddr(*addr), Cluster: "test", Keys: [][]byte{[]byte(*key)},
		Log: slog.New(slog.DiscardHandler),
		Receive: func(from string, b []byte) {
			select {
			case inbox <- inbound{from, b}:
			default: // as lost as it would be in a full socket
			}
		},
	})
	if err != nil {
		return err
	}
	start := time.Now()
	machine := ownership.New(ownership.Config{Self: *name, Boot: uint64(start.UnixNano()), Seed: uint64(start.UnixNano())})
	at := map[string]netip.AddrPort{}
	nodes := ownership.Nodes{}
	seg := netip.MustParsePrefix(segment)
	names := []string{*name}
	for i, arg := range fs.Args() {
		n, a, _ := strings.Cut(arg, "=")
		at[n] = netip.AddrPortFrom(netip.MustParseAddr(a), 0)
		nodes[n] = ownership.Peer{Addr: at[n].Addr(), Links: map[netip.Prefix][]cluster.MAC{seg: {{2, 0, 0, 0, 0, byte(i + 1)}}}}
		names = append(names, n)
	}
	m.SetNodes(at)
	wants := ownership.Wants{}
	for i := range *vips {
		u := ownership.Unit{VIP: netip.AddrFrom4([4]byte{192, 0, 2, byte(200 + i)}), Segment: seg}
		wants[u] = &ownership.Want{Key: fmt.Sprint("service-", i), Candidates: names, Rules: true}
	}
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	step := func(ev ownership.Event) {
		for _, a := range machine.Step(time.Since(start), ev) {
			switch a := a.(type) {
			case ownership.Send:
				if err := m.Send(a.To, ownership.Encode(a.Message)); err != nil {
					fmt.Println("send:", err)
				}
			case ownership.Report:
				fmt.Println(time.Now().Format("05.000"), a.What, a.Unit.VIP, a.Peer, a.Cause, a.After.Milliseconds())
			}
		}
	}
	step(nodes)
	step(ownership.Links{seg: {Name: "eth0", Up: true, MACs: []cluster.MAC{{2, 0, 0, 0, 1, 0}}}})
	step(wants)
	status := time.NewTicker(500 * time.Millisecond)
	defer status.Stop()
	known := map[string]bool{}
	said := map[string]string{}
	for {
		select {
		case err := <-done:
			return err
		case in := <-inbox:
			msg, err := ownership.Decode(in.b)
			if err != nil {
				fmt.Println("decode:", err)
				continue
			}
			step(ownership.Received{From: in.from, Message: msg})
		case <-time.After(machine.NextWake() - time.Since(start)):
			step(ownership.Tick{})
		case <-status.C:
			silent := map[string]bool{}
			for _, p := range machine.Peers() {
				silent[p.Name] = p.Silent
				if p.Known && !p.Silent && !known[p.Name] {
					known[p.Name] = true
					fmt.Println("knows", p.Name)
				}
			}
			for _, p := range m.Peers(func(n string) bool { return !silent[n] }) {
				if said[p.Name] != p.Problem {
					said[p.Name] = p.Problem
					fmt.Printf("problem %s: %q\n", p.Name, p.Problem)
				}
			}
		}
	}
}
