package inspect

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/clarion-lb/clarion/config"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/report"
	"github.com/clarion-lb/clarion/speaker"
)

// A Unit is a VIP in one segment: what has one owner.
type Unit struct {
	VIP     netip.Addr   `json:"vip"`
	Segment netip.Prefix `json:"segment,omitzero"` // absent when the VIP is on no segment
	Owners  []Owner      `json:"owners"`           // one, but for a moment of takeover
	Nodes   []NodeAnswer `json:"nodes"`            // candidates in the order in which they take over, then the others by name
	// Withheld is the elder Service that has the address, when the two may not
	// share it.
	Withheld cluster.Key `json:"withheld,omitempty"`
	// Conflict is the MAC of a foreign host that uses the address.
	Conflict string `json:"conflict,omitempty"`
	// Fallback is true when the VIP lies in no prefix of any link, and so is
	// announced where the default gateway is.
	Fallback bool `json:"fallback,omitempty"`
}

// A NodeAnswer says why a node announces the VIP, or why not.
type NodeAnswer struct {
	Node      string `json:"node"`
	Candidate bool   `json:"candidate"`
	Answers   bool   `json:"answers"`
	Link      string `json:"link,omitempty"`
	// Why not: the reason for no candidate, or for one that cannot right now.
	Why string `json:"why,omitempty"`
	// Rules says whether the packet rules are in the node's kernel; absent when
	// its agent could not be asked.
	Rules *bool `json:"rules,omitempty"`
}

// units follows the addresses that the status of svc shows onto the wire: who
// may announce them as the API has it, and who does as the agents say.
func (c *Cluster) units(svc *v1.Service, inForce config.Config) []Unit {
	view := c.view()
	topology := speaker.NewTopology(view.Nodes)
	out := []Unit{}
	s := view.Services[keyOf(svc)]
	for _, vip := range s.VIPs {
		var carriers []*cluster.Service
		for _, other := range view.Services {
			if other.Ours && slices.Contains(other.VIPs, vip) {
				carriers = append(carriers, other)
			}
		}
		announced, _ := speaker.Sharers(carriers)
		if !slices.Contains(announced, s) {
			out = append(out, Unit{VIP: vip, Owners: []Owner{}, Nodes: []NodeAnswer{}, Withheld: announced[0].Key})
			continue
		}
		rule := ruleFor(inForce, vip)
		plans := topology.Plan(vip, announced, rule)
		if len(plans) == 0 {
			out = append(out, Unit{VIP: vip, Owners: []Owner{}, Nodes: []NodeAnswer{}})
		}
		for _, p := range plans {
			u := Unit{VIP: vip, Segment: p.Unit.Segment, Owners: []Owner{}, Fallback: !p.Unit.Segment.Contains(vip)}
			refused := topology.Refusals(p.Unit, announced, rule)
			for _, name := range append(p.Candidates, others(refused, p.Candidates)...) {
				u.Nodes = append(u.Nodes, NodeAnswer{Node: name, Candidate: refused[name] == cluster.Eligible, Why: string(refused[name])})
			}
			c.overlay(&u, svc)
			out = append(out, u)
		}
	}
	return out
}

// others are the names in of that are not candidates, in order.
func others(of map[string]cluster.Refusal, candidates []string) []string {
	names := slices.Sorted(maps.Keys(of))
	return slices.DeleteFunc(names, func(n string) bool { return slices.Contains(candidates, n) })
}

// overlay adds what the agents say, and the condition where they could not be
// asked.
func (c *Cluster) overlay(u *Unit, svc *v1.Service) {
	for i := range u.Nodes {
		n := &u.Nodes[i]
		said := c.Explanations[n.Node].Units
		at := slices.IndexFunc(said, func(r report.Unit) bool { return r.VIP == u.VIP && r.Segment == u.Segment })
		if at < 0 {
			continue
		}
		r := said[at]
		n.Answers, n.Link, n.Rules = r.Mine, r.Link, &r.Rules
		n.Why = cmp.Or(n.Why, r.Self)
		u.Conflict = cmp.Or(u.Conflict, r.Conflict)
		if r.Mine {
			u.Owners = append(u.Owners, Owner{Node: n.Node, Segment: u.Segment, Since: r.Since})
		}
		if r.Probing && n.Why == "" {
			n.Why = "is finding out whether the address is free"
		}
	}
	said := condition(svc, announcedType)
	if len(u.Owners) > 0 || said == nil {
		return
	}
	owner, ok := report.Owners(said.Message)[u.VIP]
	if _, asked := c.Explanations[owner]; ok && !asked {
		u.Owners = append(u.Owners, Owner{Node: owner, Segment: u.Segment, Since: said.Since, Told: true})
		for i := range u.Nodes {
			u.Nodes[i].Answers = u.Nodes[i].Node == owner
		}
	}
}

