package provider

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	coordination "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// An api is an API server in memory, as far as the controller can tell: it
// counts versions over all objects, refuses writes that carry another version
// than the stored one, keeps finalizers' promises, applies strategic merge
// patches, and clears class and status when a Service stops being a
// LoadBalancer. Several clients, one per leader, share it.
type api struct {
	mu      sync.Mutex
	version int64
	objects map[string]map[string]object // resource → "namespace/name"
	past    map[string][]watch.Event     // resource → all events, for watches that begin in the past
	watches map[*watcher]bool
	counts  map[string]int // "client verb resource[/subresource]" → accepted requests
	refused map[string]int // the same, refused
	created int64          // orders creation timestamps
	doubles []string       // what the audit of every write found against A1
	moved   []string       // and against A2
	given   map[types.UID]gift
	events  []*v1.Event // Events are only recorded
	cheap   bool        // do without what only a look at the past needs

	// before sees every request of every client ahead of the store, without a
	// lock on it. It may refuse the request, or block for as long as a stopped
	// process would.
	before func(client string, a clienttesting.Action) error
}

type object interface {
	runtime.Object
	metav1.Object
}

func newAPI() *api {
	a := &api{
		version: 1, objects: map[string]map[string]object{}, past: map[string][]watch.Event{}, watches: map[*watcher]bool{},
		counts: map[string]int{}, refused: map[string]int{}, given: map[types.UID]gift{},
	}
	a.put("namespaces", &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	a.put("namespaces", &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "clarion-system"}})
	a.put("nodes", &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1"},
		Spec:       v1.NodeSpec{PodCIDRs: []string{"10.244.0.0/24", "fd44::/64"}},
		Status:     v1.NodeStatus{Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "192.0.2.11"}}},
	})
	a.put("servicecidrs", &networking.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"},
		Spec: networking.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16", "fd96::/112"}}})
	return a
}

// client returns a clientset that works on a; name stands in counts.
func (a *api) client(name string) *fake.Clientset {
	c := fake.NewClientset()
	c.Resources = []*metav1.APIResourceList{{GroupVersion: "networking.k8s.io/v1", APIResources: []metav1.APIResource{{Name: "servicecidrs"}}}}
	c.PrependReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if _, discovery := action.(clienttesting.ActionImpl); discovery {
			return false, nil, nil // answered from Resources
		}
		out, err := a.answer(name, action)
		return true, out, err
	})
	c.PrependWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
		w, err := a.watch(action.(clienttesting.WatchActionImpl))
		return true, w, err
	})
	return c
}

