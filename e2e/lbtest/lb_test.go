//go:build lab

// Package lbtest proves in the running lab what a user of type LoadBalancer expects: real API server, real kubelets, real
// packets, and a client that is no part of the cluster.
package lbtest

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/e2e/app"
	"github.com/clarion-lb/clarion/e2e/internal/step"
	"github.com/clarion-lb/clarion/e2e/lab"
)

const (
	pool4   = "192.0.2.200-192.0.2.250"
	pool6   = "2001:db8:1::200-2001:db8:1::250"
	pods    = "lbtest"
	soon    = 20 * time.Second
	request = 2 * time.Second
)

// open finds the lab, with the usual pool and pods in it.
func open(t *testing.T) (context.Context, *lab.Lab) {
	t.Helper()
	dir := os.Getenv("LAB_DIR")
	if dir == "" {
		dir = "../../.lab"
	}
	l, err := lab.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !l.Settings.InstallsClarion() {
		t.Fatalf("the lab runs without Clarion (profile %s)", l.Settings.Profile)
	}
	ctx := t.Context()
	must(t, app.Pool(ctx, l, "default", pool4+", "+pool6))
	must(t, app.Pods(ctx, l, pods, 3))
	return ctx, l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// service applies a Service over the test's pods; it is deleted when the test ends.
func service(t *testing.T, l *lab.Lab, s app.Service) {
	t.Helper()
	if s.App == "" {
		s.App = pods
	}
	t.Cleanup(func() { remove(t, l, s.Name) })
	must(t, s.Apply(t.Context(), l))
}

func remove(t *testing.T, l *lab.Lab, name string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	if _, err := l.Kubectl(ctx, "delete", "service", name, "--ignore-not-found", "--timeout=30s"); err != nil {
		t.Error(err)
	}
}

// eventually waits for a condition that may take a while in a real cluster.
func eventually(t *testing.T, limit time.Duration, done func(ctx context.Context) (ok bool, why string, err error)) {
	t.Helper()
	if err := step.Until(t.Context(), limit, done); err != nil {
		t.Fatal(err)
	}
}

// assigned waits until the condition clarion.dev/Assigned of the Service holds the words.
func assigned(t *testing.T, l *lab.Lab, name, status string, words ...string) app.Condition {
	t.Helper()
	var c app.Condition
	eventually(t, soon, func(ctx context.Context) (bool, string, error) {
		o, err := app.Get(ctx, l, name)
		if err != nil {
			return false, "", err
		}
		c = o.Condition("clarion.dev/Assigned")
		for _, w := range words {
			if !strings.Contains(c.Message, w) {
				return false, fmt.Sprintf("Service %s says %s %s %q, which does not hold %q", name, c.Status, c.Reason, c.Message, w), nil
			}
		}
		return c.Status == status, fmt.Sprintf("Service %s says %s %s %q, want %s", name, c.Status, c.Reason, c.Message, status), nil
	})
	return c
}

// The sentence of the first issue: a Service gets an address from the ConfigMap, and a machine that is no part of the
// cluster reaches a pod through it, over both families; proven by what passes the client's wire.
func TestAMachineOnTheLANReachesAPod(t *testing.T) {
	ctx, l := open(t)
	client := l.Client()
	capture, err := client.Capture(ctx, "any", "arp or icmp6 or tcp port 80", filepath.Join(t.TempDir(), "client.pcap"))
	must(t, err)
	service(t, l, app.Service{Name: "reach"})
	vips, err := app.Addresses(ctx, l, "reach", 2, soon)
	must(t, err)
	if !within(vips[0], pool4) || !within(vips[1], pool6) {
		t.Errorf("the addresses %v are not from the pool", vips)
	}
	owners := map[netip.Addr]string{}
	for _, vip := range vips {
		if _, err := app.Reachable(ctx, client, vip, soon); err != nil {
			t.Fatal(err)
		}
		node, mac, err := app.Owner(ctx, l, client, vip)
		must(t, err)
		t.Logf("%s is announced by %s at %s", vip, node.Name, mac)
		owners[vip] = mac
	}
	must(t, capture.Stop())
	packets, err := capture.Packets(ctx)
	must(t, err)
	for _, vip := range vips {
		wire(t, packets, vip, owners[vip])
	}
}

// wire checks that every packet from vip carries the owner's link address, that the address was asked for and answered,
// and that TCP came back.
func wire(t *testing.T, packets []string, vip netip.Addr, mac string) {
	t.Helper()
	said, tcp := 0, 0
	for _, p := range packets {
		answer := strings.Contains(p, fmt.Sprintf("Reply %s is-at", vip)) || strings.Contains(p, "tgt is "+vip.String()+",") && strings.Contains(p, "neighbor advertisement")
		fromVIP := strings.Contains(p, fmt.Sprintf(" %s.80 > ", vip))
		switch {
		case answer:
			said++
		case fromVIP:
			tcp++
		default:
			continue
		}
		if !strings.Contains(p, mac) {
			t.Errorf("a packet for %s does not come from its owner %s: %s", vip, mac, p)
		}
	}
	if said == 0 || tcp == 0 {
		t.Errorf("the capture at the client holds %d answers for %s and %d TCP packets from it; want both\n%s", said, vip, tcp, strings.Join(packets, "\n"))
	}
}

func within(a netip.Addr, rng string) bool {
	first, last, _ := strings.Cut(rng, "-")
	return a.Compare(netip.MustParseAddr(first)) >= 0 && a.Compare(netip.MustParseAddr(last)) <= 0
}

func TestADeletedServiceFreesItsAddressOnce(t *testing.T) {
	ctx, l := open(t)
	must(t, app.Pools(ctx, l, map[string]string{"default": "192.0.2.201"}))
	service(t, l, app.Service{Name: "first", Single: true})
	vips, err := app.Addresses(ctx, l, "first", 1, soon)
	must(t, err)
	service(t, l, app.Service{Name: "second", Single: true})
	assigned(t, l, "second", "False", "default")
	events, err := l.Kubectl(ctx, "get", "events", "--field-selector", "involvedObject.name=second", "-o", "name")
	must(t, err)
	if n := len(strings.Fields(events)); n > 2 {
		t.Errorf("a waiting Service made %d Events: %s", n, events)
	}
	remove(t, l, "first")
	got, err := app.Addresses(ctx, l, "second", 1, soon)
	must(t, err)
	if got[0] != vips[0] {
		t.Errorf("second got %s, want the freed %s", got[0], vips[0])
	}
	eventually(t, soon, func(ctx context.Context) (bool, string, error) {
		pod, err := app.Ask(ctx, l.Client(), got[0], request)
		return err == nil, fmt.Sprintf("%s answers %q, %v", got[0], pod, err), nil
	})
}

func TestAForeignClassIsNotTouched(t *testing.T) {
	ctx, l := open(t)
	must(t, l.Apply(ctx, `
apiVersion: v1
kind: Service
metadata:
  name: foreign
  finalizers: [service.kubernetes.io/load-balancer-cleanup]
spec:
  type: LoadBalancer
  loadBalancerClass: other.io/lb
  selector: {app: lbtest}
  ports: [{port: 80}]
`))
	unfinish := func() {
		_, err := l.Kubectl(context.WithoutCancel(ctx), "patch", "service", "foreign", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
		if err != nil && !strings.Contains(err.Error(), "not found") {
			t.Error(err)
		}
		remove(t, l, "foreign")
	}
	t.Cleanup(unfinish)
	_, err := l.Kubectl(ctx, "delete", "service", "foreign", "--wait=false")
	must(t, err)
	before := version(t, l, "foreign")
	// A Service of ours that is made and served afterwards shows that the controller has passed the foreign one.
	service(t, l, app.Service{Name: "ours", Spec: "  loadBalancerClass: clarion.dev/lb\n"})
	_, err = app.Addresses(ctx, l, "ours", 2, soon)
	must(t, err)
	if after := version(t, l, "foreign"); after != before {
		t.Errorf("somebody wrote to the foreign Service: %s became %s", before, after)
	}
}

// version returns what changes with every write to a Service, and its finalizers.
func version(t *testing.T, l *lab.Lab, name string) string {
	t.Helper()
	out, err := l.Kubectl(t.Context(), "get", "service", name, "-o", "jsonpath={.metadata.resourceVersion} {.metadata.finalizers}")
	must(t, err)
	return out
}

func TestAMistakeInThePoolsLeavesTheRestAsItWas(t *testing.T) {
	ctx, l := open(t)
	service(t, l, app.Service{Name: "kept"})
	before, err := app.Addresses(ctx, l, "kept", 2, soon)
	must(t, err)
	_, err = app.Reachable(ctx, l.Client(), before[0], soon)
	must(t, err)
	t.Run("a typo in the short form is refused by the API server", func(t *testing.T) {
		err := app.Pools(ctx, l, map[string]string{"default": "192.0.2.200-192.0.2.2500"})
		if err == nil || !strings.Contains(err.Error(), "192.0.2.2500") {
			t.Fatalf("err = %v, want a refusal that shows the mistake", err)
		}
	})
	good := pool4 + ", " + pool6
	tests := []struct {
		name  string
		pools map[string]string
		want  string
	}{
		{"a typo in the long form", map[string]string{"default": "addresses: [192.0.2.200-192.0.2.2500]", "other": "192.0.2.240"}, "default.addresses[0]"},
		{"an unknown key", map[string]string{"default": good, "other": "addresses: [192.0.2.9]\nautoasign: false"}, "autoAssign"},
		{"an inverted range", map[string]string{"default": good, "other": "192.0.2.9-192.0.2.3"}, "192.0.2.9"},
		{"overlapping pools", map[string]string{"default": good, "other": "192.0.2.250-192.0.2.251"}, "192.0.2.250"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			must(t, app.Pools(ctx, l, tt.pools))
			eventually(t, soon, func(ctx context.Context) (bool, string, error) {
				out, err := l.Kubectl(ctx, "-n", app.Namespace, "get", "events", "--field-selector", "involvedObject.name=clarion-pools", "-o", "jsonpath={.items[*].message}")
				return strings.Contains(out, tt.want), fmt.Sprintf("the Events on clarion-pools say %q", out), err
			})
			after, err := app.Addresses(ctx, l, "kept", 2, soon)
			must(t, err)
			if fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("the addresses became %v, were %v", after, before)
			}
			if _, err := app.Ask(ctx, l.Client(), before[0], request); err != nil {
				t.Error(err)
			}
			service(t, l, app.Service{Name: "meanwhile"}) // the good pools, and the last good form of the bad one, serve on
			_, err = app.Addresses(ctx, l, "meanwhile", 2, soon)
			must(t, err)
			remove(t, l, "meanwhile")
		})
	}
}

