package inspect

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/text"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/speaker"
)

func TestExplain(t *testing.T) {
	tests := []struct {
		name    string
		service func(*Cluster) cluster.Key
		works   bool
		todo    int
	}{
		{"explain what works", func(c *Cluster) cluster.Key {
			key := c.web()
			c.Events = []v1.Event{
				{InvolvedObject: v1.ObjectReference{Kind: "Service", Namespace: "shop", Name: "web", UID: "uid-web"}, LastTimestamp: ago(40 * time.Minute), Reason: "Announced",
					Source: v1.EventSource{Component: "clarion-speaker", Host: "node2"}, Message: "node node2 announces 192.0.2.200 and 2001:db8:1::200"},
				{InvolvedObject: v1.ObjectReference{Kind: "Service", Namespace: "shop", Name: "web", UID: "uid-older"}, LastTimestamp: ago(time.Minute), Reason: "OfAnother"},
				{InvolvedObject: v1.ObjectReference{Kind: "Service", Namespace: "shop", Name: "web", UID: "uid-web"}, LastTimestamp: ago(3 * time.Minute), Reason: "Exhausted",
					Source: v1.EventSource{Component: "clarion-controller"}, Message: "for a while it waited"},
			}
			return key
		}, true, 0},
		{"explain pool by pool why not", func(c *Cluster) cluster.Key {
			c.setPools("default", "192.0.2.200, 2001:db8:1::200", "v4only", "192.0.2.230-192.0.2.239", "named", "addresses: [192.0.2.240/29, \"2001:db8:1::240/125\"]\nautoAssign: false\npriority: 5",
				"kube", "addresses: [192.0.2.248, \"2001:db8:1::248\"]\nnamespaces: [kube-system]", "labels", "addresses: [192.0.2.249, \"2001:db8:1::249\"]\nserviceSelector: {matchLabels: {exposed: \"yes\"}}")
			c.web()
			return c.serve("waits", time.Hour)
		}, false, 2},
		{"explain a request for an address of a node", func(c *Cluster) cluster.Key {
			c.setPools("default", "192.0.2.8-192.0.2.20, 2001:db8:1::200-2001:db8:1::20f")
			return c.serve("wants", time.Hour, annotated("metallb.io/loadBalancerIPs", "192.0.2.12,2001:db8:1::200"), annotated("clarion.dev/share", "k"), local)
		}, false, 2},
		{"explain a request that cannot be read", func(c *Cluster) cluster.Key {
			key := c.serve("typo", time.Hour, given("192.0.2.201", "2001:db8:1::201"), annotated("clarion.dev/addresses", "192.0.2.o1"), announced("node1"),
				said("clarion.dev/Assigned", "True", "Malformed", `keeps 192.0.2.201 and 2001:db8:1::201 from pool default; the annotation clarion.dev/addresses is "192.0.2.o1"`, time.Hour))
			c.answers("node1", key, "192.0.2.201", "2001:db8:1::201")
			c.endpointOn("typo", "node1", true)
			return key
		}, true, 1},
		{"explain another class", func(c *Cluster) cluster.Key {
			return c.serve("foreign", time.Hour, func(s *v1.Service) { class := "example.com/lb"; s.Spec.LoadBalancerClass = &class })
		}, false, 0},
		{"explain Local without endpoints on most nodes", func(c *Cluster) cluster.Key {
			key := c.serve("local", time.Hour, given("192.0.2.201", "2001:db8:1::201"), local, announced("node3"))
			c.endpointOn("local", "node3", true)
			c.endpointOn("local", "node1", false)
			c.answers("node3", key, "192.0.2.201", "2001:db8:1::201")
			return key
		}, true, 0},
		{"explain that no node may", func(c *Cluster) cluster.Key {
			c.setPools("default", "addresses: [192.0.2.200-192.0.2.209, \"2001:db8:1::200-2001:db8:1::20f\"]\nannounce: {interfaces: [bond0], nodeSelector: {matchLabels: {edge: \"true\"}}}")
			c.Nodes[0].Labels["edge"] = "true"
			c.Nodes[1].Spec.Unschedulable = true
			delete(c.Nodes[2].Annotations, cluster.AnnotationLinks)
			c.endpointOn("mute", "node1", true)
			return c.serve("mute", time.Hour, given("192.0.2.201", "2001:db8:1::201"), said("clarion.dev/Announced", "False", "NoCandidate", "no node can announce 192.0.2.201", time.Hour))
		}, false, 2},
		{"explain a foreign host and missing rules", func(c *Cluster) cluster.Key {
			key := c.serve("contested", time.Hour, given("192.0.2.201", "2001:db8:1::201"))
			c.answers("node1", key, "2001:db8:1::201")
			for name, e := range c.Explanations {
				u := e.Units[0]
				u.VIP, u.Segment, u.Mine, u.Owner, u.Since, u.Conflict = netip.MustParseAddr("192.0.2.201"), segmentOf(netip.MustParseAddr("192.0.2.201")), false, "", time.Time{}, "02:00:00:00:00:99"
				e.Units = append(e.Units, u)
				e.Units[0].Rules = name != "node3"
				if name == "node2" {
					e.Units[0].Self, e.Units[1].Probing = string(speaker.NoSocket), true
				}
				c.Explanations[name] = e
			}
			c.endpointOn("contested", "node1", true)
			return key
		}, false, 1},
		{"explain an address that an elder Service has", func(c *Cluster) cluster.Key {
			c.web()
			c.endpointOn("younger", "node1", true)
			return c.serve("younger", time.Minute, given("192.0.2.200", "2001:db8:1::200"))
		}, false, 3},
		{"explain a shared address", func(c *Cluster) cluster.Key {
			a := c.serve("a", time.Hour, given("192.0.2.202", "2001:db8:1::202"), annotated("clarion.dev/share", "x"), announced("node1"))
			c.serve("b", 30*time.Minute, given("192.0.2.202", "2001:db8:1::202"), annotated("clarion.dev/share", "x"), announced("node1"), func(s *v1.Service) { s.Spec.Ports[0].Port = 81 })
			c.answers("node1", a, "192.0.2.202", "2001:db8:1::202")
			c.endpointOn("a", "node1", true)
			return a
		}, true, 0},
		{"explain what the agents may not be asked", func(c *Cluster) cluster.Key {
			key := c.web()
			c.Explanations = nil
			c.Gaps = []string{"the agents are not asked, because you lack the permission «get» on pods/proxy in namespace clarion-system: owners are taken from the conditions of the Services"}
			return key
		}, true, 0},
		{"explain routed and stranded addresses", func(c *Cluster) cluster.Key {
			c.setPools("default", "198.51.100.0/28")
			key := c.serve("far", time.Hour, given("198.51.100.1", "2001:db8:99::1"), announced("node1"))
			c.Explanations = nil
			return key
		}, false, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := healthy()
			e := Explain(c, tt.service(c))
			if e.Works != tt.works || len(e.Todo) != tt.todo {
				t.Errorf("works %v, todo %d %q; want %v and %d", e.Works, len(e.Todo), e.Todo, tt.works, tt.todo)
			}
			golden(t, tt.name, func(p *text.Page) { e.Write(p, now, false) })
			asJSON, err := json.Marshal(e)
			if err != nil || strings.Contains(string(asJSON), "null") {
				t.Errorf("the JSON has null, which is not a list: %.2000s (%v)", asJSON, err)
			}
		})
	}
}

