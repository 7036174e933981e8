package nat

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/nft"
	"github.com/clarion-lb/clarion/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

var update = flag.Bool("update", false, "write the golden files anew")

func open(t *testing.T) (*nstest.Host, *nft.Conn) {
	t.Helper()
	h := nstest.NewHost(t, "n1")
	var c *nft.Conn
	var err error
	h.Do(func() { c, err = nft.Open() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return h, c
}

func prefixes(text string) (out []netip.Prefix) {
	for w := range strings.FieldsSeq(text) {
		out = append(out, netip.MustParsePrefix(w))
	}
	return out
}

func addrs(text string) (out []netip.Addr) {
	for w := range strings.FieldsSeq(text) {
		out = append(out, netip.MustParseAddr(w))
	}
	return out
}

func pod(id, addresses string, ports ...store.PortMapping) store.Sandbox {
	return store.Sandbox{Version: 1, ContainerID: id, IfName: "eth0", Pod: "shop/" + id, Addresses: addrs(addresses), Ports: ports}
}

var source = Traffic{
	Pods:  prefixes("10.244.1.0/24 fd44:0:0:1::/64"),
	Near:  prefixes("10.244.1.0/24 10.244.2.0/24 10.244.2.128/25 224.0.0.0/4 255.255.255.255/32 fd44::/48 ff00::/8"),
	Hosts: addrs("192.0.2.1 192.0.2.200 2001:db8:1::1"),

	Tunnels: []uint16{4789},
}

var records = []store.Sandbox{
	pod("web", "10.244.1.2 fd44:0:0:1::2", store.PortMapping{HostPort: 80, ContainerPort: 8080, Protocol: cluster.TCP}),
	pod("dns", "10.244.1.3 fd44:0:0:1::3",
		store.PortMapping{HostIP: netip.MustParseAddr("192.0.2.1"), HostPort: 53, ContainerPort: 5353, Protocol: cluster.UDP},
		store.PortMapping{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 53, ContainerPort: 5353, Protocol: cluster.UDP}),
	pod("plain", "10.244.1.4 fd44:0:0:1::4"),
}

func write(t *testing.T, c *nft.Conn, s Traffic, r []store.Sandbox) {
	t.Helper()
	if err := SetTraffic(c, s); err != nil {
		t.Fatal(err)
	}
	if conflicts, err := SetPorts(c, r); err != nil || len(conflicts) > 0 {
		t.Fatal(conflicts, err)
	}
}

// The golden is what a person sees with nft, which must be able to show it.
func TestTheTableAsNftShowsIt(t *testing.T) {
	h, c := open(t)
	write(t, c, source, records)
	got := h.Run("nft", "list", "table", "inet", Table) + "\n"
	path := filepath.Join("testdata", "table.nft")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestEveryChangeEndsWhereAFreshTableWould(t *testing.T) {
	steps := []struct {
		s Traffic
		r []store.Sandbox
	}{
		{source, records},
		{Traffic{}, nil},
		{Traffic{Pods: source.Pods, Near: prefixes("10.244.1.0/24")}, records[:1]},
		{Traffic{Pods: source.Pods, Near: prefixes("10.244.1.0/25 10.244.1.192/26 fd44::/64"), Hosts: addrs("192.0.2.200")}, records[1:]},
		{source, []store.Sandbox{pod("new", "10.244.1.9 fd44:0:0:1::9", records[0].Ports...)}},
		{Traffic{Near: prefixes("0.0.0.0/0 ::/0")}, nil},
		{source, records},
	}
	h, c := open(t)
	for i, step := range steps {
		write(t, c, step.s, step.r)
		freshHost, fresh := open(t)
		write(t, fresh, step.s, step.r)
		got, want := sorted(h.Run("nft", "-j", "list", "table", "inet", Table)), sorted(freshHost.Run("nft", "-j", "list", "table", "inet", Table))
		if got != want {
			t.Fatalf("step %d: got\n%s\nwant\n%s", i, got, want)
		}
		gen, err := c.Generation()
		if err != nil {
			t.Fatal(err)
		}
		write(t, c, step.s, step.r)
		if again, err := c.Generation(); err != nil || again != gen {
			t.Fatalf("step %d: what was right was written again (%d, %d, %v)", i, gen, again, err)
		}
	}
	if err := Remove(c); err != nil {
		t.Fatal(err)
	}
	if out := h.Run("nft", "list", "tables"); out != "" {
		t.Errorf("left: %s", out)
	}
}

// sorted makes the order of elements, which the kernel chooses, and handles
// not count.
func sorted(json string) string {
	fields := strings.FieldsFunc(json, func(r rune) bool { return strings.ContainsRune("{}[], ", r) })
	var out []string
	handle := false
	for _, f := range fields {
		if !handle {
			out = append(out, f)
		}
		handle = f == `"handle":`
	}
	counts := map[string]int{}
	for _, f := range out {
		counts[f]++
	}
	var b strings.Builder
	for _, k := range sortedKeys(counts) {
		b.WriteString(k + "\n")
	}
	return b.String()
}

func TestATableOfAnotherLayoutIsReplaced(t *testing.T) {
	h, c := open(t)
	h.Run("nft", "add table inet clarion-cni; add set inet clarion-cni pods4 { type inet_service; }; add chain inet clarion-cni old; add rule inet clarion-cni old drop")
	write(t, c, source, records)
	if out := h.Run("nft", "list", "table", "inet", Table); strings.Contains(out, "chain old") || !strings.Contains(out, "10.244.1.2 . 8080") {
		t.Error(out)
	}
}

func TestConflicts(t *testing.T) {
	tcp := func(ip string, port uint16) store.PortMapping {
		p := store.PortMapping{HostPort: port, ContainerPort: 1, Protocol: cluster.TCP}
		if ip != "" {
			p.HostIP = netip.MustParseAddr(ip)
		}
		return p
	}
	udp := tcp("", 80)
	udp.Protocol = cluster.UDP
	has := pod("zz", "10.244.1.2", tcp("", 80), tcp("192.0.2.1", 81))
	tests := []struct {
		name  string
		wants store.PortMapping
		taken bool
	}{
		{"the same", tcp("", 80), true},
		{"the same on one address", tcp("192.0.2.1", 81), true},
		{"another protocol", udp, false},
		{"another port", tcp("", 82), false},
		{"one address beside all", tcp("192.0.2.1", 80), false},
		{"another address", tcp("192.0.2.2", 81), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := Conflicting([]store.Sandbox{has}, pod("aa", "10.244.1.3", tt.wants))
			if (c != nil) != tt.taken {
				t.Fatalf("%v", c)
			}
			if c != nil && !strings.Contains(c.Error(), "belongs to pod shop/zz already") {
				t.Error(c)
			}
		})
	}
}

func sortedKeys(counts map[string]int) []string {
	var keys []string
	for k, n := range counts {
		keys = append(keys, fmt.Sprint(n, " ", k))
	}
	slices.Sort(keys)
	return keys
}
