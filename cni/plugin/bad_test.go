package plugin_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/cni/plugin"
	"github.com/clarion-lb/clarion/cni/store"
)

// Bad input gets a precise error and changes nothing.
func TestBadInput(t *testing.T) {
	n := bare(t)
	p := newPod(t, "c1")
	long := strings.Repeat("a", 300)
	self := filepath.Join(t.TempDir(), "self")
	if err := os.WriteFile(self, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	n.Do(func() { err = unix.Mount("/proc/thread-self/ns/net", self, "", unix.MS_BIND, "") })
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(self, unix.MNT_DETACH)
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mapping := func(m string) func(*call) {
		return func(c *call) { c.stdin = n.conf(`,"runtimeConfig":{"portMappings":[{"hostPort":0},` + m + `]}`) }
	}
	tests := []struct {
		name string
		edit func(*call)
		code uint
		want string
	}{
		{"stdin is empty", func(c *call) { c.stdin = "" }, types.ErrDecodingFailure, "unexpected end of JSON"},
		{"stdin is no JSON", func(c *call) { c.stdin = "cniVersion: 1.1.0" }, types.ErrDecodingFailure, "invalid character"},
		{"a key of the wrong type", func(c *call) { c.stdin = n.conf(`,"runtimeConfig":7`) }, types.ErrDecodingFailure, "runtimeConfig"},
		{"no network name", func(c *call) { c.stdin = `{"cniVersion":"1.1.0","type":"clarion-cni"}` }, types.ErrInvalidNetworkConfig, "missing network name"},
		{"an unknown version", func(c *call) { c.stdin = strings.Replace(c.stdin, "1.1.0", "9.9.9", 1) }, types.ErrIncompatibleCNIVersion, "incompatible CNI versions"},
		{"a version that is none", func(c *call) { c.stdin = strings.Replace(c.stdin, "1.1.0", "new", 1) }, types.ErrIncompatibleCNIVersion, ""},
		{"another IPAM", func(c *call) { c.stdin = n.conf(`,"ipam":{"type":"host-local"}`) }, types.ErrUnsupportedField, `ipam.type: "host-local" is not used`},
		{"a relative data directory", func(c *call) { c.stdin = `{"cniVersion":"1.1.0","name":"x","type":"clarion-cni","dataDir":"var"}` }, types.ErrInvalidNetworkConfig, `dataDir: "var" is not an absolute path`},
		{"a port that is none", mapping(`{"hostPort":70000,"containerPort":80}`), types.ErrInvalidNetworkConfig, "runtimeConfig.portMappings[1].hostPort: 70000 is not in 1-65535"},
		{"a container port that is none", mapping(`{"hostPort":80}`), types.ErrInvalidNetworkConfig, "portMappings[1].containerPort: 0"},
		{"a protocol that is none", mapping(`{"hostPort":80,"containerPort":80,"protocol":"quic"}`), types.ErrInvalidNetworkConfig, `protocol: "quic" is not tcp, udp or sctp`},
		{"a host address that is none", mapping(`{"hostPort":80,"containerPort":80,"hostIP":"eth0"}`), types.ErrInvalidNetworkConfig, `hostIP: "eth0" is not an address`},
		{"a prevResult that is none", func(c *call) { c.stdin = n.conf(`,"prevResult":{"cniVersion":"1.1.0","ips":[{"address":"x"}]}`) }, types.ErrDecodingFailure, "prevResult"},
		{"no container id", func(c *call) { c.id = "" }, types.ErrInvalidEnvironmentVariables, "CNI_CONTAINERID"},
		{"a container id with a slash", func(c *call) { c.id = "../c1" }, types.ErrInvalidEnvironmentVariables, "containerID"},
		{"a container id that is too long", func(c *call) { c.id = long }, types.ErrInvalidEnvironmentVariables, "is longer than 250 bytes"},
		{"an interface name that is too long", func(c *call) { c.ifName = long }, types.ErrInvalidEnvironmentVariables, "interface name"},
		{"no namespace", func(c *call) { c.netns = "" }, types.ErrInvalidEnvironmentVariables, "CNI_NETNS"},
		{"a namespace that is gone", func(c *call) { c.netns = "/run/netns/gone" }, types.ErrInvalidNetNS, "/run/netns/gone: the network namespace is gone"},
		{"a file that is no namespace", func(c *call) { c.netns = plain }, types.ErrInvalidNetNS, "not a network namespace"},
		{"a namespace of another kind", func(c *call) { c.netns = "/proc/self/ns/uts" }, types.ErrInvalidNetNS, "not a network namespace"},
		{"the host's namespace", func(c *call) { c.netns = self }, types.ErrInvalidNetNS, "host's own network namespace"},
		{"an unknown command", func(c *call) { c.command = "MOVE" }, types.ErrInvalidEnvironmentVariables, "MOVE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := n.callFor("ADD", p)
			tt.edit(&c)
			_, err := n.exec(c)
			if err == nil || err.Code != tt.code || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %+v, want code %d and %q", err, tt.code, tt.want)
			}
			n.clean(tt.name)
			if out, err := p.run("ip", "link", "show", "eth0"); err == nil {
				t.Errorf("the pod has %s", out)
			}
		})
	}
}