func (a *api) answer(client string, action clienttesting.Action) (runtime.Object, error) {
	name := fmt.Sprintf("%s %s %s", client, action.GetVerb(), action.GetResource().Resource)
	if s := action.GetSubresource(); s != "" {
		name += "/" + s
	}
	if a.before != nil {
		if err := a.before(client, action); err != nil {
			a.mu.Lock()
			a.refused[name]++
			a.mu.Unlock()
			return nil, err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	out, err := a.serve(action)
	if err != nil {
		a.refused[name]++
		return nil, err
	}
	a.counts[name]++
	return out, nil
}

func (a *api) serve(action clienttesting.Action) (runtime.Object, error) {
	resource := action.GetResource().Resource
	gr := action.GetResource().GroupResource()
	switch action := action.(type) {
	case clienttesting.GetActionImpl:
		return a.stored(gr, action.Namespace, action.Name)
	case clienttesting.ListActionImpl:
		return a.list(resource, action.Namespace, action.ListRestrictions.Fields), nil
	case clienttesting.CreateActionImpl:
		obj := action.Object.DeepCopyObject().(object)
		if resource == "events" {
			a.events = append(a.events, obj.(*v1.Event))
			return obj, nil
		}
		if _, ok := a.objects[resource][keyOfObject(obj)]; ok {
			return nil, apierrors.NewAlreadyExists(gr, obj.GetName())
		}
		return a.create(resource, obj).DeepCopyObject(), nil
	case clienttesting.UpdateActionImpl:
		next := action.Object.DeepCopyObject().(object)
		have, err := a.stored(gr, action.Namespace, next.GetName())
		if err != nil {
			return nil, err
		}
		return a.replace(gr, have.(object), next, action.Subresource)
	case clienttesting.PatchActionImpl:
		have, err := a.stored(gr, action.Namespace, action.Name)
		if err != nil {
			return nil, err
		}
		if svc, ok := have.DeepCopyObject().(*v1.Service); ok && a.cheap {
			next, err := cheaply(svc, action.Patch)
			if err != nil {
				return nil, err
			}
			return a.replace(gr, have.(object), next, action.Subresource)
		}
		next, err := patched(have.(object), action.PatchType, action.Patch)
		if err != nil {
			return nil, err
		}
		return a.replace(gr, have.(object), next, action.Subresource)
	case clienttesting.DeleteActionImpl:
		have, err := a.stored(gr, action.Namespace, action.Name)
		if err != nil {
			return nil, err
		}
		next := have.(object)
		now := metav1.Now()
		next.SetDeletionTimestamp(&now)
		return a.commit(resource, next), nil
	}
	return nil, fmt.Errorf("the test API does not know %T", action)
}

func keyOfObject(o metav1.Object) string { return o.GetNamespace() + "/" + o.GetName() }

// stored returns a copy.
func (a *api) stored(gr schema.GroupResource, namespace, name string) (runtime.Object, error) {
	o, ok := a.objects[gr.Resource][namespace+"/"+name]
	if !ok {
		return nil, apierrors.NewNotFound(gr, name)
	}
	return o.DeepCopyObject(), nil
}

func patched(have object, pt types.PatchType, data []byte) (object, error) {
	if pt != types.StrategicMergePatchType {
		return nil, fmt.Errorf("the test API does not know patches of type %s", pt)
	}
	var meta struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(data, &meta); err != nil {
		return nil, err
	}
	before, err := json.Marshal(have)
	if err != nil {
		return nil, err
	}
	after, err := strategicpatch.StrategicMergePatch(before, data, have)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	next := have.DeepCopyObject().(object)
	if svc, ok := next.(*v1.Service); ok {
		*svc = v1.Service{}
	}
	if err := json.Unmarshal(after, next); err != nil {
		return nil, err
	}
	next.SetResourceVersion(meta.Metadata.ResourceVersion) // "" binds to no version
	return next, nil
}

func (a *api) create(resource string, obj object) object {
	a.created++
	obj.SetUID(types.UID(fmt.Sprintf("uid-%d", a.created)))
	if ts := obj.GetCreationTimestamp(); ts.IsZero() {
		obj.SetCreationTimestamp(metav1.Unix(1_800_000_000+a.created, 0))
	}
	if svc, ok := obj.(*v1.Service); ok {
		svc.Status = v1.ServiceStatus{}
		if len(svc.Spec.IPFamilies) == 0 {
			svc.Spec.IPFamilies = []v1.IPFamily{v1.IPv4Protocol}
		}
	}
	return a.commit(resource, obj)
}

func (a *api) replace(gr schema.GroupResource, have, next object, subresource string) (runtime.Object, error) {
	if v := next.GetResourceVersion(); v != "" && v != have.GetResourceVersion() {
		return nil, apierrors.NewConflict(gr, have.GetName(), fmt.Errorf("the object has version %s, not %s", have.GetResourceVersion(), v))
	}
	if next.GetUID() != have.GetUID() {
		return nil, apierrors.NewConflict(gr, have.GetName(), fmt.Errorf("the object has UID %s, not %s", have.GetUID(), next.GetUID()))
	}
	if have.GetDeletionTimestamp() != nil {
		for _, f := range next.GetFinalizers() {
			if !slices.Contains(have.GetFinalizers(), f) {
				return nil, apierrors.NewForbidden(gr, have.GetName(), fmt.Errorf("no new finalizers on an object that is being deleted"))
			}
		}
	}
	if svc, ok := next.(*v1.Service); ok {
		old := have.(*v1.Service)
		if subresource == "status" {
			svc.Spec = old.Spec
		} else {
			svc.Status = old.Status
			if svc.Spec.Type != v1.ServiceTypeLoadBalancer {
				svc.Spec.LoadBalancerClass, svc.Status.LoadBalancer = nil, v1.LoadBalancerStatus{}
				delete(a.given, svc.UID) // its life as a LoadBalancer is over
			}
		}
	}
	out := a.commit(gr.Resource, next)
	if svc, ok := out.(*v1.Service); ok && !a.cheap {
		if subresource == "status" {
			a.auditKeeps(out)
		} else if g, ok := a.given[svc.UID]; ok && wish(svc) != wish(have.(*v1.Service)) {
			g.hopes = true // to have it back as it was may be one wish too many
			a.given[svc.UID] = g
		}
	}
	return out, nil
}

// commit stores obj and tells the watches. It returns a copy.
func (a *api) commit(resource string, obj object) object {
	key := keyOfObject(obj)
	before, had := a.objects[resource][key]
	a.version++
	obj.SetResourceVersion(strconv.FormatInt(a.version, 10))
	if a.objects[resource] == nil {
		a.objects[resource] = map[string]object{}
	}
	e := watch.Event{Type: watch.Added, Object: obj}
	switch {
	case obj.GetDeletionTimestamp() != nil && len(obj.GetFinalizers()) == 0:
		e.Type = watch.Deleted
		delete(a.objects[resource], key)
	case had:
		e.Type = watch.Modified
		a.objects[resource][key] = obj
	default:
		a.objects[resource][key] = obj
	}
	if !a.cheap {
		a.past[resource] = append(a.past[resource], e)
	}
	for w := range a.watches {
		if w.resource == resource {
			w.offer(e)
		}
	}
	if resource == "services" && !a.cheap {
		a.audit(before, obj)
	}
	return obj.DeepCopyObject().(object)
}

// audit looks for an address that this write put on a Service although another
// one carries it and the two may not share it (A1). It runs after every write of
// a Service, so nothing passes between two looks. (A user who forbids two
// Services to share what they have makes no double: the one that lost the
// right has to move.)
func (a *api) audit(old, written object) {
	svc := written.(*v1.Service)
	before, _ := old.(*v1.Service)
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if before != nil && slices.ContainsFunc(before.Status.LoadBalancer.Ingress, func(b v1.LoadBalancerIngress) bool { return b.IP == in.IP }) {
			continue
		}
		for key, o := range a.objects["services"] {
			other := o.(*v1.Service)
			if key == keyOfObject(svc) || !slices.ContainsFunc(other.Status.LoadBalancer.Ingress, func(b v1.LoadBalancerIngress) bool { return b.IP == in.IP }) {
				continue
			}
			share := svc.Annotations["clarion.dev/share"]
			if share == "" || share != other.Annotations["clarion.dev/share"] || samePort(svc, other) {
				a.doubles = append(a.doubles, fmt.Sprintf("version %d: %s is given to %s and is on %s", a.version, in.IP, keyOf(svc), key))
			}
		}
	}
}

// A gift is what a Service was given, what it asked for at that time, and
// whether it was told then that it waits for something else.
type gift struct {
	addresses, wish string
	hopes           bool
}

// wish is all by which a Service can ask for another address, or lose one.
func wish(svc *v1.Service) string {
	return fmt.Sprint(svc.Spec.Type, svc.Spec.IPFamilies, svc.Spec.IPFamilyPolicy != nil && *svc.Spec.IPFamilyPolicy == v1.IPFamilyPolicyRequireDualStack,
		svc.Annotations, svc.Spec.LoadBalancerIP, svc.Spec.Ports, svc.Spec.ExternalTrafficPolicy, svc.Spec.Selector)
}

// auditKeeps looks for an address that was taken from a Service although it
// asks for the same as when it was given (A2). Only writes of status count:
// what a user does to a Service is a wish. A wish that had to wait may be met
// later, but the Service is never left with nothing.
func (a *api) auditKeeps(written object) {
	svc := written.(*v1.Service)
	var has []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		has = append(has, in.IP)
	}
	c, _ := findCondition(svc)
	before, now := a.given[svc.UID], gift{strings.Join(has, " "), wish(svc), c.Reason == ReasonRequestRefused}
	if before.wish == now.wish && !(before.hopes && len(has) > 0) && svc.DeletionTimestamp == nil {
		for _, had := range strings.Fields(before.addresses) {
			if !slices.Contains(has, had) {
				a.moved = append(a.moved, fmt.Sprintf("version %d: %s had %q and has %q", a.version, keyOf(svc), before.addresses, now.addresses))
			}
		}
	}
	a.given[svc.UID] = now
}

