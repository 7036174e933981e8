package provider

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"

	"github.com/clarion-lb/clarion/allocator"
)

// adopt makes the allocator know all that was given before this leadership:
// what the statuses show, and what the ledger says was about to be written.
// The list comes from a quorum of the store (no resourceVersion), taken after
// this leader's term stood in the ledger: nothing can have been given since
// that is in neither.
func (c *Controller) adopt(ctx context.Context, p *Provider, intents []Intent) (*v1.ServiceList, error) {
	var list *v1.ServiceList
	err := insist(ctx, func(ctx context.Context) (err error) {
		list, err = c.client.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the Services to adopt their addresses: %w", err)
	}
	byUID := make(map[types.UID]Intent, len(intents))
	for _, in := range intents {
		byUID[in.UID] = in
	}
	type left struct {
		svc   *v1.Service
		addrs []netip.Addr
	}
	var leavers []left
	adopted := 0
	for i := range list.Items {
		svc := &list.Items[i]
		if roleOf(svc, c.cfg.Class, false) == hidden {
			continue
		}
		has := vips(svc)
		if in, ok := byUID[svc.UID]; ok && wants(svc, c.cfg.Class) {
			// The ledger is newer than the status: what was decided is carried
			// out, and what the status still shows is on its way out.
			moving := slices.DeleteFunc(slices.Clone(has), func(a netip.Addr) bool { return slices.Contains(in.Addrs, a) })
			if len(moving) > 0 {
				leavers = append(leavers, left{svc, moving})
			}
			has = in.Addrs
			delete(byUID, svc.UID)
		}
		if len(has) == 0 {
			continue
		}
		p.restore(svc, has)
		adopted++
	}
	p.mu.Lock()
	for _, l := range leavers {
		r := p.requests[keyOf(l.svc)]
		var removed []allocator.Removed
		for _, a := range l.addrs {
			if len(p.alloc.Owners(a)) == 0 {
				removed = append(removed, allocator.Removed{Addr: a})
			}
		}
		p.leave(r, removed)
	}
	p.mu.Unlock()
	for uid := range byUID {
		p.ledger.Seen(uid) // its Service is gone, or no LoadBalancer any more
	}
	for _, conflict := range p.alloc.Conflicts() {
		p.log.Error("two Services carry one address without being allowed to share it; the younger gets another one",
			"address", conflict.Addr, "keeps", conflict.Holder, "loses", conflict.Claimed)
	}
	p.log.Info("addresses adopted", "services", adopted, "intents", len(intents))
	return list, nil
}

// restore records what a Service has. A request that cannot be read in full
// serves for that none the less.
func (p *Provider) restore(svc *v1.Service, addrs []netip.Addr) {
	r, err := p.request(svc)
	if err != nil {
		r.Addresses = nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alloc.Restore(r, addrs)
	p.requests[r.Key] = r
}

// sweep forgets what was adopted but went before the cache was watched.
func (p *Provider) sweep() {
	p.mu.Lock()
	var all []*v1.Service
	for _, r := range p.requests {
		all = append(all, &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: nameOf(r.Key), UID: types.UID(r.UID)}})
	}
	p.mu.Unlock()
	for _, svc := range all {
		if cur := p.ours.get(keyOf(svc)); cur == nil || cur.UID != svc.UID {
			p.gone(svc)
		}
	}
}

// catchUp returns when store shows everything that list shows, or something
// newer, so that no decision is taken on what a slow cache still shows.
func catchUp(ctx context.Context, list *v1.ServiceList, store cache.SharedIndexInformer) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if caughtUp(list, store.GetIndexer(), store.LastSyncResourceVersion()) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the cache of Services to reach version %s: %w", list.ResourceVersion, ctx.Err())
		case <-tick.C:
		}
	}
}

// caughtUp compares object by object. The version of the whole cache would be
// simpler, but it moves only when a Service changes, while that of the list
// moves with everything.
func caughtUp(list *v1.ServiceList, store cache.Store, version string) bool {
	if notOlder(version, list.ResourceVersion) {
		return true
	}
	listed := make(map[string]bool, len(list.Items))
	for i := range list.Items {
		want := &list.Items[i]
		key := string(keyOf(want))
		listed[key] = true
		item, ok, err := store.GetByKey(key)
		have, _ := item.(*v1.Service)
		switch {
		case err != nil || !ok || have == nil:
			if !notOlder(version, want.ResourceVersion) {
				return false // not here yet; otherwise it has come and gone
			}
		case !notOlder(have.ResourceVersion, want.ResourceVersion):
			return false
		}
	}
	for _, key := range store.ListKeys() {
		if listed[key] {
			continue
		}
		item, ok, err := store.GetByKey(key)
		if have, _ := item.(*v1.Service); err == nil && ok && have != nil && !notOlder(have.ResourceVersion, list.ResourceVersion) {
			return false // it was gone when the list was made
		}
	}
	return true
}

// notOlder reports whether version a is b or later. Versions that cannot be
// compared count as the same age only when they are equal.
func notOlder(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	if err != nil {
		return a == b
	}
	return order >= 0
}
