package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/clarion-lb/clarion/allocator"
	"github.com/clarion-lb/clarion/internal/cluster"
)

// FieldManager is the name under which the controller owns what it writes.
const FieldManager = "clarion-controller"

// A clearance is a Service from which all that we put there is to be taken. The
// service controller does that with two patches, finalizer and status; ours
// takes everything with the first, and the second is swallowed.
type clearance struct {
	base *v1.Service // as it was when it was decided; only its metadata and status are used
	sent bool
}

// The kinds of writes, as the metric counts them.
const (
	kindAssign    = "assign"    // finalizer, addresses and condition
	kindTake      = "take"      // the last address goes, as when two carried one
	kindCondition = "condition" // the condition alone
	kindClear     = "clear"     // all of it goes, the Service wants nothing any more
)

// writes makes one patch of each decision: finalizer, addresses and condition
// together, bound to the resourceVersion that was decided on. So a decision
// that is older than the last change of its Service is refused by the API
// server, whoever held it back (a paused leader, a buffer), and never
// overwrites a newer one.
type writes struct {
	ctx    context.Context // ends with the leadership; the service controller's own never does
	api    corev1.ServicesGetter
	events *events
	log    *slog.Logger
	stats  *metrics
	// confirm returns nil once this leader's term has been seen in the ledger.
	confirm func(context.Context) error
	// again has the Service decided anew, once the cache has left base behind.
	again func(base *v1.Service)

	mu      sync.Mutex
	pending map[cluster.Key]*clearance
}

func newWrites(ctx context.Context, api corev1.ServicesGetter, events *events, log *slog.Logger, stats *metrics) *writes {
	return &writes{ctx: ctx, api: api, events: events, log: log, stats: stats, pending: map[cluster.Key]*clearance{}}
}

// clearNext notes that the service controller's next patches of svc take off
// what we put there.
func (w *writes) clearNext(svc *v1.Service) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending[keyOf(svc)] = &clearance{base: svc}
}

// forget drops what was noted for a Service.
func (w *writes) forget(key cluster.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pending, key)
}

// take returns what was noted, and whether its patch has been made. The note
// stays for the second patch, if one will come.
func (w *writes) take(key cluster.Key) (base *v1.Service, sent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.pending[key]
	if c == nil {
		return nil, false
	}
	sent = c.sent
	c.sent = true
	if sent || len(c.base.Status.LoadBalancer.Ingress) == 0 {
		delete(w.pending, key)
	}
	return c.base, sent
}

// patched answers a patch that the service controller makes. It makes none
// when it is to give an address, see EnsureLoadBalancer.
func (w *writes) patched(key cluster.Key, data []byte) (*v1.Service, error) {
	base, sent := w.take(key)
	switch {
	case base == nil:
		return nil, fmt.Errorf("patch of Service %s without a decision behind it: %s", key, data)
	case sent:
		return base, nil
	}
	return w.send(base, clearing(base), kindClear, "")
}

// assign writes what svc has now. Addresses must stand in the ledger already.
func (w *writes) assign(svc *v1.Service, held []allocator.Held, v verdict) error {
	p := patch{}
	p.set("metadata", "finalizers", []string{servicehelper.LoadBalancerCleanupFinalizer}) // merged, so once at most
	p.set("status", "loadBalancer", map[string]any{"ingress": ingress(held)})
	p.set("status", "conditions", []metav1.Condition{v.condition(svc, metav1.Now())})
	kind := kindAssign
	if len(held) == 0 {
		kind = kindTake
	}
	_, err := w.send(svc, p, kind, v.event(svc), v.reason, v.message)
	return err
}

// tell writes the verdict alone, for a Service whose addresses do not change;
// finalizer also adds that, which an adopted Service may lack. It does nothing
// when the Service says so already.
func (w *writes) tell(svc *v1.Service, v verdict, finalizer bool) error {
	if v.said(svc) && !finalizer {
		return nil
	}
	p := patch{}
	p.set("status", "conditions", []metav1.Condition{v.condition(svc, metav1.Now())})
	if finalizer {
		p.set("metadata", "finalizers", []string{servicehelper.LoadBalancerCleanupFinalizer})
	}
	_, err := w.send(svc, p, kindCondition, v.event(svc), v.reason, v.message)
	return err
}

// unmark takes the condition off a Service that is no LoadBalancer any more
// and never had an address.
func (w *writes) unmark(svc *v1.Service) error {
	_, err := w.send(svc, clearing(svc), kindClear, "")
	return err
}

// send makes the patch. A Service that is gone needs none, and one that has
// changed since it was decided on is decided anew: neither is an error.
func (w *writes) send(base *v1.Service, p patch, kind, eventType string, event ...string) (*v1.Service, error) {
	p.set("metadata", "resourceVersion", base.ResourceVersion)
	if kind != kindAssign { // the ledger has confirmed that already
		if err := w.confirm(w.ctx); errors.Is(err, ErrDeposed) || w.ctx.Err() != nil {
			return base, nil // the next leader decides
		} else if err != nil {
			return nil, err
		}
	}
	var out *v1.Service
	err := insist(w.ctx, func(ctx context.Context) (err error) {
		out, err = w.api.Services(base.Namespace).Patch(ctx, base.Name, types.StrategicMergePatchType, p.bytes(),
			metav1.PatchOptions{FieldManager: FieldManager}, "status")
		return err
	})
	switch {
	case apierrors.IsNotFound(err):
		return base, nil
	case apierrors.IsConflict(err):
		w.stats.conflicts.Inc()
		w.log.Debug("the Service changed meanwhile; deciding anew", "service", keyOf(base), "kind", kind)
		w.again(base)
		return base, nil
	case err != nil:
		return nil, fmt.Errorf("write the %s of Service %s: %w", kind, keyOf(base), err)
	}
	w.stats.writes.WithLabelValues(kind).Inc()
	if eventType != "" {
		w.events.say("Service", &base.ObjectMeta, eventType, event[0], event[1])
	}
	return out, nil
}

// A patch is a strategic merge patch of two levels.
type patch map[string]map[string]any

func (p patch) set(section, field string, value any) {
	if p[section] == nil {
		p[section] = map[string]any{}
	}
	p[section][field] = value
}

func (p patch) bytes() []byte {
	b, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("patch %v cannot be encoded: %v", p, err)) // plain values always can
	}
	return b
}

// clearing takes off all that we ever put on svc.
func clearing(svc *v1.Service) patch {
	p := patch{}
	if servicehelper.HasLBFinalizer(svc) {
		p.set("metadata", "$deleteFromPrimitiveList/finalizers", []string{servicehelper.LoadBalancerCleanupFinalizer})
	}
	if len(svc.Status.LoadBalancer.Ingress) > 0 {
		p.set("status", "loadBalancer", map[string]any{"ingress": nil})
	}
	if _, ok := findCondition(svc); ok {
		p.set("status", "conditions", []map[string]string{{"type": ConditionAssigned, "$patch": "delete"}})
	}
	return p
}