func TestARequestThatCannotBeMetSaysWhy(t *testing.T) {
	ctx, l := open(t)
	service(t, l, app.Service{Name: "holder", Single: true, Notes: map[string]string{"clarion.dev/addresses": "192.0.2.222"}})
	got, err := app.Addresses(ctx, l, "holder", 1, soon)
	must(t, err)
	if got[0] != netip.MustParseAddr("192.0.2.222") {
		t.Fatalf("asked for 192.0.2.222, got %s", got[0])
	}
	tests := []struct {
		name, asked string
		words       []string
	}{
		{"outside-of-pools", "198.51.100.77", []string{"198.51.100.77"}},
		{"taken", "192.0.2.222", []string{"192.0.2.222", "default/holder"}},
		{"malformed", "192.0.2.2222", []string{"192.0.2.2222", "clarion.dev/addresses"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			service(t, l, app.Service{Name: tt.name, Single: true, Notes: map[string]string{"clarion.dev/addresses": tt.asked}})
			c := assigned(t, l, tt.name, "False", tt.words...)
			t.Logf("%s: %s", c.Reason, c.Message)
		})
	}
	t.Run("an address of a node", func(t *testing.T) {
		node := l.Nodes()[0].V4()
		must(t, app.Pools(ctx, l, map[string]string{"default": pool4 + ", " + pool6, "nodes": node.String()}))
		service(t, l, app.Service{Name: "node-address", Single: true, Notes: map[string]string{"clarion.dev/addresses": node.String()}})
		c := assigned(t, l, "node-address", "False", node.String(), l.Nodes()[0].Name)
		t.Logf("%s: %s", c.Reason, c.Message)
	})
	if _, err := app.Ask(ctx, l.Client(), got[0], request); err != nil {
		t.Errorf("the holder was disturbed: %v", err)
	}
}