// A pool's answer must be what happens when it is the only one: whoever
// believes «has room» and asks for that pool gets an address.
func TestPoolAnswersAreTrue(t *testing.T) {
	c := healthy()
	c.setPools("a", "192.0.2.200, 2001:db8:1::200", "b", "addresses: [192.0.2.201]\nnamespaces: [other]", "c", "addresses: [\"2001:db8:1::201\"]\nautoAssign: false", "d", "192.0.2.202-192.0.2.203")
	c.web()
	key := c.serve("waits", time.Hour)
	for _, answer := range Explain(c, key).Pools {
		alone := healthy()
		inForce, _, _ := c.pools()
		pool, _ := inForce.Pool(answer.Pool)
		alone.setPools(pool.Name, inForce.Raw()[pool.Name])
		alone.web()
		family := v1.IPFamily(answer.Family)
		again := alone.serve("waits", time.Hour, func(s *v1.Service) { s.Spec.IPFamilyPolicy, s.Spec.IPFamilies = nil, []v1.IPFamily{family} })
		snapshot, _ := alone.snapshot(must(alone.pools()))
		if got := len(snapshot.Answers[again].Held) > 0; got != (answer.Answer == "has room") {
			t.Errorf("%s says %q in %s, and alone it gives: %v", answer.Pool, answer.Answer, answer.Family, got)
		}
	}
}

func must[A, B, C any](a A, _ B, _ C) A { return a }

func TestEveryTodoNamesWhatItIsAbout(t *testing.T) {
	vip, segment := netip.MustParseAddr("2001:db8:1::7"), netip.MustParsePrefix("2001:db8:1::/64")
	one := []NodeAnswer{{Node: "n1", Candidate: true}}
	for name, u := range map[string]Unit{
		"withheld":    {VIP: vip, Withheld: "shop/elder"},
		"conflict":    {VIP: vip, Segment: segment, Conflict: "02:00:00:00:00:99"},
		"no segment":  {VIP: vip},
		"nobody may":  {VIP: vip, Segment: segment, Nodes: []NodeAnswer{{Node: "n1", Why: "the node is cordoned"}}},
		"two owners":  {VIP: vip, Segment: segment, Nodes: one, Owners: []Owner{{Node: "n1"}, {Node: "n2"}}},
		"cannot":      {VIP: vip, Segment: segment, Nodes: []NodeAnswer{{Node: "n1", Candidate: true, Why: "no socket"}}},
		"not settled": {VIP: vip, Segment: segment, Nodes: one},
	} {
		if u.works() || !strings.Contains(u.todo(), vip.String()) {
			t.Errorf("%s: works %v, %q", name, u.works(), u.todo())
		}
	}
	if text := fmt.Sprint(Unit{VIP: vip, Segment: segment, Owners: []Owner{{Node: "n1"}}}.works()); text != "true" {
		t.Errorf("one owner and no conflict works: %s", text)
	}
}
