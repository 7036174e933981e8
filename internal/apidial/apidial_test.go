package apidial

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
)

// wire is a network on which some addresses answer.
type wire struct {
	up    map[string]bool
	asked []string
}

func (w *wire) dial(_ context.Context, _, address string) (net.Conn, error) {
	w.asked = append(w.asked, address)
	if !w.up[address] {
		return nil, errors.New("no route to host")
	}
	here, there := net.Pipe()
	return here, there.Close()
}

func TestTheLastGoodWayComesFirst(t *testing.T) {
	w := &wire{up: map[string]bool{"b:1": true, "c:1": true}}
	var log strings.Builder
	d, err := New(slog.New(slog.NewTextHandler(&log, nil)), Way{"a:1", "a flag"}, Way{"b:1", "the kubelet"}, Way{"c:1", "the stored view"})
	if err != nil {
		t.Fatal(err)
	}
	d.dial = w.dial
	steps := []struct {
		up    []string
		asked []string
		ok    bool
	}{
		{[]string{"b:1", "c:1"}, []string{"a:1", "b:1"}, true},
		{[]string{"a:1", "b:1"}, []string{"b:1"}, true}, // it stays while it works
		{[]string{"c:1"}, []string{"b:1", "a:1", "c:1"}, true},
		{nil, []string{"c:1", "b:1", "a:1"}, false},
		{nil, []string{"c:1", "b:1", "a:1"}, false},
		{[]string{"a:1"}, []string{"c:1", "b:1", "a:1"}, true},
	}
	for i, s := range steps {
		w.up, w.asked = map[string]bool{}, nil
		for _, a := range s.up {
			w.up[a] = true
		}
		conn, err := d.DialContext(t.Context(), "tcp", "kubernetes.default.svc:443")
		if (err == nil) != s.ok || !slices.Equal(w.asked, s.asked) {
			t.Errorf("step %d: asked %v, want %v; err %v", i, w.asked, s.asked, err)
		}
		if err == nil {
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		} else if !strings.Contains(err.Error(), "a:1 (from a flag)") {
			t.Errorf("step %d: the error does not say what was tried: %v", i, err)
		}
	}
	if n := strings.Count(log.String(), "cannot be reached"); n != 1 {
		t.Errorf("the outage was told %d times, want once:\n%s", n, log.String())
	}
	if n := strings.Count(log.String(), "connected to"); n != 3 {
		t.Errorf("a new way was told %d times, want 3:\n%s", n, log.String())
	}
}

func TestNoWayIsAnError(t *testing.T) {
	if _, err := New(slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "--apiserver") {
		t.Fatal(err)
	}
}
