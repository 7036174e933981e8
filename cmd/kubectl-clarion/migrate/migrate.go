// Package migrate takes Services over from other load balancers so that each
// keeps its address.
//
// Read migrate.go (the values), metallb.go, legacy.go and kubevip.go (what their
// objects mean in Clarion's words: pure), takeover.go (who keeps what, and the
// steps: pure), then read.go and apply.go (the API server).
package migrate

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/clarion-lb/clarion/internal/iprange"
	"github.com/clarion-lb/clarion/internal/selector"
)

// A Pool is a pool as it will stand in clarion-pools.
type Pool struct {
	Name          string
	Addresses     iprange.Set
	ByNameOnly    bool // autoAssign off
	AvoidBuggyIPs bool
	Priority      int

	Namespaces        []string
	NamespaceSelector *selector.Selector
	ServiceSelector   *selector.Selector

	Interfaces   []string
	NodeSelector *selector.Selector
}

// A Note tells of something that is not carried over as it was.
type Note struct {
	About string `json:"about"`
	Text  string `json:"text"`
	// Bad is true when somebody would notice: an address is lost or not
	// reachable as before.
	Bad bool `json:"bad,omitempty"`
}

// A Converted is the configuration of another load balancer in Clarion's words.
type Converted struct {
	Pools []Pool
	Notes []Note
}

func (c *Converted) note(bad bool, about, format string, args ...any) {
	c.Notes = append(c.Notes, Note{About: about, Text: fmt.Sprintf(format, args...), Bad: bad})
}

// longForm is the long form of a pool. The YAML library sorts the keys, and
// «addresses» comes first.
type longForm struct {
	Addresses         []string       `json:"addresses"`
	AutoAssign        *bool          `json:"autoAssign,omitempty"`
	AvoidBuggyIPs     bool           `json:"avoidBuggyIPs,omitempty"`
	Priority          int            `json:"priority,omitempty"`
	Namespaces        []string       `json:"namespaces,omitempty"`
	NamespaceSelector *labelSelector `json:"namespaceSelector,omitempty"`
	ServiceSelector   *labelSelector `json:"serviceSelector,omitempty"`
	Announce          *announceForm  `json:"announce,omitempty"`
}

type announceForm struct {
	Interfaces   []string       `json:"interfaces,omitempty"`
	NodeSelector *labelSelector `json:"nodeSelector,omitempty"`
}

// A labelSelector has the keys of metav1.LabelSelector, in which MetalLB and
// Clarion write selectors.
type labelSelector struct {
	MatchLabels      map[string]string `json:"matchLabels,omitempty"`
	MatchExpressions []requirement     `json:"matchExpressions,omitempty"`
}

type requirement struct {
	Key      string   `json:"key"`
	Operator string   `json:"operator"`
	Values   []string `json:"values,omitempty"`
}

func (s *labelSelector) value() *selector.Selector {
	if s == nil {
		return nil
	}
	out := &selector.Selector{MatchLabels: s.MatchLabels}
	for _, r := range s.MatchExpressions {
		out.MatchExpressions = append(out.MatchExpressions, selector.Requirement{Key: r.Key, Operator: selector.Operator(r.Operator), Values: r.Values})
	}
	return out
}

func formOf(s *selector.Selector) *labelSelector {
	if s == nil {
		return nil
	}
	out := &labelSelector{MatchLabels: s.MatchLabels}
	for _, r := range s.MatchExpressions {
		out.MatchExpressions = append(out.MatchExpressions, requirement{r.Key, string(r.Operator), r.Values})
	}
	return out
}

