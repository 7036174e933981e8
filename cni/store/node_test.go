package store

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseNodeTellsEveryMistake(t *testing.T) {
	tests := []struct{ name, file, want string }{
		{"good", `{"version":1,"podCIDRs":["10.0.0.0/24","fd00::/64"],"mtu":1450}`, ""},
		{"not ready needs nothing else", `{"version":1,"notReady":"no CIDR yet"}`, ""},
		{"not JSON", `version: 1`, "not JSON"},
		{"another version", `{"version":2}`, "version: 2 is not 1"},
		{"no CIDR", `{"version":1,"mtu":1500}`, "podCIDRs: there is none"},
		{"host bits", `{"version":1,"podCIDRs":["10.0.0.1/24"],"mtu":1500}`, "podCIDRs[0]: 10.0.0.1/24 has host bits set; 10.0.0.0/24 is meant"},
		{"overlap", `{"version":1,"podCIDRs":["10.0.0.0/24","10.0.0.128/25"],"mtu":1500}`, "podCIDRs[1]: 10.0.0.128/25 overlaps podCIDRs[0] 10.0.0.0/24"},
		{"two of a family", `{"version":1,"podCIDRs":["fd00::/64","fd01::/64"],"mtu":1500}`, "podCIDRs[1]: fd01::/64 is a second IPv6 prefix"},
		{"mapped", `{"version":1,"podCIDRs":["::ffff:10.0.0.0/120"],"mtu":1500}`, "written as IPv6"},
		{"an MTU that IPv6 cannot have", `{"version":1,"podCIDRs":["fd00::/64"],"mtu":1279}`, "mtu: 1279 is not in 1280-65535"},
		{"two mistakes", `{"version":1,"podCIDRs":["10.0.0.1/24"],"mtu":0}`, "mtu: 0 is not in 576-65535"},
		{"no address", `{"version":1,"podCIDRs":["10.0.0.0/24"],"excluded":["10.0.0.300"],"mtu":1500}`, "10.0.0.300"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseNode([]byte(tt.file))
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("err = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestWriteNodeIsRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cni")
	if _, err := ReadNode(dir); !errors.Is(err, ErrNoNode) {
		t.Fatalf("err = %v, want ErrNoNode", err)
	}
	// What a crash in the middle of a write leaves.
	if err := os.MkdirAll(filepath.Join(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".node.json.new"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := two
	n.Excluded = []netip.Addr{netip.MustParseAddr("10.244.1.1")}
	if err := WriteNode(dir, n); err != nil {
		t.Fatal(err)
	}
	got, err := ReadNode(dir)
	if err != nil || !got.Equal(n) {
		t.Fatalf("got %+v, %v; want %+v", got, err, n)
	}
	before, err := os.Stat(filepath.Join(dir, NodeFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteNode(dir, n); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(filepath.Join(dir, NodeFile))
	if err != nil || !os.SameFile(before, after) {
		t.Fatalf("a file that was right was written again: %v", err)
	}
	bad := n
	bad.MTU = 100
	if err := WriteNode(dir, bad); err == nil {
		t.Fatal("a wrong node was written")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
}

func FuzzParseNode(f *testing.F) {
	f.Add([]byte(`{"version":1,"podCIDRs":["10.0.0.0/24","fd00::/64"],"excluded":["10.0.0.1"],"mtu":1450}`))
	f.Add([]byte(`{"version":1,"podCIDRs":["255.255.255.255/32","ffff::/128"],"mtu":1280}`))
	f.Add([]byte(`{"version":1,"podCIDRs":[null,"0.0.0.0/0"],"mtu":1500}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := ParseNode(data)
		if err != nil || n.NotReady != "" {
			return
		}
		for _, p := range n.PodCIDRs {
			a, ok := pick(p, netip.Addr{}, func(netip.Addr) bool { return false })
			if !ok || !p.Contains(a) {
				t.Fatalf("%s gives %v, %v", p, a, ok)
			}
		}
	})
}

func FuzzParseSandbox(f *testing.F) {
	f.Add([]byte(`{"version":1,"containerID":"c1","ifName":"eth0","addresses":["10.0.0.1","fd00::1"],"ports":[{"hostPort":80,"containerPort":8080,"protocol":6}]}`))
	f.Add([]byte(`{"version":1,"containerID":"../../c1","ifName":"eth0"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSandbox(data)
		if err != nil {
			return
		}
		name := s.Key().String()
		if filepath.Base(name) != name {
			t.Fatalf("the key %q leaves its directory", name)
		}
		if k, ok := parseKey(name); !ok || k != s.Key() {
			t.Fatalf("%q is read as %v", name, k)
		}
		if len(s.Key().HostIf()) != 15 {
			t.Fatal(s.Key().HostIf())
		}
		if slices.ContainsFunc(s.Addresses, func(a netip.Addr) bool { return !a.IsValid() }) {
			t.Fatal(s.Addresses)
		}
	})
}
