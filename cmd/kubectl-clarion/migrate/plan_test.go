package migrate

import (
	"maps"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/clarion-lb/clarion/config"
)

const onePool = `apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {namespace: metallb-system, name: first-pool}
spec: {addresses: [192.0.2.200-192.0.2.209, "2001:db8:1::/112"]}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {namespace: metallb-system, name: all}`

const everyFeature = `kind: IPAddressPool
metadata: {name: cheap, labels: {zone: east}}
spec: {addresses: [192.168.10.7/24, "2001:db8:10::/64"], avoidBuggyIPs: true}
---
kind: IPAddressPool
metadata: {name: expensive}
spec: {addresses: [203.0.113.64/30], autoAssign: false}
---
kind: IPAddressPool
metadata: {name: team}
spec:
  addresses: [192.168.20.0/24]
  serviceAllocation:
    priority: 50
    namespaces: [team-a, team-b]
    namespaceSelectors: [{matchLabels: {team: web}}]
    serviceSelectors: [{matchExpressions: [{key: app, operator: In, values: [shop]}]}, {matchLabels: {app: api}}]
---
kind: IPAddressPool
metadata: {name: team-first}
spec: {addresses: ["2001:db8:20::/64"], serviceAllocation: {priority: 20, namespaces: [team-a]}}
---
kind: IPAddressPool
metadata: {name: mixed}
spec:
  addresses: [192.168.30.0/24]
  serviceAllocation:
    namespaceSelectors: [{matchLabels: {team: web}}, {matchLabels: {tier: back}}]
    serviceSelectors: [{matchLabels: {a: b, c: d}}, {matchLabels: {e: f}}]
---
kind: IPAddressPool
metadata: {name: routed}
spec: {addresses: [198.51.100.0/24]}
---
kind: IPAddressPool
metadata: {name: broken}
spec: {addresses: [192.168.40.300/24, "fe80::/64", 192.168.10.0/30]}
---
kind: L2Advertisement
metadata: {name: east}
spec:
  ipAddressPoolSelectors: [{matchLabels: {zone: east}}]
  ipAddressPools: [team]
  nodeSelectors: [{matchLabels: {kubernetes.io/hostname: node1}}, {matchLabels: {kubernetes.io/hostname: node2}}]
  interfaces: [eth1, eth0]
---
kind: L2Advertisement
metadata: {name: rest}
spec: {ipAddressPools: [expensive, mixed]}
---
kind: BGPAdvertisement
metadata: {name: bgp}
spec: {ipAddressPools: [routed]}`

func TestMetalLB(t *testing.T) {
	tests := []struct {
		name     string
		objects  string
		services []runtime.Object
		args     []string
		bad      bool
	}{
		{"metallb one pool", onePool, []runtime.Object{
			service("web", "192.0.2.200 2001:db8:1::1"), service("pinned", "192.0.2.201", annotated("metallb.universe.tf/loadBalancerIPs", "192.0.2.201")), service("waits", ""),
			service("foreign", "192.0.2.240", class("example.com/lb"))}, nil, false},
		{"metallb every feature", everyFeature, []runtime.Object{service("web", "192.168.10.1 2001:db8:10::1")}, nil, true},
		{"metallb shared addresses", onePool, []runtime.Object{
			service("dns-tcp", "192.0.2.200 2001:db8:1::1", annotated("metallb.io/allow-shared-ip", "dns"), port(53)),
			service("dns-more", "192.0.2.200 2001:db8:1::1", annotated("metallb.io/allow-shared-ip", "dns"), port(54)),
			service("old", "192.0.2.201", port(1), annotated("metallb.io/allow-shared-ip", "x")), service("older", "192.0.2.201", port(2), annotated("metallb.universe.tf/allow-shared-ip", "y"))}, nil, false},
		{"metallb addresses that two Services cannot share", onePool, []runtime.Object{
			service("a", "192.0.2.200 2001:db8:1::1"), service("b", "192.0.2.200 2001:db8:1::2")}, nil, true},
		{"metallb addresses outside every pool", onePool, []runtime.Object{
			service("far", "203.0.113.9 2001:db8:9::9"), service("node", "192.0.2.11")}, nil, true},
		{"metallb with a class", onePool, []runtime.Object{
			service("ours", "192.0.2.200 2001:db8:1::1", class("example.com/metallb")), service("plain", "192.0.2.201")}, []string{"--port=7472", "--lb-class=example.com/metallb"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(append(metalLBWorkloads(tt.args...), tt.services...)...).metalLB(t, tt.objects)
			check(t, tt.name, w.plan(t, MetalLBName), tt.bad)
		})
	}
}

// check compares a plan with its golden, and tries its pools.
func check(t *testing.T, name string, p Plan, bad bool) {
	t.Helper()
	if p.Bad() != bad {
		t.Errorf("bad %v, want %v: %+v", p.Bad(), bad, p.Notes)
	}
	c, err := config.Parse(p.Pools, config.Config{})
	if err != nil {
		t.Errorf("Clarion refuses the pools: %v", err)
	}
	for _, s := range p.Services {
		for i, a := range s.Addresses {
			pool, ok := c.Pool(s.Pools[i])
			if s.Keeps && a.String() != "192.0.2.11" && (!ok || !pool.Addresses.Contains(a)) {
				t.Errorf("%s: %v would be in no pool", s.Service, a)
			}
		}
	}
	golden(t, name, p)
}

