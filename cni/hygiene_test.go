package cni

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/ndp"

	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/nstest"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

func TestHygiene(t *testing.T) {
	both := prefixes("10.244.1.0/24 fd44:0:0:1::/64")
	eth1 := link(3, "eth1", "203.0.113.1/24", "")
	pod := link(4, "clpabc", "169.254.1.1/32", "")
	tests := []struct {
		name     string
		sys      map[string]string
		links    []rtnl.Link
		cidrs    []netip.Prefix
		set      []string
		problems []string
	}{
		{name: "a fresh host", cidrs: both, links: []rtnl.Link{lo, eth0, pod},
			sys: map[string]string{forward4: "0", forward6: "0", "net/ipv6/conf/eth0/accept_ra": "1", "net/ipv6/conf/default/accept_ra": "1", "net/ipv6/conf/clpabc/accept_ra": "1", "net/ipv6/conf/lo/accept_ra": "1"},
			set: []string{"net/ipv4/ip_forward=1", "net/ipv6/conf/default/accept_ra=2", "net/ipv6/conf/eth0/accept_ra=2", "net/ipv6/conf/all/forwarding=1"}},
		{name: "forwarding already: advertisements were ignored by choice", cidrs: both, links: []rtnl.Link{lo, eth0},
			sys: map[string]string{forward4: "1", forward6: "1", "net/ipv6/conf/eth0/accept_ra": "1"}},
		{name: "user space reads the advertisements", cidrs: both[1:], links: []rtnl.Link{lo, eth0},
			sys: map[string]string{forward4: "0", forward6: "0", "net/ipv6/conf/eth0/accept_ra": "0"}, set: []string{"net/ipv6/conf/all/forwarding=1"}},
		{name: "no IPv6 in the kernel", cidrs: both, links: []rtnl.Link{lo, eth0}, sys: map[string]string{forward4: "1"}},
		{name: "strict with one network", cidrs: both[:1], links: []rtnl.Link{lo, eth0, pod}, sys: map[string]string{"net/ipv4/conf/all/rp_filter": "1"}},
		{name: "strict with two networks", cidrs: both[:1], links: []rtnl.Link{lo, eth0, eth1}, sys: map[string]string{"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/eth1/rp_filter": "1"},
			problems: []string{"rp_filter is strict on eth1 and this node has 2 networks (eth0, eth1): packets whose answer would take another link are dropped; run: sysctl -w net.ipv4.conf.all.rp_filter=2"}},
		{name: "loose on all", cidrs: both[:1], links: []rtnl.Link{lo, eth0, eth1}, sys: map[string]string{"net/ipv4/conf/all/rp_filter": "2", "net/ipv4/conf/eth1/rp_filter": "1"}},
		{name: "loose on each", cidrs: both[:1], links: []rtnl.Link{lo, eth0, eth1}, sys: map[string]string{"net/ipv4/conf/all/rp_filter": "1", "net/ipv4/conf/eth0/rp_filter": "2", "net/ipv4/conf/eth1/rp_filter": "2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			set, problems := Hygiene(func(key string) string { return tt.sys[key] }, tt.links, tt.cidrs)
			var got []string
			for _, s := range set {
				got = append(got, s.Key+"="+s.Value)
				if s.Why == "" {
					t.Errorf("%s has no reason", s.Key)
				}
			}
			if !slices.Equal(got, tt.set) {
				t.Errorf("set %q, want %q", got, tt.set)
			}
			if !slices.Equal(problems, tt.problems) {
				t.Errorf("problems %q, want %q", problems, tt.problems)
			}
		})
	}
}

// A node that lives on router advertisements keeps its default route when
// forwarding is turned on (reviews/dataplane.md A6).
func TestANodeThatLivesOnRouterAdvertisements(t *testing.T) {
	l := newLab(t)
	n := l.node("a1", 1, false)
	n.IP("-6 route del default")
	advertise := func() {
		t.Helper()
		var c *ndp.Conn
		var err error
		l.router.Do(func() {
			ifi, ierr := net.InterfaceByName("eth0")
			if ierr != nil {
				err = ierr
				return
			}
			c, _, err = ndp.Listen(ifi, ndp.LinkLocal)
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ra := &ndp.RouterAdvertisement{CurrentHopLimit: 64, RouterLifetime: 30 * time.Minute,
			Options: []ndp.Option{&ndp.PrefixInformation{PrefixLength: 64, OnLink: true, AutonomousAddressConfiguration: true,
				ValidLifetime: time.Hour, PreferredLifetime: time.Hour, Prefix: netip.MustParseAddr("2001:db8:1::")}}}
		if err := c.WriteTo(ra, nil, netip.IPv6LinkLocalAllNodes()); err != nil {
			t.Fatal(err)
		}
	}
	lives := func() bool {
		advertise()
		return strings.Contains(n.IP("-6 route"), "proto ra")
	}
	nstest.Wait(t, 10*time.Second, "the host takes the advertisement", lives)
	l.publish()
	l.ready()
	if got := n.Run("cat", "/proc/sys/net/ipv6/conf/all/forwarding"); got != "1" {
		t.Fatalf("forwarding is %s", got)
	}
	if got := n.IP("-6 route show default"); !strings.Contains(got, "proto ra") {
		t.Errorf("the default route is gone; there is %q", got)
	}
	n.Run("sh", "-c", "ip -6 route flush proto ra")
	nstest.Wait(t, 10*time.Second, "the next advertisement is taken as well", lives)
}

func TestFirewallsAreTold(t *testing.T) {
	for _, tt := range []struct{ name, rules, want string }{
		{"docker and ufw", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }",
			"the chain FORWARD of the table ip filter drops what is forwarded and not accepted by its rules, so packets of pods may be lost; run: iptables -I FORWARD -i clp+ -j ACCEPT"},
		{"by hand", "add table inet my; add chain inet my fw { type filter hook forward priority 0; policy drop; }",
			`run: nft insert rule inet my fw iifname "clp*" accept && nft insert rule inet my fw oifname "clp*" accept`},
		{"heeded", `add table inet my; add chain inet my fw { type filter hook forward priority 0; policy drop; }; add rule inet my fw iifname "clp*" accept; add rule inet my fw oifname "clp*" accept`, ""},
		{"harmless", "add table inet my; add chain inet my fw { type filter hook forward priority 0; policy accept; }; add chain inet my in { type filter hook input priority 0; policy drop; }", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			n := l.node("a1", 1, false)
			n.stop()
			n.Run("nft", tt.rules)
			n.start()
			l.publish()
			nstest.Wait(t, 10*time.Second, "the agent has run", func() bool { return n.agent.Status().Synced })
			problems := strings.Join(n.agent.Status().Problems, "\n")
			if tt.want == "" && problems != "" || !strings.Contains(problems, tt.want) {
				t.Errorf("problems %q, want %q", problems, tt.want)
			}
		})
	}
}

