package migrate

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"

	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/inspect"
	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/text"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, p Plan) {
	t.Helper()
	var b bytes.Buffer
	page := text.NewPage(&b, false)
	p.Write(page, false, false)
	if page.Err() != nil {
		t.Fatal(page.Err())
	}
	file := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".txt")
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("%s is no longer right (-update renews it); got\n%s", file, b.Bytes())
	}
}

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// A world is a cluster in memory with another load balancer in it.
type world struct {
	client *fake.Clientset
	raw    map[string]string // custom resources by path
}

func newWorld(objects ...runtime.Object) *world {
	return &world{client: fake.NewClientset(objects...), raw: map[string]string{}}
}

func (w *world) reader() *Reader {
	return &Reader{Reader: &inspect.Reader{Client: w.client, Namespace: "clarion-system", Now: func() time.Time { return now },
		Raw: func(_ context.Context, path string, _ map[string]string) ([]byte, error) {
			if text, ok := w.raw[path]; ok {
				return []byte(text), nil
			}
			return nil, apierrors.NewNotFound(schema.GroupResource{}, path)
		}}}
}

// plan reads the world and plans.
func (w *world) plan(t *testing.T, from string) Plan {
	t.Helper()
	s, c, err := w.reader().Read(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	return PlanOf(s, c)
}

// metalLB puts custom resources, written as YAML documents, where the API
// server would have them.
func (w *world) metalLB(t *testing.T, documents string) *world {
	t.Helper()
	lists := map[string][]any{"ipaddresspools": {}, "l2advertisements": {}, "bgpadvertisements": {}}
	for document := range strings.SplitSeq(documents, "\n---\n") {
		var m map[string]any
		if err := yaml.UnmarshalStrict([]byte(document), &m); err != nil {
			t.Fatal(err)
		}
		kind, _ := m["kind"].(string)
		plural := strings.ToLower(kind) + "s"
		lists[plural] = append(lists[plural], m)
	}
	for plural, items := range lists {
		out, err := yaml.Marshal(map[string]any{"items": items})
		if err == nil {
			out, err = yaml.YAMLToJSON(out)
		}
		if err != nil {
			t.Fatal(err)
		}
		w.raw["/apis/metallb.io/v1beta1/namespaces/metallb-system/"+plural] = string(out)
	}
	return w
}

// A change makes a Service special.
type change func(*v1.Service)

// service is one of namespace shop with a dual-stack status.
func service(name string, addrs string, changes ...change) *v1.Service {
	policy := v1.IPFamilyPolicyPreferDualStack
	svc := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name), CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))},
		Spec: v1.ServiceSpec{Type: v1.ServiceTypeLoadBalancer, IPFamilyPolicy: &policy, IPFamilies: []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol},
			Ports: []v1.ServicePort{{Port: 80, Protocol: v1.ProtocolTCP}}},
	}
	for _, a := range strings.Fields(addrs) {
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, v1.LoadBalancerIngress{IP: a})
	}
	for _, f := range changes {
		f(svc)
	}
	return svc
}

func annotated(key, value string) change {
	return func(svc *v1.Service) { metav1.SetMetaDataAnnotation(&svc.ObjectMeta, key, value) }
}

func port(n int32) change { return func(svc *v1.Service) { svc.Spec.Ports[0].Port = n } }

func class(name string) change {
	return func(svc *v1.Service) { svc.Spec.LoadBalancerClass = &name }
}

// metalLBWorkloads are what MetalLB's manifest installs.
func metalLBWorkloads(args ...string) []runtime.Object {
	replicas := int32(1)
	labels := func(component string) map[string]string {
		return map[string]string{"app": "metallb", "component": component}
	}
	return []runtime.Object{
		&apps.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: "controller", Labels: labels("controller")},
			Spec: apps.DeploymentSpec{Replicas: &replicas, Template: v1.PodTemplateSpec{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "controller", Args: args}}}}}},
		&apps.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: "speaker", Labels: labels("speaker")}},
		&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Status: v1.NodeStatus{Addresses: []v1.NodeAddress{
			{Type: v1.NodeInternalIP, Address: "192.0.2.11"}, {Type: v1.NodeInternalIP, Address: "2001:db8:1::11"}}}},
		&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"team": "web"}}},
		&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ops", Labels: map[string]string{"tier": "back"}}},
	}
}

// kubeVIPWorkloads are kube-vip and its cloud provider.
func kubeVIPWorkloads(env map[string]string) []runtime.Object {
	var vars []v1.EnvVar
	for _, k := range sortedKeys(env) {
		vars = append(vars, v1.EnvVar{Name: k, Value: env[k]})
	}
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "kube-system", Name: name} }
	spec := func(image string) v1.PodTemplateSpec {
		return v1.PodTemplateSpec{Spec: v1.PodSpec{Containers: []v1.Container{{Image: image, Env: vars}}}}
	}
	return []runtime.Object{
		&apps.Deployment{ObjectMeta: meta("kube-vip-cloud-provider"), Spec: apps.DeploymentSpec{Template: spec("registry.example/kube-vip-cloud-provider:v0.0.12")}},
		&apps.DaemonSet{ObjectMeta: meta("kube-vip-ds"), Spec: apps.DaemonSetSpec{Template: spec("registry.example/kube-vip:v1.0.0@sha256:00")}},
		&apps.DaemonSet{ObjectMeta: meta("other"), Spec: apps.DaemonSetSpec{Template: spec("registry.example/other:v1")}},
	}
}