func TestAServiceWithoutEndpointsIsRefusedAtOnce(t *testing.T) {
	ctx, l := open(t)
	service(t, l, app.Service{Name: "empty", App: "nobody"})
	vips, err := app.Addresses(ctx, l, "empty", 2, soon)
	must(t, err)
	for _, vip := range vips {
		eventually(t, soon, func(ctx context.Context) (bool, string, error) {
			_, err := app.Ask(ctx, l.Client(), vip, 5*time.Second)
			return err != nil && strings.Contains(err.Error(), "refused"), fmt.Sprintf("%s says %v, want a refusal", vip, err), nil
		})
	}
}

func TestLocalPolicyElectsANodeWithAnEndpoint(t *testing.T) {
	ctx, l := open(t)
	const one = "lbtest-one"
	must(t, app.Pods(ctx, l, one, 1))
	t.Cleanup(func() {
		if _, err := l.Kubectl(context.WithoutCancel(ctx), "delete", "deployment", one, "--wait=false"); err != nil {
			t.Error(err)
		}
	})
	service(t, l, app.Service{Name: "local", App: one, Spec: "  externalTrafficPolicy: Local\n"})
	vips, err := app.Addresses(ctx, l, "local", 2, soon)
	must(t, err)
	where, err := l.Kubectl(ctx, "get", "pods", "-l", "app="+one, "-o", "jsonpath={.items[0].spec.nodeName}")
	must(t, err)
	for _, vip := range vips {
		if _, err := app.Reachable(ctx, l.Client(), vip, soon); err != nil {
			t.Fatal(err)
		}
		node, _, err := app.Owner(ctx, l, l.Client(), vip)
		must(t, err)
		if node.Name != where {
			t.Errorf("%s is announced by %s, its only pod is on %s", vip, node.Name, where)
		}
		seen, err := app.ClientAddress(ctx, l.Client(), vip, request)
		must(t, err)
		if client := l.Client(); seen != client.V4() && seen != client.V6() {
			t.Errorf("the pod behind %s saw the client as %s", vip, seen)
		}
	}
}

