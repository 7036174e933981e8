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

	"github.com/clarion-lb/clarion/internal/cluster"
)

// FieldManager is the name under which the controller owns what it writes.
const FieldManager = "clarion-controller"

// A decision is what was decided about one Service and has to go out with the
// service controller's next patch of it.
type decision struct {
	base    *v1.Service // as it was when it was decided; only its metadata and status are used
	verdict verdict     // the condition to set, unless clear
	// committed says that the addresses stand in the ledger; a decision that
	// takes the last address away has none there.
	committed bool
	clear     bool // takes finalizer, addresses and condition off
	sent      bool // clear only: all has gone out already, the rest is to be swallowed
}

// The kinds of writes, as the metric counts them.
const (
	kindAssign    = "assign"    // finalizer, addresses and condition
	kindTake      = "take"      // the last address goes, as when two carried one
	kindCondition = "condition" // the condition alone
	kindClear     = "clear"     // all of it goes, the Service wants nothing any more
)

// writes turns the service controller's patches into one patch per decision:
// finalizer, addresses and condition together, bound to the resourceVersion
// that was decided on. So a decision that is older than the last change of
// its Service is refused by the API server, whoever held it back (a paused
// leader, a buffer), and never overwrites a newer one.
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
	pending map[cluster.Key]*decision
}

func newWrites(ctx context.Context, api corev1.ServicesGetter, events *events, log *slog.Logger, stats *metrics) *writes {
	return &writes{ctx: ctx, api: api, events: events, log: log, stats: stats, pending: map[cluster.Key]*decision{}}
}

// decide notes d for the service controller's next patch of its Service.
func (w *writes) decide(d *decision) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending[keyOf(d.base)] = d
}

// forget drops what was noted for a Service that is gone.
func (w *writes) forget(key cluster.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pending, key)
}

// take returns the decision behind a patch. The decision to clear stays for
// the second patch, if one will come: the service controller takes finalizer
// and status off one after the other.
func (w *writes) take(key cluster.Key) *decision {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.pending[key]
	if d != nil && !(d.clear && !d.sent && len(d.base.Status.LoadBalancer.Ingress) > 0) {
		delete(w.pending, key)
	}
	return d
}

// patched answers a patch that the service controller makes.
func (w *writes) patched(key cluster.Key, data []byte) (*v1.Service, error) {
	d := w.take(key)
	if d == nil {
		return nil, fmt.Errorf("patch of Service %s without a decision behind it: %s", key, data)
	}
	if d.sent {
		return d.base, nil
	}
	var theirs struct {
		Status struct {
			LoadBalancer json.RawMessage `json:"loadBalancer"`
		} `json:"status"`
	}
	if err := json.Unmarshal(data, &theirs); err != nil {
		return nil, fmt.Errorf("patch of Service %s: %w", key, err)
	}
	if d.clear {
		d.sent = true
		return w.send(d.base, clearing(d.base), kindClear, "")
	}
	c := d.verdict.condition(d.base, metav1.Now())
	p := patch{}
	p.set("status", "loadBalancer", theirs.Status.LoadBalancer)
	p.set("status", "conditions", []metav1.Condition{c})
	p.set("metadata", "finalizers", []string{servicehelper.LoadBalancerCleanupFinalizer}) // merged, so once at most
	kind := kindAssign
	if !d.committed {
		kind = kindTake
	}
	return w.send(d.base, p, kind, d.verdict.event(d.base), d.verdict.reason, d.verdict.message)
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
	if kind != kindAssign { // that is in the ledger already
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
