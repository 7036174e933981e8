package watch

import (
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/clarion-lb/clarion/internal/cluster"
)

func TestObjectsAreTheViewThatAWatchWouldBuild(t *testing.T) {
	a, b := loadBalancer("a"), loadBalancer("b")
	b.Spec.LoadBalancerClass = ptr("example.com/other")
	node := v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1", Annotations: map[string]string{cluster.AnnotationLinks: "nonsense"}},
		Status: v1.NodeStatus{Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "2001:db8:1::11"}}}}
	view, problems := Objects([]v1.Service{*a, *b}, []discovery.EndpointSlice{*slice("a", "a-1", "10.244.1.5", "node1"), *slice("gone", "x", "10.244.1.6", "node1")}, []v1.Node{node}, class)
	if len(view.Services) != 2 || !view.Services["shop/a"].Ours || view.Services["shop/b"].Ours {
		t.Errorf("Services %+v", view.Services)
	}
	if e := view.Services["shop/a"].Ports[0].Endpoints; len(e) != 1 || e[0].Node != "node1" || len(view.Services["shop/b"].Ports[0].Endpoints) != 0 {
		t.Errorf("endpoints %+v", e)
	}
	if n := view.Nodes["node1"]; n == nil || !slices.Equal(n.Addresses, addrs("2001:db8:1::11")) || n.Refused != cluster.NotReady {
		t.Errorf("node %+v", n)
	}
	if len(problems) != 1 || !strings.Contains(problems[0], "Node node1: annotation clarion.dev/links") {
		t.Errorf("problems %q", problems)
	}
}

// What the controller lets share must not be withheld by the agents.
func TestEveryNameOfTheShareKeyCounts(t *testing.T) {
	for _, key := range []string{"clarion.dev/share", "metallb.io/allow-shared-ip", "lbipam.cilium.io/sharing-key", "purelb.io/allow-shared-ip"} {
		svc := loadBalancer("a")
		svc.Annotations = map[string]string{key: " dns "}
		if got, _ := service(svc, nil, class); got.ShareKey != "dns" {
			t.Errorf("%s gives %q", key, got.ShareKey)
		}
	}
}
