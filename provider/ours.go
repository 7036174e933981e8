package provider

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	coreinformers "k8s.io/client-go/informers/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A role is what the service controller may see of a Service.
type role uint8

const (
	hidden  role = iota // not ours, or nothing left to do
	served              // wants addresses from us
	cleaned             // had addresses from us; finalizer and status must go
)

// wants reports whether svc asks Clarion for addresses: a living Service of
// type LoadBalancer with no class or ours.
func wants(svc *v1.Service, class string) bool {
	return svc.Spec.Type == v1.ServiceTypeLoadBalancer && svc.DeletionTimestamp == nil &&
		(svc.Spec.LoadBalancerClass == nil || *svc.Spec.LoadBalancerClass == class)
}

// roleOf decides what becomes of svc; known says that the allocator has it.
//
// All cloud providers use one and the same finalizer, and the API server
// clears the class when a Service stops being a LoadBalancer. So neither the
// finalizer nor the missing class makes a Service ours to clean up: only what
// we know, or our own condition on it, does. (The service controller alone
// would take the finalizer and the status of other implementations' Services.)
func roleOf(svc *v1.Service, class string, known bool) role {
	if wants(svc, class) {
		return served
	}
	if svc.Spec.Type == v1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass != nil && *svc.Spec.LoadBalancerClass != class {
		return hidden
	}
	_, marked := findCondition(svc)
	switch {
	case servicehelper.HasLBFinalizer(svc) && (known || marked):
		return cleaned
	case svc.DeletionTimestamp == nil && marked:
		return cleaned // it waited in vain: there is no finalizer yet, but our word has to go
	}
	return hidden
}

// show returns svc as the service controller should see it: a copy without
// class, because it serves no Service that has one, and, when the Service is to
// be served, with the finalizer, so that it is not written alone: it goes
// out in one patch together with the addresses and the condition (see
// writes.go).
// The cache's own object is never touched.
func show(svc *v1.Service, r role) *v1.Service {
	shown := *svc
	shown.Spec.LoadBalancerClass = nil
	if r == served && !servicehelper.HasLBFinalizer(svc) {
		shown.Finalizers = append(slices.Clone(svc.Finalizers), servicehelper.LoadBalancerCleanupFinalizer)
	}
	return &shown
}

// ours is a Service informer for the service controller that shows only what
// is ours, and through which a Service can be handed to it again at any time.
type ours struct {
	coreinformers.ServiceInformer
	class string
	known func(*v1.Service) bool
	// changed sees every Service before the service controller does, foreign
	// ones too: old is nil for a new one, cur for one that is gone. It reports
	// whether cur needs a look for a reason that the service controller does
	// not know of.
	changed func(old, cur *v1.Service) (look bool)
	// idle reports whether a look at a Service that is served would write
	// nothing. The service controller makes Events even then, and with
	// thousands of Services at a start or after an edit of the pools they
	// would flood its queue.
	idle func(*v1.Service) bool

	mu       sync.Mutex
	handlers []cache.ResourceEventHandler // the service controller's; guarded by mu
}

func (o *ours) role(svc *v1.Service) role { return roleOf(svc, o.class, o.known(svc)) }

// Informer and Lister replace the embedded ones.
func (o *ours) Informer() cache.SharedIndexInformer {
	return oursInformer{o.ServiceInformer.Informer(), o}
}
func (o *ours) Lister() corelisters.ServiceLister {
	return oursLister{o.ServiceInformer.Lister(), o}
}

// get returns the cached Service itself, nil when there is none.
func (o *ours) get(key cluster.Key) *v1.Service {
	item, ok, err := o.ServiceInformer.Informer().GetIndexer().GetByKey(string(key))
	if err != nil || !ok {
		return nil // the thread-safe store returns no error
	}
	svc, _ := item.(*v1.Service)
	return svc
}

// Kick has the service controller look at a Service now, if it is ours and
// there is something to write.
func (o *ours) Kick(key cluster.Key) {
	if svc := o.get(key); svc != nil {
		o.enqueue(svc)
	}
}

func (o *ours) enqueue(svc *v1.Service) {
	r := o.role(svc)
	if r == hidden || r == served && o.idle(svc) {
		return
	}
	o.mu.Lock()
	handlers := slices.Clone(o.handlers)
	o.mu.Unlock()
	for _, h := range handlers {
		h.OnAdd(show(svc, r), false)
	}
}

// KickAll kicks every Service that is ours and for which pick holds, the
// oldest first.
func (o *ours) KickAll(pick func(*v1.Service) bool) {
	for _, svc := range o.byAge(pick) {
		o.enqueue(svc)
	}
}

func everyService(*v1.Service) bool { return true }

