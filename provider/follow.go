package provider

import (
	"errors"
	"fmt"
	"maps"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/clarion-lb/clarion/internal/reconcile"
)

// follow wakes whoever depends on nodes, service CIDRs, namespaces and the
// ConfigMaps of the pools. The returned function ends that.
func (c *Controller) follow(p *Provider, reserved, pools *reconcile.Loop) (unregister func(), err error) {
	wake := func(l *reconcile.Loop) cache.ResourceEventHandler {
		return cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { l.Kick() },
			UpdateFunc: func(any, any) { l.Kick() },
			DeleteFunc: func(any) { l.Kick() },
		}
	}
	nodes := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { reserved.Kick() },
		DeleteFunc: func(any) { reserved.Kick() },
		UpdateFunc: func(before, after any) { // a heartbeat changes no address
			old, ok1 := before.(*v1.Node)
			cur, ok2 := after.(*v1.Node)
			if ok1 && ok2 && !sameRanges(old, cur) {
				reserved.Kick()
			}
		},
	}
	namespaces := cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, initial bool) {
			if ns, ok := obj.(*v1.Namespace); ok && !initial {
				p.kickNamespace(ns.Name)
			}
		},
		UpdateFunc: func(before, after any) {
			old, ok1 := before.(*v1.Namespace)
			cur, ok2 := after.(*v1.Namespace)
			if ok1 && ok2 && !maps.Equal(old.Labels, cur.Labels) {
				p.kickNamespace(cur.Name)
			}
		},
	}
	followed := []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{c.shared.Core().V1().Nodes().Informer(), nodes},
		{c.shared.Core().V1().Namespaces().Informer(), namespaces},
		{c.userPools.Core().V1().ConfigMaps().Informer(), wake(pools)},
		{c.forcePools.Core().V1().ConfigMaps().Informer(), wake(pools)},
	}
	if c.hasServiceCIDRs {
		followed = append(followed, struct {
			informer cache.SharedIndexInformer
			handler  cache.ResourceEventHandler
		}{c.shared.Networking().V1().ServiceCIDRs().Informer(), wake(reserved)})
	}
	var errs []error
	var undo []func() error
	for _, f := range followed {
		registration, err := f.informer.AddEventHandler(f.handler)
		if err != nil {
			errs = append(errs, fmt.Errorf("watch with %T: %w", f.informer, err))
			continue
		}
		undo = append(undo, func() error { return f.informer.RemoveEventHandler(registration) })
	}
	unregister = func() {
		for _, u := range undo {
			if err := u(); err != nil {
				p.log.Warn("a watch could not be ended", "err", err)
			}
		}
	}
	return unregister, errors.Join(errs...)
}

// kickNamespace has every Service of a namespace looked at: its labels decide
// which pools it may use.
func (p *Provider) kickNamespace(name string) {
	p.ours.KickAll(func(svc *v1.Service) bool { return svc.Namespace == name })
}
