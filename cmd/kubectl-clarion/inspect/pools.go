package inspect

import (
	"fmt"
	"math/big"
	"strings"

	"github.com/clarion-lb/clarion/config"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/provider"
)

// Pools says what is in force, how much of it is used, and what is wrong in
// the user's text.
type Pools struct {
	Problems []Problem `json:"problems"`
	Pools    []Pool    `json:"pools"`
	Stranded []Stray   `json:"stranded"`
	RestTime string    `json:"restTime"`
	// Quarantine is how long an address rests that a foreign host uses.
	Quarantine string   `json:"quarantine"`
	Gaps       []string `json:"gaps"`
}

// A Problem is something that somebody should look at.
type Problem struct {
	About string `json:"about"` // as in "Service shop/web", "pool default", "node node1", "controller"
	Text  string `json:"text"`  // what happened, why, and what to do
}

// A Pool is one pool in force.
type Pool struct {
	Name              string   `json:"name"`
	Families          []Usage  `json:"families"`
	Priority          int      `json:"priority"`
	AutoAssign        bool     `json:"autoAssign"`
	AvoidBuggyIPs     bool     `json:"avoidBuggyIPs,omitempty"`
	Namespaces        []string `json:"namespaces,omitempty"`
	NamespaceSelector string   `json:"namespaceSelector,omitempty"`
	ServiceSelector   string   `json:"serviceSelector,omitempty"`
	Interfaces        []string `json:"interfaces,omitempty"`
	NodeSelector      string   `json:"nodeSelector,omitempty"`
}

// Usage counts the addresses of a pool in one family. What rests or is in
// quarantine only the leader knows; here it counts as free.
type Usage struct {
	Family   string   `json:"family"`
	Ranges   []string `json:"ranges"`
	Total    *big.Int `json:"total"`
	Used     int      `json:"used"`
	Shared   int      `json:"shared"`   // of the used ones by more than one Service
	Unusable *big.Int `json:"unusable"` // reserved, or given only when asked for by address
	Free     *big.Int `json:"free"`
}

// A Stray is an address that a Service holds and no pool has.
type Stray struct {
	Address string      `json:"address"`
	Service cluster.Key `json:"service"`
}

// PoolsOf makes the value of what was read.
func PoolsOf(c *Cluster) Pools {
	out, _ := poolsOf(c)
	return out
}

// poolsOf also returns the snapshot that it was made of.
func poolsOf(c *Cluster) (Pools, *provider.Snapshot) {
	inForce, wrong, pending := c.pools()
	snapshot, problems := c.snapshot(inForce)
	out := Pools{Problems: []Problem{}, Pools: []Pool{}, Stranded: []Stray{}, Gaps: append([]string{}, c.Gaps...),
		RestTime: inForce.Settings.RestTime.String(), Quarantine: inForce.Settings.Quarantine.String()}
	out.Problems = append(out.Problems, c.poolProblems(inForce, wrong, pending)...)
	for _, text := range snapshot.Collisions(inForce.Pools) {
		name, _, _ := strings.Cut(text, ":")
		out.Problems = append(out.Problems, Problem{"pool " + name, text})
	}
	for _, err := range problems {
		out.Gaps = append(out.Gaps, err.Error())
	}
	for _, s := range snapshot.Alloc.Stranded() {
		out.Stranded = append(out.Stranded, Stray{s.Addr.String(), s.Key})
	}
	usage := snapshot.Alloc.Usage(c.Now)
	for _, p := range inForce.Pools {
		pool := poolOf(p)
		for _, u := range usage {
			if u.Pool != p.Name {
				continue
			}
			var ranges []string
			for _, r := range p.Addresses.Of(u.Family).Ranges() {
				ranges = append(ranges, r.String())
			}
			pool.Families = append(pool.Families, Usage{Family: u.Family.String(), Ranges: ranges,
				Total: u.Total, Used: u.Used, Shared: u.Shared, Unusable: u.Unusable, Free: u.Free})
			if u.Free.Sign() == 0 && u.Used > 0 {
				out.Problems = append(out.Problems, Problem{"pool " + p.Name, exhausted(u.Family, u.Used, u.Total)})
			}
		}
		out.Pools = append(out.Pools, pool)
	}
	return out, snapshot
}

