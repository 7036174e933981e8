package inspect

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	coordination "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/text"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/report"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares what write puts on a page with testdata/NAME.txt.
func golden(t *testing.T, name string, write func(*text.Page)) {
	t.Helper()
	var b bytes.Buffer
	page := text.NewPage(&b, false)
	write(page)
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

func ago(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }

// healthy is a cluster of three nodes with both families, in which all is well
// and no Service is.
func healthy() *Cluster {
	c := &Cluster{Now: now, Namespace: "clarion-system", unread: map[string]bool{}, Reports: map[string]report.Status{}, Explanations: map[string]report.Explanation{}}
	for i := range 3 {
		name := fmt.Sprintf("node%d", i+1)
		c.Nodes = append(c.Nodes, node(name, 11+i))
		c.Agents = append(c.Agents, pod("clarion-agent-"+name, name))
		c.Reports[name] = report.Status{Node: name}
		c.Explanations[name] = report.Explanation{Node: name}
	}
	c.Controllers = []v1.Pod{pod("clarion-controller-a", "node1"), pod("clarion-controller-b", "node2")}
	replicas, holder, lasts := int32(2), "clarion-controller-b_x7y", int32(15)
	c.Deployment = &apps.Deployment{Spec: apps.DeploymentSpec{Replicas: &replicas}}
	c.DaemonSet = &apps.DaemonSet{}
	acquired, renewed := metav1.NewMicroTime(now.Add(-3*time.Hour)), metav1.NewMicroTime(now.Add(-2*time.Second))
	c.Lease = &coordination.Lease{Spec: coordination.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &lasts, AcquireTime: &acquired, RenewTime: &renewed}}
	for _, ns := range []string{"shop", "kube-system"} {
		c.Namespaces = append(c.Namespaces, v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: map[string]string{"kubernetes.io/metadata.name": ns}}})
	}
	c.setPools("default", "192.0.2.200-192.0.2.209, 2001:db8:1::200-2001:db8:1::20f")
	return c
}

// setPools puts pools in force as they are written: name, text, name, text …
func (c *Cluster) setPools(pairs ...string) {
	data := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		data[pairs[i]] = pairs[i+1]
	}
	c.User, c.InForce = &v1.ConfigMap{Data: data}, &v1.ConfigMap{Data: data}
}

func node(name string, last int) v1.Node {
	links := fmt.Sprintf(`[{"name":"eth0","mac":"02:00:00:00:00:%02x","prefixes":["192.0.2.0/24","2001:db8:1::/64"],"gateways":["192.0.2.1","fe80::1"]}]`, last)
	return v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{cluster.AnnotationLinks: links}, Labels: map[string]string{"kubernetes.io/hostname": name}},
		Status: v1.NodeStatus{
			Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}},
			Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: fmt.Sprintf("192.0.2.%d", last)},
				{Type: v1.NodeInternalIP, Address: fmt.Sprintf("2001:db8:1::%d", last)}},
		},
	}
}

func pod(name, node string) v1.Pod {
	return v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "clarion-system", Name: name},
		Spec:       v1.PodSpec{NodeName: node},
		Status:     v1.PodStatus{Phase: v1.PodRunning, Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}},
	}
}

// A change makes a Service special.
type change func(*v1.Service)

// serve adds a dual-stack Service of namespace shop that is age old.
func (c *Cluster) serve(name string, age time.Duration, changes ...change) cluster.Key {
	policy := v1.IPFamilyPolicyRequireDualStack
	svc := v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name), CreationTimestamp: ago(age)},
		Spec: v1.ServiceSpec{Type: v1.ServiceTypeLoadBalancer, IPFamilyPolicy: &policy, IPFamilies: []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol},
			Selector: map[string]string{"app": name}, Ports: []v1.ServicePort{{Name: "http", Protocol: v1.ProtocolTCP, Port: 80}}},
	}
	for _, f := range changes {
		f(&svc)
	}
	c.Services = append(c.Services, svc)
	return keyOf(&svc)
}

