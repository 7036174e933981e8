package provider

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/tools/cache"
	servicehelper "k8s.io/cloud-provider/service/helpers"
	"k8s.io/klog/v2"

	"github.com/prometheus/client_golang/prometheus"
)

// A leader is a Controller that leads without having been elected: what the
// lease adds is tested by itself, and two that lead at the same time are the
// point of many tests here.
type leader struct {
	*Controller
	log   *syncBuffer
	end   context.CancelFunc
	ended *outcome
}

// lead starts a leader and returns when it has begun to work.
func lead(t testing.TB, a *api, name string) *leader {
	t.Helper()
	l := prepare(t, a, name)
	l.start(t)
	return l
}

// prepare returns a leader with warm caches that has not begun.
func prepare(t testing.TB, a *api, name string) *leader {
	t.Helper()
	l := &leader{log: &syncBuffer{}}
	l.Controller = New(a.client(name), Config{
		Namespace: "clarion-system", Class: Class, Identity: name, Lease: "clarion-controller", Workers: 24,
		Log: slog.New(slog.NewTextHandler(l.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}, prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(context.Background())
	if err := l.watch(ctx); err != nil {
		t.Fatal(err)
	}
	if !cache.WaitForCacheSync(ctx.Done(), l.synced...) {
		t.Fatal("the caches did not fill")
	}
	var once sync.Once
	l.end = func() {
		once.Do(func() {
			cancel()
			l.shared.Shutdown()
			l.userPools.Shutdown()
			l.forcePools.Shutdown()
		})
	}
	t.Cleanup(l.end)
	return l
}

func (l *leader) start(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l.ended = begin(func() error { return l.lead(ctx) })
	caches, once := l.end, sync.Once{}
	l.end = func() { // the work first, then the caches under it
		once.Do(func() {
			cancel()
			_ = l.ended.wait()
			caches()
		})
	}
	t.Cleanup(l.end)
	eventually(t, l.Identity()+" leads", func() bool {
		return l.stats.provider.Load() != nil || l.ended.over()
	})
}

// An outcome is the result of something that runs on its own.
type outcome struct {
	done chan struct{}
	err  error
}

func begin(run func() error) *outcome {
	o := &outcome{done: make(chan struct{})}
	go func() { defer close(o.done); o.err = run() }()
	return o
}

func (o *outcome) wait() error {
	<-o.done
	return o.err
}

func (o *outcome) over() bool {
	select {
	case <-o.done:
		return true
	default:
		return false
	}
}

func (l *leader) Identity() string { return l.cfg.Identity }

// eventually waits for a condition. The limit is for a hanging test only.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	limit := time.Now().Add(30 * time.Second)
	for !holds() {
		if time.Now().After(limit) {
			t.Fatalf("never happened: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// syncBuffer is a log that a test can read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// setPools writes the user's ConfigMap: name, value, name, value …
func setPools(a *api, pairs ...string) {
	cm := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "clarion-system", Name: PoolsName}, Data: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		cm.Data[pairs[i]] = pairs[i+1]
	}
	a.put("configmaps", cm)
}

// An option changes a Service before it is created.
type option func(*v1.Service)

// create stores a Service of type LoadBalancer in namespace shop.
func create(a *api, name string, options ...option) string {
	svc := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec: v1.ServiceSpec{
			Type:  v1.ServiceTypeLoadBalancer,
			Ports: []v1.ServicePort{{Name: "http", Protocol: v1.ProtocolTCP, Port: 80}},
		},
	}
	for _, o := range options {
		o(svc)
	}
	a.put("services", svc)
	return "shop/" + name
}

func annotate(key, value string) option {
	return func(svc *v1.Service) { metav1.SetMetaDataAnnotation(&svc.ObjectMeta, key, value) }
}

func withClass(class string) option {
	return func(svc *v1.Service) { svc.Spec.LoadBalancerClass = &class }
}

func withPort(port int32) option {
	return func(svc *v1.Service) { svc.Spec.Ports[0].Port = port }
}

func dualStack(policy v1.IPFamilyPolicy) option {
	return func(svc *v1.Service) {
		svc.Spec.IPFamilyPolicy = &policy
		svc.Spec.IPFamilies = []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}
	}
}

// statusOf returns what the Service's status shows, "192.0.2.200 2001:db8::1".
func statusOf(a *api, key string) string {
	svc := a.service(key)
	if svc == nil {
		return "gone"
	}
	var out []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		out = append(out, in.IP)
	}
	return strings.Join(out, " ")
}

// said returns "True Assigned: message" of the Service's condition.
func said(a *api, key string) string {
	svc := a.service(key)
	if svc == nil {
		return "gone"
	}
	c, ok := findCondition(svc)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
}

// gets waits until the status shows exactly these addresses.
func gets(t testing.TB, a *api, key, addresses string) {
	t.Helper()
	last := ""
	limit := time.Now().Add(30 * time.Second)
	for time.Now().Before(limit) {
		if last = statusOf(a, key); last == addresses {
			return
		}
		<-time.After(time.Millisecond)
	}
	t.Fatalf("%s shows %q, want %q; it says %q", key, last, addresses, said(a, key))
}

// says waits until the condition contains all words.
func says(t testing.TB, a *api, key string, words ...string) {
	t.Helper()
	last := ""
	limit := time.Now().Add(30 * time.Second)
	for time.Now().Before(limit) {
		last = said(a, key)
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(last, w) }) {
			return
		}
		<-time.After(time.Millisecond)
	}
	t.Fatalf("%s says %q, want %q", key, last, words)
}

// settled waits until the leader has looked at everything that happened until
// now: a Service that is created last has come through, and the caches show
// the API's newest Service.
func settled(t testing.TB, a *api, l *leader) {
	t.Helper()
	a.mu.Lock()
	a.created++
	name := fmt.Sprintf("marker-%d", a.created)
	a.mu.Unlock()
	key := create(a, name, annotate("clarion.dev/addresses", "no address")) // says so, and takes none away
	says(t, a, key, "Malformed")
	a.remove("services", key)
	eventually(t, "the marker leaves the cache", func() bool {
		_, ok, err := l.services.Informer().GetIndexer().GetByKey(key)
		return err == nil && !ok
	})
}

func noDoubles(t testing.TB, a *api) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range a.doubles {
		t.Error("A1:", d)
		t.Log(a.story(strings.Fields(d)[6]) + "and\n" + a.story(strings.Fields(d)[len(strings.Fields(d))-1]))
	}
	for _, m := range a.moved {
		t.Error("A2:", m)
		t.Log(a.story(strings.Fields(m)[2]))
	}
}

func hasFinalizer(a *api, key string) bool {
	svc := a.service(key)
	return svc != nil && servicehelper.HasLBFinalizer(svc)
}

func objectMeta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

// TestMain silences the Kubernetes libraries, whose every step would be logged.
func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	// The default handlers sleep when errors come fast, by a clock that all
	// tests share, and synctest's have clocks of their own.
	runtime.ErrorHandlers = nil
	os.Exit(m.Run())
}

type metaObject = metav1.ObjectMeta
