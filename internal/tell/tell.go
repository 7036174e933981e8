// Package tell writes what an agent knows into the API server, for people and
// for other agents: the links of its node and, on the Services it serves, the
// condition clarion.dev/Announced with an Event for each transition.
package tell

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1 "k8s.io/client-go/applyconfigurations/core/v1"
	applymeta "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// Manager is the field manager under which every agent writes the condition.
// One name for all agents: the condition belongs to whoever owns the address
// now, and a manager per node would grow managedFields with the cluster.
const Manager = "clarion-speaker"

// A Statement is what the condition of one Service shall say.
type Statement struct {
	UID       string // of the Service meant: one made anew under the same name is another
	Announced bool
	Reason    string // CamelCase, for machines
	Message   string // for people
	Since     time.Time
}

// A Teller carries statements to the API server. Say and Links never block;
// Run does the writing, retries, and keeps only the last word on each subject,
// so that an outage of the API server costs nothing but its own length.
type Teller struct {
	client kubernetes.Interface
	node   string
	log    *slog.Logger
	pause  time.Duration // first pause after a failure; doubles up to a minute

	mu      sync.Mutex
	pending map[cluster.Key]Statement
	links   *string // annotation value to write; nil when it is written

	wake chan struct{}
}

// New returns a Teller for the agent of node.
func New(client kubernetes.Interface, node string, log *slog.Logger) *Teller {
	return &Teller{client: client, node: node, log: log, pause: 250 * time.Millisecond,
		pending: map[cluster.Key]Statement{}, wake: make(chan struct{}, 1)}
}

// Links publishes the links of this node in its annotation.
func (t *Teller) Links(links []cluster.Link) {
	text := cluster.FormatLinks(links)
	t.mu.Lock()
	t.links = &text
	t.mu.Unlock()
	t.kick()
}

// Say publishes a statement about a Service.
func (t *Teller) Say(service cluster.Key, s Statement) {
	t.mu.Lock()
	t.pending[service] = s
	t.mu.Unlock()
	t.kick()
}

func (t *Teller) kick() {
	select {
	case t.wake <- struct{}{}:
	default: // a run is already due
	}
}

func (t *Teller) String() string { return "teller" }

// Run writes until ctx ends.
func (t *Teller) Run(ctx context.Context) error {
	pause := t.pause
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.wake:
		case <-again:
		}
		failed := t.flush(ctx)
		again = nil
		if failed == nil || ctx.Err() != nil {
			pause = t.pause
			continue
		}
		t.log.Warn("the API server did not take what this agent has to tell; trying again", "err", failed, "pause", pause)
		again, pause = time.After(pause), min(2*pause, time.Minute)
	}
}

// flush writes all that is pending and returns the first error. What failed
// is pending again, unless a newer word on it has come meanwhile.
func (t *Teller) flush(ctx context.Context) error {
	t.mu.Lock()
	links, statements := t.links, t.pending
	t.links, t.pending = nil, map[cluster.Key]Statement{}
	t.mu.Unlock()

	var first error
	if links != nil {
		if err := t.writeLinks(ctx, *links); err != nil {
			first = err
			t.mu.Lock()
			if t.links == nil {
				t.links = links
			}
			t.mu.Unlock()
		}
	}
	failed := map[cluster.Key]Statement{}
	for key, s := range statements {
		if err := t.write(ctx, key, s); err != nil {
			failed[key] = s
			if first == nil {
				first = err
			}
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.Copy(failed, t.pending) // newer words win
	t.pending = failed
	return first
}

func (t *Teller) writeLinks(ctx context.Context, text string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{cluster.AnnotationLinks: text}}})
	if err != nil {
		panic(fmt.Sprintf("a string map cannot be encoded: %v", err))
	}
	if _, err := t.client.CoreV1().Nodes().Patch(ctx, t.node, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: Manager}); err != nil {
		return fmt.Errorf("publish the links of node %s in its annotation %s: %w", t.node, cluster.AnnotationLinks, err)
	}
	return nil
}

// write brings the condition to what s says. It writes nothing when it says so
// already, when the Service is gone, or when another one has taken its name.
func (t *Teller) write(ctx context.Context, key cluster.Key, s Statement) error {
	namespace, name, ok := strings.Cut(string(key), "/")
	if !ok {
		panic(fmt.Sprintf("Service key %q has no namespace", key))
	}
	services := t.client.CoreV1().Services(namespace)
	now, err := services.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("read Service %s: %w", key, err)
	case string(now.UID) != s.UID || now.DeletionTimestamp != nil || says(now, s):
		return nil
	}
	condition := applymeta.Condition().
		WithType(cluster.ConditionAnnounced).
		WithStatus(status(s.Announced)).
		WithReason(s.Reason).
		WithMessage(s.Message).
		WithObservedGeneration(now.Generation).
		WithLastTransitionTime(metav1.NewTime(s.Since))
	// The resource version makes the write fail if the Service changed since
	// it was read, so that a late word of an old owner cannot replace the
	// word of the new one that it has not seen.
	apply := corev1.Service(name, namespace).WithUID(now.UID).WithResourceVersion(now.ResourceVersion).
		WithStatus(corev1.ServiceStatus().WithConditions(condition))
	_, err = services.ApplyStatus(ctx, apply, metav1.ApplyOptions{FieldManager: Manager, Force: true})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write condition %s of Service %s: %w", cluster.ConditionAnnounced, key, err)
	}
	return t.event(ctx, now, s)
}

// says reports whether the Service's condition already is what s wants.
func says(svc *v1.Service, s Statement) bool {
	for _, c := range svc.Status.Conditions {
		if c.Type == cluster.ConditionAnnounced {
			return c.Status == status(s.Announced) && c.Reason == s.Reason && c.Message == s.Message
		}
	}
	return false
}

func status(yes bool) metav1.ConditionStatus {
	if yes {
		return metav1.ConditionTrue
	}
	return metav1.ConditionFalse
}

// event records the transition for `kubectl describe`.
func (t *Teller) event(ctx context.Context, svc *v1.Service, s Statement) error {
	kind := v1.EventTypeNormal
	if !s.Announced {
		kind = v1.EventTypeWarning
	}
	at := metav1.NewTime(time.Now())
	_, err := t.client.CoreV1().Events(svc.Namespace).Create(ctx, &v1.Event{
		ObjectMeta:          metav1.ObjectMeta{GenerateName: svc.Name + ".", Namespace: svc.Namespace},
		InvolvedObject:      v1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: svc.Namespace, Name: svc.Name, UID: svc.UID, ResourceVersion: svc.ResourceVersion},
		Reason:              s.Reason,
		Message:             s.Message,
		Type:                kind,
		Source:              v1.EventSource{Component: Manager, Host: t.node},
		ReportingController: "clarion.dev/agent",
		ReportingInstance:   t.node,
		Action:              "Announce",
		FirstTimestamp:      at,
		LastTimestamp:       at,
		EventTime:           metav1.NewMicroTime(at.Time),
		Count:               1,
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) { // a namespace that ends takes no Events
		return fmt.Errorf("record an Event on Service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	return nil
}
