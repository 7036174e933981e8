package provider

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/clarion-lb/clarion/internal/cluster"
)

func claimed(t *testing.T, a *api, holder string) (*ledger, []Intent) {
	t.Helper()
	l := newLedger(a.client(holder).CoreV1().ConfigMaps("clarion-system"), holder, slog.New(slog.DiscardHandler), newMetrics(prometheus.NewRegistry()))
	intents, err := l.Claim(t.Context(), "clarion-system")
	if err != nil {
		t.Fatal(err)
	}
	return l, intents
}

// running runs the ledger until the test ends and returns how it ended.
func running(t *testing.T, l *ledger) *outcome {
	ctx, cancel := context.WithCancel(context.Background())
	o := begin(func() error { return l.Run(ctx) })
	t.Cleanup(func() { cancel(); _ = o.wait() })
	return o
}

func intent(n int) Intent {
	return Intent{Key: cluster.Key(fmt.Sprintf("shop/s%d", n)), UID: types.UID(fmt.Sprintf("uid-%d", n)),
		Addrs: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), netip.MustParseAddr("2001:db8::1")}}
}

func TestAnIntentStandsInTheLedgerWhenCommitReturns(t *testing.T) {
	a := newAPI()
	l, _ := claimed(t, a, "one")
	running(t, l)
	if err := l.Commit(t.Context(), intent(7)); err != nil {
		t.Fatal(err)
	}
	data := a.configMap(LedgerName).Data
	if data["uid-7"] != "shop/s7 192.0.2.7,2001:db8::1" || data[termKey] != "1 one" {
		t.Errorf("the ledger holds %v", data)
	}
	writes := a.count("update configmaps")
	if err := l.Commit(t.Context(), intent(7)); err != nil {
		t.Fatal(err)
	}
	if a.count("update configmaps") != writes {
		t.Error("what stands there was written again")
	}
}

func TestAllWhoWaitAreOneWrite(t *testing.T) {
	a := newAPI()
	l, _ := claimed(t, a, "one")
	var wg sync.WaitGroup
	for n := range 200 {
		wg.Go(func() {
			if err := l.Commit(context.Background(), intent(n)); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "all wait", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.batch != nil && l.batch.size == 200
	})
	running(t, l)
	wg.Wait()
	if n := a.count("update configmaps"); n != 1 {
		t.Errorf("%d writes for 200 intents, want 1", n)
	}
}

func TestWhatIsSeenLeavesWithoutAWriteOfItsOwn(t *testing.T) {
	a := newAPI()
	l, _ := claimed(t, a, "one")
	running(t, l)
	for n := range 3 {
		if err := l.Commit(t.Context(), intent(n)); err != nil {
			t.Fatal(err)
		}
		l.Seen(intent(n).UID)
	}
	if data := a.configMap(LedgerName).Data; len(data) != 2 || data["uid-2"] == "" {
		t.Errorf("the ledger holds %v", data)
	}
	if n := a.count("update configmaps"); n != 3 {
		t.Errorf("%d writes for 3 intents", n)
	}
	eventually(t, "the last one leaves when nothing else is written", func() bool { return len(a.configMap(LedgerName).Data) == 1 })
}

func TestANewTermDeposesTheOldLeader(t *testing.T) {
	a := newAPI()
	old, _ := claimed(t, a, "old")
	ended := running(t, old)
	if err := old.Commit(t.Context(), intent(1)); err != nil {
		t.Fatal(err)
	}
	young, intents := claimed(t, a, "young")
	if len(intents) != 1 || intents[0].Key != "shop/s1" || len(intents[0].Addrs) != 2 {
		t.Errorf("the new leader reads %v", intents)
	}
	if err := old.Commit(t.Context(), intent(2)); !errors.Is(err, ErrDeposed) {
		t.Errorf("the old leader's commit says %v", err)
	}
	if err := ended.wait(); !errors.Is(err, ErrDeposed) || !strings.Contains(err.Error(), `"2 young"`) {
		t.Errorf("the old leader ended with %v", err)
	}
	running(t, young)
	if err := young.Commit(t.Context(), intent(3)); err != nil {
		t.Error(err)
	}
	if data := a.configMap(LedgerName).Data; data["uid-1"] == "" || data["uid-2"] != "" || data["uid-3"] == "" {
		t.Errorf("the ledger holds %v", data)
	}
}

func TestADeletedLedgerEndsTheLeader(t *testing.T) {
	a := newAPI()
	l, _ := claimed(t, a, "one")
	ended := running(t, l)
	a.remove("configmaps", "clarion-system/"+LedgerName)
	if err := l.Commit(t.Context(), intent(1)); !errors.Is(err, ErrDeposed) {
		t.Errorf("commit says %v", err)
	}
	if err := ended.wait(); !errors.Is(err, ErrDeposed) || !strings.Contains(err.Error(), "deleted") {
		t.Errorf("ended with %v", err)
	}
	_, _ = claimed(t, a, "one again")
}

func TestTheLedgerOutlastsBlipsAndForeignEdits(t *testing.T) {
	a := newAPI()
	var mu sync.Mutex
	failures := []error{
		apierrors.NewServiceUnavailable("restarting"), apierrors.NewTooManyRequests("busy", 0),
		apierrors.NewInternalError(errors.New("etcd leader changed")), context.DeadlineExceeded,
	}
	a.before = func(_ string, action clienttesting.Action) error {
		mu.Lock()
		defer mu.Unlock()
		if action.GetVerb() == "update" && len(failures) > 0 {
			err := failures[0]
			failures = failures[1:]
			return err
		}
		return nil
	}
	failures, later := nil, failures
	l, _ := claimed(t, a, "one")
	mu.Lock()
	failures = later
	mu.Unlock()
	running(t, l)
	cm := a.configMap(LedgerName)
	cm.Annotations = map[string]string{"note": "somebody labels everything"}
	a.put("configmaps", cm)
	if err := l.Commit(t.Context(), intent(1)); err != nil {
		t.Fatal(err)
	}
	if got := a.configMap(LedgerName); got.Data["uid-1"] == "" || got.Annotations["note"] == "" {
		t.Errorf("the ledger is %v", got)
	}
}

func TestClaimDropsWhatItCannotRead(t *testing.T) {
	a := newAPI()
	a.put("configmaps", &v1.ConfigMap{ObjectMeta: objectMeta("clarion-system", LedgerName),
		Data: map[string]string{termKey: "what", "uid-1": intent(1).format(), "uid-2": "shop/web", "uid-3": "192.0.2.1"}})
	l, intents := claimed(t, a, "one")
	if len(intents) != 1 || intents[0].UID != "uid-1" || l.term != "1 one" {
		t.Errorf("read %v, term %q", intents, l.term)
	}
}

func FuzzParseIntent(f *testing.F) {
	for _, seed := range []string{"shop/web 192.0.2.1,2001:db8::1", "shop/web ", "a b", "/ 192.0.2.1", "a/b/c 192.0.2.1", "a/b 192.0.2.1%x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		in, err := parseIntent("u", text)
		if err != nil {
			return
		}
		again, err := parseIntent("u", in.format())
		if err != nil || again.format() != in.format() || len(in.Addrs) == 0 {
			t.Fatalf("%q gave %v, and that %v, %v", text, in, again, err)
		}
	})
}
