// Package watch turns the API server's objects into plain cluster values and
// feeds their changes to the parts of an agent. Read watch.go (the flow), then
// convert.go and node.go (object in, value out).
package watch

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// PoolsInForce is the ConfigMap in which the controller publishes the last
// good form of every pool. Agents read it rather than the user's own, so that
// a mistake in an edit reaches nobody.
const PoolsInForce = "clarion-pools-in-force"

// A Config says what to watch.
type Config struct {
	Namespace string // where Clarion runs and its ConfigMaps are
	Class     string // the loadBalancerClass that is ours beside none
	Log       *slog.Logger
	// Stored is the view that was written to disk before this process began;
	// it is served when the API server has not answered after Grace. What it
	// holds and the API server does not is removed once that has answered.
	Stored cluster.View
	Grace  time.Duration
}

// A Watch follows one API server. Make it with New, take the feeds, then Run.
type Watch struct {
	cfg       Config
	services  cache.SharedIndexInformer
	slices    cache.SharedIndexInformer
	nodes     cache.SharedIndexInformer
	pools     cache.SharedIndexInformer
	start     []informers.SharedInformerFactory
	dirty     *dirty
	feeds     []*cluster.Feed
	told      map[string]string // subject → problems already logged
	delivered cluster.View      // owned by Run
}

// byService indexes slices by the Service they belong to.
const byService = "service"

// New returns a Watch over client. It starts nothing.
func New(client kubernetes.Interface, cfg Config) (*Watch, error) {
	trim := informers.WithTransform(withoutManagedFields)
	all := informers.NewSharedInformerFactoryWithOptions(client, 0, trim)
	own := informers.NewSharedInformerFactoryWithOptions(client, 0, trim, informers.WithNamespace(cfg.Namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", PoolsInForce).String()
		}))
	w := &Watch{
		cfg:      cfg,
		services: all.Core().V1().Services().Informer(),
		slices:   all.Discovery().V1().EndpointSlices().Informer(),
		nodes:    all.Core().V1().Nodes().Informer(),
		pools:    own.Core().V1().ConfigMaps().Informer(),
		start:    []informers.SharedInformerFactory{all, own},
		dirty:    newDirty(),
		told:     map[string]string{},
	}
	if err := w.slices.AddIndexers(cache.Indexers{byService: serviceOfSlice}); err != nil {
		return nil, fmt.Errorf("index EndpointSlices by Service: %w", err)
	}
	for informer, mark := range map[cache.SharedIndexInformer]func(any){
		w.services: func(o any) { w.dirty.mark(kindService, keyOf(o)) },
		w.slices:   func(o any) { w.dirty.mark(kindService, ownerOf(o)) },
		w.nodes:    func(o any) { w.dirty.mark(kindNode, keyOf(o)) },
		w.pools:    func(any) { w.dirty.mark(kindPools, PoolsInForce) },
	} {
		if _, err := informer.AddEventHandler(everyEvent(mark)); err != nil {
			return nil, fmt.Errorf("listen to an informer: %w", err)
		}
	}
	return w, nil
}

// Feed returns a new feed that will carry every change. Call it before Run.
func (w *Watch) Feed() *cluster.Feed {
	f := cluster.NewFeed()
	w.feeds = append(w.feeds, f)
	return f
}

func (w *Watch) String() string { return "watch" }

// Run follows the API server until ctx ends. Until everything has been listed
// once it delivers nothing but the stored view, and that only after the grace.
func (w *Watch) Run(ctx context.Context) error {
	for _, f := range w.start {
		f.Start(ctx.Done())
	}
	if !w.sync(ctx) {
		return nil
	}
	everything := w.dirty.take()
	for key := range w.delivered.Services { // from the file: gone unless listed
		everything.services[string(key)] = true
	}
	for name := range w.delivered.Nodes {
		everything.nodes[name] = true
	}
	everything.pools = true
	first := w.build(everything)
	first.Synced = true
	w.cfg.Log.Info("the API server's view is complete", "services", len(first.Services), "nodes", len(first.Nodes))
	w.put(first)
	for {
		select {
		case <-ctx.Done():
			for _, f := range w.start {
				f.Shutdown()
			}
			return nil
		case <-w.dirty.ready:
			w.put(w.build(w.dirty.take()))
		}
	}
}