func TestBadNodeFile(t *testing.T) {
	tests := []struct {
		name, file string
		code       uint
		want       string
	}{
		{"none", "", types.ErrTryAgainLater, "cannot serve pods yet; is the agent (DaemonSet clarion-agent) running here?"},
		{"no pod CIDR yet", `{"version":1,"notReady":"the Node n1 has no spec.podCIDRs"}`, types.ErrTryAgainLater, "cannot serve pods: the Node n1 has no spec.podCIDRs"},
		{"overlapping CIDRs", `{"version":1,"podCIDRs":["10.0.0.0/24","10.0.0.0/25"],"mtu":1500}`, plugin.CodeNodeFile, "podCIDRs[1]: 10.0.0.0/25 overlaps podCIDRs[0] 10.0.0.0/24"},
		{"torn", `{"version":1,"podCI`, plugin.CodeNodeFile, "not JSON"},
		{"of another release", `{"version":2}`, plugin.CodeNodeFile, "restart the agent"},
		{"exhausted", `{"version":1,"podCIDRs":["10.0.0.0/30"],"excluded":["10.0.0.1","10.0.0.2"],"mtu":1500}`, plugin.CodeNoAddress, "all 2 addresses of 10.0.0.0/30 are in use"},
		{"one family exhausted", `{"version":1,"podCIDRs":["10.0.0.0/24","fd44::/126"],"excluded":["fd44::1","fd44::2","fd44::3"],"mtu":1500}`, plugin.CodeNoAddress, "all 3 addresses of fd44::/126 are in use"},
	}
	n := bare(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(n.dir, store.NodeFile)
			if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			if tt.file != "" {
				if err := os.WriteFile(path, []byte(tt.file), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			p := newPod(t, "c1")
			_, err := n.exec(n.callFor("ADD", p))
			if err == nil || err.Code != tt.code || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %+v, want code %d and %q", err, tt.code, tt.want)
			}
			n.clean(tt.name)
		})
	}
}

func TestADiskThatCannotBeWritten(t *testing.T) {
	tests := []struct {
		name, options string
		then          func(dir string) error
		want          string
	}{
		{"full: no blocks", "size=32k", func(dir string) error {
			f, err := os.Create(filepath.Join(dir, "filler"))
			if err != nil {
				return err
			}
			defer f.Close()
			for err == nil {
				_, err = f.Write(make([]byte, 4096))
			}
			return nil
		}, "no space left on device"},
		{"full: no inodes", "nr_inodes=8", func(dir string) (err error) {
			for i := 0; err == nil; i++ {
				err = os.Mkdir(filepath.Join(dir, strings.Repeat("x", i+1)), 0o755)
			}
			return nil
		}, "no space left on device"},
		{"read-only", "", func(dir string) error {
			return unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}, "read-only file system"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := bare(t)
			dir := t.TempDir()
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, tt.options); err != nil {
				t.Fatalf("mount a small disk: %v", err)
			}
			defer unix.Unmount(dir, unix.MNT_DETACH)
			n.dir = dir
			n.describe(dual)
			if _, err := store.OpenThisBoot(dir); err != nil {
				t.Fatal(err)
			}
			if err := tt.then(dir); err != nil {
				t.Fatal(err)
			}
			p := newPod(t, "c1")
			_, err := n.exec(n.callFor("ADD", p))
			if err == nil || err.Code != types.ErrIOFailure || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("err = %+v, want code %d and %q", err, types.ErrIOFailure, tt.want)
			}
			n.clean(tt.name)
			if _, err := p.run("ip", "link", "show", "eth0"); err == nil {
				t.Error("the pod has an interface")
			}
		})
	}
}

func FuzzParseConf(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"x","type":"clarion-cni","dataDir":"/d","runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":8080,"protocol":"TCP","hostIP":"::"}],"bandwidth":{"ingressRate":1}}}`))
	f.Add([]byte(`{"cniVersion":"0.2.0","prevResult":{"cniVersion":"0.2.0","ip4":{"ip":"192.0.2.1/24"}}}`))
	f.Add([]byte(`{"prevResult":{"cniVersion":"1.1.0","ips":[{}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := plugin.ParseConf(data)
		if (c == nil) == (err == nil) {
			t.Fatalf("%v, %v", c, err)
		}
		if err != nil {
			if e, ok := err.(*types.Error); !ok || e.Code == 0 || e.Msg == "" {
				t.Fatalf("no error of the protocol: %#v", err)
			}
			return
		}
		for _, p := range c.Ports {
			if p.HostPort == 0 || p.ContainerPort == 0 || p.HostIP == netip.IPv4Unspecified() {
				t.Fatalf("%+v", p)
			}
		}
	})
}
