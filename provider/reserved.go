package provider

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"

	"github.com/clarion-lb/clarion/allocator"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/iprange"
	"github.com/clarion-lb/clarion/internal/reconcile"
)

// reserved returns the ranges that no Service may get (A5): the addresses of
// the nodes first, because that is the reason to tell when several hold, then
// the service CIDRs, the pod CIDRs, and what the flags add. The result depends
// only on what exists, not on its order. What cannot be read is told in
// problems.
func reserved(nodes []*v1.Node, cidrs []*networking.ServiceCIDR, extra []allocator.Reserved) (out []allocator.Reserved, problems []error) {
	slices.SortFunc(nodes, func(a, b *v1.Node) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(cidrs, func(a, b *networking.ServiceCIDR) int { return strings.Compare(a.Name, b.Name) })
	for _, n := range nodes {
		for _, a := range n.Status.Addresses {
			if a.Type != v1.NodeInternalIP && a.Type != v1.NodeExternalIP {
				continue
			}
			addr, err := netip.ParseAddr(a.Address)
			if err != nil || addr.Zone() != "" {
				problems = append(problems, fmt.Errorf("node %s: the %s %q is not an IP address", n.Name, a.Type, a.Address))
				continue
			}
			out = append(out, allocator.Reserved{Range: iprange.One(addr.Unmap()), Reason: "the address of node " + n.Name})
		}
	}
	prefix := func(subject, text, reason string) {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %q is not a CIDR", subject, text))
			return
		}
		out = append(out, allocator.Reserved{Range: iprange.OfPrefix(p), Reason: reason})
	}
	for _, c := range cidrs {
		for _, text := range c.Spec.CIDRs {
			prefix("ServiceCIDR "+c.Name, text, fmt.Sprintf("in the service CIDR %s", text))
		}
	}
	for _, n := range nodes {
		for _, text := range n.Spec.PodCIDRs {
			prefix("Node "+n.Name, text, fmt.Sprintf("in the pod CIDR %s of node %s", text, n.Name))
		}
	}
	return append(out, extra...), problems
}

// guard keeps the allocator's reserved ranges equal to what the cluster uses.
type guard struct {
	nodes    corelisters.NodeLister
	cidrs    networkinglisters.ServiceCIDRLister // nil when the API server has none
	extra    []allocator.Reserved
	provider *Provider
	loop     *reconcile.Loop
	log      *slog.Logger
	changed  func() // the ranges are others now

	mu  sync.Mutex
	now []allocator.Reserved // in force; nobody writes into it
}

// ranges returns what is in force.
func (g *guard) ranges() []allocator.Reserved {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now
}

// set puts ranges in force.
func (g *guard) set(ranges []allocator.Reserved) {
	g.provider.alloc.SetReserved(ranges)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now = ranges
}

// sync is the loop's function. It costs nothing when no range changed.
func (g *guard) sync(context.Context) error {
	ranges, err := g.load()
	if err != nil || ranges == nil {
		return err
	}
	before := g.provider.collisions()
	g.set(ranges)
	g.provider.signal()
	after := g.provider.collisions()
	for key, what := range before {
		if after[key] != what {
			g.provider.ours.Kick(key)
		}
	}
	for key := range after {
		if _, known := before[key]; !known {
			g.provider.ours.Kick(key)
		}
	}
	g.changed()
	return nil
}

// begin puts the ranges into force before the first Service is looked at.
func (g *guard) begin() error {
	ranges, err := g.load()
	if err != nil {
		return err
	}
	g.set(ranges)
	return nil
}

// load returns the ranges, or nil when they are those in force.
func (g *guard) load() ([]allocator.Reserved, error) {
	nodes, err := g.nodes.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list the nodes: %w", err)
	}
	var cidrs []*networking.ServiceCIDR
	if g.cidrs != nil {
		if cidrs, err = g.cidrs.List(labels.Everything()); err != nil {
			return nil, fmt.Errorf("list the service CIDRs: %w", err)
		}
	}
	ranges, problems := reserved(nodes, cidrs, g.extra)
	if slices.Equal(ranges, g.ranges()) {
		return nil, nil
	}
	for _, p := range problems {
		g.log.Warn("a range that should be kept from Services is skipped", "err", p)
	}
	return ranges, nil
}

// collisions returns the Services that hold a reserved address, with what it
// is.
func (p *Provider) collisions() map[cluster.Key]string {
	out := map[cluster.Key]string{}
	for key, held := range p.alloc.Holdings() {
		for _, h := range held {
			if h.Reserved != "" {
				out[key] += h.Addr.String() + " " + h.Reserved + "\n"
			}
		}
	}
	return out
}

// sameRanges reports whether two states of a node reserve the same.
func sameRanges(a, b *v1.Node) bool {
	return slices.Equal(a.Status.Addresses, b.Status.Addresses) && slices.Equal(a.Spec.PodCIDRs, b.Spec.PodCIDRs)
}
