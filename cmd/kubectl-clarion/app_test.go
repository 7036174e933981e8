package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"sigs.k8s.io/yaml"

	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/inspect"
)

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// A bench is an API server in memory, with the program in front of it.
type bench struct {
	client *fake.Clientset
	raw    map[string]string // answers by path
	rawErr error
	asked  []string // paths and queries
	stdin  string
}

// newBench has one node with its agent, one pool, and a Service that works.
func newBench() *bench {
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "clarion-system", Name: name, Labels: map[string]string{"app.kubernetes.io/name": "clarion-agent"}}
	}
	pools := map[string]string{"default": "192.0.2.200-192.0.2.209, 2001:db8:1::200-2001:db8:1::209"}
	svc := service("web", "192.0.2.200", "2001:db8:1::200")
	svc.Status.Conditions = []metav1.Condition{
		{Type: "clarion.dev/Assigned", Status: "True", Reason: "Assigned", Message: "192.0.2.200 and 2001:db8:1::200 from pool default"},
		{Type: "clarion.dev/Announced", Status: "True", Reason: "Announced", Message: "node node1 announces 192.0.2.200 and 2001:db8:1::200"},
	}
	b := &bench{raw: map[string]string{}, client: fake.NewClientset(svc,
		&v1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "node1", Annotations: map[string]string{
				"clarion.dev/links": `[{"name":"eth0","mac":"02:00:00:00:00:01","prefixes":["192.0.2.0/24","2001:db8:1::/64"]}]`}},
			Status: v1.NodeStatus{Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}},
		},
		&v1.Pod{ObjectMeta: meta("agent-1"), Spec: v1.PodSpec{NodeName: "node1"},
			Status: v1.PodStatus{Phase: v1.PodRunning, Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}}},
		&v1.ConfigMap{ObjectMeta: meta("clarion-pools"), Data: pools},
		&v1.ConfigMap{ObjectMeta: meta("clarion-pools-in-force"), Data: pools},
	)}
	unit := func(vip, segment string) string {
		return fmt.Sprintf(`{"service":"shop/web","vip":%q,"segment":%q,"owner":"node1","mine":true,"since":"2026-11-01T11:00:00Z","link":"eth0","rules":true}`, vip, segment)
	}
	units := "[" + unit("192.0.2.200", "192.0.2.0/24") + "," + unit("2001:db8:1::200", "2001:db8:1::/64") + "]"
	const proxied = "/api/v1/namespaces/clarion-system/pods/agent-1:7949/proxy"
	b.raw[proxied+"/v1/status"] = `{"node":"node1","units":` + units + `}`
	b.raw[proxied+"/v1/explain"] = `{"node":"node1","service":"shop/web","units":` + units + `}`
	return b
}

func service(name string, addrs ...string) *v1.Service {
	policy := v1.IPFamilyPolicyRequireDualStack
	svc := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "uid-" + "x", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))},
		Spec: v1.ServiceSpec{Type: v1.ServiceTypeLoadBalancer, IPFamilyPolicy: &policy, IPFamilies: []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol},
			Ports: []v1.ServicePort{{Port: 80, Protocol: v1.ProtocolTCP}}},
	}
	for _, a := range addrs {
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, v1.LoadBalancerIngress{IP: a})
	}
	return svc
}

// fails lets the API server refuse a verb on a resource; "*" is every one.
func (b *bench) fails(verb, resource string, err error) {
	b.client.PrependReactor(verb, resource, func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, err })
}

var (
	forbidden      = apierrors.NewForbidden(schema.GroupResource{Resource: "things"}, "x", errors.New("no"))
	unauthorized   = apierrors.NewUnauthorized("who are you?")
	errUnreachable = errors.New(`dial "https://192.0.2.10:6443/": dial tcp 192.0.2.10:6443: connect: connection refused`)
)

func (b *bench) run(args ...string) (code int, out, errs string) {
	var stdout, stderr bytes.Buffer
	code = run(context.Background(), args, app{
		in: strings.NewReader(b.stdin), out: &stdout, err: &stderr, now: func() time.Time { return now },
		connect: func(target) (*connection, error) {
			return &connection{client: b.client, namespace: "shop", raw: func(_ context.Context, path string, query map[string]string) ([]byte, error) {
				b.asked = append(b.asked, path+fmt.Sprint(query))
				if b.rawErr != nil {
					return nil, b.rawErr
				}
				text, ok := b.raw[path]
				if !ok {
					return nil, apierrors.NewNotFound(schema.GroupResource{}, path)
				}
				return []byte(text), nil
			}}, nil
		},
	})
	return code, stdout.String(), stderr.String()
}

// says fails the test unless text holds all words.
func says(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q is missing in\n%s", w, text)
		}
	}
}

