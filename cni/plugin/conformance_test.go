package plugin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/clarion-lb/clarion/cni/plugin"
	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/nstest"
)

// The sentences of the CNI specification 1.1.0, one test each. Section 2 is
// meant unless another is named.

func bare(t *testing.T) *node { return newNode(t, nstest.NewHost(t, "n1"), dual) }

func code(err error) uint {
	if e, ok := errors.AsType[*types.Error](err); ok {
		return e.Code
	}
	return 0
}

func TestADDMakesTheInterfaceAndTellsIt(t *testing.T) {
	n := bare(t)
	p := newPod(t, "c1")
	r := n.mustAdd(p)
	want := []netip.Addr{netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd44:0:0:1::2")}
	if got := addressesOf(t, r); !slices.Equal(got, want) {
		t.Fatalf("addresses %v, want %v", got, want)
	}
	if len(r.Interfaces) != 2 || r.Interfaces[1].Name != "eth0" || r.Interfaces[1].Sandbox != p.path || r.Interfaces[0].Sandbox != "" {
		t.Fatalf("interfaces %v", r.Interfaces)
	}
	link := p.must("ip", "-o", "link", "show", "eth0")
	if !strings.Contains(link, "mtu 1450") || !strings.Contains(link, r.Interfaces[1].Mac) {
		t.Errorf("the pod has %s\nthe result says %v", link, r.Interfaces[1])
	}
	if got := n.IP("-o link show %s", r.Interfaces[0].Name); !strings.Contains(got, r.Interfaces[0].Mac) || !strings.Contains(got, "clarion pod shop/c1") {
		t.Errorf("the host has %s\nthe result says %v", got, r.Interfaces[0])
	}
	for _, ip := range r.IPs {
		if ones, bits := ip.Address.Mask.Size(); ones != bits || *ip.Interface != 1 {
			t.Errorf("address %v", ip)
		}
	}
	if err := n.check(p); err != nil {
		t.Errorf("CHECK at once after ADD: %v", err)
	}
	if err := n.del(p); err != nil {
		t.Fatal(err)
	}
	n.clean("ADD and DEL")
	if out, err := p.run("ip", "link", "show", "eth0"); err == nil {
		t.Errorf("after DEL the pod still has %s", out)
	}
}

func TestEveryVersionOfTheProtocolIsServed(t *testing.T) {
	n := bare(t)
	for _, v := range version.All.SupportedVersions() {
		t.Run(v, func(t *testing.T) {
			p := newPod(t, "c-"+v)
			var res types.Result
			var err error
			n.Do(func() { res, err = n.cni.AddNetworkList(context.Background(), n.list(v), p.rt()) })
			if err != nil {
				t.Fatal(err)
			}
			if res.Version() != v {
				t.Errorf("the result is of version %s", res.Version())
			}
			r, err := current.NewResultFromResult(res)
			if err != nil || len(r.IPs) != 2 {
				t.Errorf("%v, %v", r, err)
			}
			n.Do(func() { err = n.cni.CheckNetworkList(context.Background(), n.list(v), p.rt()) })
			if old, verr := version.GreaterThan("0.4.0", v); verr != nil || err != nil != old {
				t.Errorf("CHECK: %v", err) // 0.4.0 brought it
			}
			n.Do(func() { err = n.cni.DelNetworkList(context.Background(), n.list(v), p.rt()) })
			if err != nil {
				t.Fatal(err)
			}
			n.clean("version " + v)
		})
	}
}

func TestVERSIONTellsAllVersions(t *testing.T) {
	n := bare(t)
	out, err := n.exec(call{command: "VERSION", stdin: `{"cniVersion":"1.1.0"}`})
	if err != nil {
		t.Fatal(err)
	}
	info, perr := (&version.PluginDecoder{}).Decode([]byte(out))
	if perr != nil || !slices.Equal(info.SupportedVersions(), version.All.SupportedVersions()) {
		t.Fatalf("%s, %v", out, perr)
	}
}

// «If an interface of the requested name already exists in the container, the
// CNI plugin MUST return with an error.»
func TestADDRefusesAnInterfaceThatExists(t *testing.T) {
	n := bare(t)
	t.Run("made by somebody else", func(t *testing.T) {
		p := newPod(t, "foreign")
		p.must("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
		_, err := n.add(p)
		if code(err) != plugin.CodeExists || !strings.Contains(err.Error(), "already has an interface eth0") {
			t.Fatalf("err = %v", err)
		}
		p.must("ip", "link", "show", "eth0")
		n.clean("the refusal")
	})
	t.Run("made by an earlier ADD, which stays whole", func(t *testing.T) {
		p := newPod(t, "twice")
		n.mustAdd(p)
		if _, err := n.add(p); code(err) != plugin.CodeExists {
			t.Fatalf("err = %v", err)
		}
		if err := n.check(p); err != nil {
			t.Errorf("the second ADD broke the first: %v", err)
		}
		if err := n.del(p); err != nil {
			t.Fatal(err)
		}
		n.clean("two ADDs and one DEL")
	})
}

// «a given container ID may be added to a specific network more than once only
// if each addition is done with a different interface name»
func TestAContainerMayHaveTwoInterfaces(t *testing.T) {
	n := bare(t)
	p := newPod(t, "c1")
	n.mustAdd(p)
	c := n.callFor("ADD", p)
	c.ifName = "net1"
	if _, err := n.exec(c); err != nil {
		t.Fatal(err)
	}
	if got := p.must("ip", "route", "get", "192.0.2.1"); !strings.Contains(got, "dev eth0") {
		t.Errorf("the second interface took the default route: %s", got)
	}
	if err := n.check(p); err != nil {
		t.Errorf("the second interface broke the first: %v", err)
	}
	c.command = "DEL"
	if _, err := n.exec(c); err != nil {
		t.Fatal(err)
	}
	if err := n.check(p); err != nil {
		t.Errorf("the end of the second interface broke the first: %v", err)
	}
	if err := n.del(p); err != nil {
		t.Fatal(err)
	}
	n.clean("both")
}

// «If the plugin was supplied a prevResult as part of its input configuration,
// it MUST handle prevResult by either passing it through, or modifying it
// appropriately.»
func TestADDKeepsPrevResult(t *testing.T) {
	n := bare(t)
	p := newPod(t, "c1")
	c := n.callFor("ADD", p)
	c.stdin = n.conf(`,"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"tap0"}],"ips":[{"address":"192.0.2.9/24","interface":0}],"dns":{"domain":"example.com"}}`)
	out, cerr := n.exec(c)
	if cerr != nil {
		t.Fatal(cerr)
	}
	var r current.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Interfaces) != 3 || r.Interfaces[0].Name != "tap0" || len(r.IPs) != 3 || *r.IPs[1].Interface != 2 || r.DNS.Domain != "example.com" {
		t.Fatal(out)
	}
}

// «Plugins MUST accept multiple DEL calls for the same (CNI_CONTAINERID,
// CNI_IFNAME) pair, and return success if the interface in question, or any
// modifications added, are missing.»
func TestDELSucceedsWhateverIsMissing(t *testing.T) {
	tests := []struct {
		name string
		lose func(*node, *pod)
	}{
		{"nothing", func(*node, *pod) {}},
		{"everything, it was never added", nil},
		{"the interface in the pod", func(_ *node, p *pod) { p.must("ip", "link", "del", "eth0") }},
		{"the namespace", func(n *node, p *pod) { p.destroy() }},
		{"CNI_NETNS", func(_ *node, p *pod) { p.destroy(); p.path = "" }},
		{"the node file", func(n *node, _ *pod) { n.Run("rm", n.dir+"/node.json") }},
		{"the address files", func(n *node, _ *pod) { n.Run("sh", "-c", "rm "+n.dir+"/boot-*/addresses/*") }},
		{"all of the data directory", func(n *node, _ *pod) { n.Run("rm", "-r", n.dir) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := bare(t)
			p := newPod(t, "c1")
			if tt.lose != nil {
				n.mustAdd(p)
				tt.lose(n, p)
			}
			for range 2 {
				c := n.callFor("DEL", p) // without prevResult
				if _, err := n.exec(c); err != nil {
					t.Fatal(err)
				}
			}
			nstest.Wait(t, 10*time.Second, "the node is clean", func() bool { return len(n.left()) == 0 })
		})
	}
}

// «The plugin should return an error if a resource included in the CNI Result
// type (interface, address or route) was created by the plugin, and is listed
// in prevResult, but is missing or in an invalid state» and the same for «IP
// reservations».
func TestCHECKFindsWhatIsMissing(t *testing.T) {
	n := bare(t)
	tests := []struct {
		want     string
		sabotage func(p *pod, hostIf string)
	}{
		{"no interface eth0", func(p *pod, _ string) { p.must("ip", "link", "set", "eth0", "name", "net7") }},
		{"the host has no interface", func(p *pod, _ string) { p.must("ip", "link", "del", "eth0") }},
		{"lacks the address 10.244.1.", func(p *pod, _ string) { p.must("ip", "-4", "addr", "flush", "dev", "eth0") }},
		{"lacks the address fd44:0:0:1::", func(p *pod, _ string) { p.must("ip", "-6", "addr", "flush", "dev", "eth0", "scope", "global") }},
		{"no route to 0.0.0.0/0 by 169.254.1.1", func(p *pod, _ string) { p.must("ip", "route", "del", "default") }},
		{"no route to ::/0 by fe80::1", func(p *pod, _ string) { p.must("ip", "-6", "route", "del", "default") }},
		{"eth0 is down in the pod", func(p *pod, _ string) { p.must("ip", "link", "set", "eth0", "down") }},
		{"is down on the host", func(_ *pod, hostIf string) { n.IP("link set %s down", hostIf) }},
		{"lacks the gateway address 169.254.1.1", func(_ *pod, hostIf string) { n.IP("addr del 169.254.1.1/32 dev %s", hostIf) }},
		{"lacks the gateway address fe80::1", func(_ *pod, hostIf string) { n.IP("addr del fe80::1/64 dev %s", hostIf) }},
		{"the host has no route to 10.244.1.", func(_ *pod, hostIf string) { n.IP("-4 route flush proto 67") }},
		{"does not hold its addresses", func(*pod, string) { n.Run("sh", "-c", "rm "+n.dir+"/boot-*/addresses/10*") }},
		{"no address is reserved", func(*pod, string) { n.Run("sh", "-c", "rm "+n.dir+"/boot-*/sandboxes/*") }},
	}
	for i, tt := range tests {
		t.Run(tt.want, func(t *testing.T) {
			p := newPod(t, fmt.Sprint("c", i))
			n.mustAdd(p)
			if err := n.check(p); err != nil {
				t.Fatalf("CHECK before anything was broken: %v", err)
			}
			tt.sabotage(p, store.Key{ContainerID: p.id, IfName: "eth0"}.HostIf())
			if err := n.check(p); code(err) != plugin.CodeNotAsAdded || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("CHECK: %v, want %q", err, tt.want)
			}
			if err := n.del(p); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("a route that a later plugin took out of prevResult", func(t *testing.T) {
		p := newPod(t, "chained")
		r := n.mustAdd(p)
		p.must("ip", "route", "del", "default")
		r.Routes = r.Routes[1:]
		prev, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		c := n.callFor("CHECK", p)
		c.stdin = n.conf(`,"prevResult":` + string(prev))
		if _, err := n.exec(c); err != nil {
			t.Error(err)
		}
		c.stdin = n.conf("")
		if _, err := n.exec(c); err == nil || err.Code != types.ErrInvalidNetworkConfig {
			t.Errorf("CHECK without prevResult: %v", err)
		}
	})
}

// «A plugin must exit with a zero return code if the plugin is ready to service
// ADD requests … it should return an error if those resources are exhausted»
func TestSTATUS(t *testing.T) {
	n := bare(t)
	if err := n.status(); err != nil {
		t.Fatal(err)
	}
	small := dual
	small.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.9.0/30")}
	n.describe(small)
	a, b, c := newPod(t, "a"), newPod(t, "b"), newPod(t, "c")
	n.mustAdd(a)
	n.mustAdd(b)
	if err := n.status(); code(err) != types.ErrPluginNotAvailable || !strings.Contains(err.Error(), "all 2 addresses of 10.244.9.0/30 are in use") {
		t.Errorf("exhausted: %v", err)
	}
	if _, err := n.add(c); code(err) != plugin.CodeNoAddress {
		t.Errorf("ADD when exhausted: %v", err)
	}
	// A pod that died without a DEL does not count.
	a.destroy()
	nstest.Wait(t, 10*time.Second, "an address is free again", func() bool { return n.status() == nil })
	n.mustAdd(c)
	n.Run("rm", n.dir+"/node.json")
	if err := n.status(); code(err) != types.ErrPluginNotAvailable || !strings.Contains(err.Error(), "clarion-agent") {
		t.Errorf("no node file: %v", err)
	}
	n.describe(store.Node{NotReady: "the Node n1 has no spec.podCIDRs"})
	if err := n.status(); code(err) != types.ErrPluginNotAvailable || !strings.Contains(err.Error(), "no spec.podCIDRs") {
		t.Errorf("no CIDR: %v", err)
	}
	if err := n.del(b); err != nil {
		t.Errorf("DEL on a node that is not ready: %v", err)
	}
}

// «a plugin should remove any IPAM reservations associated with attachments not
// in the provided list»; «If an error is encountered, a plugin should continue»
func TestGCRemovesWhatIsNotValid(t *testing.T) {
	n := bare(t)
	valid, lost, dead := newPod(t, "valid"), newPod(t, "lost"), newPod(t, "dead")
	for _, p := range []*pod{valid, lost, dead} {
		n.mustAdd(p)
	}
	other := newPod(t, "othernet")
	c := n.callFor("ADD", other)
	c.stdin = strings.Replace(c.stdin, `"name":"clarion"`, `"name":"another"`, 1)
	if _, err := n.exec(c); err != nil {
		t.Fatal(err)
	}
	dead.destroy()
	if _, err := n.exec(n.callFor("GC", valid)); err == nil || err.Code != types.ErrInvalidNetworkConfig {
		t.Fatalf("GC without a list: %v", err)
	}
	var err error
	n.Do(func() {
		err = n.cni.GCNetworkList(context.Background(), n.list(newest), &libcni.GCArgs{
			ValidAttachments: []types.GCAttachment{{ContainerID: "valid", IfName: "eth0"}}})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.check(valid); err != nil {
		t.Errorf("GC broke a valid attachment: %v", err)
	}
	want := []string{"addresses/10.244.1.2", "addresses/10.244.1.5", "sandboxes/othernet@eth0", "sandboxes/valid@eth0"}
	left := n.left()
	for _, w := range want {
		if !slices.Contains(left, w) {
			t.Errorf("GC took %s, which is not its business", w)
		}
	}
	for _, l := range left {
		if strings.Contains(l, "lost") || strings.Contains(l, "dead") || strings.HasSuffix(l, "10.244.1.3") || strings.HasSuffix(l, "10.244.1.4") {
			t.Errorf("GC left %s", l)
		}
	}
}

// Section 5: the error has version, code and message.
func TestErrorsHaveTheSpecifiedForm(t *testing.T) {
	n := bare(t)
	p := newPod(t, "c1")
	c := n.callFor("ADD", p)
	c.netns = "/nowhere"
	out, _ := n.exec(c)
	var e map[string]any
	if err := json.Unmarshal([]byte(out), &e); err != nil || e["cniVersion"] != "1.1.0" || e["code"] != 8.0 || e["msg"] == "" {
		t.Fatalf("%s, %v", out, err)
	}
}

func TestTheLoopbackIsServedToo(t *testing.T) {
	n := bare(t)
	p := newPod(t, "c1")
	l, err := libcni.NetworkConfFromBytes([]byte(`{"cniVersion":"1.0.0","name":"cni-loopback","plugins":[{"type":"loopback"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	rt := p.rt()
	rt.IfName = "lo"
	var res types.Result
	n.Do(func() { res, err = n.cni.AddNetworkList(context.Background(), l, rt) })
	if err != nil {
		t.Fatal(err)
	}
	r, err := current.NewResultFromResult(res)
	if err != nil || !slices.Contains(addressesOf(t, r), netip.MustParseAddr("127.0.0.1")) {
		t.Fatalf("%v, %v", r, err)
	}
	p.must("ping", "-c1", "-W2", "127.0.0.1")
	n.Do(func() { err = n.cni.CheckNetworkList(context.Background(), l, rt) })
	if err != nil {
		t.Error(err)
	}
	n.Do(func() { err = n.cni.DelNetworkList(context.Background(), l, rt) })
	if err != nil {
		t.Error(err)
	}
	if _, err := n.exec(call{command: "STATUS", stdin: n.conf("")}); err != nil {
		t.Error(err)
	}
}