func samePort(a, b *v1.Service) bool {
	return slices.ContainsFunc(a.Spec.Ports, func(p v1.ServicePort) bool {
		return slices.ContainsFunc(b.Spec.Ports, func(q v1.ServicePort) bool { return p.Port == q.Port && p.Protocol == q.Protocol })
	})
}

func (a *api) list(resource, namespace string, f fields.Selector) runtime.Object {
	meta := metav1.ListMeta{ResourceVersion: strconv.FormatInt(a.version, 10)}
	pick := func(add func(object)) {
		for _, key := range slices.Sorted(maps.Keys(a.objects[resource])) {
			if o := a.objects[resource][key]; selected(o, namespace, f) {
				add(o.DeepCopyObject().(object))
			}
		}
	}
	switch resource {
	case "services":
		l := &v1.ServiceList{ListMeta: meta}
		pick(func(o object) { l.Items = append(l.Items, *o.(*v1.Service)) })
		return l
	case "nodes":
		l := &v1.NodeList{ListMeta: meta}
		pick(func(o object) { l.Items = append(l.Items, *o.(*v1.Node)) })
		return l
	case "namespaces":
		l := &v1.NamespaceList{ListMeta: meta}
		pick(func(o object) { l.Items = append(l.Items, *o.(*v1.Namespace)) })
		return l
	case "configmaps":
		l := &v1.ConfigMapList{ListMeta: meta}
		pick(func(o object) { l.Items = append(l.Items, *o.(*v1.ConfigMap)) })
		return l
	case "servicecidrs":
		l := &networking.ServiceCIDRList{ListMeta: meta}
		pick(func(o object) { l.Items = append(l.Items, *o.(*networking.ServiceCIDR)) })
		return l
	case "leases":
		l := &coordination.LeaseList{ListMeta: meta}
		pick(func(o object) { l.Items = append(l.Items, *o.(*coordination.Lease)) })
		return l
	}
	panic("the test API does not list " + resource)
}