func TestAnotherNodeTakesOverWhenTheCableIsCut(t *testing.T) {
	ctx, l := open(t)
	service(t, l, app.Service{Name: "failover"})
	vips, err := app.Addresses(ctx, l, "failover", 2, soon)
	must(t, err)
	for _, vip := range vips {
		if _, err := app.Reachable(ctx, l.Client(), vip, soon); err != nil {
			t.Fatal(err)
		}
	}
	before, _, err := app.Owner(ctx, l, l.Client(), vips[0])
	must(t, err)
	t.Cleanup(func() {
		if err := before.CableIn(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
		if _, err := l.Kubectl(context.WithoutCancel(ctx), "wait", "--for=condition=Ready", "node/"+before.Name, "--timeout=60s"); err != nil {
			t.Error(err)
		}
	})
	must(t, before.CableOut(ctx))
	for _, vip := range vips {
		eventually(t, 90*time.Second, func(ctx context.Context) (bool, string, error) {
			if _, err := app.Ask(ctx, l.Client(), vip, 500*time.Millisecond); err != nil {
				return false, err.Error(), nil
			}
			after, _, err := app.Owner(ctx, l, l.Client(), vip)
			return err == nil && after.Name != before.Name, "the cut-off node still owns it", err
		})
	}
}

func TestTheControllerMayDieInTheMiddleOfCreations(t *testing.T) {
	ctx, l := open(t)
	const n = 20
	var manifest strings.Builder
	for i := range n {
		fmt.Fprintf(&manifest, "---\napiVersion: v1\nkind: Service\nmetadata: {name: many-%d, labels: {many: \"yes\"}}\nspec: {type: LoadBalancer, selector: {app: %s}, ports: [{port: 80, targetPort: 8080}]}\n", i, pods)
	}
	t.Cleanup(func() {
		if _, err := l.Kubectl(context.WithoutCancel(ctx), "delete", "services", "-l", "many=yes", "--timeout=60s"); err != nil {
			t.Error(err)
		}
	})
	done := make(chan error, 1)
	go func() { done <- l.Apply(ctx, manifest.String()) }()
	leader, err := l.Kubectl(ctx, "-n", app.Namespace, "get", "lease", "clarion-controller", "-o", "jsonpath={.spec.holderIdentity}")
	must(t, err)
	pod, _, _ := strings.Cut(leader, "_")
	_, err = l.Kubectl(ctx, "-n", app.Namespace, "delete", "pod", pod, "--force", "--grace-period=0")
	must(t, err)
	must(t, <-done)
	holders := map[string]string{}
	eventually(t, 60*time.Second, func(ctx context.Context) (bool, string, error) {
		var list struct {
			Items []app.Object
		}
		if err := l.KubectlJSON(ctx, &list, "services", "-l", "many=yes"); err != nil {
			return false, "", err
		}
		served := 0
		clear(holders)
		for _, o := range list.Items {
			for _, vip := range o.VIPs() {
				served++
				if other, twice := holders[vip.String()]; twice {
					return false, "", fmt.Errorf("%s was given to %s and %s", vip, other, o.Metadata.UID)
				}
				holders[vip.String()] = o.Metadata.UID
			}
		}
		return served == n, fmt.Sprintf("%d of %d Services have an address", served, n), nil
	})
}
