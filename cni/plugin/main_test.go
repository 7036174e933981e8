package plugin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/cni/nat"
	"github.com/clarion-lb/clarion/cni/plugin"
	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/nstest"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// dieAt is the environment variable that makes the plugin kill itself (as in
// kill -9) after its n-th step. Only this test binary knows it.
const dieAt = "CLARION_TEST_DIE_AT"

// TestMain makes the test binary the plugin when it is called by the plugin's
// name, as a runtime does through the links that newNode makes.
func TestMain(m *testing.M) {
	if slices.Contains([]string{plugin.Type, plugin.TypeLoopback}, filepath.Base(os.Args[0])) {
		p := plugin.Plugin{Stdout: os.Stdout}
		if n, err := strconv.Atoi(os.Getenv(dieAt)); err == nil {
			p.Reached = func(string) {
				if n--; n == 0 {
					syscall.Kill(os.Getpid(), syscall.SIGKILL)
					select {}
				}
			}
		}
		os.Exit(p.Run(context.Background()))
	}
	nstest.Main(m)
}

// A node is a host with a runtime on it: what calls the plugin.
type node struct {
	*nstest.Host
	t   testing.TB
	dir string // the plugin's data
	bin string // CNI_PATH
	cni *libcni.CNIConfig
}

var dual = store.Node{Name: "n1", MTU: 1450, PodCIDRs: []netip.Prefix{
	netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd44:0:0:1::/64")},
	Excluded: []netip.Addr{netip.MustParseAddr("10.244.1.1"), netip.MustParseAddr("fd44:0:0:1::1")}}

// newNode makes of a host a node that forwards.
func newNode(t testing.TB, h *nstest.Host, desc store.Node) *node {
	t.Helper()
	h.Sysctl("net.ipv4.ip_forward", "1")
	h.Sysctl("net.ipv6.conf.all.forwarding", "1")
	n := &node{Host: h, t: t, dir: t.TempDir(), bin: t.TempDir()}
	for _, name := range []string{plugin.Type, plugin.TypeLoopback} {
		if err := os.Symlink("/proc/"+strconv.Itoa(os.Getpid())+"/exe", filepath.Join(n.bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	n.cni = libcni.NewCNIConfigWithCacheDir([]string{n.bin}, t.TempDir(), nil)
	n.describe(desc)
	return n
}

func (n *node) describe(desc store.Node) {
	n.t.Helper()
	if err := store.WriteNode(n.dir, desc); err != nil {
		n.t.Fatal(err)
	}
}

// list is the network configuration in a version.
func (n *node) list(version string) *libcni.NetworkConfigList {
	n.t.Helper()
	l, err := libcni.NetworkConfFromBytes(fmt.Appendf(nil,
		`{"cniVersion":%q,"name":"clarion","plugins":[{"type":"clarion-cni","dataDir":%q,"capabilities":{"portMappings":true,"bandwidth":true}}]}`, version, n.dir))
	if err != nil {
		n.t.Fatal(err)
	}
	return l
}

const newest = "1.1.0"

// A pod is a network namespace with a name in the file system, as runtimes
// make them.
type pod struct {
	t    testing.TB
	id   string
	path string
}

func newPod(t testing.TB, id string) *pod {
	t.Helper()
	p := &pod{t: t, id: id, path: filepath.Join(t.TempDir(), "netns")}
	if err := os.WriteFile(p.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine, in the new namespace
		ns, e := netns.New()
		if e == nil {
			e = errors.Join(unix.Mount("/proc/thread-self/ns/net", p.path, "", unix.MS_BIND, ""), ns.Close())
		}
		err <- e
	}()
	if err := <-err; err != nil {
		t.Fatalf("make the pod's namespace: %v", err)
	}
	t.Cleanup(p.destroy)
	return p
}

// destroy ends the namespace, as when the sandbox dies.
func (p *pod) destroy() {
	if err := unix.Unmount(p.path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		p.t.Errorf("unmount %s: %v", p.path, err)
	}
}

// do runs f with the thread inside the pod.
func (p *pod) do(f func()) {
	p.t.Helper()
	h, err := rtnl.OpenAt(p.path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer h.Close()
	if err := h.Do(func() error { f(); return nil }); err != nil {
		p.t.Fatal(err)
	}
}

// run runs a program inside the pod.
func (p *pod) run(args ...string) (string, error) {
	var out []byte
	var err error
	p.do(func() { out, err = exec.Command(args[0], args[1:]...).CombinedOutput() })
	return strings.TrimSpace(string(out)), err
}

func (p *pod) must(args ...string) string {
	p.t.Helper()
	out, err := p.run(args...)
	if err != nil {
		p.t.Fatalf("in %s: %s: %v\n%s", p.id, strings.Join(args, " "), err, out)
	}
	return out
}

func (p *pod) rt() *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: p.id, NetNS: p.path, IfName: "eth0",
		Args: [][2]string{{"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", p.id}}}
}

// add is ADD as a runtime does it.
func (n *node) add(p *pod) (*current.Result, error) {
	var r types.Result
	var err error
	n.Do(func() { r, err = n.cni.AddNetworkList(context.Background(), n.list(newest), p.rt()) })
	if err != nil {
		return nil, err
	}
	return current.NewResultFromResult(r)
}

func (n *node) mustAdd(p *pod) *current.Result {
	n.t.Helper()
	r, err := n.add(p)
	if err != nil {
		n.t.Fatalf("ADD %s: %v", p.id, err)
	}
	return r
}

func (n *node) del(p *pod) error {
	var err error
	n.Do(func() { err = n.cni.DelNetworkList(context.Background(), n.list(newest), p.rt()) })
	return err
}

func (n *node) check(p *pod) error {
	var err error
	n.Do(func() { err = n.cni.CheckNetworkList(context.Background(), n.list(newest), p.rt()) })
	return err
}

func (n *node) status() error {
	var err error
	n.Do(func() { err = n.cni.GetStatusNetworkList(context.Background(), n.list(newest)) })
	return err
}

// A call is the plugin called by hand: environment and stdin.
type call struct {
	command, id, netns, ifName, stdin string
	env                               []string
}

// exec runs the plugin and returns its output and, when it failed, the error
// that it wrote.
func (n *node) exec(c call) (string, *types.Error) {
	n.t.Helper()
	cmd := exec.Command(filepath.Join(n.bin, plugin.Type))
	cmd.Stdin = strings.NewReader(c.stdin)
	cmd.Env = append(c.env, "CNI_PATH="+n.bin)
	for k, v := range map[string]string{"CNI_COMMAND": c.command, "CNI_CONTAINERID": c.id, "CNI_NETNS": c.netns, "CNI_IFNAME": c.ifName} {
		if v != "" {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	var out []byte
	var err error
	n.Do(func() { out, err = cmd.Output() })
	if err == nil {
		return string(out), nil
	}
	e := &types.Error{}
	if jerr := json.Unmarshal(out, e); jerr != nil {
		// Killed, or it wrote nonsense: the caller sees an error that has no code.
		return string(out), &types.Error{Code: 0, Msg: err.Error(), Details: string(out)}
	}
	return string(out), e
}

// conf is stdin for a call by hand.
func (n *node) conf(more string) string {
	return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"clarion","type":"clarion-cni","dataDir":%q%s}`, n.dir, more)
}

func (n *node) callFor(command string, p *pod) call {
	return call{command: command, id: p.id, netns: p.path, ifName: "eth0", stdin: n.conf("")}
}

// left lists what pods have left on the node: files, links, routes.
func (n *node) left() (left []string) {
	n.t.Helper()
	for _, dir := range []string{"sandboxes", "addresses"} {
		found, err := filepath.Glob(filepath.Join(n.dir, "boot-*", dir, "*"))
		if err != nil {
			n.t.Fatal(err)
		}
		for _, f := range found {
			left = append(left, dir+"/"+filepath.Base(f))
		}
	}
	n.Host.Do(func() {
		h, err := rtnl.OpenHandle()
		if err != nil {
			n.t.Fatal(err)
		}
		defer h.Close()
		links, err := h.Links()
		if err != nil {
			n.t.Fatal(err)
		}
		for _, l := range links {
			if strings.HasPrefix(l.Name, store.HostIfPrefix) {
				left = append(left, "link "+l.Name)
			}
		}
		routes, err := h.Routes()
		if err != nil {
			n.t.Fatal(err)
		}
		for _, r := range routes {
			left = append(left, "route "+r.String())
		}
	})
	if table, err := n.Command("nft", "list", "table", "inet", nat.Table); err == nil {
		for line := range strings.Lines(table) {
			if strings.Contains(line, "tcp . ") || strings.Contains(line, "udp . ") {
				left = append(left, "host port "+strings.TrimSpace(line))
			}
		}
	}
	return left
}

func (n *node) clean(what string) {
	n.t.Helper()
	if left := n.left(); len(left) > 0 {
		n.t.Fatalf("%s left behind: %v", what, left)
	}
}

// addressesOf returns the addresses in a result.
func addressesOf(t testing.TB, r *current.Result) (out []netip.Addr) {
	t.Helper()
	for _, ip := range r.IPs {
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			t.Fatalf("no address: %v", ip)
		}
		out = append(out, a.Unmap())
	}
	return out
}
