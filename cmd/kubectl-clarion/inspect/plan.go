package inspect

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/clarion-lb/clarion/allocator"
	"github.com/clarion-lb/clarion/config"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/provider"
	"github.com/clarion-lb/clarion/speaker"
)

// A Plan says what an edit of clarion-pools would do.
type Plan struct {
	Refused  []Problem    `json:"refused"`  // pools with a mistake: their last good form would stay in force
	Warnings []Problem    `json:"warnings"` // pools that would be in force, but not in full
	Pools    []PoolChange `json:"pools"`

	Keep     []Move `json:"keep"`     // addresses that stay in a pool
	Stranded []Move `json:"stranded"` // addresses that no pool would have any more; their Services keep them
	Adopted  []Move `json:"adopted"`  // addresses that are stranded and would be in a pool
	Astray   []Move `json:"astray"`   // addresses that are stranded and would stay so
	Served   []Move `json:"served"`   // addresses that would be given to Services that wait
	// Waiting are the Services that would still lack something, the oldest
	// first.
	Waiting []Waiting `json:"waiting"`
	// Silenced are VIPs that nobody could announce any more.
	Silenced []Silence `json:"silenced"`
	Gaps     []string  `json:"gaps"`
}

// A PoolChange says how a pool would differ.
type PoolChange struct {
	Name   string   `json:"name"`
	Change string   `json:"change"` // "new", "gone", "changed" or "same"
	What   []string `json:"what,omitempty"`
}

// A Move is an address of a Service under the edit.
type Move struct {
	Service cluster.Key `json:"service"`
	Address netip.Addr  `json:"address"`
	From    string      `json:"from,omitempty"` // the pool
	To      string      `json:"to,omitempty"`
}

// A Silence is a VIP whose pool would name no node that can announce it.
type Silence struct {
	Services []cluster.Key `json:"services"`
	Address  netip.Addr    `json:"address"`
	Segment  netip.Prefix  `json:"segment"`
	Why      string        `json:"why"`
}

// Bad reports whether the edit would strand or silence an address, or whether
// a pool of it would be refused.
func (p Plan) Bad() bool { return len(p.Refused)+len(p.Stranded)+len(p.Silenced) > 0 }

// PlanOf decides what data would do in place of what is in force. It needs the
// Services and the pools, and fails when they could not be read.
func PlanOf(c *Cluster, data map[string]string) (Plan, error) {
	if c.unread["services"] || c.unread["configmaps"] {
		return Plan{}, errors.New("a plan needs to read the Services of all namespaces and the pools: " + strings.Join(c.Gaps, "; "))
	}
	inForce, _, _ := c.pools()
	next, wrong := config.Parse(data, inForce)
	snapshot, problems := c.snapshot(inForce)
	diff := snapshot.Alloc.Plan(provider.PoolsOf(next), c.Now)

	out := Plan{Refused: []Problem{}, Warnings: []Problem{}, Pools: changes(inForce, next), Waiting: []Waiting{}, Gaps: append([]string{}, c.Gaps...),
		Keep: moves(diff.Keep), Stranded: moves(diff.Stranded), Adopted: moves(diff.Adopted), Astray: moves(diff.Astray), Served: moves(diff.Served)}
	for _, err := range problems {
		out.Gaps = append(out.Gaps, err.Error())
	}
	for _, p := range config.Problems(wrong) {
		text := p.Error()
		switch {
		case p.Kept:
			text += " (its last good form would stay in force)"
		case !strings.HasPrefix(p.Pool, "_"):
			text += " (the pool would not be in force)"
		}
		out.Refused = append(out.Refused, Problem{"pool " + p.Pool, text})
	}
	for _, text := range snapshot.Collisions(next.Pools) {
		name, _, _ := strings.Cut(text, ":")
		out.Warnings = append(out.Warnings, Problem{"pool " + name, text})
	}
	for _, w := range diff.Waiting {
		if len(w.Refusals) == 0 {
			continue
		}
		out.Waiting = append(out.Waiting, Waiting{Service: w.Key, Created: w.Created, Why: reasons(w.Refusals)})
	}
	out.Silenced = c.silenced(inForce, next)
	return out, nil
}