// sync waits for the first complete view and reports false when ctx ended
// before. After the grace it serves the stored view.
func (w *Watch) sync(ctx context.Context) bool {
	synced := make(chan bool, 1)
	go func() {
		synced <- cache.WaitForCacheSync(ctx.Done(), w.services.HasSynced, w.slices.HasSynced, w.nodes.HasSynced, w.pools.HasSynced)
	}()
	grace := time.NewTimer(w.cfg.Grace)
	defer grace.Stop()
	select {
	case ok := <-synced:
		return ok
	case <-grace.C:
	}
	if len(w.cfg.Stored.Nodes) > 0 {
		w.cfg.Log.Warn("the API server has not answered; serving the view stored on disk, removing nothing until it answers",
			"waited", w.cfg.Grace, "services", len(w.cfg.Stored.Services), "nodes", len(w.cfg.Stored.Nodes))
		w.put(w.cfg.Stored.Delta())
	} else {
		w.cfg.Log.Warn("the API server has not answered and no view is stored on disk; waiting for it", "waited", w.cfg.Grace)
	}
	return <-synced
}

func (w *Watch) put(d cluster.Delta) {
	w.delivered.Apply(d)
	for _, f := range w.feeds {
		f.Put(d)
	}
}

// build makes the values of all that is marked.
func (w *Watch) build(m marks) cluster.Delta {
	d := cluster.Delta{Services: map[cluster.Key]*cluster.Service{}, Nodes: map[string]*cluster.Node{}}
	for key := range m.services {
		d.Services[cluster.Key(key)] = w.service(key)
	}
	for name := range m.nodes {
		d.Nodes[name] = w.node(name)
	}
	if m.pools {
		d.Pools = w.poolsInForce()
	}
	return d
}

func (w *Watch) service(key string) *cluster.Service {
	object, exists := w.get(w.services, key)
	if !exists {
		w.tell("Service "+key, nil)
		return nil
	}
	found, err := w.slices.GetIndexer().ByIndex(byService, key)
	if err != nil {
		panic("the index of slices by Service is missing: " + err.Error()) // New made it
	}
	slices := make([]*discovery.EndpointSlice, 0, len(found))
	for _, s := range found {
		slices = append(slices, s.(*discovery.EndpointSlice))
	}
	s, problems := service(object.(*v1.Service), slices, w.cfg.Class)
	w.tell("Service "+key, problems)
	return s
}

func (w *Watch) node(name string) *cluster.Node {
	object, exists := w.get(w.nodes, name)
	if !exists {
		w.tell("Node "+name, nil)
		return nil
	}
	n, problems := node(object.(*v1.Node))
	w.tell("Node "+name, problems)
	return n
}

// poolsInForce is never nil: no ConfigMap means no pools.
func (w *Watch) poolsInForce() map[string]string {
	pools := map[string]string{}
	if object, exists := w.get(w.pools, w.cfg.Namespace+"/"+PoolsInForce); exists {
		maps.Copy(pools, object.(*v1.ConfigMap).Data)
	}
	return pools
}

func (w *Watch) get(from cache.SharedIndexInformer, key string) (any, bool) {
	object, exists, err := from.GetIndexer().GetByKey(key)
	if err != nil {
		panic(fmt.Sprintf("look up %s in a local index: %v", key, err)) // the thread-safe store never fails
	}
	return object, exists
}

// tell logs the problems of a subject when they are new, once.
func (w *Watch) tell(subject string, problems []string) {
	text := fmt.Sprint(problems)
	if len(problems) == 0 {
		delete(w.told, subject)
		return
	}
	if w.told[subject] == text {
		return
	}
	w.told[subject] = text
	for _, p := range problems {
		w.cfg.Log.Warn("left out what cannot be read", "problem", p)
	}
}

func serviceOfSlice(object any) ([]string, error) {
	if key := ownerOf(object); key != "" {
		return []string{key}, nil
	}
	return nil, nil
}

// ownerOf returns the key of the Service that a slice belongs to, "" if none.
func ownerOf(object any) string {
	m, err := meta.Accessor(object)
	if err != nil {
		return ""
	}
	name := m.GetLabels()[discovery.LabelServiceName]
	if name == "" {
		return ""
	}
	return m.GetNamespace() + "/" + name
}

func keyOf(object any) string {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object)
	if err != nil {
		return ""
	}
	return key
}

// everyEvent calls mark with the object of every event; for an update with
// the old one too, because a label that names an owner may have moved.
func everyEvent(mark func(any)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    mark,
		UpdateFunc: func(before, after any) { mark(before); mark(after) },
		DeleteFunc: func(o any) {
			if unknown, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = unknown.Obj
			}
			mark(o)
		},
	}
}

// withoutManagedFields drops what nobody here reads and what is, for many
// objects, the larger half of their memory.
func withoutManagedFields(o any) (any, error) {
	if m, err := meta.Accessor(o); err == nil {
		m.SetManagedFields(nil)
	}
	return o, nil
}
