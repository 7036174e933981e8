package provider

import (
	"time"

	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// stillNodes is a Node informer for the service controller in which nothing
// ever happens. For each node that comes or goes it would go through all
// Services to call UpdateLoadBalancer, which does nothing here, and it reads
// its own cache of Services without a lock while it does so (v0.37.1,
// serviceCache.allServices against processServiceCreateOrUpdate).
type stillNodes struct{ coreinformers.NodeInformer }

// Informer replaces the embedded one.
func (n stillNodes) Informer() cache.SharedIndexInformer {
	return stillInformer{n.NodeInformer.Informer()}
}

type stillInformer struct{ cache.SharedIndexInformer }

// AddEventHandlerWithResyncPeriod is the one with which the service controller
// registers. What it registers is never called.
func (i stillInformer) AddEventHandlerWithResyncPeriod(cache.ResourceEventHandler, time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	return i.SharedIndexInformer.AddEventHandler(cache.ResourceEventHandlerFuncs{})
}