func exhausted(f ipfam.Family, used int, total *big.Int) string {
	return fmt.Sprintf("has no free %v address (%d of %v in use): the next Service that needs one from it waits; add addresses to it, or delete a Service", f, used, total)
}

// poolProblems tells what is wrong in the user's text or with its way into
// force.
func (c *Cluster) poolProblems(inForce config.Config, wrong []*config.Problem, pending bool) []Problem {
	var out []Problem
	for _, p := range wrong {
		text := p.Error()
		switch {
		case p.Kept:
			text += " (its last good form stays in force)"
		case !strings.HasPrefix(p.Pool, "_"):
			text += " (the pool is not in force)"
		}
		out = append(out, Problem{"pool " + p.Pool, text})
	}
	switch {
	case c.unread["configmaps"]:
	case c.User == nil && len(inForce.Pools) == 0:
		out = append(out, Problem{"pools", fmt.Sprintf("there is no pool: list the addresses that you own with: kubectl -n %s create configmap %s --from-literal=default=FIRST-LAST", c.Namespace, provider.PoolsName)})
	case c.User == nil:
		out = append(out, Problem{"pools", fmt.Sprintf("the ConfigMap %s is gone; its pools are still in force because no controller has taken that up", provider.PoolsName)})
	case pending:
		out = append(out, Problem{"pools", fmt.Sprintf("what stands in %s is not in force yet: the controller takes up an edit within a second, so it is probably not running", provider.PoolsName)})
	}
	if c.User != nil && len(c.User.BinaryData) > 0 {
		out = append(out, Problem{"pools", fmt.Sprintf("the binaryData of %s is not read; write the pools under data", provider.PoolsName)})
	}
	return out
}

func poolOf(p config.Pool) Pool {
	out := Pool{Name: p.Name, Families: []Usage{}, Priority: p.Priority, AutoAssign: p.AutoAssign, AvoidBuggyIPs: p.AvoidBuggyIPs,
		Namespaces: p.Namespaces, Interfaces: p.Announce.Interfaces}
	if p.NamespaceSelector != nil {
		out.NamespaceSelector = p.NamespaceSelector.String()
	}
	if p.ServiceSelector != nil {
		out.ServiceSelector = p.ServiceSelector.String()
	}
	if p.Announce.NodeSelector != nil {
		out.NodeSelector = p.Announce.NodeSelector.String()
	}
	return out
}

// rules says in words who may use the pool and where it is announced.
func (p Pool) rules() string {
	var out []string
	if !p.AutoAssign {
		out = append(out, "only when asked for")
	}
	if p.Priority != 0 {
		out = append(out, fmt.Sprintf("priority %d", p.Priority))
	}
	switch {
	case len(p.Namespaces) > 0 && p.NamespaceSelector != "":
		out = append(out, fmt.Sprintf("namespaces %s and those with %s", strings.Join(p.Namespaces, ", "), p.NamespaceSelector))
	case len(p.Namespaces) > 0:
		out = append(out, "namespaces "+strings.Join(p.Namespaces, ", "))
	case p.NamespaceSelector != "":
		out = append(out, "namespaces with "+p.NamespaceSelector)
	}
	if p.ServiceSelector != "" {
		out = append(out, "Services with "+p.ServiceSelector)
	}
	if p.AvoidBuggyIPs {
		out = append(out, "no .0 and .255")
	}
	if len(p.Interfaces) > 0 {
		out = append(out, "on "+strings.Join(p.Interfaces, ", "))
	}
	if p.NodeSelector != "" {
		out = append(out, "by nodes with "+p.NodeSelector)
	}
	return strings.Join(out, "; ")
}