func selected(o object, namespace string, f fields.Selector) bool {
	return (namespace == "" || o.GetNamespace() == namespace) &&
		(f == nil || f.Matches(fields.Set{"metadata.name": o.GetName(), "metadata.namespace": o.GetNamespace()}))
}

// A watcher delivers events without ever making the store wait.
type watcher struct {
	resource, namespace string
	fields              fields.Selector
	out                 chan watch.Event

	mu      sync.Mutex
	waiting []watch.Event
	more    chan struct{}
	stop    chan struct{}
	stopped sync.Once
	api     *api
}

func (a *api) watch(action clienttesting.WatchActionImpl) (watch.Interface, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := &watcher{
		resource: action.GetResource().Resource, namespace: action.Namespace, fields: action.WatchRestrictions.Fields,
		out: make(chan watch.Event), more: make(chan struct{}, 1), stop: make(chan struct{}), api: a,
	}
	since, err := strconv.ParseInt(action.ListOptions.ResourceVersion, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("a watch from version %q: %w", action.ListOptions.ResourceVersion, err)
	}
	for _, e := range a.past[w.resource] {
		if v, err := strconv.ParseInt(e.Object.(object).GetResourceVersion(), 10, 64); err == nil && v > since {
			w.offer(e)
		}
	}
	a.watches[w] = true
	go w.pump()
	return w, nil
}

func (w *watcher) offer(e watch.Event) {
	if !selected(e.Object.(object), w.namespace, w.fields) {
		return
	}
	w.mu.Lock()
	w.waiting = append(w.waiting, watch.Event{Type: e.Type, Object: e.Object.DeepCopyObject()})
	w.mu.Unlock()
	select {
	case w.more <- struct{}{}:
	default:
	}
}

