package provider

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/clarion-lb/clarion/allocator"
	"github.com/clarion-lb/clarion/internal/annotation"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
)

func TestRequest(t *testing.T) {
	prefer := v1.IPFamilyPolicyPreferDualStack
	svc := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web", UID: "u", CreationTimestamp: metav1.Unix(1000, 0), Labels: map[string]string{"a": "b"},
			Annotations: map[string]string{
				"metallb.io/loadBalancerIPs": "192.0.2.1 , 2001:db8::1", "purelb.io/service-group": "public", "lbipam.cilium.io/sharing-key": "k",
			},
		},
		Spec: v1.ServiceSpec{
			Type: v1.ServiceTypeLoadBalancer, IPFamilyPolicy: &prefer, IPFamilies: []v1.IPFamily{v1.IPv6Protocol, v1.IPv4Protocol},
			Ports:                 []v1.ServicePort{{Port: 53, Protocol: v1.ProtocolUDP}, {Port: 80}},
			ExternalTrafficPolicy: v1.ServiceExternalTrafficPolicyLocal, Selector: map[string]string{"app": "web"},
			LoadBalancerIP: "192.0.2.99", // the annotation is stronger
		},
	}
	got, err := request(svc, map[string]string{"team": "one"})
	if err != nil {
		t.Fatal(err)
	}
	want := allocator.Request{
		Key: "shop/web", UID: "u", Created: time.Unix(1000, 0), Namespace: "shop", NamespaceLabels: map[string]string{"team": "one"},
		Labels: map[string]string{"a": "b"}, Families: []ipfam.Family{ipfam.V6, ipfam.V4}, Policy: allocator.PreferDualStack,
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		Pool:      "public", ShareKey: "k", Local: true, Selector: "app=web",
		Ports: []allocator.Port{{Protocol: cluster.UDP, Port: 53}, {Protocol: cluster.TCP, Port: 80}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestRequestedAddresses(t *testing.T) {
	tests := []struct {
		name   string
		key    string // "" for spec.loadBalancerIP
		value  string
		want   string
		says   []string // words of the error
		before func(*v1.Service)
	}{
		{name: "nothing"},
		{name: "the field of old", value: "192.0.2.1", want: "192.0.2.1"},
		{name: "IPv6 in the field of old", value: "2001:db8::1", want: "2001:db8::1"},
		{name: "MetalLB before 0.14", key: "metallb.universe.tf/loadBalancerIPs", value: "192.0.2.1", want: "192.0.2.1"},
		{name: "kube-vip", key: "kube-vip.io/loadbalancerIPs", value: "192.0.2.1,2001:db8::1", want: "192.0.2.1 2001:db8::1"},
		{name: "Cilium before 1.15", key: "io.cilium/lb-ipam-ips", value: "192.0.2.1,192.0.2.2", want: "192.0.2.1 192.0.2.2"},
		{name: "PureLB", key: "purelb.io/addresses", value: "192.0.2.1", want: "192.0.2.1"},
		{name: "no address", key: annotation.Addresses, value: "192.0.2.300", says: []string{annotation.Addresses, `"192.0.2.300"`}},
		{name: "a CIDR", key: annotation.Addresses, value: "192.0.2.0/24", says: []string{annotation.Addresses, `"192.0.2.0/24"`}},
		{name: "no address in the field of old", value: "web", says: []string{"spec.loadBalancerIP", `"web"`}},
		{name: "DHCP for kube-vip", key: "kube-vip.io/loadbalancerIPs", value: "0.0.0.0", says: []string{"kube-vip.io/loadbalancerIPs", "DHCP"}},
		{name: "one good and one bad", key: "purelb.io/addresses", value: "192.0.2.1,x", says: []string{"purelb.io/addresses", `"x"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			svc := &v1.Service{}
			if tt.key == "" {
				svc.Spec.LoadBalancerIP = tt.value
			} else {
				svc.Annotations = map[string]string{tt.key: tt.value}
			}
			got, err := addresses(svc)
			var texts []string
			for _, a := range got {
				texts = append(texts, a.String())
			}
			if strings.Join(texts, " ") != tt.want || (err != nil) != (tt.says != nil) {
				t.Fatalf("got %v, %v", texts, err)
			}
			for _, word := range tt.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q does not mention %s", err, word)
				}
			}
		})
	}
}

func FuzzRequestedAddresses(f *testing.F) {
	for _, seed := range []string{"192.0.2.1", "192.0.2.1, 2001:db8::1", "0.0.0.0", "::ffff:192.0.2.1", "fe80::1%eth0", ",", "192.0.2.1,,"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		svc := &v1.Service{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{annotation.Addresses: value}}}
		got, err := addresses(svc)
		if err != nil && got != nil {
			t.Fatalf("%q: both %v and %v", value, got, err)
		}
		for _, a := range got {
			if !a.IsValid() || a.Zone() != "" || a.IsUnspecified() || a.Is4In6() {
				t.Fatalf("%q gave %v", value, a)
			}
		}
		if strings.TrimSpace(value) != "" && err == nil && len(got) == 0 {
			t.Fatalf("%q asks for nothing and is no mistake", value)
		}
	})
}
