// Package deploy holds what is installed; its tests read it as an API server
// and a security review would.
package deploy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	sigsyaml "sigs.k8s.io/yaml"
)

// An object of a manifest, decoded without tolerance for unknown fields.
type object struct {
	file string
	meta metav1.ObjectMetaAccessor
	kind string
	any  runtime.Object
}

// manifests returns the objects of every rendered manifest that a user
// applies with kubectl.
func manifests(t *testing.T) []object {
	t.Helper()
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	var out []object
	for _, file := range files {
		out = append(out, objects(t, file)...)
	}
	return out
}

func objects(t *testing.T, file string) []object {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []object
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if len(bytes.TrimSpace(document)) == 0 {
			t.Errorf("%s has an empty document", file)
			continue
		}
		obj, kind, err := scheme.Codecs.UniversalDeserializer().Decode(document, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v\n%s", file, err, document)
		}
		strict := obj.DeepCopyObject()
		if err := sigsyaml.UnmarshalStrict(document, strict); err != nil {
			t.Errorf("%s: %s: %v", file, kind.Kind, err)
		}
		accessor, ok := obj.(metav1.ObjectMetaAccessor)
		if !ok {
			t.Fatalf("%s: %s has no metadata", file, kind.Kind)
		}
		out = append(out, object{file, accessor, kind.Kind, obj})
	}
}

func TestEveryObject(t *testing.T) {
	seen := map[string]bool{}
	for _, o := range manifests(t) {
		m := o.meta.GetObjectMeta()
		name := o.file + ": " + o.kind + "/" + m.GetName()
		if seen[name] {
			t.Errorf("%s stands twice", name)
		}
		seen[name] = true
		if m.GetLabels()["app.kubernetes.io/part-of"] != "clarion" {
			t.Errorf("%s lacks the label app.kubernetes.io/part-of: clarion, by which docs/upgrade-uninstall.md finds it", name)
		}
		if strings.HasPrefix(m.GetName(), "clarion-pools") && o.kind == "ConfigMap" {
			t.Errorf("%s is the user's: an upgrade or a prune would overwrite it", name)
		}
		if namespaced(o.kind) != (m.GetNamespace() == "clarion-system") {
			t.Errorf("%s is in namespace %q", name, m.GetNamespace())
		}
	}
	if len(seen) == 0 {
		t.Fatal("nothing was checked")
	}
}

