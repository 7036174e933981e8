package provider

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cloudprovider "k8s.io/cloud-provider"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/clarion-lb/clarion/allocator"
)

// GetLoadBalancer is asked when a Service is to be cleaned up; it answers from
// the allocator, because the API server clears the status when a Service stops
// being a LoadBalancer. It also notes what the service controller's patches
// that follow have to take off.
func (p *Provider) GetLoadBalancer(_ context.Context, _ string, svc *v1.Service) (*v1.LoadBalancerStatus, bool, error) {
	if wants(svc, p.ours.class) {
		return &svc.Status.LoadBalancer, p.known(svc), nil
	}
	p.writes.clearNext(svc)
	if _, marked := findCondition(svc); marked && !servicehelper.HasLBFinalizer(svc) && len(svc.Status.LoadBalancer.Ingress) == 0 {
		p.writes.forget(keyOf(svc)) // the service controller has nothing to patch
		return nil, false, p.writes.unmark(svc)
	}
	return &svc.Status.LoadBalancer, p.known(svc), nil
}

// GetLoadBalancerName implements cloudprovider.LoadBalancer. Nothing of Clarion
// carries the name.
func (p *Provider) GetLoadBalancerName(_ context.Context, _ string, svc *v1.Service) string {
	return string(keyOf(svc))
}

// UpdateLoadBalancer is called for every Service when a node comes or goes.
// The speakers find their nodes themselves.
func (p *Provider) UpdateLoadBalancer(context.Context, string, *v1.Service, []*v1.Node) error {
	return cloudprovider.ImplementedElsewhere
}

// EnsureLoadBalancerDeleted does nothing: finalizer and status go next, and
// the addresses become free when the API shows that they have gone.
func (p *Provider) EnsureLoadBalancerDeleted(context.Context, string, *v1.Service) error { return nil }

// EnsureLoadBalancer decides which addresses svc has, and writes that itself:
// finalizer, addresses and condition go out in one patch, where the service
// controller would make two and the condition a third. So it always returns
// ImplementedElsewhere, which to the service controller means «done, write
// nothing», or an error when the API could not be written to, which is
// retried. A Service that must wait is no error.
func (p *Provider) EnsureLoadBalancer(ctx context.Context, _ string, svc *v1.Service, _ []*v1.Node) (*v1.LoadBalancerStatus, error) {
	if !wants(svc, p.ours.class) {
		return nil, cloudprovider.ImplementedElsewhere
	}
	held, v := p.decide(svc)
	if p.recheck(svc) {
		return nil, cloudprovider.ImplementedElsewhere
	}
	if shows := vips(svc); shown(held, shows) {
		return nil, done(p.writes.tell(svc, v, len(held) > 0 && p.lacksFinalizer(svc)))
	}
	if len(held) == 0 {
		p.ledger.Seen(svc.UID) // what may be written there is not intended any more
	} else {
		if err := p.ledger.Commit(ctx, Intent{Key: keyOf(svc), UID: svc.UID, Addrs: addressesOf(held)}); err != nil {
			if errors.Is(err, ErrDeposed) || p.writes.ctx.Err() != nil {
				return nil, cloudprovider.ImplementedElsewhere // the next leader goes on with it
			}
			return nil, err
		}
		p.settle(svc)
	}
	return nil, done(p.writes.assign(svc, held, v))
}

// done is what the service controller is told after a write.
func done(err error) error {
	if err != nil {
		return err
	}
	return cloudprovider.ImplementedElsewhere
}

// idle reports whether EnsureLoadBalancer would write nothing.
func (p *Provider) idle(svc *v1.Service) bool {
	held, v := p.decide(svc)
	return shown(held, vips(svc)) && v.said(svc) && (len(held) == 0 || servicehelper.HasLBFinalizer(svc))
}

// begin asks the allocator for every Service that exists, the oldest first:
// the service controller comes to them in no order.
func (p *Provider) begin() {
	for _, svc := range p.ours.byAge(func(svc *v1.Service) bool { return wants(svc, p.ours.class) }) {
		p.decide(svc)
	}
}

// decide asks the allocator what svc has and says what that means. A request
// that cannot be read changes nothing.
func (p *Provider) decide(svc *v1.Service) ([]allocator.Held, verdict) {
	r, problem := p.request(svc)
	if problem == nil {
		res, err := p.assign(r)
		var refused *allocator.Refused
		if err != nil && !errors.As(err, &refused) {
			panic(fmt.Sprintf("the allocator failed for %v: %v", r, err)) // it promises a Refused or nil
		}
		for _, f := range res.Refusals {
			p.stats.refusals.WithLabelValues(string(f.Reason)).Inc()
		}
		return res.Held, judge(res, err)
	}
	p.stats.refusals.WithLabelValues(ReasonMalformed).Inc()
	held := p.freeze(r)
	return held, malformed(held, problem)
}

// freeze leaves the Service of r, whose request cannot be read, as it is, and
// returns what it holds. What it waited for nobody asks for any more.
func (p *Provider) freeze(r allocator.Request) []allocator.Held {
	p.mu.Lock()
	delete(p.hoping, r.Key)
	before, knew := p.requests[r.Key]
	held, _ := p.alloc.Get(r.Key)
	p.mu.Unlock()
	if knew && (before.UID != r.UID || len(held) == 0) { // one of the same name was here before, or this one waited
		p.release(r.Key, types.UID(before.UID))
		return nil
	}
	return held
}

// lacksFinalizer looks at the Service itself: svc is a copy that has it always.
func (p *Provider) lacksFinalizer(svc *v1.Service) bool {
	cur := p.ours.get(keyOf(svc))
	return cur != nil && cur.UID == svc.UID && !servicehelper.HasLBFinalizer(cur)
}

// settle takes an intent out of the ledger that the cache has shown to be
// written already: svc was older than that.
func (p *Provider) settle(svc *v1.Service) {
	if cur := p.ours.get(keyOf(svc)); cur != nil && cur.ResourceVersion != svc.ResourceVersion {
		p.changed(cur, cur)
	}
}

// addressesOf returns the addresses of held.
func addressesOf(held []allocator.Held) []netip.Addr {
	out := make([]netip.Addr, 0, len(held))
	for _, h := range held {
		out = append(out, h.Addr)
	}
	return out
}