// reasons says why a Service waits, each reason once.
func reasons(refusals []allocator.Refusal) string {
	const most = 3
	var words []string
	for _, r := range refusals {
		if text := r.String(); !slices.Contains(words, text) {
			words = append(words, text)
		}
	}
	if len(words) > most {
		words = append(words[:most], fmt.Sprintf("and %d more", len(words)-most))
	}
	return strings.Join(words, "; ")
}

func moves(of []allocator.Change) []Move {
	out := []Move{}
	for _, c := range of {
		out = append(out, Move{c.Key, c.Addr, c.From, c.To})
	}
	return out
}

// changes compares two sets of pools, in order of name.
func changes(before, after config.Config) []PoolChange {
	names := map[string]bool{}
	for _, p := range slices.Concat(before.Pools, after.Pools) {
		names[p.Name] = true
	}
	out := []PoolChange{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		old, had := before.Pool(name)
		now, has := after.Pool(name)
		c := PoolChange{Name: name, Change: "same"}
		switch {
		case !had:
			c.Change, c.What = "new", []string{now.Addresses.String()}
		case !has:
			c.Change, c.What = "gone", []string{old.Addresses.String()}
		default:
			if gained := now.Addresses.Without(old.Addresses); !gained.Empty() {
				c.What = append(c.What, "gains "+gained.String())
			}
			if lost := old.Addresses.Without(now.Addresses); !lost.Empty() {
				c.What = append(c.What, "loses "+lost.String())
			}
			if a, b := poolOf(old).rules(), poolOf(now).rules(); a != b {
				c.What = append(c.What, fmt.Sprintf("rules: %s → %s", orNone(a), orNone(b)))
			}
			if len(c.What) > 0 {
				c.Change = "changed"
			}
		}
		out = append(out, c)
	}
	if a, b := settings(before.Settings), settings(after.Settings); a != b {
		out = append(out, PoolChange{Name: "_settings", Change: "changed", What: []string{a + " → " + b}})
	}
	return out
}

func settings(s config.Settings) string {
	return fmt.Sprintf("restTime %v, quarantine %v", s.RestTime, s.Quarantine)
}

func orNone(rules string) string {
	if rules == "" {
		return "none"
	}
	return rules
}

// silenced tells of VIPs that have a candidate now and would have none. That
// needs the nodes; endpoints are not read for a plan, so that a Service with
// externalTrafficPolicy: Local is looked at as if it had them everywhere.
func (c *Cluster) silenced(before, after config.Config) []Silence {
	out := []Silence{}
	view := c.view()
	topology := speaker.NewTopology(view.Nodes)
	carriers := map[netip.Addr][]*cluster.Service{}
	for _, s := range view.Services {
		if !s.Ours {
			continue
		}
		everywhere := *s
		everywhere.ExternalLocal = false
		for _, vip := range s.VIPs {
			carriers[vip] = append(carriers[vip], &everywhere)
		}
	}
	for _, vip := range slices.SortedFunc(maps.Keys(carriers), netip.Addr.Compare) {
		announced, _ := speaker.Sharers(carriers[vip])
		was := topology.Plan(vip, announced, ruleFor(before, vip))
		for i, p := range topology.Plan(vip, announced, ruleFor(after, vip)) {
			if len(p.Candidates) > 0 || len(was[i].Candidates) == 0 {
				continue
			}
			s := Silence{Address: vip, Segment: p.Unit.Segment}
			for _, a := range announced {
				s.Services = append(s.Services, a.Key)
			}
			why := map[string]bool{}
			for _, r := range topology.Refusals(p.Unit, announced, ruleFor(after, vip)) {
				why[string(r)] = true
			}
			s.Why = strings.Join(slices.Sorted(maps.Keys(why)), "; ")
			out = append(out, s)
		}
	}
	return out
}
