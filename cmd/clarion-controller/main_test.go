package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/klog/v2"

	"github.com/clarion-lb/clarion/provider"
)

func env(pairs ...string) func(string) string {
	return func(key string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == key {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestEveryWrongFlagIsTold(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "") // wherever this runs, it is no pod
	tests := []struct {
		name string
		args []string
		code int
		says []string
	}{
		{"help", []string{"-h"}, 0, []string{"-load-balancer-class", "-workers"}},
		{"several at once", []string{"--workers=0", "--namespace=", "rest"}, exitUsage, []string{"--workers is 0", "--namespace is empty", `"rest" is no flag`}},
		{"a CIDR that is none", []string{"--pod-cidrs=10.0.0.0/8,10.1.2.3"}, exitUsage, []string{"pod-cidrs", `"10.1.2.3"`}},
		{"an unknown flag", []string{"--verbose"}, exitUsage, []string{"verbose"}},
		{"a log level that is none", []string{"--log-level=loud"}, exitUsage, []string{"log-level", "loud"}},
		{"a kubeconfig that is not there", []string{"--kubeconfig=" + filepath.Join(t.TempDir(), "none")}, exitFailed, []string{"--kubeconfig", "none"}},
		{"outside a cluster", nil, exitFailed, []string{"--kubeconfig"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			if code := run(t.Context(), tt.args, env(), &out); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			for _, word := range tt.says {
				if !strings.Contains(out.String(), word) {
					t.Errorf("%q does not mention %s", out.String(), word)
				}
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	o, err := parse([]string{"--service-cidrs", "10.96.0.1/16, fd96::/112"}, env("POD_NAMESPACE", "lb"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	c := o.config(slog.New(slog.DiscardHandler))
	if c.Namespace != "lb" || c.Class != provider.Class || c.Workers != 24 || c.Lease != "clarion-controller" {
		t.Errorf("%+v", c)
	}
	if len(c.Reserved) != 2 || c.Reserved[0].Range.String() != "10.96.0.0/16" || !strings.Contains(c.Reserved[1].Reason, "--service-cidrs") {
		t.Errorf("reserved: %v", c.Reserved)
	}
	again, err := parse(nil, env(), io.Discard)
	if err != nil || again.namespace != "clarion-system" || again.identity == o.identity {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestProbesAndMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	o, err := parse(nil, env(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	h := handler(provider.New(fake.NewClientset(), o.config(slog.New(slog.DiscardHandler)), registry), registry)
	for path, want := range map[string]struct {
		code int
		has  string
	}{
		"/healthz": {http.StatusOK, "ok"},
		"/readyz":  {http.StatusServiceUnavailable, "caches"},
		"/metrics": {http.StatusOK, "clarion_controller_leader 0"},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		if w.Code != want.code || !strings.Contains(w.Body.String(), want.has) {
			t.Errorf("%s: %d %.200s", path, w.Code, w.Body.String())
		}
	}
}

func TestWhatTheLibrariesSayIsWorthLess(t *testing.T) {
	var out bytes.Buffer
	log := logger(slog.LevelInfo, &out)
	defer klog.ClearLogger()
	log.Info("ours")
	klog.Background().Info("theirs")
	klog.Background().Error(nil, "their error")
	klog.Background().Error(nil, "Unable to record event: too many queued events, dropped event")
	if got := out.String(); !strings.Contains(got, "ours") || strings.Contains(got, "theirs") || !strings.Contains(got, "their error") || strings.Contains(got, "queued") {
		t.Errorf("the log is %q", got)
	}
}

func TestAnAddressInUseEndsTheServer(t *testing.T) {
	first := httptest.NewServer(http.NotFoundHandler())
	defer first.Close()
	err := serving(&http.Server{Addr: first.Listener.Addr().String(), ReadHeaderTimeout: readHeaderTimeout}).Run(context.Background())
	if err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v", err)
	}
}
