package provider

import (
	"context"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A client is the clientset that the service controller gets. Its patches of
// Services go through writes; its routine Events, two or three for each Service
// at each start, go nowhere.
type client struct {
	kubernetes.Interface
	writes *writes
}

func (c client) CoreV1() corev1.CoreV1Interface { return coreClient{c.Interface.CoreV1(), c.writes} }

type coreClient struct {
	corev1.CoreV1Interface
	writes *writes
}

func (c coreClient) Services(namespace string) corev1.ServiceInterface {
	return serviceClient{c.CoreV1Interface.Services(namespace), c.writes, namespace}
}

func (c coreClient) Events(namespace string) corev1.EventInterface {
	return eventClient{c.CoreV1Interface.Events(namespace)}
}

type serviceClient struct {
	corev1.ServiceInterface
	writes    *writes
	namespace string
}

// Patch is the only way in which the service controller writes Services.
func (c serviceClient) Patch(_ context.Context, name string, _ types.PatchType, data []byte, _ metav1.PatchOptions, _ ...string) (*v1.Service, error) {
	return c.writes.patched(cluster.Key(c.namespace+"/"+name), data)
}

// routine reports whether an Event of the service controller says only that
// it does its job, or something about nodes that is not so for Clarion: a
// Service without nodes has its address none the less.
func routine(reason string) bool {
	return slices.Contains([]string{
		"EnsuringLoadBalancer", "EnsuredLoadBalancer", "UpdatedLoadBalancer",
		"DeletingLoadBalancer", "DeletedLoadBalancer", "UnAvailableLoadBalancer",
	}, reason)
}

// An eventClient drops routine Events. The recorder writes only by the methods
// that take the namespace from the Event.
type eventClient struct{ corev1.EventInterface }

func (c eventClient) CreateWithEventNamespace(e *v1.Event) (*v1.Event, error) {
	if routine(e.Reason) {
		return e, nil
	}
	return c.EventInterface.CreateWithEventNamespaceWithContext(context.Background(), e)
}

func (c eventClient) PatchWithEventNamespace(e *v1.Event, data []byte) (*v1.Event, error) {
	if routine(e.Reason) {
		return e, nil
	}
	return c.EventInterface.PatchWithEventNamespaceWithContext(context.Background(), e, data)
}

func (c eventClient) UpdateWithEventNamespace(e *v1.Event) (*v1.Event, error) {
	if routine(e.Reason) {
		return e, nil
	}
	return c.EventInterface.UpdateWithEventNamespaceWithContext(context.Background(), e)
}

func (c eventClient) CreateWithEventNamespaceWithContext(ctx context.Context, e *v1.Event) (*v1.Event, error) {
	if routine(e.Reason) {
		return e, nil
	}
	return c.EventInterface.CreateWithEventNamespaceWithContext(ctx, e)
}

func (c eventClient) PatchWithEventNamespaceWithContext(ctx context.Context, e *v1.Event, data []byte) (*v1.Event, error) {
	if routine(e.Reason) {
		return e, nil
	}
	return c.EventInterface.PatchWithEventNamespaceWithContext(ctx, e, data)
}

func (c eventClient) UpdateWithEventNamespaceWithContext(ctx context.Context, e *v1.Event) (*v1.Event, error) {
	if routine(e.Reason) {
		return e, nil
	}
	return c.EventInterface.UpdateWithEventNamespaceWithContext(ctx, e)
}