func (w *watcher) pump() {
	defer close(w.out)
	for {
		select {
		case <-w.stop:
			return
		case <-w.more:
		}
		w.mu.Lock()
		events := w.waiting
		w.waiting = nil
		w.mu.Unlock()
		for _, e := range events {
			select {
			case <-w.stop:
				return
			case w.out <- e:
			}
		}
	}
}

func (w *watcher) ResultChan() <-chan watch.Event { return w.out }

func (w *watcher) Stop() {
	w.stopped.Do(func() {
		close(w.stop)
		w.api.mu.Lock()
		delete(w.api.watches, w)
		w.api.mu.Unlock()
	})
}

// What follows is the hand of a user.

// put stores a new object, or replaces the stored one whatever its version.
func (a *api) put(resource string, obj object) object {
	a.mu.Lock()
	defer a.mu.Unlock()
	have, ok := a.objects[resource][keyOfObject(obj)]
	if !ok {
		return a.create(resource, obj)
	}
	obj.SetUID(have.GetUID())
	obj.SetCreationTimestamp(have.GetCreationTimestamp())
	return a.commit(resource, obj)
}

// edit changes a stored Service as an update by a user would.
func (a *api) edit(key string, change func(*v1.Service)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	have := a.objects["services"][key].DeepCopyObject().(*v1.Service)
	next := have.DeepCopy()
	change(next)
	if _, err := a.replace(schema.GroupResource{Resource: "services"}, have, next, ""); err != nil {
		panic(err)
	}
}

// setStatus changes the status of a stored Service, as another controller
// would.
func (a *api) setStatus(key string, change func(*v1.Service)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := a.objects["services"][key].DeepCopyObject().(*v1.Service)
	change(next)
	a.commit("services", next)
}

// remove deletes an object as a user would.
func (a *api) remove(resource, key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o, ok := a.objects[resource][key]
	if !ok {
		return
	}
	o = o.DeepCopyObject().(object)
	now := metav1.NewTime(time.Unix(1_900_000_000, 0))
	o.SetDeletionTimestamp(&now)
	a.commit(resource, o)
}

// service returns a copy of the stored Service, nil for none.
func (a *api) service(key string) *v1.Service {
	a.mu.Lock()
	defer a.mu.Unlock()
	o, ok := a.objects["services"][key]
	if !ok {
		return nil
	}
	return o.DeepCopyObject().(*v1.Service)
}

func (a *api) configMap(name string) *v1.ConfigMap {
	a.mu.Lock()
	defer a.mu.Unlock()
	o, ok := a.objects["configmaps"]["clarion-system/"+name]
	if !ok {
		return nil
	}
	return o.DeepCopyObject().(*v1.ConfigMap)
}

// count adds up the accepted requests whose name contains all words.
func (a *api) count(words ...string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for name, c := range a.counts {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(name, w) }) {
			n += c
		}
	}
	return n
}

// eventsOn returns "Type Reason: Message" of the Events about one object.
func (a *api) eventsOn(name string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for _, e := range a.events {
		if e.InvolvedObject.Name == name {
			out = append(out, fmt.Sprintf("%s %s: %s", e.Type, e.Reason, e.Message))
		}
	}
	return out
}

// story tells the life of one Service, a line for each version, to whoever
// looks for the reason of a failure.
func (a *api) story(key string) string {
	var b strings.Builder
	for _, e := range a.past["services"] {
		svc := e.Object.(*v1.Service)
		if string(keyOf(svc)) != key {
			continue
		}
		c, _ := findCondition(svc)
		fmt.Fprintf(&b, "%s %s %s %s %v %v %v port %d → %v %s %.160s\n", svc.ResourceVersion, e.Type, svc.UID, svc.Spec.Type, svc.Spec.IPFamilies,
			svc.Annotations, svc.Finalizers, svc.Spec.Ports[0].Port, vips(svc), c.Reason, c.Message)
	}
	return b.String()
}
