package inspect

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/text"
	"github.com/clarion-lb/clarion/internal/report"
)

func TestStatus(t *testing.T) {
	tests := []struct {
		name     string
		cluster  func() *Cluster
		problems int
	}{
		{"status all is well", func() *Cluster { c := healthy(); c.web(); return c }, 0},
		{"status nothing is well", nothingIsWell, 15},
		{"status without permissions", func() *Cluster {
			c := &Cluster{Now: now, Namespace: "clarion-system", unread: map[string]bool{"services": true, "nodes": true, "configmaps": true, "lease": true, "pods": true},
				Gaps: []string{"the Nodes cannot be read (you lack the permission): no node is shown"}}
			return c
		}, 0},
		{"status not installed", func() *Cluster {
			return &Cluster{Now: now, Namespace: "clarion-system", unread: map[string]bool{}, Nodes: []v1.Node{node("node1", 11)}}
		}, 2},
		{"status agents not asked", func() *Cluster {
			c := healthy()
			c.web()
			c.Reports = nil
			c.Gaps = []string{"the agents are not asked"}
			return c
		}, 0},
		{"status of many", func() *Cluster {
			c := healthy()
			c.setPools("default", "192.0.2.128/25, 2001:db8:1:0:1::/80")
			for i := range 40 {
				v4, v6 := fmt.Sprintf("192.0.2.%d", 130+i), fmt.Sprintf("2001:db8:1:0:1::%d", i)
				key := c.serve(fmt.Sprintf("s%02d", i), time.Hour, given(v4, v6), announced("node1"))
				c.answers("node1", key, v4, v6)
			}
			for i := range 20 {
				c.serve(fmt.Sprintf("w%02d", i), time.Hour, annotated("clarion.dev/pool", "other"))
			}
			return c
		}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := tt.cluster()
			s := StatusOf(c)
			if len(s.Problems) != tt.problems {
				t.Errorf("%d problems, want %d: %v", len(s.Problems), tt.problems, s.Problems)
			}
			golden(t, tt.name, func(p *text.Page) { s.Write(p, now, false) })
			asJSON, err := json.Marshal(s)
			if err != nil || strings.Contains(string(asJSON), "null") {
				t.Errorf("the JSON has null, which is not a list: %s (%v)", asJSON, err)
			}
		})
	}
}

// nothingIsWell has every problem that a status knows.
func nothingIsWell() *Cluster {
	c := healthy()
	c.setPools("default", "192.0.2.200-192.0.2.201, 2001:db8:1::200-2001:db8:1::201", "nodes", "addresses: [192.0.2.11]\nautoAssign: false")
	c.User = &v1.ConfigMap{Data: map[string]string{"default": "192.0.2.200-192.0.2.201, 2001:db8:1::200-2001:db8:1::201",
		"nodes": c.User.Data["nodes"], "new": "2001:db8:9::/64, 2001:db8::x"}}
	old := metav1.NewMicroTime(now.Add(-time.Hour))
	c.Lease.Spec.RenewTime = &old
	c.Controllers[0].Status = v1.PodStatus{Phase: v1.PodRunning, ContainerStatuses: []v1.ContainerStatus{
		{State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}}
	c.Nodes[0].Status.Conditions[0].Status = v1.ConditionFalse
	c.Agents[1].Status.Conditions = nil
	c.Reports["node2"] = report.Status{Node: "node2", NotReady: "nothing is known of the cluster yet"}
	delete(c.Nodes[2].Annotations, "clarion.dev/links")

	key := c.serve("twice", 9*time.Hour, given("192.0.2.200", "2001:db8:1::200"), announced("node2"))
	c.answers("node2", key, "192.0.2.200", "2001:db8:1::200")
	c.answers("node3", key, "2001:db8:1::200")
	c.serve("stranded", 8*time.Hour, given("203.0.113.7", "2001:db8:7::7"), announced("node3"),
		said("clarion.dev/Assigned", "True", "Stranded", "203.0.113.7 is in no pool any more", time.Hour))
	c.serve("silent", 7*time.Hour, given("192.0.2.201"), func(svc *v1.Service) {
		svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies = nil, []v1.IPFamily{v1.IPv4Protocol}
	}, said("clarion.dev/Announced", "False", "AddressConflict", "192.0.2.201 is not announced: the host with the link address 02:00:00:00:00:99 uses it", time.Hour))
	c.serve("younger", 6*time.Hour, given("192.0.2.200"), func(svc *v1.Service) {
		svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies = nil, []v1.IPFamily{v1.IPv4Protocol}
	}, announced("node2"))
	c.serve("due", 5*time.Hour, ipv6Only)
	c.serve("fresh", 2*time.Second, ipv6Only)
	return c
}

// A conflict between agents is told once, whoever else shares the address.
func TestTwoOwnersAreToldForTheSegmentThatHasThem(t *testing.T) {
	c := healthy()
	key := c.serve("web", time.Hour, given("192.0.2.200", "2001:db8:1::200"), announced("node1"))
	c.answers("node1", key, "192.0.2.200", "2001:db8:1::200")
	c.answers("node3", key, "2001:db8:1::200")
	got := c.twoOwners()
	if len(got) != 1 || got[0].About != "VIP 2001:db8:1::200" || !strings.Contains(got[0].Text, "node1 and node3 all answer for it on 2001:db8:1::/64") {
		t.Errorf("got %v", got)
	}
	other := netip.MustParsePrefix("2001:db8:2::/64") // two segments may have an owner each
	for i := range c.Reports["node3"].Units {
		c.Reports["node3"].Units[i].Segment = other
	}
	if got := c.twoOwners(); len(got) != 0 {
		t.Errorf("an owner in each segment is told as a problem: %v", got)
	}
}
