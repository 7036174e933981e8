package migrate

import (
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/clarion-lb/clarion/internal/iprange"
	"github.com/clarion-lb/clarion/internal/selector"
)

// FromKubeVIP says the ConfigMap of kube-vip's cloud provider in Clarion's
// words. Its keys are KIND-NAMESPACE and KIND-global. For a namespace it looks
// at the CIDRs of the namespace, then the global CIDRs, then the ranges of the
// namespace, then the global ranges, and uses the first that there are.
func FromKubeVIP(cm *v1.ConfigMap) Converted {
	var c Converted
	of := map[string]map[string]string{"cidr": {}, "range": {}, "interface": {}, "allow-share": {}}
	skipEnds := false
	for _, key := range sortedKeys(cm.Data) {
		value := strings.TrimSpace(cm.Data[key])
		kind, scope := split(key)
		switch {
		case key == "search-order":
			if value == "desc" {
				c.note(false, key, "is not carried over: Clarion gives the lowest free address")
			}
		case key == "skip-end-ips-in-cidr":
			skipEnds = value == "true"
		case of[kind] != nil && scope != "":
			of[kind][scope] = value
		default:
			c.note(false, key, "means nothing to kube-vip's cloud provider and is left out")
		}
	}
	const global = "global"
	var own []string // namespaces with a pool of their own
	for _, ns := range sortedKeys(merge(of["cidr"], of["range"])) {
		if ns == global {
			continue
		}
		kind := "cidr"
		if _, ok := of["cidr"][ns]; !ok {
			kind = "range"
			if _, shadowed := of["cidr"][global]; shadowed {
				c.note(false, "range-"+ns, "is left out: cidr-global comes before it, so it was never used")
				continue
			}
		} else if _, ok := of["range"][ns]; ok {
			c.note(false, "range-"+ns, "is left out: cidr-%s comes before it, so it was never used", ns)
		}
		own = append(own, ns)
		c.kubeVIPPool(Pool{Name: ns, Namespaces: []string{ns}}, kind, of, skipEnds)
	}
	rest := Pool{Name: global}
	if len(own) > 0 {
		// A namespace with a pool of its own gets nothing from the global one,
		// even when its own is used up. Every Namespace carries this label
		// (KEP-2161).
		rest.NamespaceSelector = &selector.Selector{MatchExpressions: []selector.Requirement{
			{Key: v1.LabelMetadataName, Operator: selector.NotIn, Values: own}}}
	}
	_, hasCIDR := of["cidr"][global]
	_, hasRange := of["range"][global]
	switch {
	case hasCIDR:
		c.kubeVIPPool(rest, "cidr", of, skipEnds)
		if hasRange {
			c.note(false, "range-global", "is left out: cidr-global comes before it, so it was never used")
		}
	case hasRange:
		c.kubeVIPPool(rest, "range", of, skipEnds)
	}
	for _, scope := range sortedKeys(of["allow-share"]) {
		if of["allow-share"][scope] == "true" {
			c.note(false, "allow-share-"+scope, "is not carried over: Services share an address when they name the same key in the annotation clarion.dev/share; those that share one now are given a key")
		}
	}
	c.separate()
	return c
}

// kubeVIPPool adds the pool of one namespace, or the global one.
func (c *Converted) kubeVIPPool(p Pool, kind string, of map[string]map[string]string, skipEnds bool) {
	key := kind + "-" + p.Name
	var texts []string
	for text := range strings.SplitSeq(of[kind][p.Name], ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err == nil && prefix.Addr().IsUnspecified() {
			c.note(true, key, "%s is left out: it stands for an address from a DHCP server, and Clarion asks none; list addresses that you own instead", strings.TrimSpace(text))
			continue
		}
		texts = append(texts, text)
	}
	ranges := c.parseRanges(key, texts)
	if skipEnds && kind == "cidr" {
		for i, r := range ranges {
			ranges[i] = inner(r)
		}
	}
	p.Addresses = iprange.SetOf(ranges...)
	link, ok := of["interface"][p.Name]
	if !ok {
		link = of["interface"]["global"]
	}
	if link != "" {
		p.Interfaces = []string{link}
	}
	c.Pools = append(c.Pools, p)
}

// inner is an IPv4 CIDR without the address of the network and the one for
// broadcasts, unless it is too small to have them (RFC 3021).
func inner(r iprange.Range) iprange.Range {
	if r.From.Is4() && r.From.Next() != r.To && r.From != r.To {
		return iprange.Range{From: r.From.Next(), To: r.To.Prev()}
	}
	return r
}

// split cuts a key into its kind and the namespace.
func split(key string) (kind, scope string) {
	for _, kind := range []string{"cidr", "range", "interface", "allow-share"} {
		if scope, ok := strings.CutPrefix(key, kind+"-"); ok {
			return kind, scope
		}
	}
	return "", ""
}

func merge(a, b map[string]string) map[string]bool {
	out := map[string]bool{}
	for _, m := range []map[string]string{a, b} {
		for k := range m {
			out[k] = true
		}
	}
	return out
}

// usesDHCP reports whether a Service asks kube-vip for an address from a DHCP
// server.
func usesDHCP(svc *v1.Service) bool {
	for _, key := range []string{"kube-vip.io/loadbalancerIPs"} {
		words := strings.FieldsFunc(svc.Annotations[key], func(r rune) bool { return r == ',' || r == ' ' })
		if slices.ContainsFunc(words, unspecified) {
			return true
		}
	}
	return unspecified(svc.Spec.LoadBalancerIP)
}

func unspecified(text string) bool {
	a, err := netip.ParseAddr(text)
	return err == nil && a.IsUnspecified()
}
