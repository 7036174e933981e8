package migrate

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/clarion-lb/clarion/internal/iprange"
	"github.com/clarion-lb/clarion/internal/selector"
)

// The objects of MetalLB that say which addresses there are and where they are
// announced (metallb.io/v1beta1), as far as Clarion has something like them.
type (
	ipAddressPool struct {
		Metadata metadata `json:"metadata"`
		Spec     struct {
			Addresses         []string           `json:"addresses"`
			AutoAssign        *bool              `json:"autoAssign"` // default true
			AvoidBuggyIPs     bool               `json:"avoidBuggyIPs"`
			ServiceAllocation *serviceAllocation `json:"serviceAllocation"`
		} `json:"spec"`
	}
	serviceAllocation struct {
		Priority           int              `json:"priority"` // the lower is tried first; 0 is none, and last
		Namespaces         []string         `json:"namespaces"`
		NamespaceSelectors []*labelSelector `json:"namespaceSelectors"`
		ServiceSelectors   []*labelSelector `json:"serviceSelectors"`
	}
	// An advertisement says for which pools it is, and where; without pools and
	// selectors it is for all of them.
	advertisement struct {
		Metadata metadata `json:"metadata"`
		Spec     struct {
			IPAddressPools         []string         `json:"ipAddressPools"`
			IPAddressPoolSelectors []*labelSelector `json:"ipAddressPoolSelectors"`
			NodeSelectors          []*labelSelector `json:"nodeSelectors"`
			Interfaces             []string         `json:"interfaces"` // of L2Advertisements
			ServiceSelectors       []*labelSelector `json:"serviceSelectors"`
		} `json:"spec"`
	}
	metadata struct {
		Namespace string            `json:"namespace"`
		Name      string            `json:"name"`
		Labels    map[string]string `json:"labels"`
	}
)

// MetalLB is the configuration of one MetalLB.
type MetalLB struct {
	pools  []ipAddressPool
	l2     []advertisement
	bgp    []advertisement
	legacy bool
}

