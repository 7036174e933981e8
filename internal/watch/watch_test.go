package watch

import (
	"context"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/clarion-lb/clarion/internal/cluster"
)

const class = "clarion.dev/lb"

func ptr[T any](v T) *T { return &v }

func loadBalancer(name string) *v1.Service {
	return &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "u-1"},
		Spec: v1.ServiceSpec{
			Type: v1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7", "fd96::7"},
			Ports: []v1.ServicePort{{Name: "web", Protocol: v1.ProtocolTCP, Port: 80, NodePort: 30080}},
		},
		Status: v1.ServiceStatus{LoadBalancer: v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{
			{IP: "192.0.2.200", IPMode: ptr(v1.LoadBalancerIPModeVIP)}, {IP: "2001:db8:1::200"}, {IP: "192.0.2.99", IPMode: ptr(v1.LoadBalancerIPModeProxy)},
		}}},
	}
}

func slice(service, name, addr, node string) *discovery.EndpointSlice {
	return &discovery.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{discovery.LabelServiceName: service}},
		AddressType: discovery.AddressTypeIPv4,
		Ports:       []discovery.EndpointPort{{Name: ptr("web"), Protocol: ptr(v1.ProtocolTCP), Port: ptr(int32(8080))}},
		Endpoints:   []discovery.Endpoint{{Addresses: []string{addr}, NodeName: ptr(node)}},
	}
}

func TestServiceBecomesAPlainValue(t *testing.T) {
	got, problems := service(loadBalancer("a"), []*discovery.EndpointSlice{slice("a", "a-1", "10.244.1.5", "node1")}, class)
	if problems != nil {
		t.Fatal(problems)
	}
	want := &cluster.Service{
		Key: "shop/a", UID: "u-1", Ours: true,
		ClusterIPs: addrs("10.96.0.7", "fd96::7"), VIPs: addrs("192.0.2.200", "2001:db8:1::200"),
		Ports: []cluster.Port{{Name: "web", Protocol: cluster.TCP, Port: 80, NodePort: 30080, Endpoints: []cluster.Endpoint{
			{Addr: netip.MustParseAddrPort("10.244.1.5:8080"), Node: "node1", Ready: true, Serving: true},
		}}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
}

func addrs(texts ...string) (out []netip.Addr) {
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

func TestServiceVariants(t *testing.T) {
	tests := []struct {
		name  string
		edit  func(*v1.Service)
		check func(*cluster.Service) bool
	}{
		{"our class is ours", func(s *v1.Service) { s.Spec.LoadBalancerClass = ptr(class) }, func(s *cluster.Service) bool { return s.Ours }},
		{"a foreign class is not", func(s *v1.Service) { s.Spec.LoadBalancerClass = ptr("other.io/lb") }, func(s *cluster.Service) bool { return !s.Ours && len(s.VIPs) == 2 }},
		{"a NodePort Service has no VIPs, whatever its status says", func(s *v1.Service) { s.Spec.Type = v1.ServiceTypeNodePort }, func(s *cluster.Service) bool { return !s.Ours && s.VIPs == nil }},
		{"a headless Service has no cluster IP", func(s *v1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"} }, func(s *cluster.Service) bool { return s.ClusterIPs == nil }},
		{"another proxy's label", func(s *v1.Service) { s.Labels = map[string]string{labelProxyName: "x"} }, func(s *cluster.Service) bool { return s.OtherProxy }},
		{"affinity with the API's default", func(s *v1.Service) { s.Spec.SessionAffinity = v1.ServiceAffinityClientIP }, func(s *cluster.Service) bool { return s.Affinity == 3*time.Hour }},
		{"policies", func(s *v1.Service) {
			s.Spec.ExternalTrafficPolicy, s.Spec.InternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal, ptr(v1.ServiceInternalTrafficPolicyLocal)
		}, func(s *cluster.Service) bool { return s.ExternalLocal && s.InternalLocal }},
		{"source ranges are masked", func(s *v1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"203.0.113.9/24", "2001:db8::1/64"} }, func(s *cluster.Service) bool {
			return slices.Equal(s.SourceRanges, []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::/64")})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			svc := loadBalancer("a")
			tt.edit(svc)
			got, problems := service(svc, nil, class)
			if problems != nil || !tt.check(got) {
				t.Fatalf("got %+v, problems %v", got, problems)
			}
		})
	}
}

func TestWhatCannotBeReadIsToldAndLeftOut(t *testing.T) {
	svc := loadBalancer("a")
	svc.Spec.ExternalIPs = []string{"192.0.2.300", "203.0.113.5"}
	svc.Spec.LoadBalancerSourceRanges = []string{"everybody"}
	bad := slice("a", "a-1", "10.244.1.500", "node1")
	bad.Endpoints = append(bad.Endpoints, discovery.Endpoint{Addresses: []string{"10.244.1.6"}})
	got, problems := service(svc, []*discovery.EndpointSlice{bad}, class)
	want := []string{
		`Service shop/a: spec.externalIPs: "192.0.2.300" is not an IP address`,
		`Service shop/a: spec.loadBalancerSourceRanges: "everybody" is not a CIDR`,
		`Service shop/a: EndpointSlice a-1: endpoint "10.244.1.500" port 8080 is not an address and a port`,
	}
	if !slices.Equal(problems, want) {
		t.Errorf("problems %q", problems)
	}
	if !slices.Equal(got.ExternalIPs, addrs("203.0.113.5")) || len(got.Ports[0].Endpoints) != 1 {
		t.Errorf("the good parts were not kept: %+v", got)
	}
}

func TestAnEndpointInTwoSlicesCountsOnceAsTheReadierOne(t *testing.T) {
	old, fresh := slice("a", "a-1", "10.244.1.5", "node1"), slice("a", "a-2", "10.244.1.5", "node1")
	old.Endpoints[0].Conditions = discovery.EndpointConditions{Ready: ptr(false), Serving: ptr(true), Terminating: ptr(true)}
	for _, order := range [][]*discovery.EndpointSlice{{old, fresh}, {fresh, old}} {
		got, _ := service(loadBalancer("a"), order, class)
		if e := got.Ports[0].Endpoints; len(e) != 1 || !e[0].Ready {
			t.Fatalf("got %+v", e)
		}
	}
}

func TestNodeRefusals(t *testing.T) {
	ready := v1.NodeCondition{Type: v1.NodeReady, Status: v1.ConditionTrue}
	tests := []struct {
		name string
		node v1.Node
		want cluster.Refusal
	}{
		{"ready", v1.Node{Status: v1.NodeStatus{Conditions: []v1.NodeCondition{ready}}}, cluster.Eligible},
		{"unknown", v1.Node{Status: v1.NodeStatus{Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionUnknown}}}}, cluster.NotReady},
		{"no condition at all", v1.Node{}, cluster.NotReady},
		{"cordoned", v1.Node{Spec: v1.NodeSpec{Unschedulable: true}, Status: v1.NodeStatus{Conditions: []v1.NodeCondition{ready}}}, cluster.Cordoned},
		{"excluded", v1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{v1.LabelNodeExcludeBalancers: ""}}, Status: v1.NodeStatus{Conditions: []v1.NodeCondition{ready}}}, cluster.Excluded},
		{"no network", v1.Node{Status: v1.NodeStatus{Conditions: []v1.NodeCondition{ready, {Type: v1.NodeNetworkUnavailable, Status: v1.ConditionTrue}}}}, cluster.NetworkUnavailable},
		{"out of service wins", v1.Node{Spec: v1.NodeSpec{Taints: []v1.Taint{{Key: v1.TaintNodeOutOfService}}}}, cluster.OutOfService},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := refusal(&tt.node); got != tt.want {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// start runs a Watch over objects and returns its feed.
func start(t *testing.T, client *fake.Clientset, stored cluster.View, grace time.Duration) *cluster.Feed {
	t.Helper()
	w, err := New(client, Config{Namespace: "clarion-system", Class: class, Log: slog.New(slog.DiscardHandler), Stored: stored, Grace: grace})
	if err != nil {
		t.Fatal(err)
	}
	feed := w.Feed()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return feed
}

// until takes deltas, folded, until ok says that they are enough.
func until(t *testing.T, feed *cluster.Feed, ok func(cluster.View, bool) bool) cluster.View {
	t.Helper()
	var v cluster.View
	synced := false
	for {
		select {
		case <-feed.Ready():
			d := feed.Take()
			v.Apply(d)
			synced = synced || d.Synced
			if ok(v, synced) {
				return v
			}
		case <-t.Context().Done():
			t.Fatalf("the feed stopped at %+v", v)
		}
	}
}

func TestWatchFollowsTheAPI(t *testing.T) {
	client := fake.NewClientset(loadBalancer("a"), slice("a", "a-1", "10.244.1.5", "node1"),
		&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}},
		&v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "clarion-system", Name: PoolsInForce}, Data: map[string]string{"default": "192.0.2.200"}},
		&v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: PoolsInForce}, Data: map[string]string{"foreign": "192.0.2.1"}})
	feed := start(t, client, cluster.View{}, time.Hour)
	v := until(t, feed, func(_ cluster.View, synced bool) bool { return synced })
	if len(v.Services["shop/a"].Ports[0].Endpoints) != 1 || v.Nodes["node1"] == nil || v.Pools["default"] != "192.0.2.200" {
		t.Fatalf("the first delta is not whole: %+v", v)
	}

	services, slicesAPI := client.CoreV1().Services("shop"), client.DiscoveryV1().EndpointSlices("shop")
	if _, err := slicesAPI.Create(t.Context(), slice("a", "a-2", "10.244.2.5", "node2"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, feed, func(v cluster.View, _ bool) bool {
		return v.Services["shop/a"] != nil && len(v.Services["shop/a"].Ports[0].Endpoints) == 2
	})
	if err := services.Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for gone := false; !gone; {
		<-feed.Ready()
		s, said := feed.Take().Services["shop/a"]
		gone = said && s == nil
	}
}