func namespaced(kind string) bool {
	return !slices.Contains([]string{"Namespace", "ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}, kind)
}

// TestNoPoolsInTheChart looks into the sources too: a template behind a value
// that is off is not in the manifests.
func TestNoPoolsInTheChart(t *testing.T) {
	err := filepath.WalkDir("chart", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if strings.Contains(path, "templates") && bytes.Contains(text, []byte("kind: ConfigMap")) && bytes.Contains(text, []byte("\n  name: clarion-pools")) {
			t.Errorf("%s makes clarion-pools", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// pods returns the pod templates by the name of their workload.
func pods(t *testing.T) map[string]v1.PodTemplateSpec {
	out := map[string]v1.PodTemplateSpec{}
	for _, o := range manifests(t) {
		switch w := o.any.(type) {
		case *appsv1.Deployment:
			out[o.file+": "+w.Name] = w.Spec.Template
			match(t, w.Spec.Selector, w.Spec.Template)
		case *appsv1.DaemonSet:
			out[o.file+": "+w.Name] = w.Spec.Template
			match(t, w.Spec.Selector, w.Spec.Template)
		}
	}
	if len(out) < 2 {
		t.Fatalf("found the workloads %v", out)
	}
	return out
}

func match(t *testing.T, selector *metav1.LabelSelector, template v1.PodTemplateSpec) {
	t.Helper()
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	if s.Empty() || !s.Matches(labels.Set(template.Labels)) {
		t.Errorf("the selector %s does not match the pods' labels %v", s, template.Labels)
	}
}

func TestPods(t *testing.T) {
	for name, pod := range pods(t) {
		spec := pod.Spec
		agent := strings.HasSuffix(name, "clarion-agent")
		if spec.HostNetwork != agent || spec.HostPID || spec.HostIPC {
			t.Errorf("%s: host namespaces network=%v pid=%v ipc=%v", name, spec.HostNetwork, spec.HostPID, spec.HostIPC)
		}
		if spec.PriorityClassName == "" {
			t.Errorf("%s has no priority class", name)
		}
		for _, volume := range spec.Volumes {
			allowed := hostPaths
			if strings.HasPrefix(name, "clarion-full.yaml") {
				allowed = append(slices.Clone(hostPaths), fullHostPaths...)
			}
			if volume.HostPath != nil && (!agent || !slices.Contains(allowed, volume.HostPath.Path)) {
				t.Errorf("%s mounts %s of the host", name, volume.HostPath.Path)
			}
		}
		for _, c := range append(spec.InitContainers, spec.Containers...) {
			container(t, name+"/"+c.Name, c, spec, agent)
		}
	}
}

// fullHostPaths are those that the agent may mount in addition when it is also
// the pod network; each has its reason in docs/decisions/0004-pod-network.md,
// and the last one, for the API server's address, in the README's profile full.
var fullHostPaths = []string{"/opt/cni/bin", "/etc/cni/net.d", "/proc/sys/net", "/etc/kubernetes"}

// hostPaths are those that the agent may mount; each has its reason in
// docs/upgrade-uninstall.md.
var hostPaths = []string{"/var/lib/clarion"}

func container(t *testing.T, name string, c v1.Container, spec v1.PodSpec, agent bool) {
	s := c.SecurityContext
	if s == nil || s.Capabilities == nil {
		t.Fatalf("%s has no security context", name)
	}
	if s.Privileged != nil && *s.Privileged {
		t.Errorf("%s is privileged", name)
	}
	if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation {
		t.Errorf("%s may escalate privileges", name)
	}
	if s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
		t.Errorf("%s can write its root", name)
	}
	if !slices.Equal(s.Capabilities.Drop, []v1.Capability{"ALL"}) {
		t.Errorf("%s drops %v, not ALL", name, s.Capabilities.Drop)
	}
	var want []v1.Capability
	if agent {
		want = []v1.Capability{"NET_ADMIN", "NET_RAW"}
	}
	if !slices.Equal(s.Capabilities.Add, want) {
		t.Errorf("%s has the capabilities %v, want %v", name, s.Capabilities.Add, want)
	}
	seccomp := s.SeccompProfile
	if seccomp == nil && spec.SecurityContext != nil {
		seccomp = spec.SecurityContext.SeccompProfile
	}
	if seccomp == nil || seccomp.Type != v1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%s has the seccomp profile %v", name, seccomp)
	}
	if !agent && (spec.SecurityContext == nil || spec.SecurityContext.RunAsNonRoot == nil || !*spec.SecurityContext.RunAsNonRoot) {
		t.Errorf("%s may run as root", name)
	}
	if agent && !c.Resources.Limits.Cpu().IsZero() {
		t.Errorf("%s has a CPU limit: throttling looks like a dead node", name)
	}
	for _, r := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		if _, ok := c.Resources.Requests[r]; !ok {
			t.Errorf("%s requests no %s", name, r)
		}
	}
	if !agent || slices.ContainsFunc(spec.Containers, func(x v1.Container) bool { return x.Name == c.Name }) {
		if c.LivenessProbe == nil || c.ReadinessProbe == nil {
			t.Errorf("%s has no probes", name)
		}
	}
}

func TestControllerSurvivesADrain(t *testing.T) {
	for _, o := range manifests(t) {
		switch x := o.any.(type) {
		case *appsv1.Deployment:
			if *x.Spec.Replicas < 2 {
				t.Errorf("%s has %d replicas", x.Name, *x.Spec.Replicas)
			}
		case *policyv1.PodDisruptionBudget:
			if x.Spec.MaxUnavailable.IntValue() != 1 {
				t.Errorf("%s lets %v go at a time", x.Name, x.Spec.MaxUnavailable)
			}
		}
	}
}

// rules returns the RBAC rules by the name of their role.
func rules(t *testing.T) map[string][]rbacv1.PolicyRule {
	out := map[string][]rbacv1.PolicyRule{}
	for _, o := range manifests(t) {
		switch r := o.any.(type) {
		case *rbacv1.ClusterRole:
			out[o.file+": ClusterRole "+r.Name] = r.Rules
			if r.AggregationRule != nil {
				t.Errorf("%s takes in the rules of others", r.Name)
			}
		case *rbacv1.Role:
			out[o.file+": Role "+r.Name] = r.Rules
		}
	}
	if len(out) == 0 {
		t.Fatal("no roles")
	}
	return out
}

func TestRBAC(t *testing.T) {
	read := []string{"get", "list", "watch"}
	for role, rules := range rules(t) {
		for _, rule := range rules {
			if len(rule.NonResourceURLs) > 0 {
				t.Errorf("%s: non-resource URLs %v", role, rule.NonResourceURLs)
			}
			if slices.Contains(rule.APIGroups, "rbac.authorization.k8s.io") {
				t.Errorf("%s may touch RBAC", role)
			}
			for _, verb := range rule.Verbs {
				if !slices.Contains([]string{"get", "list", "watch", "create", "update", "patch"}, verb) {
					t.Errorf("%s has the verb %s", role, verb)
				}
			}
			writes := slices.ContainsFunc(rule.Verbs, func(v string) bool { return !slices.Contains(read, v) })
			onlyCreates := slices.Equal(rule.Verbs, []string{"create"})
			for _, resource := range rule.Resources {
				named := len(rule.ResourceNames) > 0
				switch {
				case strings.Contains(resource, "*"):
					t.Errorf("%s: wildcard %s", role, resource)
				case slices.Contains([]string{"pods/exec", "pods/attach", "pods/ephemeralcontainers", "nodes/proxy", "serviceaccounts/token", "serviceaccounts"}, resource):
					t.Errorf("%s may use %s", role, resource)
				case resource == "secrets" && (strings.Contains(role, "ClusterRole") || !named && !onlyCreates):
					t.Errorf("%s may read Secrets that are not named", role)
				case resource == "configmaps" && strings.Contains(role, "ClusterRole"):
					t.Errorf("%s may use ConfigMaps of all namespaces", role)
				case writes && resource == "services":
					t.Errorf("%s may write Services, not only their status", role)
				case writes && slices.Contains(rule.ResourceNames, "clarion-pools"):
					t.Errorf("%s may write the user's pools", role)
				case writes && resource == "nodes" && !slices.Equal(rule.Verbs, []string{"patch"}):
					t.Errorf("%s may %v Nodes", role, rule.Verbs)
				}
			}
			for _, group := range rule.APIGroups {
				if group == "*" {
					t.Errorf("%s: wildcard API group", role)
				}
			}
		}
	}
}

// TestBindings wants each binding to give a role of ours to an account of ours.
func TestBindings(t *testing.T) {
	accounts, roles := map[string]bool{}, map[string]bool{}
	for _, o := range manifests(t) {
		name := o.meta.GetObjectMeta().GetName()
		switch o.kind {
		case "ServiceAccount":
			accounts[name] = true
		case "Role", "ClusterRole":
			roles[o.kind+name] = true
		}
	}
	check := func(name string, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
		if !roles[ref.Kind+ref.Name] || len(subjects) != 1 || subjects[0].Kind != "ServiceAccount" ||
			!accounts[subjects[0].Name] || subjects[0].Namespace != "clarion-system" {
			t.Errorf("%s binds %v to %v", name, ref, subjects)
		}
	}
	for _, o := range manifests(t) {
		switch b := o.any.(type) {
		case *rbacv1.ClusterRoleBinding:
			check(b.Name, b.RoleRef, b.Subjects)
		case *rbacv1.RoleBinding:
			check(b.Name, b.RoleRef, b.Subjects)
		}
	}
}

// TestPolicies wants every admission policy to be bound, and to deny.
func TestPolicies(t *testing.T) {
	bound := map[string]bool{}
	for _, o := range manifests(t) {
		if b, ok := o.any.(*admissionv1.ValidatingAdmissionPolicyBinding); ok {
			bound[b.Spec.PolicyName] = slices.Contains(b.Spec.ValidationActions, admissionv1.Deny)
		}
	}
	for _, o := range manifests(t) {
		if p, ok := o.any.(*admissionv1.ValidatingAdmissionPolicy); ok && !bound[p.Name] {
			t.Errorf("the policy %s is not in force", p.Name)
		}
	}
}