// given writes addresses and the controller's word into the status.
func given(addrs ...string) change {
	return func(svc *v1.Service) {
		for _, a := range addrs {
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, v1.LoadBalancerIngress{IP: a})
		}
		said("clarion.dev/Assigned", "True", "Assigned", strings.Join(addrs, " and ")+" from pool default", time.Hour)(svc)
	}
}

// announced writes that a node announces all addresses of the status.
func announced(node string) change {
	return func(svc *v1.Service) {
		var addrs []string
		for _, in := range svc.Status.LoadBalancer.Ingress {
			addrs = append(addrs, in.IP)
		}
		said("clarion.dev/Announced", "True", "Announced", report.Announces(node, addrs), 50*time.Minute)(svc)
	}
}

func said(kind, status, reason, message string, age time.Duration) change {
	return func(svc *v1.Service) {
		c := metav1.Condition{Type: kind, Status: metav1.ConditionStatus(status), Reason: reason, Message: message, LastTransitionTime: ago(age)}
		for i := range svc.Status.Conditions {
			if svc.Status.Conditions[i].Type == kind {
				svc.Status.Conditions[i] = c
				return
			}
		}
		svc.Status.Conditions = append(svc.Status.Conditions, c)
	}
}

func annotated(key, value string) change {
	return func(svc *v1.Service) { metav1.SetMetaDataAnnotation(&svc.ObjectMeta, key, value) }
}

func local(svc *v1.Service) { svc.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal }

func ipv6Only(svc *v1.Service) {
	policy := v1.IPFamilyPolicySingleStack
	svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies = &policy, []v1.IPFamily{v1.IPv6Protocol}
}

// answers lets the agent of a node answer for VIPs of a Service since 40
// minutes, and the other agents know that.
func (c *Cluster) answers(node string, key cluster.Key, vips ...string) {
	for name, e := range c.Explanations {
		for _, text := range vips {
			vip := netip.MustParseAddr(text)
			u := report.Unit{VIP: vip, Segment: segmentOf(vip), Owner: node, Link: "eth0", Rules: true}
			if name == node {
				u.Mine, u.Since = true, now.Add(-40*time.Minute)
				s := c.Reports[name]
				s.Units = append(s.Units, report.ServiceUnit{Service: string(key), Unit: u})
				c.Reports[name] = s
			}
			e.Units = append(e.Units, u)
		}
		c.Explanations[name] = e
	}
}

func segmentOf(vip netip.Addr) netip.Prefix {
	if vip.Is4() {
		return netip.MustParsePrefix("192.0.2.0/24")
	}
	return netip.MustParsePrefix("2001:db8:1::/64")
}

// endpointOn adds an endpoint of a Service on a node.
func (c *Cluster) endpointOn(name, node string, ready bool) {
	port, protocol, portName := int32(8080), v1.ProtocolTCP, "http"
	c.Slices = append(c.Slices, discovery.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("%s-%d", name, len(c.Slices)), Labels: map[string]string{discovery.LabelServiceName: name}},
		AddressType: discovery.AddressTypeIPv4,
		Ports:       []discovery.EndpointPort{{Name: &portName, Port: &port, Protocol: &protocol}},
		Endpoints: []discovery.Endpoint{{Addresses: []string{fmt.Sprintf("10.244.0.%d", len(c.Slices)+1)}, NodeName: &node,
			Conditions: discovery.EndpointConditions{Ready: &ready}}},
	})
}

// web is a Service that works.
func (c *Cluster) web() cluster.Key {
	key := c.serve("web", 2*time.Hour, given("192.0.2.200", "2001:db8:1::200"), announced("node2"))
	c.answers("node2", key, "192.0.2.200", "2001:db8:1::200")
	c.endpointOn("web", "node1", true)
	c.endpointOn("web", "node3", true)
	return key
}
