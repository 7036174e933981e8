// Package provider gives addresses to Services of type LoadBalancer: it is the
// cloud provider behind the service controller of k8s.io/cloud-provider.
//
// Read controller.go (the process: election, then adoption, then work), ours.go
// (which Services are ours), provider.go and balancer.go (what is done with
// one), writes.go (one patch per decision), ledger.go (why no leader can give
// an address a second time).
package provider

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	cloudprovider "k8s.io/cloud-provider"

	"github.com/clarion-lb/clarion/allocator"
	"github.com/clarion-lb/clarion/internal/cluster"
)

// Class is the loadBalancerClass that is ours beside none, unless configured
// otherwise.
const Class = "clarion.dev/lb"

// Name is what the provider calls itself to the service controller.
const Name = "clarion"

// A Provider gives addresses for the length of one leadership. It implements
// cloudprovider.Interface and cloudprovider.LoadBalancer.
type Provider struct {
	ours       *ours
	ledger     *ledger
	writes     *writes
	namespaces corelisters.NamespaceLister
	log        *slog.Logger
	stats      *metrics

	// mu makes «the allocator takes an address from one Service» and «it is
	// kept back until the API has forgotten it» one step. It is never held over
	// I/O.
	mu       sync.Mutex
	alloc    *allocator.Allocator
	requests map[cluster.Key]allocator.Request // of every Service that the allocator knows
	leaving  map[cluster.Key]leaver            // addresses that a status may still show though given up
	hoping   map[cluster.Key]bool              // those who have something and ask for something else
	served   []cluster.Key                     // those who were served and are yet to be written
	again    map[cluster.Key]bool              // to be decided anew when the cache shows a newer one

	freed chan struct{} // signalled when Serve may have something to do
}

// A leaver keeps addresses that a living Service gave up for others, until
// its status no longer shows them. To the allocator it is a Service of its own.
type leaver struct {
	key   cluster.Key
	uid   types.UID
	addrs []netip.Addr
}

func newProvider(log *slog.Logger, stats *metrics, namespaces corelisters.NamespaceLister) *Provider {
	return &Provider{
		namespaces: namespaces, log: log, stats: stats,
		alloc: allocator.New(), requests: map[cluster.Key]allocator.Request{},
		leaving: map[cluster.Key]leaver{}, hoping: map[cluster.Key]bool{}, again: map[cluster.Key]bool{},
		freed: make(chan struct{}, 1),
	}
}

// request reads what svc asks for, with the labels of its namespace.
func (p *Provider) request(svc *v1.Service) (allocator.Request, error) {
	var labels map[string]string
	if ns, err := p.namespaces.Get(svc.Namespace); err == nil {
		labels = ns.Labels // a namespace that the cache does not have yet kicks its Services when it comes
	}
	return request(svc, labels)
}

// known reports whether the allocator knows this very Service.
func (p *Provider) known(svc *v1.Service) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.requests[keyOf(svc)]
	return ok && r.UID == string(svc.UID)
}

// assign asks the allocator. Addresses that the Service gives up by it stay
// taken for as long as its status shows them (make before break): otherwise
// two statuses could carry the same address.
//
// A Service that has an address and asks in vain for another one does not wait
// for that in the allocator: there it would be moved while somebody else is
// served, and what it leaves given away in the same breath. It is asked for
// again here whenever something becomes free, see serve.
func (p *Provider) assign(r allocator.Request) (allocator.Result, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, knew := p.requests[r.Key]
	knew = knew && before.UID == r.UID
	res, err := p.alloc.Assign(r, time.Now())
	p.requests[r.Key] = r
	if knew { // else no status shows what was removed: its Service is gone
		p.leave(before, res.Removed)
	}
	delete(p.hoping, r.Key)
	if err != nil && len(res.Held) > 0 && (len(r.Addresses) > 0 || r.Pool != "") {
		p.hoping[r.Key] = true
		content := r
		content.Addresses = nil
		if knew {
			content.Pool = before.Pool
		}
		kept, _ := p.alloc.Assign(content, time.Now()) // the first error is the one to tell
		p.leave(r, kept.Removed)
		p.requests[r.Key], res.Held = content, kept.Held
	}
	// What this Service gave up by the way, or shares from now on, may have
	// served others.
	if others := p.alloc.Serve(time.Now()); len(others) > 0 {
		p.served = append(p.served, others...)
		p.signal()
	}
	return res, err
}

// leave keeps addresses that the Service of r just gave up from everybody until
// the status of that Service no longer shows them. The caller holds mu.
func (p *Provider) leave(r allocator.Request, removed []allocator.Removed) {
	if len(removed) == 0 {
		return
	}
	l := p.leaving[r.Key]
	l.key, l.uid = r.Key+" (moving away)", types.UID(r.UID)
	var addrs []netip.Addr
	for _, gone := range removed {
		addrs = append(addrs, gone.Addr)
	}
	l.addrs = append(l.addrs, addrs...)
	p.leaving[r.Key] = l
	r.Key, r.Addresses, r.Pool = l.key, nil, ""
	p.alloc.Restore(r, addrs)
}

// serve gives what has become free to those who wait, and has each of them
// written; then those who have something and hope for better may try. It
// returns when to come again although nobody signals; the zero time for never.
func (p *Provider) serve() time.Time {
	p.mu.Lock()
	keys := append(p.served, p.alloc.Serve(time.Now())...)
	p.served = nil
	next, _ := p.alloc.Next()
	keys = append(keys, slices.Sorted(maps.Keys(p.hoping))...)
	p.mu.Unlock()
	for _, key := range keys {
		p.ours.Kick(key)
	}
	return next
}

