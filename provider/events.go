package provider

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// eventQueue is how many Events may wait to be written. A pool that runs dry
// under thousands of Services makes as many at once; what does not fit is
// counted and left out, because each Service says the same in its condition.
const eventQueue = 4096

// eventPatience is how long one Event is tried. One that the API server will
// not have must not keep the others back.
const eventPatience = 10 * time.Second

// events writes Events in their order, without making anybody wait. The
// recorder of client-go would merge and drop what looks alike, and print what
// it drops; each of ours is a transition and comes once.
type events struct {
	api   corev1.EventsGetter
	from  string // this process, for ReportingInstance
	log   *slog.Logger
	stats *metrics
	queue chan *v1.Event
}

func newEvents(api corev1.EventsGetter, from string, log *slog.Logger, stats *metrics) *events {
	return &events{api: api, from: from, log: log, stats: stats, queue: make(chan *v1.Event, eventQueue)}
}

// say queues an Event about an object of core/v1. eventType is
// v1.EventTypeNormal or v1.EventTypeWarning.
func (e *events) say(kind string, about *metav1.ObjectMeta, eventType, reason, message string) {
	now := metav1.Now()
	event := &v1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: about.Namespace,
			Name:      fmt.Sprintf("%s.%x", about.Name, now.UnixNano()), // as client-go names them
		},
		InvolvedObject: v1.ObjectReference{
			APIVersion: "v1", Kind: kind, Namespace: about.Namespace, Name: about.Name,
			UID: about.UID, ResourceVersion: about.ResourceVersion,
		},
		Type: eventType, Reason: reason, Message: shorten(message, 1024),
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
		Source:              v1.EventSource{Component: FieldManager},
		ReportingController: "clarion.dev/controller", ReportingInstance: e.from,
	}
	select {
	case e.queue <- event:
	default:
		e.stats.eventsDropped.Inc()
	}
}

func (e *events) String() string { return "events" }

// Run writes what is queued until ctx ends.
func (e *events) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-e.queue:
			patience, cancel := context.WithTimeout(ctx, eventPatience)
			err := insist(patience, func(ctx context.Context) error {
				_, err := e.api.Events(event.Namespace).Create(ctx, event, metav1.CreateOptions{FieldManager: FieldManager})
				return err
			})
			cancel()
			if err != nil && ctx.Err() == nil {
				e.stats.eventsDropped.Inc()
				e.log.Warn("an Event could not be written", "about", event.InvolvedObject.Namespace+"/"+event.InvolvedObject.Name,
					"reason", event.Reason, "err", err)
			}
		}
	}
}
