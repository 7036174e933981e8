package inspect

import (
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/text"
)

const everyRule = `addresses: [198.51.100.0/28, "2001:db8:2::/64"]
autoAssign: false
avoidBuggyIPs: true
priority: 10
namespaces: [shop]
namespaceSelector: {matchLabels: {team: web}}
serviceSelector: {matchLabels: {exposed: "true"}}
announce:
  interfaces: [eth0, "bond*"]
  nodeSelector: {matchLabels: {edge: "true"}}`

func TestPools(t *testing.T) {
	tests := []struct {
		name     string
		cluster  func() *Cluster
		problems int
	}{
		{"pools every rule", func() *Cluster {
			c := healthy()
			c.setPools("default", "192.0.2.200, 192.0.2.202, 192.0.2.204, 192.0.2.206, 2001:db8:1:0:1::/80, 2001:db8:1::200/123", "public", everyRule, "_settings", "restTime: 5m")
			c.web()
			c.serve("a", time.Hour, given("192.0.2.202", "2001:db8:1::202"), annotated("clarion.dev/share", "x"))
			c.serve("b", time.Hour, given("192.0.2.202", "2001:db8:1::202"), annotated("metallb.io/allow-shared-ip", "x"), func(s *v1.Service) { s.Spec.Ports[0].Port = 81 })
			return c
		}, 0},
		{"pools with problems", func() *Cluster {
			c := healthy()
			c.setPools("default", "192.0.2.200, 2001:db8:1::200", "pods", "10.244.0.0/30", "edge", "192.0.2.8/29")
			c.User = &v1.ConfigMap{BinaryData: map[string][]byte{"x": nil}, Data: map[string]string{
				"default": "192.0.2.200 2001:db8:1::200", "pods": "10.244.0.0/30", "edge": "192.0.2.8/29", "new": "192.0.2.9",
				"_settings": "restTime: long"}}
			c.Nodes[0].Spec.PodCIDRs = []string{"10.244.0.0/24", "2001:db8:244::/64"}
			c.serve("stranded", time.Hour, given("192.0.2.100", "2001:db8:1::100"))
			c.web()
			return c
		}, 10},
		{"pools not in force yet", func() *Cluster {
			c := healthy()
			c.User = &v1.ConfigMap{Data: map[string]string{"default": "192.0.2.200-192.0.2.219, 2001:db8:1::200-2001:db8:1::20f"}}
			return c
		}, 1},
		{"pools gone", func() *Cluster { c := healthy(); c.User = nil; return c }, 1},
		{"pools may not be read", func() *Cluster {
			c := healthy()
			c.User, c.InForce, c.unread["configmaps"] = nil, nil, true
			c.Gaps = []string{"the ConfigMap clarion-system/clarion-pools cannot be read (you lack the permission): the pools are not known"}
			return c
		}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := PoolsOf(tt.cluster())
			if len(p.Problems) != tt.problems {
				t.Errorf("%d problems, want %d: %v", len(p.Problems), tt.problems, p.Problems)
			}
			golden(t, tt.name, func(page *text.Page) { p.Write(page, false) })
		})
	}
}

func TestParseFlags(t *testing.T) {
	f, problems := parseFlags([]string{"/clarion-controller", "-load-balancer-class=example.com/lb", "--pod-cidrs", "10.244.0.0/16,2001:db8:244::/56",
		"--service-cidrs=10.96.0.1/12, nonsense", "--health=:1", "--pod-cidrs"})
	var ranges []string
	for _, r := range f.reserved {
		ranges = append(ranges, r.Range.String())
	}
	if f.class != "example.com/lb" || strings.Join(ranges, " ") != "10.244.0.0/16 2001:db8:244::/56 10.96.0.0/12" {
		t.Errorf("class %q, ranges %v", f.class, ranges)
	}
	if len(problems) != 1 || !strings.Contains(problems[0].Error(), `--service-cidrs: "nonsense" is not a CIDR`) {
		t.Errorf("problems %v", problems)
	}
}

func FuzzParseFlags(f *testing.F) {
	f.Add("--pod-cidrs", "10.0.0.0/8,::/0")
	f.Add("--load-balancer-class=x", "-")
	f.Fuzz(func(t *testing.T, a, b string) {
		got, _ := parseFlags([]string{a, b})
		for _, r := range got.reserved {
			if !r.Range.From.IsValid() || r.Range.To.Less(r.Range.From) {
				t.Errorf("%q %q: %v", a, b, r.Range)
			}
		}
	})
}