func TestStoredViewIsServedWhileTheAPIIsSilent(t *testing.T) {
	client := fake.NewClientset(loadBalancer("a"), &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}})
	answer := make(chan struct{})
	client.PrependReactor("list", "services", func(k8stesting.Action) (bool, runtime.Object, error) {
		<-answer
		return false, nil, nil
	})
	stored := cluster.View{
		Services: map[cluster.Key]*cluster.Service{"shop/a": {Key: "shop/a"}, "shop/deleted": {Key: "shop/deleted"}},
		Nodes:    map[string]*cluster.Node{"node1": {Name: "node1"}, "gone": {Name: "gone"}},
	}
	feed := start(t, client, stored, time.Millisecond)
	v := until(t, feed, func(v cluster.View, synced bool) bool {
		if synced {
			t.Fatal("an unanswered API is told to be synced")
		}
		return len(v.Services) == 2
	})
	if len(v.Nodes) != 2 {
		t.Fatalf("got %+v", v)
	}
	close(answer)
	var last cluster.Delta
	for !last.Synced {
		<-feed.Ready()
		last = feed.Take()
	}
	if s, said := last.Services["shop/deleted"]; s != nil || !said {
		t.Error("a Service that was deleted meanwhile is not told to be gone")
	}
	if n, said := last.Nodes["gone"]; n != nil || !said {
		t.Error("a Node that was deleted meanwhile is not told to be gone")
	}
}