func TestMetalLBBeforeCustomResources(t *testing.T) {
	cm := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: "config"}, Data: map[string]string{"config": `
address-pools:
- name: default
  protocol: layer2
  addresses: [192.0.2.200/29, "2001:db8:1::200-2001:db8:1::20f"]
- name: named
  protocol: layer2
  auto-assign: false
  avoid-buggy-ips: true
  addresses: [192.0.2.240-192.0.2.250]
- name: routed
  protocol: bgp
  addresses: [198.51.100.0/28]
`}}
	w := newWorld(append(metalLBWorkloads(), cm, service("web", "192.0.2.200 2001:db8:1::200"))...)
	check(t, "metallb before custom resources", w.plan(t, MetalLBName), true)
}

func TestKubeVIP(t *testing.T) {
	both := map[string]string{"cp_enable": "true", "svc_enable": "true"}
	tests := []struct {
		name     string
		data     map[string]string // nil for no ConfigMap
		env      map[string]string
		services []runtime.Object
		bad      bool
	}{
		{"kube-vip a global range", map[string]string{"range-global": "192.0.2.200-192.0.2.209,2001:db8:1::10-2001:db8:1::20"}, map[string]string{"svc_enable": "true"},
			[]runtime.Object{service("web", "192.0.2.200 2001:db8:1::10", annotated("kube-vip.io/loadbalancerIPs", "192.0.2.200,2001:db8:1::10")), service("waits", "")}, false},
		{"kube-vip every key", map[string]string{
			"cidr-default": "192.168.0.200/29", "range-development": "192.168.0.210-192.168.0.219,2001:db8::10-2001:db8::20", "cidr-finance": "192.168.0.232/30, 192.168.0.240/32",
			"range-finance": "192.168.0.250-192.168.0.251", "cidr-global": "192.168.0.220/29,2001:db8:1::/112,192.168.0.200/30", "range-global": "192.168.1.1-192.168.1.9",
			"allow-share-global": "true", "interface-finance": "eth3", "interface-global": "eth0", "search-order": "desc", "skip-end-ips-in-cidr": "true", "nonsense": "x"},
			both, []runtime.Object{service("web", "192.168.0.221 2001:db8:1::1"), service("a", "192.168.0.222", port(81)), service("b", "192.168.0.222", port(82))}, false},
		{"kube-vip without its cloud provider", nil, both, []runtime.Object{
			service("chosen", "192.0.2.77 2001:db8:1::77", annotated("kube-vip.io/loadbalancerIPs", "192.0.2.77,2001:db8:1::77")),
			service("ignored", "", annotated("kube-vip.io/ignore", "true")), service("classy", "192.0.2.78", class("kube-vip.io/kube-vip-class"))}, false},
		{"kube-vip with DHCP", map[string]string{"cidr-global": "0.0.0.0/32", "cidr-shop": "192.0.2.200/29"}, map[string]string{"svc_enable": "true"},
			[]runtime.Object{service("leased", "192.0.2.99", annotated("kube-vip.io/loadbalancerIPs", "0.0.0.0"))}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			objects := append(kubeVIPWorkloads(tt.env), tt.services...)
			if tt.data != nil {
				objects = append(objects, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kubevip"}, Data: tt.data})
			}
			check(t, tt.name, newWorld(objects...).plan(t, KubeVIP), tt.bad)
		})
	}
}

func TestStaticPodsAreEditedByHand(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-vip-node1", OwnerReferences: []metav1.OwnerReference{{Kind: "Node", Name: "node1"}}},
		Spec: v1.PodSpec{Containers: []v1.Container{{Image: "registry.example/kube-vip:v1.0.0", Env: []v1.EnvVar{{Name: "svc_enable", Value: "true"}, {Name: "lb_class_name", Value: "example.com/kv"}}}}}}
	p := newWorld(pod, service("web", "192.0.2.77", class("example.com/kv"))).plan(t, KubeVIP)
	last := p.Steps[len(p.Steps)-2]
	if len(p.Services) != 1 || last.Kind != StopSpeakers || last.Progress != ByHand || last.What != "set svc_enable to \"false\" in the manifest of kube-vip on each node that has it as a static Pod (usually /etc/kubernetes/manifests/kube-vip.yaml)" {
		t.Errorf("%+v", p)
	}
}

func TestPrioritiesKeepMetalLBsOrder(t *testing.T) {
	pool := func(name string, a *serviceAllocation) ipAddressPool {
		p := ipAddressPool{Metadata: metadata{Name: name}}
		p.Spec.ServiceAllocation = a
		return p
	}
	in := []ipAddressPool{pool("open", nil), pool("open too", &serviceAllocation{}), pool("last", &serviceAllocation{Namespaces: []string{"x"}}),
		pool("second", &serviceAllocation{Priority: 30, Namespaces: []string{"x"}}), pool("first", &serviceAllocation{Priority: 3, ServiceSelectors: []*labelSelector{{}}})}
	want := map[string]int{"open": 0, "open too": 0, "last": 10, "second": 20, "first": 30}
	if got := ranks(in); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := ranks(in[:2]); !maps.Equal(got, map[string]int{"open": 0, "open too": 0}) {
		t.Errorf("pools without any order get %v", got)
	}
}
