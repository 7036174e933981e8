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

	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/text"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/report"
	"github.com/clarion-lb/clarion/provider"
)

// Status is how all of Clarion stands, problems first.
type Status struct {
	Problems   []Problem  `json:"problems"`
	Controller Controller `json:"controller"`
	Nodes      []Node     `json:"nodes"`
	Pools      []Pool     `json:"pools"`
	VIPs       []VIP      `json:"vips"`
	// Waiting are the Services without any address, the oldest first.
	Waiting []Waiting `json:"waiting"`
	Gaps    []string  `json:"gaps"`
}

// A Controller is the state of the controller's replicas.
type Controller struct {
	Leader  string    `json:"leader,omitempty"` // its Pod
	Node    string    `json:"node,omitempty"`   // of the leader
	Since   time.Time `json:"since,omitzero"`   // it leads
	Ready   int       `json:"ready"`
	Desired int       `json:"desired"`
	// Unknown is true when it could not be read who leads.
	Unknown bool `json:"unknown,omitempty"`
}

// A Node is a node with its agent.
type Node struct {
	Name  string `json:"name"`
	State string `json:"state"` // "Ready", or why it may not announce
	Agent string `json:"agent"` // "ready", or what is wrong with it
	// Answers is false when the agent could not be asked.
	Answers bool     `json:"answers"`
	Links   []string `json:"links"` // "eth0 192.0.2.0/24 2001:db8:1::/64"
	VIPs    int      `json:"vips"`  // that it answers for
}

// A VIP is one address with those that have it.
type VIP struct {
	Address  netip.Addr    `json:"address"`
	Services []cluster.Key `json:"services"`
	Pool     string        `json:"pool,omitempty"` // absent when it is stranded
	Owners   []Owner       `json:"owners"`         // one in each segment
}

// A Waiting is a Service that waits for an address.
type Waiting struct {
	Service cluster.Key `json:"service"`
	Created time.Time   `json:"created"`
	Why     string      `json:"why"`
}

// patience is how long something may take before it is told as a problem:
// what has just been made is on its way.
const patience = 15 * time.Second

// StatusOf makes the value of what was read.
func StatusOf(c *Cluster) Status {
	pools, snapshot := poolsOf(c)
	services := map[cluster.Key]*v1.Service{}
	for i := range c.Services {
		services[keyOf(&c.Services[i])] = &c.Services[i]
	}
	out := Status{Problems: []Problem{}, Pools: pools.Pools, VIPs: []VIP{}, Waiting: []Waiting{}, Nodes: []Node{}, Gaps: pools.Gaps}
	var controller, nodes []Problem
	out.Controller, controller = c.controller()
	owners := c.owners()
	out.Nodes, nodes = c.nodes(owners)
	out.Problems = append(out.Problems, slices.Concat(controller, nodes, pools.Problems, c.twoOwners(), c.serviceProblems(snapshot, services, owners))...)

	byAddr := map[netip.Addr]*VIP{}
	for _, key := range slices.Sorted(maps.Keys(snapshot.Answers)) {
		a := snapshot.Answers[key]
		for _, addr := range a.Shown {
			v := byAddr[addr]
			if v == nil {
				v = &VIP{Address: addr, Owners: owners[addr]}
				if v.Owners == nil {
					v.Owners = []Owner{}
				}
				byAddr[addr] = v
			}
			v.Services = append(v.Services, key)
			for _, h := range a.Held {
				if h.Addr == addr {
					v.Pool = h.Pool
				}
			}
		}
		if len(a.Shown) == 0 {
			why := strings.TrimPrefix(assigned(services[key], a).Message, string(key)+" ")
			if due := due(a); len(due) > 0 {
				why = notWritten(due)
			}
			out.Waiting = append(out.Waiting, Waiting{key, a.Request.Created, why})
		}
	}
	for _, addr := range slices.SortedFunc(maps.Keys(byAddr), netip.Addr.Compare) {
		out.VIPs = append(out.VIPs, *byAddr[addr])
	}
	slices.SortStableFunc(out.Waiting, func(a, b Waiting) int { return a.Created.Compare(b.Created) })
	return out
}

