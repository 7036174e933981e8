package provider

import (
	"encoding/json"
	"fmt"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BenchmarkCreate gives addresses to b.N Services that exist already when the
// leader begins to look, and counts how many it served in a second, everything
// included: service controller, allocator, ledger, one patch for each. The API
// in memory has no limits, but it costs about as much as the provider itself,
// on the same cores.
func BenchmarkCreate(b *testing.B) {
	a := newAPI()
	a.cheap = true
	l := lead(b, a, "one")
	a.mu.Lock()
	for i := range b.N {
		a.create("services", &v1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("s%d", i)},
			Spec: v1.ServiceSpec{
				Type:  v1.ServiceTypeLoadBalancer,
				Ports: []v1.ServicePort{{Name: "http", Protocol: v1.ProtocolTCP, Port: 80}},
			},
		})
	}
	a.mu.Unlock()
	eventually(b, "all wait", func() bool { return a.count("patch services") == b.N })
	ledger := a.count("update configmaps")
	b.ResetTimer()
	started, used := time.Now(), cpu(b)
	setPools(a, "default", "10.0.0.0/8")
	eventually(b, "all have an address", func() bool { return a.count("patch services") == 2*b.N })
	b.StopTimer()
	b.ReportMetric(float64(b.N)/time.Since(started).Seconds(), "services/s")
	b.ReportMetric(float64((cpu(b)-used).Microseconds())/float64(b.N), "cpu-µs/service")
	b.ReportMetric(float64(a.count("update configmaps")-ledger)/float64(b.N), "ledger-writes/service")
	l.end()
}

// cpu returns the processor time that this process has used: on a machine that
// does other things too, it says more than the time that passed.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRestart is a new leader over b.N Services that have what they want.
func BenchmarkRestart(b *testing.B) {
	a := newAPI()
	a.cheap = true
	setPools(a, "default", "10.0.0.0/8")
	l := lead(b, a, "one")
	for i := range b.N {
		create(a, fmt.Sprintf("s%d", i))
	}
	eventually(b, "all have an address", func() bool { return a.count("patch services") == b.N })
	l.end()
	b.ResetTimer()
	two := lead(b, a, "two")
	b.StopTimer()
	two.end()
	if n := a.count("two patch services"); n > 0 {
		b.Errorf("%d writes", n)
	}
}

// cheaply applies the patches that the provider makes, and only those, in a
// tenth of the time that the general algorithm needs.
func cheaply(svc *v1.Service, data []byte) (*v1.Service, error) {
	var p struct {
		Metadata struct {
			ResourceVersion string
			Finalizers      []string
		}
		Status v1.ServiceStatus
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, err
	}
	svc.ResourceVersion = p.Metadata.ResourceVersion
	if p.Metadata.Finalizers != nil {
		svc.Finalizers = p.Metadata.Finalizers
	}
	if p.Status.LoadBalancer.Ingress != nil {
		svc.Status.LoadBalancer = p.Status.LoadBalancer
	}
	svc.Status.Conditions = p.Status.Conditions
	return svc, nil
}