// Text returns the value of the pool's key in clarion-pools: the short form
// when the pool has no rules.
func (p Pool) Text() string {
	var addresses []string
	for _, r := range p.Addresses.Ranges() {
		addresses = append(addresses, r.String())
	}
	form := longForm{Addresses: addresses, AvoidBuggyIPs: p.AvoidBuggyIPs, Priority: p.Priority, Namespaces: p.Namespaces,
		NamespaceSelector: formOf(p.NamespaceSelector), ServiceSelector: formOf(p.ServiceSelector)}
	if p.ByNameOnly {
		form.AutoAssign = new(bool)
	}
	if len(p.Interfaces) > 0 || p.NodeSelector != nil {
		form.Announce = &announceForm{p.Interfaces, formOf(p.NodeSelector)}
	}
	plain := form.AutoAssign == nil && !form.AvoidBuggyIPs && form.Priority == 0 && len(form.Namespaces) == 0 &&
		form.NamespaceSelector == nil && form.ServiceSelector == nil && form.Announce == nil
	if plain {
		return strings.Join(addresses, ", ")
	}
	text, err := yaml.Marshal(form)
	if err != nil {
		panic(fmt.Sprintf("the pool %+v cannot be encoded: %v", p, err)) // plain values always can
	}
	return string(text)
}

// parseRanges reads what others write as addresses: CIDRs, in which the bits
// of the host do not matter, and ranges. What cannot be read is noted.
func (c *Converted) parseRanges(about string, texts []string) []iprange.Range {
	var out []iprange.Range
	for _, text := range texts {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		var r iprange.Range
		p, err := netip.ParsePrefix(text)
		if err == nil {
			r = iprange.OfPrefix(p.Masked())
		} else {
			r, err = iprange.Parse(text)
		}
		if err == nil {
			err = iprange.Check(r)
		}
		if err != nil {
			c.note(true, about, "%s is left out: %v", text, err)
			continue
		}
		out = append(out, r)
	}
	return out
}

// anyOf returns one selector that matches what at least one of many matches,
// and false when there is no such selector. None and a selector of everything
// give nil, which is everything.
func anyOf(many []*selector.Selector) (*selector.Selector, bool) {
	key, values := "", []string{}
	for i, s := range many {
		if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
			return nil, true
		}
		k, v, ok := in(s)
		if len(many) > 1 && (!ok || i > 0 && k != key) {
			return nil, false
		}
		key, values = k, append(values, v...)
	}
	switch len(many) {
	case 0:
		return nil, true
	case 1:
		return many[0], true
	}
	slices.Sort(values)
	return &selector.Selector{MatchExpressions: []selector.Requirement{{Key: key, Operator: selector.In, Values: slices.Compact(values)}}}, true
}

// in reads a selector that asks for certain values of one label.
func in(s *selector.Selector) (key string, values []string, ok bool) {
	switch {
	case len(s.MatchLabels) == 1 && len(s.MatchExpressions) == 0:
		for k, v := range s.MatchLabels {
			return k, []string{v}, true
		}
	case len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 1 && s.MatchExpressions[0].Operator == selector.In:
		return s.MatchExpressions[0].Key, s.MatchExpressions[0].Values, true
	}
	return "", nil, false
}

// separate takes each address out of all pools but one: in Clarion it can be in
// one pool only. Pools for certain namespaces keep theirs, then the first by
// name.
func (c *Converted) separate() {
	slices.SortFunc(c.Pools, func(a, b Pool) int { return cmp.Compare(a.Name, b.Name) })
	order := slices.Clone(c.Pools)
	slices.SortStableFunc(order, func(a, b Pool) int { return -cmp.Compare(len(a.Namespaces), len(b.Namespaces)) })
	left := map[string]iprange.Set{}
	var taken iprange.Set
	for _, p := range order {
		own := p.Addresses.Without(taken)
		if both := p.Addresses.Intersect(taken); !both.Empty() {
			c.note(false, "pool "+p.Name, "%v is in another pool, too, and stays there only: an address can be in one pool only", both)
		}
		left[p.Name] = own
		taken = iprange.SetOf(slices.Concat(taken.Ranges(), own.Ranges())...)
	}
	for i := range c.Pools {
		c.Pools[i].Addresses = left[c.Pools[i].Name]
	}
	c.Pools = slices.DeleteFunc(c.Pools, func(p Pool) bool {
		if p.Addresses.Empty() {
			c.note(false, "pool "+p.Name, "is left out: no address is its own")
		}
		return p.Addresses.Empty()
	})
}

// Data is the ConfigMap's data.
func (c *Converted) Data() map[string]string {
	out := map[string]string{}
	for _, p := range c.Pools {
		out[p.Name] = p.Text()
	}
	return out
}

// sortedKeys are the keys of m in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