// assigned returns the controller's own word on a Service, or what it would
// be where it has not spoken.
func assigned(svc *v1.Service, a provider.Answer) Condition {
	if said := condition(svc, provider.ConditionAssigned); said != nil {
		return *said
	}
	return Condition{Status: string(a.Assigned.Status), Reason: a.Assigned.Reason, Message: a.Assigned.Message}
}

// controller looks at the replicas and the lease.
func (c *Cluster) controller() (out Controller, problems []Problem) {
	tell := func(format string, args ...any) {
		problems = append(problems, Problem{"controller", fmt.Sprintf(format, args...)})
	}
	out.Desired = len(c.Controllers)
	if c.Deployment != nil && c.Deployment.Spec.Replicas != nil {
		out.Desired = int(*c.Deployment.Spec.Replicas)
	}
	var ill []string
	for _, p := range c.Controllers {
		if state := podState(&p); state == podReady {
			out.Ready++
		} else {
			ill = append(ill, p.Name+" is "+state)
		}
	}
	if !c.unread["pods"] && len(c.Controllers)+len(c.Agents) == 0 && c.Deployment == nil && c.DaemonSet == nil {
		tell("Clarion is not installed in the namespace %s: apply its manifest, or name its namespace with --clarion-namespace", c.Namespace)
		return out, problems
	}
	const lost = "; addresses that were given stay and are announced, but new Services wait"
	switch holder := leaseHolder(c); {
	case c.unread["lease"]:
		out.Unknown = true
	case c.Lease == nil:
		tell("no controller has ever led%s: see kubectl -n %s logs deployment/%s", lost, c.Namespace, ControllerName)
	case holder == "":
		tell("no controller leads: the last one gave the lease back%s", lost)
	default:
		out.Leader, _, _ = strings.Cut(holder, "_")
		if c.Lease.Spec.AcquireTime != nil {
			out.Since = c.Lease.Spec.AcquireTime.Time
		}
		for _, p := range c.Controllers {
			if p.Name == out.Leader {
				out.Node = p.Spec.NodeName
			}
		}
		renewed, lasts := c.Lease.Spec.RenewTime, time.Duration(0)
		if c.Lease.Spec.LeaseDurationSeconds != nil {
			lasts = time.Duration(*c.Lease.Spec.LeaseDurationSeconds) * time.Second
		}
		if renewed != nil && c.Now.Sub(renewed.Time) > lasts+patience {
			out.Leader, out.Node, out.Since = "", "", time.Time{}
			tell("no controller leads: %s renewed its lease for the last time at %s%s", holder, renewed.Time.UTC().Format(time.RFC3339), lost)
		}
	}
	if !c.unread["pods"] && out.Ready < out.Desired {
		why := ""
		if len(ill) > 0 {
			why = ": " + list(ill)
		}
		tell("%d of %d replicas are ready%s", out.Ready, out.Desired, why)
	}
	return out, problems
}

func leaseHolder(c *Cluster) string {
	if c.Lease == nil || c.Lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *c.Lease.Spec.HolderIdentity
}

const podReady = "ready"

