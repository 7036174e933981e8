package inspect

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/text"
)

// Write puts the status on a page. now is what ages are counted to.
func (s Status) Write(page *text.Page, now time.Time, all bool) {
	switch {
	case len(s.Problems) > 0:
	case len(s.Gaps) > 0:
		page.Head("NO PROBLEMS in what could be read; see the end")
	default:
		page.Head("NO PROBLEMS")
	}
	writeProblems(page, s.Problems, all)

	page.Head("CONTROLLER")
	page.Line("  %s", s.Controller.words(now))
	if len(s.Nodes) > 0 {
		page.Head("NODES")
		var rows [][]string
		for _, n := range capped(illFirst(s.Nodes), all) {
			agent := n.Agent
			if agent == podReady && !n.Answers {
				agent = "ready, not asked"
			}
			rows = append(rows, []string{n.Name, n.State, agent, fmt.Sprint(n.VIPs), strings.Join(n.Links, ", ")})
		}
		page.Table([]string{"NAME", "STATE", "AGENT", "VIPS", "LINKS"}, rows)
		writeMore(page, len(s.Nodes)-len(rows))
	}
	if len(s.Pools) > 0 {
		page.Head("POOLS")
		var rows [][]string
		for _, r := range poolRows(s.Pools, all) {
			rows = append(rows, r[:6]) // kubectl clarion pools has ranges and rules
		}
		shown := capped(rows, all)
		page.Table([]string{"NAME", "FAMILY", "USED", "", "FREE", "SHARED"}, shown)
		writeMore(page, len(rows)-len(shown))
	}
	if len(s.VIPs) > 0 {
		page.Head("VIPS")
		var rows [][]string
		for _, v := range capped(oddFirst(s.VIPs), all) {
			var services, owners, ages []string
			for _, key := range v.Services {
				services = append(services, string(key))
			}
			for _, o := range v.Owners {
				owners = append(owners, o.Node)
				if !o.Since.IsZero() {
					ages = append(ages, text.Age(now.Sub(o.Since)))
				}
			}
			pool := v.Pool
			if pool == "" {
				pool = "none (stranded)"
			}
			owner := strings.Join(owners, ", ")
			if owner == "" {
				owner = "nobody"
			}
			rows = append(rows, []string{v.Address.String(), list(services), pool, owner, strings.Join(ages, ", ")})
		}
		page.Table([]string{"ADDRESS", "SERVICE", "POOL", "OWNER", "AGE"}, rows)
		writeMore(page, len(s.VIPs)-len(rows))
	}
	if len(s.Waiting) > 0 {
		page.Head("WAITING FOR AN ADDRESS")
		var rows [][]string
		for _, w := range capped(s.Waiting, all) {
			rows = append(rows, []string{string(w.Service), text.Age(now.Sub(w.Created))})
		}
		page.Table([]string{"SERVICE", "AGE"}, rows)
		writeMore(page, len(s.Waiting)-len(rows))
	}
	writeGaps(page, s.Gaps)
}

func (c Controller) words(now time.Time) string {
	leader := "nobody leads"
	switch {
	case c.Unknown:
		leader = "who leads is not known"
	case c.Leader != "" && c.Node != "":
		leader = c.Leader + " on " + c.Node + " leads" + since(c.Since, now)
	case c.Leader != "":
		leader = c.Leader + " leads" + since(c.Since, now)
	}
	if c.Desired == 0 {
		return leader
	}
	return fmt.Sprintf("%s; %d of %s ready", leader, c.Ready, text.Plural(c.Desired, "replica"))
}

// since says how long something has been so.
func since(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " since " + text.Age(now.Sub(t))
}

// oddFirst puts VIPs that do not have one owner first.
func oddFirst(vips []VIP) []VIP {
	out := slices.Clone(vips)
	rank := func(v VIP) int {
		if len(v.Owners) == 0 {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(out, func(a, b VIP) int { return rank(a) - rank(b) })
	return out
}

// illFirst puts nodes that announce nothing first, so that they show in a
// large cluster.
func illFirst(nodes []Node) []Node {
	out := slices.Clone(nodes)
	rank := func(n Node) int {
		if n.State == "Ready" && n.Agent == podReady {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(out, func(a, b Node) int { return rank(a) - rank(b) })
	return out
}
