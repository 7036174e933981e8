package provider

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/clarion-lb/clarion/config"
)

func TestASnapshotDecidesAsANewLeaderWould(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	pools, err := config.Parse(map[string]string{"default": "192.0.2.200-192.0.2.201, 2001:db8:1::200",
		"nodes": "addresses: [\"2001:db8:1::11\"]\nautoAssign: false"}, config.Config{})
	if err != nil {
		t.Fatal(err)
	}
	service := func(name string, age int, options ...option) v1.Service {
		svc := v1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name),
				CreationTimestamp: metav1.NewTime(now.Add(-time.Duration(age) * time.Hour))},
			Spec: v1.ServiceSpec{Type: v1.ServiceTypeLoadBalancer, IPFamilies: []v1.IPFamily{v1.IPv4Protocol}},
		}
		for _, o := range options {
			o(&svc)
		}
		return svc
	}
	has := func(addrs ...string) option {
		return func(svc *v1.Service) {
			for _, a := range addrs {
				svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, v1.LoadBalancerIngress{IP: a})
			}
		}
	}
	node := v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"},
		Status: v1.NodeStatus{Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "192.0.2.11"}, {Type: v1.NodeInternalIP, Address: "2001:db8:1::11"}}}}
	both := dualStack(v1.IPFamilyPolicyRequireDualStack)

	tests := []struct {
		name     string
		services []v1.Service
		ledger   map[string]string
		want     []string // in order of the names: "name: addresses: reason: message"
		problems string
	}{
		{name: "the elder keeps what two statuses show",
			services: []v1.Service{service("b", 1, has("192.0.2.200")), service("a", 2, has("192.0.2.200"))},
			want:     []string{"a: 192.0.2.200: Assigned: ", "b: 192.0.2.201: Assigned: "}},
		{name: "who waits is told why, in both families",
			services: []v1.Service{service("a", 9, both, has("192.0.2.201", "2001:db8:1::200")), service("b", 2, both)},
			want: []string{"a: 192.0.2.201 2001:db8:1::200: Assigned: ",
				`b: : Exhausted: the pool "default" has no free IPv6 address (1 of 1 in use)`}},
		{name: "the ledger is newer than the status",
			services: []v1.Service{service("a", 2, has("192.0.2.201")), service("b", 1)},
			ledger:   map[string]string{"_term": "7 x", "uid-a": "shop/a 192.0.2.200"},
			want:     []string{"a: 192.0.2.200: Assigned: ", "b: : Exhausted: 2 of 2 in use"}},
		{name: "an entry of the ledger that cannot be read is told",
			services: []v1.Service{service("a", 2)}, ledger: map[string]string{"uid-a": "nonsense"},
			want: []string{"a: 192.0.2.200: Assigned: "}, problems: "clarion-intents, key uid-a"},
		{name: "a request that cannot be read keeps what it has",
			services: []v1.Service{service("a", 2, has("2001:db8:1::200"), annotate("clarion.dev/addresses", "x"))},
			want:     []string{`a: 2001:db8:1::200: Malformed: "x"`}},
		{name: "the address of a node is refused",
			services: []v1.Service{service("a", 2, annotate("clarion.dev/addresses", "2001:db8:1::11"), func(svc *v1.Service) { svc.Spec.IPFamilies = []v1.IPFamily{v1.IPv6Protocol} })},
			want:     []string{"a: : Reserved: the address of node n1"}},
		{name: "another class is not ours",
			services: []v1.Service{service("a", 2, withClass("example.com/other"), has("192.0.2.200")), service("b", 1)},
			want:     []string{"b: 192.0.2.200: Assigned: "}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, problems := NewSnapshot(Objects{Services: tt.services, Nodes: []v1.Node{node}, Pools: pools, Ledger: &v1.ConfigMap{Data: tt.ledger}}, now)
			if text := fmt.Sprint(problems); (len(problems) > 0) != (tt.problems != "") || !strings.Contains(text, tt.problems) {
				t.Errorf("problems %s, want %q", text, tt.problems)
			}
			if len(s.Answers) != len(tt.want) {
				t.Fatalf("%d answers, want %d", len(s.Answers), len(tt.want))
			}
			for _, want := range tt.want {
				name, rest, _ := strings.Cut(want, ": ")
				addrs, rest, _ := strings.Cut(rest, ": ")
				reason, words, _ := strings.Cut(rest, ": ")
				for key, a := range s.Answers {
					if string(key) != "shop/"+name {
						continue
					}
					var held []string
					for _, h := range a.Held {
						held = append(held, h.Addr.String())
					}
					if got := strings.Join(held, " "); got != addrs || a.Assigned.Reason != reason || !strings.Contains(a.Assigned.Message, words) {
						t.Errorf("%s has %q, %s: %s; want %s", name, got, a.Assigned.Reason, a.Assigned.Message, want)
					}
				}
			}
		})
	}
}

func TestPoolsOfCarriesEveryRule(t *testing.T) {
	c, err := config.Parse(map[string]string{"p": `
addresses: [192.0.2.0/24, "2001:db8::/64"]
autoAssign: false
avoidBuggyIPs: true
priority: 3
namespaces: [shop]
namespaceSelector: {matchLabels: {a: b}}
serviceSelector: {matchLabels: {c: d}}`}, config.Config{})
	if err != nil {
		t.Fatal(err)
	}
	got := PoolsOf(c)[0]
	if got.Name != "p" || got.AutoAssign || !got.AvoidBuggyIPs || got.Priority != 3 || !got.Addresses.Equal(c.Pools[0].Addresses) ||
		got.Namespaces[0] != "shop" || got.NamespaceSelector == nil || got.ServiceSelector == nil {
		t.Errorf("a rule is lost: %+v", got)
	}
}