func TestVerbs(t *testing.T) {
	write := func(t *testing.T, text string) string {
		file := filepath.Join(t.TempDir(), "pools.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	tests := []struct {
		name  string
		setup func(*bench)
		args  []string
		code  int
		out   []string
		errs  []string
	}{
		{name: "status", args: []string{"status"}, code: exitFindings, // the bench has no controller
			out: []string{"no controller has ever led", "node1  Ready  ready  2     eth0 192.0.2.0/24 2001:db8:1::/64", "2001:db8:1::200  shop/web  default  node1  1h"}},
		{name: "pools", args: []string{"pools"}, code: exitOK, out: []string{"default  IPv4    [#.........]  1/10", "IPv6"}},
		{name: "pools with a problem", args: []string{"pools"}, code: exitFindings, out: []string{`default[0]: "x" is not`},
			setup: func(b *bench) {
				cm := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "clarion-system", Name: "clarion-pools"}, Data: map[string]string{"default": "x"}}
				must(b.client.Tracker().Update(v1.SchemeGroupVersion.WithResource("configmaps"), cm, "clarion-system"))
			}},
		{name: "explain in the context's namespace", args: []string{"explain", "web"}, code: exitFindings, // the bench has no endpoint
			out: []string{"shop/web is announced but has no ready endpoint", "announces it on eth0, since 1h", "default  IPv6    gave 2001:db8:1::200"}},
		{name: "explain with a namespace", args: []string{"explain", "-n", "other", "web"}, code: exitFailed, errs: []string{"no such Service: web in namespace other"}},
		{name: "explain with a qualified name", args: []string{"explain", "shop/web"}, code: exitFindings, out: []string{"shop/web is announced"}},
		{name: "explain where Services may not be listed", args: []string{"explain", "web"}, code: exitFindings,
			setup: func(b *bench) { b.fails("list", "services", forbidden) },
			out:   []string{"gave 192.0.2.200", "the Services of all namespaces cannot be read (you lack the permission)"}},
		{name: "explain where a Service may not be read", args: []string{"explain", "web"}, code: exitFailed, errs: []string{"read the Service shop/web: you lack the permission"},
			setup: func(b *bench) { b.fails("*", "services", forbidden) }},
		{name: "explain nothing", args: []string{"explain"}, code: exitUsage, errs: []string{"takes one argument, the name of a Service"}},
		{name: "explain nonsense", args: []string{"explain", "a/b/c"}, code: exitUsage, errs: []string{"write NAME, or NAMESPACE/NAME"}},
		{name: "explain with two namespaces", args: []string{"explain", "-n", "a", "b/c"}, code: exitUsage, errs: []string{"another namespace"}},

		{name: "plan from standard input", args: []string{"plan", "-f", "-"}, code: exitOK, out: []string{"default  changed  gains 192.0.2.210", "2 addresses stay"},
			setup: func(b *bench) { b.stdin = "default: 192.0.2.200-192.0.2.210, 2001:db8:1::200-2001:db8:1::209\n" }},
		{name: "plan that strands, from a file", args: []string{"plan", "-f", write(t, "default: 192.0.2.201, 2001:db8:1::200\n")}, code: exitFindings,
			out: []string{"WOULD BE STRANDED", "shop/web  192.0.2.200"}},
		{name: "plan without a file", args: []string{"plan"}, code: exitUsage, errs: []string{"--filename"}},
		{name: "plan from a file that is not there", args: []string{"plan", "-f", "/does/not/exist"}, code: exitFailed, errs: []string{"read the new pools: open /does/not/exist"}},
		{name: "plan from nonsense", args: []string{"plan", "-f", "-"}, code: exitFailed, errs: []string{"standard input: default is YAML"},
			setup: func(b *bench) { b.stdin = "default: [a]\n" }},
		{name: "plan from a flood", args: []string{"plan", "-f", "-"}, code: exitFailed, errs: []string{"no ConfigMap can be"},
			setup: func(b *bench) { b.stdin = strings.Repeat("#", maxFile+1) }},

		{name: "no permission for the agents", args: []string{"status"}, code: exitFindings,
			setup: func(b *bench) { b.rawErr = forbidden },
			out:   []string{"ready, not asked", "you lack the permission «get» on pods/proxy in namespace clarion-system", "2001:db8:1::200  shop/web  default  node1"}},
		{name: "agents that are out of reach", args: []string{"status"}, code: exitFindings,
			setup: func(b *bench) { b.rawErr = apierrors.NewServiceUnavailable("error trying to reach service") },
			out:   []string{"the agent on node1 did not answer (the API server cannot reach it"}},
		{name: "agents of another version", args: []string{"status"}, code: exitFindings, setup: func(b *bench) { clear(b.raw) }, out: []string{"of another version than this program"}},
		{name: "agents that talk nonsense", args: []string{"status"}, code: exitFindings,
			setup: func(b *bench) {
				for path := range b.raw {
					b.raw[path] = "<html>"
				}
			}, out: []string{"its answer cannot be read"}},
		{name: "nodes and pods may not be read", args: []string{"status"}, code: exitFindings, out: []string{"VIPS", "the Nodes cannot be read (you lack the permission)", "the Pods of clarion-system cannot be read"},
			setup: func(b *bench) { b.fails("list", "nodes", forbidden); b.fails("list", "pods", forbidden) }},
		{name: "an API server that is away", args: []string{"status"}, code: exitFailed, errs: []string{"the API server cannot be read", "connection refused"},
			setup: func(b *bench) { b.fails("*", "*", errUnreachable) }},
		{name: "credentials that have ended", args: []string{"pools"}, code: exitFailed, errs: []string{"does not accept the credentials of your kubeconfig"},
			setup: func(b *bench) { b.fails("*", "*", unauthorized) }},

		{name: "migrate from nobody", args: []string{"migrate"}, code: exitUsage, errs: []string{`--from is ""; it can be metallb or kube-vip`}},
		{name: "migrate where there is nothing", args: []string{"migrate", "--from", "metallb"}, code: exitFailed, errs: []string{"there is no MetalLB"}},
		{name: "migrate where Nodes may not be read", args: []string{"migrate", "--from", "metallb"}, code: exitFailed, errs: []string{"the Nodes cannot be read, because you lack the permission"},
			setup: func(b *bench) { b.fails("list", "nodes", forbidden) }},

		{name: "no verb", args: nil, code: exitOK, out: []string{"Exit codes:", "status", "explain"}},
		{name: "help", args: []string{"--help"}, code: exitOK, out: []string{"Exit codes:", "kubectl clarion [command]"}},
		{name: "a verb that is none", args: []string{"explode"}, code: exitUsage, errs: []string{`"explode" is no verb`}},
		{name: "a verb that is to come", args: []string{"drain", "node1"}, code: exitUsage, errs: []string{`"drain" is no verb`}},
		{name: "a flag that is none", args: []string{"status", "--nope"}, code: exitUsage, errs: []string{"unknown flag: --nope"}},
		{name: "an argument too many", args: []string{"status", "x"}, code: exitUsage, errs: []string{"takes no argument"}},
		{name: "an output that is none", args: []string{"status", "-o", "xml"}, code: exitUsage, errs: []string{`--output is "xml"`}},
		{name: "completion for a shell that is none", args: []string{"completion", "csh"}, code: exitUsage, errs: []string{"bash, zsh, fish and kubectl"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench()
			if tt.setup != nil {
				tt.setup(b)
			}
			code, out, errs := b.run(tt.args...)
			if code != tt.code {
				t.Errorf("exit code %d, want %d; it says\n%s%s", code, tt.code, out, errs)
			}
			says(t, out, tt.out...)
			says(t, errs, tt.errs...)
			if tt.errs == nil && errs != "" {
				t.Errorf("standard error: %s", errs)
			}
		})
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func TestOutputForPrograms(t *testing.T) {
	for _, args := range [][]string{{"status"}, {"pools"}, {"explain", "web"}, {"plan", "-f", "-"}} {
		for format, decode := range map[string]func([]byte, any) error{"json": json.Unmarshal,
			"yaml": func(text []byte, into any) error { return yaml.Unmarshal(text, into) }} {
			b := newBench()
			b.stdin = "default: 192.0.2.200-192.0.2.210, 2001:db8:1::200\n"
			_, out, _ := b.run(append(args, "-o", format)...)
			var m map[string]any
			if err := decode([]byte(out), &m); err != nil || len(m) == 0 {
				t.Errorf("%v as %s: %v\n%s", args, format, err, out)
			}
		}
	}
	var s inspect.Status
	_, out, _ := newBench().run("status", "-o", "json")
	if err := json.Unmarshal([]byte(out), &s); err != nil || len(s.VIPs) != 2 || s.VIPs[1].Owners[0].Node != "node1" {
		t.Errorf("%v: %+v", err, s.VIPs)
	}
}

// An agent is asked by its Pod's port, for the Service that is meant.
func TestAgentsAreAskedThroughTheAPIServer(t *testing.T) {
	b := newBench()
	b.run("explain", "web")
	if want := "/api/v1/namespaces/clarion-system/pods/agent-1:7949/proxy/v1/explainmap[service:shop/web]"; len(b.asked) != 1 || b.asked[0] != want {
		t.Errorf("asked %q, want %q", b.asked, want)
	}
}

// Nothing that only looks may write.
func TestLookingWritesNothing(t *testing.T) {
	b := newBench()
	b.stdin = "default: 192.0.2.1\n"
	for _, args := range [][]string{{"status"}, {"pools"}, {"explain", "web"}, {"plan", "-f", "-"}} {
		b.run(args...)
	}
	for _, a := range b.client.Actions() {
		if a.GetVerb() != "get" && a.GetVerb() != "list" {
			t.Errorf("%s %s", a.GetVerb(), a.GetResource().Resource)
		}
	}
}

// A take-over is planned without a trace, refused when something would be
// lost, and done when it is wanted all the same.
func TestMigrate(t *testing.T) {
	const path = "/apis/metallb.io/v1beta1/namespaces/metallb-system/"
	prepare := func(addresses string) *bench {
		b := newBench()
		must(b.client.Tracker().Delete(v1.SchemeGroupVersion.WithResource("configmaps"), "clarion-system", "clarion-pools"))
		b.raw[path+"ipaddresspools"] = `{"items":[{"metadata":{"name":"first"},"spec":{"addresses":[` + addresses + `]}}]}`
		b.raw[path+"l2advertisements"] = `{"items":[{}]}`
		return b
	}
	writes := func(b *bench) int {
		n := 0
		for _, a := range b.client.Actions() {
			if a.GetVerb() != "get" && a.GetVerb() != "list" {
				n++
			}
		}
		return n
	}
	good := prepare(`"192.0.2.200/29","2001:db8:1::/112"`)
	code, out, errs := good.run("migrate", "--from=metallb")
	if code != exitOK || writes(good) != 0 {
		t.Errorf("dry run: %d, %d writes\n%s%s", code, writes(good), out, errs)
	}
	says(t, out, "first: 192.0.2.200/29, 2001:db8:1::/112", "the Service keeps its addresses; nothing was changed: --apply does")
	code, out, errs = good.run("migrate", "--from=metallb", "--apply")
	if code != exitOK || writes(good) == 0 {
		t.Errorf("--apply: %d, %d writes\n%s%s", code, writes(good), out, errs)
	}
	says(t, errs, "done: clarion-system/clarion-pools: create the ConfigMap")
	says(t, out, "1. [done] clarion-system/clarion-pools")
	cm, err := good.client.CoreV1().ConfigMaps("clarion-system").Get(t.Context(), "clarion-pools", metav1.GetOptions{})
	if err != nil || cm.Data["first"] != "192.0.2.200/29, 2001:db8:1::/112" {
		t.Errorf("%v, %v", cm, err)
	}

	bad := prepare(`"192.0.2.200/29","2001:db8:1::/112","nonsense"`)
	code, _, errs = bad.run("migrate", "--from=metallb", "--apply")
	if code != exitFindings || writes(bad) != 0 {
		t.Errorf("with losses: %d, %d writes", code, writes(bad))
	}
	says(t, errs, "nothing was changed, because something would be lost", "--force")
	if code, _, _ = bad.run("migrate", "--from=metallb", "--apply", "--force"); code != exitFindings || writes(bad) == 0 {
		t.Errorf("--force: %d, %d writes", code, writes(bad))
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "kubectl"} {
		code, out, _ := newBench().run("completion", shell)
		if code != exitOK || !strings.Contains(out, "kubectl-clarion") {
			t.Errorf("%s: %d\n%.200s", shell, code, out)
		}
	}
	b := newBench()
	must(b.client.Tracker().Add(&v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "internal"}}))
	_, out, _ := b.run("__complete", "explain", "")
	if !strings.HasPrefix(out, "web\n:4") {
		t.Errorf("explain is completed with %q", out)
	}
	if _, out, _ := b.run("__complete", ""); !strings.Contains(out, "plan\t") {
		t.Errorf("verbs are completed with %q", out)
	}
}

func TestConnectSaysWhatIsMissing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	t.Setenv("KUBECONFIG", file)
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := connect(target{}); err == nil || !strings.Contains(err.Error(), "set KUBECONFIG or pass --kubeconfig") {
		t.Errorf("without a kubeconfig: %v", err)
	}
	if _, err := connect(target{kubeconfig: file}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("with one that is not there: %v", err)
	}
	must(os.WriteFile(file, []byte(`{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: c, namespace: shop}}],
  clusters: [{name: c, cluster: {server: "https://192.0.2.10:6443"}}]}`), 0o600))
	c, err := connect(target{})
	if err != nil || c.namespace != "shop" {
		t.Errorf("got %+v, %v", c, err)
	}
	if _, err := connect(target{context: "b"}); err == nil || !strings.Contains(err.Error(), `context "b" does not exist`) {
		t.Errorf("with a context that is not there: %v", err)
	}
}