// ruleFor returns what the pool of vip says about who announces it. A stranded
// address is bound to no rule.
func ruleFor(inForce config.Config, vip netip.Addr) speaker.Rule {
	for _, p := range inForce.Pools {
		if !p.Addresses.Contains(vip) {
			continue
		}
		rule := speaker.Rule{Pool: p.Name, Interfaces: p.Announce.Interfaces}
		if p.Announce.NodeSelector != nil {
			rule.Selects = p.Announce.NodeSelector.Matches
		}
		return rule
	}
	return speaker.Rule{}
}

func (u Unit) works() bool { return len(u.Owners) == 1 && u.Conflict == "" }

func (u Unit) owners() string {
	var names []string
	for _, o := range u.Owners {
		names = append(names, o.Node)
	}
	return strings.Join(names, " and ")
}

// todo says what to do about a unit that does not work.
func (u Unit) todo() string {
	why := map[string][]string{}
	candidates := 0
	for _, n := range u.Nodes {
		if n.Candidate {
			candidates++
		}
		if n.Why != "" {
			why[n.Why] = append(why[n.Why], n.Node)
		}
	}
	var reasons []string
	for _, reason := range slices.Sorted(maps.Keys(why)) {
		reasons = append(reasons, list(why[reason])+": "+reason)
	}
	switch {
	case u.Withheld != "":
		return fmt.Sprintf("give this Service and %s the same annotation clarion.dev/share, or delete one of them: %v is not announced for this one, because the other had it before", u.Withheld, u.VIP)
	case u.Conflict != "":
		return fmt.Sprintf("take %v away from the host with the link address %s, which is no node of this cluster, or take it out of the pool", u.VIP, u.Conflict)
	case !u.Segment.IsValid():
		return fmt.Sprintf("give a node a link whose prefix holds %v, or a default gateway of its family: %s", u.VIP, speaker.NoSegment)
	case candidates == 0:
		return fmt.Sprintf("let a node announce %v on %v: none may (%s)", u.VIP, u.Segment, strings.Join(reasons, "; "))
	case len(u.Owners) > 1:
		return fmt.Sprintf("look whether %s reach each other: all answer for %v on %v", u.owners(), u.VIP, u.Segment)
	case len(reasons) > 0:
		return fmt.Sprintf("see why no candidate announces %v on %v: %s", u.VIP, u.Segment, strings.Join(reasons, "; "))
	}
	return fmt.Sprintf("wait a moment, then look again: %s may announce %v on %v, and none says that it does", candidatesOf(u.Nodes), u.VIP, u.Segment)
}

// candidatesOf names the first candidates.
func candidatesOf(nodes []NodeAnswer) string {
	var names []string
	for _, n := range nodes {
		if n.Candidate {
			names = append(names, n.Node)
		}
	}
	return list(names)
}

// answer says in words what a node does for a unit.
func (n NodeAnswer) answer(owners []Owner, age func(time.Time) string) string {
	on := ""
	if n.Link != "" {
		on = " on " + n.Link
	}
	switch {
	case n.Answers:
		for _, o := range owners {
			if o.Node == n.Node && !o.Since.IsZero() {
				return "announces it" + on + ", since " + age(o.Since)
			}
		}
		return "announces it" + on
	case !n.Candidate:
		return "no: " + n.Why
	case n.Why != "":
		return "may, but: " + n.Why
	case n.Rules != nil && !*n.Rules:
		return "may, but: " + string(speaker.NotReady)
	}
	return "would take over" + on
}