// byAge returns the cached Services for which pick holds, the oldest first.
func (o *ours) byAge(pick func(*v1.Service) bool) []*v1.Service {
	var all []*v1.Service
	for _, item := range o.ServiceInformer.Informer().GetIndexer().List() {
		if svc, ok := item.(*v1.Service); ok && pick(svc) {
			all = append(all, svc)
		}
	}
	slices.SortFunc(all, func(a, b *v1.Service) int {
		return cmp.Or(a.CreationTimestamp.Time.Compare(b.CreationTimestamp.Time), cmp.Compare(a.UID, b.UID))
	})
	return all
}

type oursInformer struct {
	cache.SharedIndexInformer
	o *ours
}

// AddEventHandlerWithResyncPeriod is the one with which the service controller
// registers. Resyncs would only repeat what it was told, so there are none.
func (i oursInformer) AddEventHandlerWithResyncPeriod(h cache.ResourceEventHandler, _ time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	i.o.mu.Lock()
	i.o.handlers = append(i.o.handlers, h)
	i.o.mu.Unlock()
	return i.SharedIndexInformer.AddEventHandlerWithResyncPeriod(oursHandler{i.o, h}, 0)
}

// AddEventHandler and AddEventHandlerWithOptions show the same.
func (i oursInformer) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	return i.AddEventHandlerWithResyncPeriod(h, 0)
}
func (i oursInformer) AddEventHandlerWithOptions(h cache.ResourceEventHandler, _ cache.HandlerOptions) (cache.ResourceEventHandlerRegistration, error) {
	return i.AddEventHandlerWithResyncPeriod(h, 0)
}

// An oursHandler passes on the events of what is ours.
type oursHandler struct {
	o *ours
	h cache.ResourceEventHandler
}

func (h oursHandler) OnAdd(obj any, initial bool) {
	svc, ok := obj.(*v1.Service)
	if !ok {
		return
	}
	h.o.changed(nil, svc)
	if r := h.o.role(svc); r == cleaned || r == served && !(initial && h.o.idle(svc)) {
		h.h.OnAdd(show(svc, r), initial)
	}
}

func (h oursHandler) OnUpdate(before, after any) {
	old, ok1 := before.(*v1.Service)
	cur, ok2 := after.(*v1.Service)
	if !ok1 || !ok2 {
		return
	}
	was := h.o.role(old) // before «changed» may make us forget it
	look := h.o.changed(old, cur)
	switch is := h.o.role(cur); {
	case is == hidden && was != hidden:
		h.h.OnDelete(show(old, was))
	case is == hidden:
	case was == hidden || look:
		h.h.OnAdd(show(cur, is), false)
	default:
		h.h.OnUpdate(show(old, was), show(cur, is))
	}
}

func (h oursHandler) OnDelete(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	svc, ok := obj.(*v1.Service)
	if !ok {
		return
	}
	was := h.o.role(svc)
	h.o.changed(svc, nil)
	if was != hidden {
		h.h.OnDelete(show(svc, was))
	}
}

type oursLister struct {
	corelisters.ServiceLister
	o *ours
}

func (l oursLister) List(selector labels.Selector) ([]*v1.Service, error) {
	all, err := l.ServiceLister.List(selector)
	return l.o.shown(all), err
}

func (l oursLister) Services(namespace string) corelisters.ServiceNamespaceLister {
	return oursNamespaceLister{l.ServiceLister.Services(namespace), l.o}
}

func (o *ours) shown(all []*v1.Service) []*v1.Service {
	var out []*v1.Service
	for _, svc := range all {
		if r := o.role(svc); r != hidden {
			out = append(out, show(svc, r))
		}
	}
	return out
}

type oursNamespaceLister struct {
	corelisters.ServiceNamespaceLister
	o *ours
}

func (l oursNamespaceLister) List(selector labels.Selector) ([]*v1.Service, error) {
	all, err := l.ServiceNamespaceLister.List(selector)
	return l.o.shown(all), err
}

func (l oursNamespaceLister) Get(name string) (*v1.Service, error) {
	svc, err := l.ServiceNamespaceLister.Get(name)
	if err != nil {
		return nil, err
	}
	r := l.o.role(svc)
	if r == hidden {
		return nil, apierrors.NewNotFound(v1.Resource("services"), name)
	}
	return show(svc, r), nil
}

// lookAgain reports whether an edit that the service controller does not look
// at may change what a Service gets: its labels, for a pool's serviceSelector;
// its pod selector, for sharing; its policy on families. Somebody may also have
// removed our condition.
func lookAgain(old, cur *v1.Service) bool {
	_, had := findCondition(old)
	_, has := findCondition(cur)
	return had && !has || !maps.Equal(old.Labels, cur.Labels) || !maps.Equal(old.Spec.Selector, cur.Spec.Selector) ||
		!equalPtr(old.Spec.IPFamilyPolicy, cur.Spec.IPFamilyPolicy) || !slices.Equal(old.Spec.IPFamilies, cur.Spec.IPFamilies)
}

func equalPtr[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}
