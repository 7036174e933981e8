package tell

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/clarion-lb/clarion/internal/cluster"
)

func objects() []runtime.Object {
	return []runtime.Object{
		&v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a", UID: "1"}},
		&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}},
	}
}

func statement() Statement {
	return Statement{UID: "1", Announced: true, Reason: "Announced", Message: "node1 announces 192.0.2.200 and 2001:db8:1::200", Since: time.Unix(1000, 0)}
}

// writes returns the verbs with which client was changed, in order.
func writes(client *fake.Clientset) (out []string) {
	for _, a := range client.Actions() {
		if v := a.GetVerb(); v != "get" && v != "list" && v != "watch" {
			out = append(out, v+" "+a.GetResource().Resource)
		}
	}
	return out
}

func TestAStatementBecomesAConditionAndOneEvent(t *testing.T) {
	client := fake.NewClientset(objects()...)
	teller := New(client, "node1", slog.New(slog.DiscardHandler))
	for range 3 { // saying it again writes nothing
		teller.Say("shop/a", statement())
		if err := teller.flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	svc, err := client.CoreV1().Services("shop").Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil || len(svc.Status.Conditions) != 1 {
		t.Fatal(svc.Status, err)
	}
	c := svc.Status.Conditions[0]
	if c.Type != cluster.ConditionAnnounced || c.Status != "True" || c.Message != statement().Message || c.LastTransitionTime.Unix() != 1000 {
		t.Errorf("condition %+v", c)
	}
	if got := strings.Join(writes(client), ", "); got != "patch services, create events" {
		t.Errorf("writes: %s", got)
	}
}

func TestNothingIsSaidOfAnotherServiceWithTheName(t *testing.T) {
	for name, key := range map[string]cluster.Key{"made anew": "shop/a", "gone": "shop/none"} {
		client := fake.NewClientset(objects()...)
		teller := New(client, "node1", slog.New(slog.DiscardHandler))
		s := statement()
		s.UID = "old"
		teller.Say(key, s)
		if err := teller.flush(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if w := writes(client); w != nil {
			t.Errorf("%s: wrote %v", name, w)
		}
	}
}

func TestAnOutageLosesNothingAndTheLastWordCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(objects()...)
		down := true
		client.PrependReactor("*", "*", func(k8stesting.Action) (bool, runtime.Object, error) {
			if down {
				return true, nil, errors.New("connection refused")
			}
			return false, nil, nil
		})
		teller := New(client, "node1", slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- teller.Run(ctx) }()
		teller.Links([]cluster.Link{{Name: "eth0", MAC: cluster.MAC{2, 0, 0, 0, 0, 1}}})
		teller.Say("shop/a", Statement{UID: "1", Reason: "NoCandidate", Message: "nobody"})
		synctest.Wait()
		teller.Say("shop/a", statement())
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		down = false
		time.Sleep(time.Minute)
		synctest.Wait()
		svc, err := client.CoreV1().Services("shop").Get(ctx, "a", metav1.GetOptions{})
		if err != nil || len(svc.Status.Conditions) != 1 || svc.Status.Conditions[0].Status != "True" {
			t.Errorf("condition %+v, %v", svc.Status, err)
		}
		node, err := client.CoreV1().Nodes().Get(ctx, "node1", metav1.GetOptions{})
		if err != nil || !strings.Contains(node.Annotations[cluster.AnnotationLinks], `"mac":"02:00:00:00:00:01"`) {
			t.Errorf("annotations %v, %v", node.Annotations, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
