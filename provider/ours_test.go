package provider

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	servicehelper "k8s.io/cloud-provider/service/helpers"
)

func TestRoleOf(t *testing.T) {
	const lb, other = v1.ServiceTypeLoadBalancer, v1.ServiceTypeClusterIP
	foreign, own := "other.example/lb", Class
	tests := []struct {
		name                               string
		typ                                v1.ServiceType
		class                              *string
		deleting, finalizer, marked, known bool
		want                               role
	}{
		{name: "new, without class", typ: lb, want: served},
		{name: "new, of our class", typ: lb, class: &own, want: served},
		{name: "new, of another class", typ: lb, class: &foreign, want: hidden},
		{name: "no LoadBalancer", typ: other, want: hidden},
		{name: "ours is deleted", typ: lb, class: &own, deleting: true, finalizer: true, marked: true, want: cleaned},
		{name: "ours is deleted and its condition was taken off", typ: lb, deleting: true, finalizer: true, known: true, want: cleaned},
		{name: "ours waited in vain and is deleted, held by somebody else's finalizer", typ: lb, deleting: true, marked: true, want: hidden},
		{name: "a foreign one is deleted", typ: lb, class: &foreign, deleting: true, finalizer: true, want: hidden},
		{name: "a foreign one is deleted that was ours once", typ: lb, class: &foreign, deleting: true, finalizer: true, marked: true, known: true, want: hidden},
		{name: "one without class is deleted that somebody else served", typ: lb, deleting: true, finalizer: true, want: hidden},
		{name: "a former foreign one, its class cleared by the API server", typ: other, finalizer: true, want: hidden},
		{name: "a former foreign one is deleted", typ: other, deleting: true, finalizer: true, want: hidden},
		{name: "ours turned away", typ: other, finalizer: true, marked: true, want: cleaned},
		{name: "ours waited in vain and turned away", typ: other, marked: true, want: cleaned},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			svc := &v1.Service{Spec: v1.ServiceSpec{Type: tt.typ, LoadBalancerClass: tt.class}}
			if tt.deleting {
				now := metav1.Now()
				svc.DeletionTimestamp = &now
			}
			if tt.finalizer {
				svc.Finalizers = []string{servicehelper.LoadBalancerCleanupFinalizer}
			}
			if tt.marked {
				svc.Status.Conditions = []metav1.Condition{{Type: ConditionAssigned}}
			}
			if got := roleOf(svc, Class, tt.known); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestShowLeavesTheCacheAlone(t *testing.T) {
	class := Class
	svc := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Finalizers: append(make([]string, 0, 8), "somebody's")},
		Spec:       v1.ServiceSpec{Type: v1.ServiceTypeLoadBalancer, LoadBalancerClass: &class},
	}
	shown := show(svc, served)
	if shown.Spec.LoadBalancerClass != nil || !servicehelper.HasLBFinalizer(shown) {
		t.Errorf("shown: %+v", shown)
	}
	if svc.Spec.LoadBalancerClass == nil || len(svc.Finalizers) != 1 || servicehelper.HasLBFinalizer(&v1.Service{ObjectMeta: metav1.ObjectMeta{Finalizers: svc.Finalizers[:cap(svc.Finalizers)]}}) {
		t.Errorf("the cache's object was changed: %+v", svc)
	}
	if shown := show(svc, cleaned); servicehelper.HasLBFinalizer(shown) {
		t.Error("a Service to clean shows a finalizer that it does not have")
	}
}
