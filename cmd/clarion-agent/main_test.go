package main

import (
	"io"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/config"
	"github.com/clarion-lb/clarion/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// without drops capabilities from the calling thread until the test ends. The
// thread is given up afterwards.
func without(t *testing.T, drop ...int) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the test's goroutine
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	for _, c := range drop {
		data[c/32].Effective &^= 1 << (c % 32)
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
}

// An agent that cannot do its work says what is missing and ends; a DaemonSet
// shows that better than an agent that runs and does nothing.
func TestWhatTheAgentCannotRunWithout(t *testing.T) {
	pod := map[string]string{"NODE_NAME": "node1", "HOST_IP": "192.0.2.11"}
	tests := []struct {
		name string
		env  map[string]string
		drop []int
		want []string
	}{
		{"its node's name", nil, nil, []string{"the name of the node is not known", "NODE_NAME"}},
		{"NET_ADMIN", pod, []int{unix.CAP_NET_ADMIN}, []string{"NET_ADMIN"}},
		{"NET_RAW", pod, []int{unix.CAP_NET_RAW}, []string{"CAP_NET_RAW", "capabilities.add"}},
		{"an API server", pod, nil, []string{"no API server is known", "--kubeconfig"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			without(t, tt.drop...)
			err := run(t.Context(), []string{"--health=127.0.0.1:0"}, func(key string) string { return tt.env[key] }, io.Discard)
			if err == nil {
				t.Fatal("the agent ran")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is missing in %q", want, err)
				}
			}
		})
	}
}

func TestRuleFor(t *testing.T) {
	c, err := config.Parse(map[string]string{
		"default": "192.0.2.200-192.0.2.250, 2001:db8:1::/112",
		"edge":    "addresses: [198.51.100.0/28]\nannounce:\n  interfaces: [\"bond*\"]\n  nodeSelector: {matchLabels: {edge: \"true\"}}",
	}, config.Config{})
	if err != nil {
		t.Fatal(err)
	}
	free, edge, stranded := ruleFor(c, netip.MustParseAddr("2001:db8:1::7")), ruleFor(c, netip.MustParseAddr("198.51.100.3")), ruleFor(c, netip.MustParseAddr("203.0.113.1"))
	if free.Pool != "default" || free.Selects != nil || free.Interfaces != nil {
		t.Errorf("default: %+v", free)
	}
	if edge.Pool != "edge" || len(edge.Interfaces) != 1 || edge.Selects(nil) || !edge.Selects(map[string]string{"edge": "true"}) {
		t.Errorf("edge: %+v", edge)
	}
	if stranded.Pool != "" || stranded.Selects != nil {
		t.Errorf("a stranded address is bound to a rule: %+v", stranded)
	}
}