// parseList reads a list of objects, as the API server gives it.
func parseList[T any](text []byte) ([]T, error) {
	var list struct {
		Items []T `json:"items"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("the list cannot be read: %w", err)
	}
	return list.Items, nil
}

// Convert says it in Clarion's words. The namespaces are for selectors that
// cannot be written as one.
func (m MetalLB) Convert(namespaces []v1.Namespace) Converted {
	var c Converted
	ranks := ranks(m.pools)
	for _, p := range m.pools {
		name := p.Metadata.Name
		pool := Pool{Name: name, Addresses: iprange.SetOf(c.parseRanges("pool "+name, p.Spec.Addresses)...),
			ByNameOnly: p.Spec.AutoAssign != nil && !*p.Spec.AutoAssign, AvoidBuggyIPs: p.Spec.AvoidBuggyIPs, Priority: ranks[name]}
		if a := p.Spec.ServiceAllocation; a != nil {
			c.allocation(&pool, a, namespaces)
		}
		m.announce(&c, &pool, p.Metadata.Labels)
		c.Pools = append(c.Pools, pool)
	}
	c.separate()
	return c
}

// ranks turns MetalLB's order into priorities: pools for certain namespaces or
// Services come before the others, of these the lower number first and those
// without a number last. Without any such pool all are equal.
func ranks(pools []ipAddressPool) map[string]int {
	type place struct{ general, unranked, priority int }
	of := func(p ipAddressPool) place {
		a := p.Spec.ServiceAllocation
		switch {
		case a == nil || len(a.Namespaces)+len(a.NamespaceSelectors)+len(a.ServiceSelectors) == 0:
			return place{general: 1}
		case a.Priority == 0:
			return place{unranked: 1}
		}
		return place{priority: a.Priority}
	}
	var places []place
	for _, p := range pools {
		places = append(places, of(p))
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.general, b.general), cmp.Compare(a.unranked, b.unranked), cmp.Compare(a.priority, b.priority))
	})
	places = slices.Compact(places)
	const step = 10 // room for what the user adds
	out := map[string]int{}
	for _, p := range pools {
		out[p.Metadata.Name] = step * (len(places) - 1 - slices.Index(places, of(p)))
	}
	return out
}

// allocation carries over who may use a pool.
func (c *Converted) allocation(pool *Pool, a *serviceAllocation, namespaces []v1.Namespace) {
	about := "pool " + pool.Name
	pool.Namespaces = slices.Clone(a.Namespaces)
	if selector, ok := anyOf(selectors(a.NamespaceSelectors)); ok {
		pool.NamespaceSelector = selector
		if selector == nil && len(a.NamespaceSelectors) > 0 {
			pool.Namespaces = nil // one of them is for every namespace
		}
	} else {
		var matched []string
		for _, ns := range namespaces {
			for _, s := range a.NamespaceSelectors {
				if s.value().Matches(ns.Labels) && !slices.Contains(pool.Namespaces, ns.Name) {
					pool.Namespaces = append(pool.Namespaces, ns.Name)
					matched = append(matched, ns.Name)
				}
			}
		}
		c.note(false, about, "its namespaceSelectors cannot be written as one; the namespaces that they match now are named instead: %s", strings.Join(matched, ", "))
		if len(pool.Namespaces) == 0 {
			pool.ByNameOnly = true // they match nobody, and no namespaces would mean all
		}
	}
	if selector, ok := anyOf(selectors(a.ServiceSelectors)); ok {
		pool.ServiceSelector = selector
	} else {
		pool.ByNameOnly = true
		c.note(false, about, "its serviceSelectors cannot be written as one; new Services must ask for it with the annotation clarion.dev/pool: %s until you write a serviceSelector", pool.Name)
	}
}

func selectors(of []*labelSelector) []*selector.Selector {
	var out []*selector.Selector
	for _, s := range of {
		if s == nil {
			s = &labelSelector{}
		}
		out = append(out, s.value())
	}
	return out
}

// covers reports whether an advertisement is for a pool.
func (a advertisement) covers(pool string, labels map[string]string) bool {
	if len(a.Spec.IPAddressPools)+len(a.Spec.IPAddressPoolSelectors) == 0 || slices.Contains(a.Spec.IPAddressPools, pool) {
		return true
	}
	return slices.ContainsFunc(selectors(a.Spec.IPAddressPoolSelectors), func(s *selector.Selector) bool { return s.Matches(labels) })
}

// announce carries over where a pool is announced: by one of its
// advertisements is enough.
func (m MetalLB) announce(c *Converted, pool *Pool, labels map[string]string) {
	about := "pool " + pool.Name
	covering := func(of []advertisement) (out []advertisement) {
		for _, a := range of {
			if a.covers(pool.Name, labels) {
				out = append(out, a)
			}
		}
		return out
	}
	l2, bgp := covering(m.l2), covering(m.bgp)
	switch {
	case len(l2) == 0 && len(bgp) > 0:
		c.note(true, about, "is announced by BGP, which Clarion does not speak yet: it announces the addresses by ARP and NDP, so they must lie in a prefix of the nodes' links")
	case len(l2) == 0:
		c.note(false, about, "is announced by nothing in MetalLB; Clarion announces it")
	case len(bgp) > 0:
		c.note(false, about, "is announced by BGP, too; Clarion announces it by ARP and NDP only")
	}
	var nodes []*selector.Selector
	everyNode, everyLink := false, false
	var links []string
	for _, a := range l2 {
		everyNode = everyNode || len(a.Spec.NodeSelectors) == 0
		everyLink = everyLink || len(a.Spec.Interfaces) == 0
		nodes = append(nodes, selectors(a.Spec.NodeSelectors)...)
		links = append(links, a.Spec.Interfaces...)
		if len(a.Spec.ServiceSelectors) > 0 {
			c.note(false, about, "the L2Advertisement %s is for some Services only; Clarion announces all Services of a pool alike", a.Metadata.Name)
		}
	}
	slices.Sort(links)
	if !everyLink {
		pool.Interfaces = slices.Compact(links)
	}
	one, ok := anyOf(nodes)
	switch {
	case everyNode:
	case !ok:
		c.note(false, about, "its nodeSelectors cannot be written as one; every node may announce it until you write announce.nodeSelector")
	default:
		pool.NodeSelector = one
	}
	if len(l2) > 1 && pool.NodeSelector != nil && pool.Interfaces != nil {
		c.note(false, about, "its L2Advertisements join nodes and interfaces in pairs; Clarion lets each of the nodes announce on each of the interfaces")
	}
}
