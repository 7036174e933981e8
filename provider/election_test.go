package provider

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	clienttesting "k8s.io/client-go/testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// replica runs a whole Controller, election and all.
func replica(t *testing.T, a *api, name string) (*Controller, *outcome, context.CancelFunc) {
	t.Helper()
	c := New(a.client(name), Config{
		Namespace: "clarion-system", Class: Class, Identity: name, Lease: "clarion-controller", Workers: 4, Log: slog.New(slog.DiscardHandler),
	}, prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(context.Background())
	o := begin(func() error { return c.Run(ctx) })
	t.Cleanup(func() { cancel(); _ = o.wait() })
	return c, o, cancel
}

func leads(c *Controller) bool { return testutil.ToFloat64(c.stats.leader) == 1 }

func TestTheLeaseGoesOverAtOnceWhenTheLeaderEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		setPools(a, "default", pool8)
		one, oneEnds, stopOne := replica(t, a, "one")
		eventually(t, "one leads", func() bool { return leads(one) })
		two, twoEnds, stopTwo := replica(t, a, "two")
		gets(t, a, create(a, "web"), "192.0.2.200")
		if leads(two) || two.Ready() != nil || two.Healthy() != nil {
			t.Errorf("two: leads %v, ready %v, healthy %v", leads(two), two.Ready(), two.Healthy())
		}
		stopOne()
		if err := oneEnds.wait(); err != nil {
			t.Errorf("one ended with %v", err)
		}
		started := time.Now()
		gets(t, a, create(a, "next"), "192.0.2.201")
		if lag := time.Since(started); lag > 2*retryPeriod {
			t.Errorf("the next leader came after %v", lag)
		}
		stopTwo()
		if err := twoEnds.wait(); err != nil {
			t.Errorf("two ended with %v", err)
		}
	})
}

func TestAReplicaThatWaitsEndsWhenAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		one, _, stopOne := replica(t, a, "one")
		eventually(t, "one leads", func() bool { return leads(one) })
		_, twoEnds, stopTwo := replica(t, a, "two")
		time.Sleep(10 * time.Second)
		stopTwo()
		if err := twoEnds.wait(); err != nil {
			t.Errorf("two ended with %v", err)
		}
		stopOne()
	})
}

func TestALeaderThatCannotRenewGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		setPools(a, "default", pool8)
		var cut atomic.Bool
		a.before = func(client string, action clienttesting.Action) error {
			if cut.Load() && client == "one" {
				return apierrors.NewServiceUnavailable("the cable is out")
			}
			return nil
		}
		one, oneEnds, _ := replica(t, a, "one")
		eventually(t, "one leads", func() bool { return leads(one) })
		two, twoEnds, stopTwo := replica(t, a, "two")
		time.Sleep(3 * time.Second)

		started := time.Now()
		cut.Store(true)
		if err := oneEnds.wait(); !errors.Is(err, ErrDeposed) || !strings.Contains(err.Error(), "lease") {
			t.Errorf("one ended with %v", err)
		}
		gets(t, a, create(a, "web"), "192.0.2.200")
		if lag := time.Since(started); lag > leaseDuration+2*retryPeriod+time.Second {
			t.Errorf("the next leader came after %v", lag)
		}
		if !leads(two) {
			t.Error("two does not say that it leads")
		}
		stopTwo()
		_ = twoEnds.wait()
	})
}
