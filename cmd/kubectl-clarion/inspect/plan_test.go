package inspect

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/text"
)

func TestPlan(t *testing.T) {
	const inForce = "192.0.2.200-192.0.2.201, 2001:db8:1::200-2001:db8:1::201"
	tests := []struct {
		name string
		data map[string]string
		bad  bool
		want map[string]int // list → length, those that are not named are empty; pools are not looked at
	}{
		{"plan nothing changes", map[string]string{"default": inForce}, false, map[string]int{"keep": 4, "astray": 2, "waiting": 2}},
		{"plan more addresses", map[string]string{"default": inForce, "more": "192.0.2.210-192.0.2.219, 2001:db8:1::210/124"}, false,
			map[string]int{"keep": 4, "astray": 2, "served": 3, "waiting": 0}},
		{"plan fewer addresses", map[string]string{"default": "192.0.2.200, 2001:db8:1::200"}, true, map[string]int{"keep": 2, "stranded": 2, "astray": 2, "waiting": 2}},
		{"plan back into a pool", map[string]string{"default": inForce, "old": "203.0.113.7, 2001:db8:7::7"}, false, map[string]int{"keep": 4, "adopted": 2, "waiting": 2}},
		{"plan with mistakes", map[string]string{"default": "192.0.2.200-192.0.2.300", "new": "addresses: [2001:db8:9::/64]\nprio: 3", "edge": "192.0.2.8/29"}, true,
			map[string]int{"keep": 4, "astray": 2, "waiting": 2, "refused": 2, "warnings": 3}},
		{"plan that silences", map[string]string{"default": "addresses: [192.0.2.200-192.0.2.201, \"2001:db8:1::200/127\"]\nannounce: {nodeSelector: {matchLabels: {edge: \"true\"}}}",
			"_settings": "restTime: 5m"}, true, map[string]int{"keep": 4, "astray": 2, "waiting": 2, "silenced": 4}},
		{"plan to delete all", map[string]string{}, true, map[string]int{"stranded": 4, "astray": 2, "waiting": 2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := healthy()
			c.setPools("default", inForce)
			c.web()
			c.serve("second", 90*time.Minute, given("192.0.2.201", "2001:db8:1::201"), local)
			c.serve("stray", 80*time.Minute, given("203.0.113.7", "2001:db8:7::7"))
			c.serve("both", 70*time.Minute)
			c.serve("six", 60*time.Minute, ipv6Only)
			p, err := PlanOf(c, tt.data)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]int{"keep": len(p.Keep), "stranded": len(p.Stranded), "adopted": len(p.Adopted), "astray": len(p.Astray), "served": len(p.Served),
				"waiting": len(p.Waiting), "silenced": len(p.Silenced), "refused": len(p.Refused), "warnings": len(p.Warnings)}
			for list, n := range got {
				if n != tt.want[list] {
					t.Errorf("%d are %s, want %d", n, list, tt.want[list])
				}
			}
			if p.Bad() != tt.bad {
				t.Errorf("bad %v, want %v", p.Bad(), tt.bad)
			}
			golden(t, tt.name, func(page *text.Page) { p.Write(page, now, false) })
			asJSON, err := json.Marshal(p)
			if err != nil || strings.Contains(string(asJSON), "null") {
				t.Errorf("the JSON has null, which is not a list: %.2000s (%v)", asJSON, err)
			}
		})
	}
}

// What the plan promises is what a snapshot of the edited cluster then shows.
func TestAPlanComesTrue(t *testing.T) {
	data := map[string]string{"default": "192.0.2.201-192.0.2.203, 2001:db8:1::201-2001:db8:1::203"}
	build := func() *Cluster {
		c := healthy()
		c.setPools("default", "192.0.2.200, 2001:db8:1::200-2001:db8:1::201")
		c.web()
		c.serve("b", 50*time.Minute)
		c.serve("c", 40*time.Minute)
		c.serve("d", 30*time.Minute)
		return c
	}
	plan, err := PlanOf(build(), data)
	if err != nil {
		t.Fatal(err)
	}
	after := build()
	after.setPools("default", data["default"])
	snapshot, _ := after.snapshot(must(after.pools()))
	served := 0
	for _, a := range snapshot.Answers {
		for range due(a) {
			served++
		}
	}
	if served != len(plan.Served) || served == 0 || len(snapshot.Alloc.Stranded()) != len(plan.Stranded)+len(plan.Astray) || len(snapshot.Alloc.Waiting()) != len(plan.Waiting) {
		t.Errorf("promised %+v; came %d served, %v stranded, %v waiting", plan, served, snapshot.Alloc.Stranded(), snapshot.Alloc.Waiting())
	}
}

func TestAPlanNeedsToKnowWhatThereIs(t *testing.T) {
	for _, list := range []string{"services", "configmaps"} {
		c := healthy()
		c.unread[list] = true
		c.Gaps = []string{"it cannot be read"}
		if _, err := PlanOf(c, nil); err == nil || !strings.Contains(err.Error(), "it cannot be read") {
			t.Errorf("without %s: %v", list, err)
		}
	}
}
