package provider

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"
)

// failing refuses the first requests of one kind with the errors given.
type failing struct {
	verb, resource string

	mu   sync.Mutex
	with []error
}

func (f *failing) before(_ string, a clienttesting.Action) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a.GetVerb() != f.verb || a.GetResource().Resource != f.resource || len(f.with) == 0 {
		return nil
	}
	err := f.with[0]
	f.with = f.with[1:]
	return err
}

// The service controller's own retry begins at five seconds. Time is
// synctest's.
func TestABlipOfTheAPIServerCostsMilliseconds(t *testing.T) {
	for _, err := range []error{
		apierrors.NewTooManyRequests("busy", 0), apierrors.NewServiceUnavailable("restarting"),
		apierrors.NewInternalError(errors.New("etcd leader changed")), apierrors.NewTimeoutError("slow", 0),
		apierrors.NewServerTimeout(schema.GroupResource{Resource: "services"}, "patch", 0), context.DeadlineExceeded,
		&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED},
	} {
		t.Run(err.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAPI()
				setPools(a, "default", pool8)
				f := &failing{verb: "patch", resource: "services", with: []error{err, err, err}}
				a.before = f.before
				one := lead(t, a, "one")
				started := time.Now()
				gets(t, a, create(a, "web"), "192.0.2.200")
				if lag := time.Since(started); lag > time.Second {
					t.Errorf("three failures cost %v", lag)
				}
				one.end()
			})
		})
	}
}

func TestARefusalThatStaysIsNotRepeatedAtOnce(t *testing.T) {
	a := newAPI()
	setPools(a, "default", pool8)
	a.before = func(_ string, action clienttesting.Action) error {
		if p, ok := action.(clienttesting.PatchActionImpl); ok && p.Name == "web" {
			return apierrors.NewForbidden(schema.GroupResource{Resource: "services"}, "web", errors.New("no right"))
		}
		return nil
	}
	one := lead(t, a, "one")
	create(a, "web")
	eventually(t, "it says why", func() bool { return len(a.eventsOn("web")) > 0 })
	if events := a.eventsOn("web"); !strings.Contains(events[0], "SyncLoadBalancerFailed") || !strings.Contains(events[0], "no right") {
		t.Errorf("Events %q", events)
	}
	gets(t, a, create(a, "next"), "192.0.2.201") // the others go on
	settled(t, a, one)
	if n := a.refused["one patch services/status"]; n != 1 {
		t.Errorf("%d tries", n)
	}
}

// Between the decision and its write the Service changes: the write is
// refused, nothing of it comes through, and the decision is taken anew.
func TestADecisionOnAnOldServiceIsTakenAnew(t *testing.T) {
	a := newAPI()
	setPools(a, "default", pool8)
	var once sync.Once
	a.before = func(_ string, action clienttesting.Action) error {
		if action.GetVerb() == "patch" && action.GetResource().Resource == "services" {
			once.Do(func() {
				a.edit("shop/web", annotate("clarion.dev/addresses", "192.0.2.205"))
			})
		}
		return nil
	}
	one := lead(t, a, "one")
	web := create(a, "web")
	gets(t, a, web, "192.0.2.205")
	settled(t, a, one)
	if n := a.refused["one patch services/status"]; n != 1 {
		t.Errorf("%d patches were refused, want 1", n)
	}
	for _, e := range a.past["services"] {
		if svc := e.Object.(*v1.Service); svc.Name == "web" && len(svc.Status.LoadBalancer.Ingress) > 0 && svc.Status.LoadBalancer.Ingress[0].IP != "192.0.2.205" {
			t.Errorf("the old decision came through: %v", svc.Status)
		}
	}
	gets(t, a, create(a, "next"), "192.0.2.200") // what the old decision had taken is free
	if events := a.eventsOn("web"); len(events) > 0 {
		t.Errorf("Events %q", events)
	}
}

func TestAPatchWithoutADecisionIsRefused(t *testing.T) {
	a := newAPI()
	setPools(a, "default", pool8)
	one := lead(t, a, "one")
	web := create(a, "web")
	gets(t, a, web, "192.0.2.200")
	_, err := one.stats.provider.Load().writes.patched("shop/web", []byte(`{"status":{"loadBalancer":null}}`))
	if err == nil || !strings.Contains(err.Error(), "without a decision") || statusOf(a, web) == "" {
		t.Errorf("%v", err)
	}
}
