package main

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/clarion-lb/clarion/internal/apidial"
	"github.com/clarion-lb/clarion/internal/cluster"
)

func TestTheKubeletKnowsTheAPIServer(t *testing.T) {
	root := t.TempDir()
	write := func(path, text string) {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if ways, _ := kubeletWays(root, slog.New(slog.DiscardHandler)); ways != nil {
		t.Fatalf("ways from nothing: %v", ways)
	}
	write("etc/kubernetes/kubelet.conf", `{"clusters":[{"name":"a","cluster":{"server":"https://[2001:db8:1::10]:6443","certificate-authority-data":"eA=="}}]}`)
	write("var/lib/kubelet/kubeconfig", "clusters: [{")
	write("var/lib/rancher/k3s/agent/kubelet.kubeconfig", `{"clusters":[{"name":"a","cluster":{"server":"http://192.0.2.1"}}]}`)
	ways, ca := kubeletWays(root, slog.New(slog.DiscardHandler))
	want := []apidial.Way{{Address: "[2001:db8:1::10]:6443", From: "the kubelet's /etc/kubernetes/kubelet.conf"}}
	if !reflect.DeepEqual(ways, want) || string(ca) != "x\n" {
		t.Fatalf("ways %v, ca %q", ways, ca)
	}
}

func TestStoredEndpointsAreWays(t *testing.T) {
	v := cluster.View{Services: map[cluster.Key]*cluster.Service{"default/kubernetes": {Ports: []cluster.Port{
		{Endpoints: []cluster.Endpoint{{Addr: netip.MustParseAddrPort("192.0.2.10:6443")}, {Addr: netip.MustParseAddrPort("[2001:db8:1::10]:6443")}}},
	}}}}
	got := storedWays(v)
	if len(got) != 2 || got[0].Address != "192.0.2.10:6443" || got[1].Address != "[2001:db8:1::10]:6443" {
		t.Fatalf("got %v", got)
	}
	if storedWays(cluster.View{}) != nil {
		t.Fatal("ways from nothing")
	}
}

func TestHostPort(t *testing.T) {
	for text, want := range map[string]string{
		"https://192.0.2.10:6443":  "192.0.2.10:6443",
		"https://api.example.com":  "api.example.com:443",
		"https://[2001:db8::1]":    "[2001:db8::1]:443",
		"http://192.0.2.10":        "",
		"192.0.2.10:6443":          "",
		"https://192.0.2.10:99999": "",
	} {
		got, err := hostPort(text)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
	}
}