// podState says in a word or two how a Pod is.
func podState(p *v1.Pod) string {
	if p.DeletionTimestamp != nil {
		return "terminating"
	}
	for _, s := range p.Status.ContainerStatuses {
		if s.State.Waiting != nil && s.State.Waiting.Reason != "" {
			return s.State.Waiting.Reason
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodReady && c.Status == v1.ConditionTrue {
			return podReady
		}
	}
	if p.Status.Phase == v1.PodRunning {
		return "not ready"
	}
	return cmp.Or(strings.ToLower(string(p.Status.Phase)), "unknown")
}

// states are the short forms of why a node may not announce.
var states = map[cluster.Refusal]string{
	cluster.Eligible: "Ready", cluster.NotReady: "NotReady", cluster.Excluded: "excluded", cluster.Cordoned: "cordoned",
	cluster.NetworkUnavailable: "no network", cluster.OutOfService: "out of service",
}

// nodes looks at each node and its agent. That a node was cordoned or excluded
// is somebody's will and no problem.
func (c *Cluster) nodes(owners map[netip.Addr][]Owner) (out []Node, problems []Problem) {
	out = []Node{}
	agents := map[string]*v1.Pod{}
	for i := range c.Agents {
		p := &c.Agents[i]
		if old := agents[p.Spec.NodeName]; old == nil || podState(old) != podReady {
			agents[p.Spec.NodeName] = p
		}
	}
	answers := map[string]int{}
	for _, of := range owners {
		for _, o := range of {
			answers[o.Node]++
		}
	}
	view := c.view()
	for _, name := range slices.Sorted(maps.Keys(view.Nodes)) {
		n := view.Nodes[name]
		tell := func(text string) { problems = append(problems, Problem{"node " + name, text}) }
		node := Node{Name: name, State: cmp.Or(states[n.Refused], string(n.Refused)), Links: []string{}, VIPs: answers[name]}
		for _, l := range n.Links {
			words := []string{l.Name}
			for _, p := range l.Prefixes {
				words = append(words, p.String())
			}
			node.Links = append(node.Links, strings.Join(words, " "))
		}
		if n.Refused == cluster.NotReady || n.Refused == cluster.NetworkUnavailable {
			tell(string(n.Refused) + ", so it announces nothing")
		}
		var said report.Status
		said, node.Answers = c.Reports[name]
		switch pod := agents[name]; {
		case c.unread["pods"]:
			node.Agent = "not known"
		case pod == nil:
			node.Agent = "none"
			if c.DaemonSet != nil {
				tell("no agent runs there, so it announces nothing: see kubectl -n " + c.Namespace + " describe daemonset " + AgentName)
			}
		default:
			if node.Agent = podState(pod); node.Agent != podReady {
				why := ""
				if said.NotReady != "" {
					why = " (" + said.NotReady + ")"
				}
				tell(fmt.Sprintf("its agent is %s%s: see kubectl -n %s logs %s", node.Agent, why, c.Namespace, pod.Name))
			} else if len(n.Links) == 0 {
				tell("its agent runs but has published no links, so it announces nothing: see kubectl -n " + c.Namespace + " logs " + pod.Name)
			}
		}
		out = append(out, node)
	}
	return out, problems
}

// owners returns who answers for each VIP: by the agents' own word, or else by
// the condition of the Service.
func (c *Cluster) owners() map[netip.Addr][]Owner {
	out := map[netip.Addr][]Owner{}
	for _, node := range slices.Sorted(maps.Keys(c.Reports)) {
		for _, u := range c.Reports[node].Units {
			o := Owner{Node: node, Segment: u.Segment, Since: u.Since}
			if u.Mine && !slices.Contains(out[u.VIP], o) { // a shared VIP is told for each of its Services
				out[u.VIP] = append(out[u.VIP], o)
			}
		}
	}
	for i := range c.Services {
		said := condition(&c.Services[i], announcedType)
		if said == nil {
			continue
		}
		for vip, node := range report.Owners(said.Message) {
			if _, asked := c.Reports[node]; !asked && !slices.ContainsFunc(out[vip], func(o Owner) bool { return o.Node == node || !o.Told }) {
				out[vip] = append(out[vip], Owner{Node: node, Since: said.Since, Told: true})
			}
		}
	}
	return out
}

// twoOwners tells of VIPs for which two nodes answer in one segment.
func (c *Cluster) twoOwners() []Problem {
	type unit struct {
		vip     netip.Addr
		segment netip.Prefix
	}
	nodes := map[unit][]string{}
	for node, said := range c.Reports {
		for _, u := range said.Units {
			k := unit{u.VIP, u.Segment}
			if u.Mine && !slices.Contains(nodes[k], node) {
				nodes[k] = append(nodes[k], node)
			}
		}
	}
	var out []Problem
	for k, names := range nodes {
		if len(names) > 1 {
			slices.Sort(names)
			out = append(out, Problem{"VIP " + k.vip.String(), fmt.Sprintf("%s all answer for it on %v, so its clients reach now one, now the other: "+
				"look whether these nodes reach each other; it is normal only for the moment of a takeover", strings.Join(names, " and "), k.segment)})
		}
	}
	slices.SortFunc(out, func(a, b Problem) int { return strings.Compare(a.About, b.About) })
	return out
}

// serviceProblems tells of Services that lack something, the oldest first, and
// in one line of those that lack the same.
func (c *Cluster) serviceProblems(snapshot *provider.Snapshot, services map[cluster.Key]*v1.Service, owners map[netip.Addr][]Owner) []Problem {
	keys := slices.SortedFunc(maps.Keys(snapshot.Answers), func(a, b cluster.Key) int {
		return cmp.Or(snapshot.Answers[a].Request.Created.Compare(snapshot.Answers[b].Request.Created), cmp.Compare(a, b))
	})
	var whats []string
	lack := map[string][]string{} // what is told, the Services
	asked := c.allAsked()
	for _, key := range keys {
		a, svc := snapshot.Answers[key], services[key]
		tell := func(what string) {
			what = strings.TrimPrefix(what, string(key)+" ")
			if lack[what] == nil {
				whats = append(whats, what)
			}
			lack[what] = append(lack[what], string(key))
		}
		fresh := c.Now.Sub(svc.CreationTimestamp.Time) < patience
		said := assigned(svc, a)
		switch {
		case said.Reason == provider.ReasonAssigned || said.Reason == provider.ReasonFamilyMissing:
		case fresh && condition(svc, provider.ConditionAssigned) == nil:
		default:
			tell(said.Message)
		}
		for _, r := range a.Removed {
			tell(fmt.Sprintf("%v is in its status but not its own: %s", r.Addr, r.Why))
		}
		if due := due(a); len(due) > 0 && !fresh {
			tell(notWritten(due))
		}
		announced := condition(svc, announcedType)
		switch {
		case len(a.Shown) == 0:
		case announced == nil && !fresh:
			tell("no agent has said yet who announces it: see the agents above")
		case announced != nil && announced.Status != string(v1.ConditionTrue):
			tell(announced.Message)
		default:
			silent := 0
			for _, vip := range a.Shown {
				if len(owners[vip]) == 0 {
					silent++
				}
			}
			if silent > 0 && asked {
				tell(fmt.Sprintf("no agent answers for %d of %s right now: kubectl clarion explain says of each node why not", silent, text.Plural(len(a.Shown), "address")))
			}
		}
	}
	out := []Problem{}
	for _, what := range whats {
		about := "Service " + lack[what][0]
		if n := len(lack[what]); n > 1 {
			about = fmt.Sprintf("%d Services (%s)", n, list(lack[what]))
		}
		out = append(out, Problem{about, what})
	}
	return out
}

// allAsked reports whether every agent has said what it does.
func (c *Cluster) allAsked() bool {
	for _, p := range c.Agents {
		if _, ok := c.Reports[p.Spec.NodeName]; !ok {
			return false
		}
	}
	return len(c.Agents) > 0
}

func notWritten(due []string) string {
	return fmt.Sprintf("is due %s, but its status does not show that: the controller has not written it", strings.Join(due, " and "))
}

// announcedType is the condition that the agents write.
const announcedType = cluster.ConditionAnnounced

// due are the addresses that a Service holds and its status does not show.
func due(a provider.Answer) []string {
	var out []string
	for _, h := range a.Held {
		if !slices.Contains(a.Shown, h.Addr) {
			out = append(out, h.Addr.String())
		}
	}
	return out
}
