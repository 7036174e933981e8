package provider

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	servicehelper "k8s.io/cloud-provider/service/helpers"
)

const pool8 = "192.0.2.200-192.0.2.207, 2001:db8:1::200-2001:db8:1::207"

func TestANewServiceGetsAnAddressInOneWrite(t *testing.T) {
	a := newAPI()
	setPools(a, "default", pool8)
	lead(t, a, "one")
	web := create(a, "web")
	gets(t, a, web, "192.0.2.200")

	svc := a.service(web)
	if mode := svc.Status.LoadBalancer.Ingress[0].IPMode; mode == nil || *mode != v1.LoadBalancerIPModeVIP {
		t.Errorf("ipMode is %v, want VIP", mode)
	}
	if !servicehelper.HasLBFinalizer(svc) {
		t.Error("no finalizer: a deletion could not be followed")
	}
	if got, want := said(a, web), "True Assigned: 192.0.2.200 from pool default"; got != want {
		t.Errorf("condition %q, want %q", got, want)
	}
	if n := a.count("patch services"); n != 1 {
		t.Errorf("%d writes to the Service, want 1", n)
	}
	if events := a.eventsOn("web"); len(events) != 0 {
		t.Errorf("a plain success needs no Event, got %q", events)
	}
}

func TestBothClassesAreServedAndOthersAreNot(t *testing.T) {
	a := newAPI()
	setPools(a, "default", pool8)
	one := lead(t, a, "one")
	foreign := create(a, "foreign", withClass("other.example/lb"))
	none := create(a, "none")
	gets(t, a, none, "192.0.2.200")
	ours := create(a, "ours", withClass(Class))
	gets(t, a, ours, "192.0.2.201")
	if class := a.service(ours).Spec.LoadBalancerClass; class == nil || *class != Class {
		t.Errorf("the class became %v", class)
	}
	settled(t, a, one)
	if svc := a.service(foreign); len(svc.Status.LoadBalancer.Ingress)+len(svc.Status.Conditions)+len(svc.Finalizers) > 0 {
		t.Errorf("a foreign Service was written: %+v", svc)
	}
}

func TestAForeignServiceIsDeletedWithoutAWriteOfOurs(t *testing.T) {
	tests := []struct {
		name   string
		become func(a *api, key string)
	}{
		{"it is deleted", func(a *api, key string) { a.remove("services", key) }},
		{"it stops being a LoadBalancer, so that the API server clears its class", func(a *api, key string) {
			a.edit(key, func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeClusterIP })
		}},
		{"it stops being a LoadBalancer and is deleted", func(a *api, key string) {
			a.edit(key, func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeClusterIP })
			a.remove("services", key)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, when := range []string{"while we lead", "before we lead"} {
				t.Run(when, func(t *testing.T) {
					a := newAPI()
					setPools(a, "default", pool8)
					foreign := create(a, "foreign", withClass("other.example/lb"), func(svc *v1.Service) {
						svc.Finalizers = []string{servicehelper.LoadBalancerCleanupFinalizer}
					})
					a.setStatus(foreign, func(svc *v1.Service) {
						svc.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "192.0.2.200"}}
					})
					var one *leader
					if when == "while we lead" {
						one = lead(t, a, "one")
						settled(t, a, one)
						tt.become(a, foreign)
					} else {
						tt.become(a, foreign)
						one = lead(t, a, "one")
					}
					settled(t, a, one)
					if svc := a.service(foreign); svc == nil || !servicehelper.HasLBFinalizer(svc) {
						t.Errorf("somebody else's Service was cleaned: %+v", svc)
					}
					for _, action := range one.client.(*fake.Clientset).Actions() {
						if p, ok := action.(clienttesting.PatchAction); ok && p.GetName() == "foreign" {
							t.Errorf("somebody else's Service was written: %s", p.GetPatch())
						}
					}
				})
			}
		})
	}
}

func TestDeletingFreesTheAddressOnce(t *testing.T) {
	a := newAPI()
	setPools(a, "default", "192.0.2.200")
	one := lead(t, a, "one")
	web := create(a, "web")
	gets(t, a, web, "192.0.2.200")
	next := create(a, "next")
	says(t, a, next, "False Exhausted")
	later := create(a, "later")
	says(t, a, later, "False Exhausted")
	before := a.count("one patch services")

	a.remove("services", web)
	gets(t, a, next, "192.0.2.200") // the oldest first
	gets(t, a, web, "gone")
	settled(t, a, one)
	if got := statusOf(a, later); got != "" {
		t.Errorf("the address was given a second time: %s", got)
	}
	// One to clear the Service that goes, one to serve the next, one for the marker.
	if n := a.count("one patch services") - before; n != 3 {
		t.Errorf("%d writes, want 3", n)
	}
	noDoubles(t, a)
	if log := one.log.String(); strings.Count(log, "free again") != 1 {
		t.Errorf("freed more than once:\n%s", log)
	}
}

func TestTurningAwayFromLoadBalancerFrees(t *testing.T) {
	a := newAPI()
	setPools(a, "default", "192.0.2.200")
	one := lead(t, a, "one")
	web := create(a, "web", withClass(Class))
	gets(t, a, web, "192.0.2.200")
	next := create(a, "next")
	says(t, a, next, "False Exhausted")

	a.edit(web, func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeClusterIP })
	gets(t, a, next, "192.0.2.200")
	eventually(t, "finalizer and condition leave", func() bool { return !hasFinalizer(a, web) && said(a, web) == "" })

	a.edit(web, func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeLoadBalancer })
	says(t, a, web, "False Exhausted")
	a.edit(web, func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeNodePort })
	eventually(t, "the condition of a Service that waited leaves too", func() bool { return said(a, web) == "" })
	settled(t, a, one)
	noDoubles(t, a)
}

func TestAForeignHandInTheStatusIsUndone(t *testing.T) {
	a := newAPI()
	setPools(a, "default", pool8)
	lead(t, a, "one")
	web := create(a, "web")
	gets(t, a, web, "192.0.2.200")
	a.setStatus(web, func(svc *v1.Service) { svc.Status.LoadBalancer.Ingress = nil })
	gets(t, a, web, "192.0.2.200")
	a.setStatus(web, func(svc *v1.Service) { svc.Status.LoadBalancer.Ingress[0].IP = "192.0.2.99" })
	gets(t, a, web, "192.0.2.200")
	a.setStatus(web, func(svc *v1.Service) { svc.Status.Conditions = nil })
	says(t, a, web, "True Assigned")
}

func TestANodeThatComesOrGoesWritesNoService(t *testing.T) {
	a := newAPI()
	setPools(a, "default", pool8)
	one := lead(t, a, "one")
	gets(t, a, create(a, "web"), "192.0.2.200")
	settled(t, a, one)
	before := a.count("one patch services")
	a.put("nodes", &v1.Node{ObjectMeta: objectMeta("", "n2"), Status: v1.NodeStatus{
		Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "192.0.2.12"}}}})
	a.remove("nodes", "/n1")
	settled(t, a, one)
	if n := a.count("one patch services") - before; n != 1 { // the marker's own
		t.Errorf("%d writes, want 1", n)
	}
	if len(a.eventsOn("web")) > 0 {
		t.Errorf("Events: %q", a.eventsOn("web"))
	}
}