func TestInstall(t *testing.T) {
	in := Install{Program: filepath.Join(t.TempDir(), "program"), BinDir: filepath.Join(t.TempDir(), "opt/cni/bin"), ConfDir: filepath.Join(t.TempDir(), "net.d")}
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(in.Program, "one")
	for range 2 { // the second finds everything in place
		problems, err := in.install("/data")
		if err != nil || len(problems) > 0 {
			t.Fatal(problems, err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(in.BinDir, "loopback")); err != nil || string(got) != "one" {
		t.Errorf("loopback: %q, %v", got, err)
	}
	if st, err := os.Stat(filepath.Join(in.BinDir, "clarion-cni")); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", st, err)
	}
	write(in.Program, "two")
	write(filepath.Join(in.ConfDir, "05-cilium.conflist"), "{}")
	write(filepath.Join(in.ConfDir, "99-other.conf"), "{}")
	write(filepath.Join(in.ConfDir, "README"), "no configuration")
	problems, err := in.install("/data")
	if err != nil || len(problems) != 2 || !strings.Contains(problems[0], "05-cilium.conflist, which comes before 10-clarion.conflist") || !strings.Contains(problems[1], "99-other.conf") {
		t.Errorf("%q, %v", problems, err)
	}
	if got, err := os.ReadFile(filepath.Join(in.BinDir, "clarion-cni")); err != nil || string(got) != "two" {
		t.Errorf("the upgrade did not arrive: %q, %v", got, err)
	}
	if err := in.remove(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(in.BinDir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if left, err := os.ReadDir(in.ConfDir); err != nil || len(left) != 3 {
		t.Errorf("left %v, %v", left, err)
	}

	t.Run("a loopback plugin that is there stays", func(t *testing.T) {
		write(filepath.Join(in.BinDir, "loopback"), "theirs")
		if _, err := in.install("/data"); err != nil {
			t.Fatal(err)
		}
		if err := in.remove(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(in.BinDir, "loopback")); err != nil || string(got) != "theirs" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("without a program nothing is announced", func(t *testing.T) {
		bad := in
		bad.Program = "/nonexistent"
		if _, err := bad.install("/data"); err == nil {
			t.Error("no error")
		}
		if _, err := os.Stat(filepath.Join(in.ConfDir, confName)); !os.IsNotExist(err) {
			t.Errorf("the configuration is there: %v", err)
		}
	})
}

// The runtime is told of the plugin only once a pod can be served.
func TestTheConfigurationComesWhenPodsCanBeServed(t *testing.T) {
	l := newLab(t)
	n := l.node("a1", 1, false)
	n.stop()
	in := Install{Program: "/proc/self/exe", BinDir: t.TempDir(), ConfDir: t.TempDir()}
	n.install = in
	cidrs := l.nodes["a1"].PodCIDRs
	bare := *l.nodes["a1"]
	bare.PodCIDRs = nil
	l.nodes["a1"] = &bare
	n.start()
	l.publish()
	nstest.Wait(t, 10*time.Second, "the agent says what is missing", func() bool { return strings.Contains(n.agent.Status().NotReady, "spec.podCIDRs") })
	conf := filepath.Join(in.ConfDir, confName)
	if _, err := os.Stat(conf); !os.IsNotExist(err) {
		t.Fatalf("the configuration is there before a pod could be served: %v", err)
	}
	if desc, err := store.ReadNode(n.dir); err != nil || !strings.Contains(desc.NotReady, "spec.podCIDRs") {
		t.Errorf("the plugin is told %+v, %v", desc, err)
	}
	whole := bare
	whole.PodCIDRs = cidrs
	l.nodes["a1"] = &whole
	l.publish()
	nstest.Wait(t, 10*time.Second, "the configuration is there", func() bool { _, err := os.Stat(conf); return err == nil })
	n.pod("p")
	if err := Off(Config{Handle: func() *rtnl.Handle { n.stop(); return n.handle() }(), Install: in}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(conf); !os.IsNotExist(err) {
		t.Errorf("the configuration is still there: %v", err)
	}
	if out := n.Run("nft", "list", "tables"); strings.Contains(out, "clarion") {
		t.Errorf("left: %s", out)
	}
}