// Run serves those who wait whenever something may have become free, until ctx
// ends.
func (p *Provider) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Stop()
		if next := p.serve(); !next.IsZero() {
			timer.Reset(max(time.Until(next), time.Millisecond)) // the clock may stand a hair before it
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.freed:
		case <-timer.C:
		}
	}
}

func (p *Provider) String() string { return "provider" }

// signal says that Serve may have something to do.
func (p *Provider) signal() {
	select {
	case p.freed <- struct{}{}:
	default: // a run is already due
	}
}

// changed is told of every change of every Service, in order, before the
// service controller is. It frees what the API no longer shows, and only then:
// an address is never free while a status carries it.
func (p *Provider) changed(old, cur *v1.Service) (look bool) {
	if old != nil && (cur == nil || cur.UID != old.UID) {
		p.gone(old)
	}
	if cur == nil {
		return false
	}
	key, shows := keyOf(cur), vips(cur)

	p.mu.Lock()
	again := p.again[key]
	delete(p.again, key)
	r, knew := p.requests[key]
	knew = knew && r.UID == string(cur.UID)
	var held []allocator.Held
	if knew {
		held, _ = p.alloc.Get(key)
	}
	if l, ok := p.leaving[key]; ok && l.uid == cur.UID && !slices.ContainsFunc(l.addrs, func(a netip.Addr) bool { return slices.Contains(shows, a) }) {
		p.dismiss(key)
	}
	p.mu.Unlock()

	switch {
	case wants(cur, p.ours.class):
		drifted := knew && !shown(held, shows)
		if !drifted {
			p.ledger.Seen(cur.UID)
		}
		return again || drifted || old == nil || lookAgain(old, cur)
	case knew && !overlap(held, shows):
		p.release(key, cur.UID)
	}
	return again
}

// shown reports whether a status shows what is held.
func shown(held []allocator.Held, shows []netip.Addr) bool {
	return slices.EqualFunc(held, shows, func(h allocator.Held, a netip.Addr) bool { return h.Addr == a })
}

func overlap(held []allocator.Held, shows []netip.Addr) bool {
	return slices.ContainsFunc(held, func(h allocator.Held) bool { return slices.Contains(shows, h.Addr) })
}

// gone frees what a Service had that exists no more.
func (p *Provider) gone(svc *v1.Service) {
	key := keyOf(svc)
	p.mu.Lock()
	if l, ok := p.leaving[key]; ok && l.uid == svc.UID {
		p.dismiss(key)
	}
	p.mu.Unlock()
	p.writes.forget(key)
	p.release(key, svc.UID)
}

// release frees what the Service with this UID holds, if anything.
func (p *Provider) release(key cluster.Key, uid types.UID) {
	p.mu.Lock()
	if p.requests[key].UID == string(uid) {
		delete(p.requests, key)
		delete(p.hoping, key)
		if freed := p.alloc.Release(key, string(uid), time.Now()); len(freed) > 0 {
			p.log.Info("addresses are free again", "service", key, "addresses", freed)
		}
		p.signal()
	}
	p.mu.Unlock()
	p.ledger.Seen(uid)
}

// dismiss frees what a Service left behind when it moved. The caller holds mu.
func (p *Provider) dismiss(key cluster.Key) {
	l := p.leaving[key]
	delete(p.leaving, key)
	p.alloc.Release(l.key, string(l.uid), time.Now())
	p.signal()
}

// recheck looks at a Service again after something was reserved for it: it
// may have gone, or stopped wanting it, while that was under way, and its
// events have passed already.
func (p *Provider) recheck(svc *v1.Service) (gone bool) {
	cur := p.ours.get(keyOf(svc))
	switch {
	case cur == nil || cur.UID != svc.UID:
		p.gone(svc)
		return true
	case !wants(cur, p.ours.class):
		p.changed(cur, cur)
		return true
	}
	return false
}

// retry has a Service decided anew once the cache has left base behind,
// which it may have done already.
func (p *Provider) retry(base *v1.Service) {
	key := keyOf(base)
	p.mu.Lock()
	p.again[key] = true
	p.mu.Unlock()
	if cur := p.ours.get(key); cur != nil && cur.ResourceVersion != base.ResourceVersion {
		p.mu.Lock()
		delete(p.again, key)
		p.mu.Unlock()
		p.ours.Kick(key)
	}
}

// Initialize implements cloudprovider.Interface.
func (p *Provider) Initialize(cloudprovider.ControllerClientBuilder, <-chan struct{}) {}

// LoadBalancer implements cloudprovider.Interface.
func (p *Provider) LoadBalancer() (cloudprovider.LoadBalancer, bool) { return p, true }

// Instances implements cloudprovider.Interface; nodes are not Clarion's.
func (p *Provider) Instances() (cloudprovider.Instances, bool) { return nil, false }

// InstancesV2 implements cloudprovider.Interface; nodes are not Clarion's.
func (p *Provider) InstancesV2() (cloudprovider.InstancesV2, bool) { return nil, false }

// Zones implements cloudprovider.Interface.
func (p *Provider) Zones() (cloudprovider.Zones, bool) { return nil, false }

// Clusters implements cloudprovider.Interface.
func (p *Provider) Clusters() (cloudprovider.Clusters, bool) { return nil, false }

// Routes implements cloudprovider.Interface.
func (p *Provider) Routes() (cloudprovider.Routes, bool) { return nil, false }

// ProviderName implements cloudprovider.Interface.
func (p *Provider) ProviderName() string { return Name }

// HasClusterID implements cloudprovider.Interface.
func (p *Provider) HasClusterID() bool { return true }
