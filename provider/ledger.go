package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// LedgerName is the ConfigMap in the controller's namespace that fences what
// is being given (DESIGN A3). Every allocation is written there, compared and
// swapped by resourceVersion, before it is written to a Service. A new leader
// writes its term first; from then on every write of the old one fails. Losing
// the ConfigMap loses nothing that was given: Service.status is the record.
const LedgerName = "clarion-intents"

// termKey holds the term and its holder; every other key is the UID of a
// Service. Service UIDs never begin with an underscore.
const termKey = "_term"

// lingering is how long entries that have been seen in the API may stay in
// the ledger when no other write takes them along.
const lingering = 2 * time.Second

// ErrDeposed says that this process is no longer the leader: another one wrote
// its term into the ledger, or the ledger was deleted, after which nothing can
// be promised. The process must stop; its next start adopts anew.
var ErrDeposed = errors.New("this controller is no longer the leader")

// An Intent is an allocation that was decided but has perhaps not reached the
// status of its Service yet.
type Intent struct {
	Key   cluster.Key
	UID   types.UID
	Addrs []netip.Addr
}

// format writes the value that stands in the ledger under the UID:
// "shop/web 192.0.2.200,2001:db8:1::200".
func (in Intent) format() string {
	texts := make([]string, len(in.Addrs))
	for i, a := range in.Addrs {
		texts[i] = a.String()
	}
	return string(in.Key) + " " + strings.Join(texts, ",")
}

// parseIntent is the reverse of format. An intent has at least one address and
// none with a zone.
func parseIntent(uid, text string) (Intent, error) {
	key, list, ok := strings.Cut(text, " ")
	namespace, name, named := strings.Cut(key, "/")
	if !ok || !named || namespace == "" || name == "" || strings.Contains(name, "/") {
		return Intent{}, fmt.Errorf("%q is not «namespace/name address,…»", text)
	}
	in := Intent{Key: cluster.Key(key), UID: types.UID(uid)}
	for t := range strings.SplitSeq(list, ",") {
		a, err := netip.ParseAddr(t)
		if err != nil || a.Zone() != "" {
			return Intent{}, fmt.Errorf("%q: %q is not an IP address", text, t)
		}
		in.Addrs = append(in.Addrs, a)
	}
	return in, nil
}

// A ledger writes intents for one leader. Claim it, then Run it; Commit and
// Seen may be called from any goroutine.
type ledger struct {
	api    corev1.ConfigMapInterface
	holder string
	log    *slog.Logger
	stats  *metrics

	// owned by Claim, then by Run
	object *v1.ConfigMap // as last read or written
	term   string

	mu      sync.Mutex
	entries map[types.UID]entry // what must stand in the ledger after the next write
	stale   bool                // an entry has left since the last write
	batch   *batch              // those who wait for the next write, nil for nobody

	wake chan struct{}
}

// An entry is the value under one UID, and whether it stands in the API.
type entry struct {
	text    string
	written bool
}

// A batch is everybody whom one write serves.
type batch struct {
	size int
	done chan struct{} // closed when err is final
	err  error
}

func newLedger(api corev1.ConfigMapInterface, holder string, log *slog.Logger, stats *metrics) *ledger {
	return &ledger{
		api: api, holder: holder, log: log.With("configmap", LedgerName), stats: stats,
		entries: map[types.UID]entry{}, wake: make(chan struct{}, 1),
	}
}

// Claim writes this leader's term into the ledger, whatever stood there, and
// returns the intents of those before. It returns an error only when ctx ends.
func (l *ledger) Claim(ctx context.Context, namespace string) ([]Intent, error) {
	pause := backoff{}
	for {
		err := try(ctx, func(ctx context.Context) error { return l.claim(ctx, namespace) })
		if err == nil {
			return l.read(), nil
		}
		l.log.Warn("cannot write the term into the ledger yet", "err", err)
		if err := pause.wait(ctx); err != nil {
			return nil, fmt.Errorf("claim the ledger: %w", err)
		}
	}
}

func (l *ledger) claim(ctx context.Context, namespace string) error {
	have, err := l.api.Get(ctx, LedgerName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		l.term = l.nextTerm("")
		fresh := &v1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: LedgerName, Labels: ownLabels()},
			Data:       map[string]string{termKey: l.term},
		}
		l.object, err = l.api.Create(ctx, fresh, metav1.CreateOptions{FieldManager: FieldManager})
		if err != nil {
			return fmt.Errorf("create the ledger: %w", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	l.term = l.nextTerm(have.Data[termKey])
	next := have.DeepCopy()
	if next.Data == nil {
		next.Data = map[string]string{}
	}
	next.Data[termKey] = l.term
	l.object, err = l.api.Update(ctx, next, metav1.UpdateOptions{FieldManager: FieldManager})
	if err != nil {
		return fmt.Errorf("write the term: %w", err)
	}
	return nil
}

// nextTerm counts terms for people; the holder's name, which no two processes
// share, is what tells terms apart even after the ledger was deleted.
func (l *ledger) nextTerm(last string) string {
	number, _, _ := strings.Cut(last, " ")
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		n = 0 // no ledger, or one that somebody wrote into: begin again
	}
	return fmt.Sprintf("%d %s", n+1, l.holder)
}

// read takes over the entries of the claimed ledger. One that cannot be read
// is told and left out: status remains the record.
func (l *ledger) read() []Intent {
	var out []Intent
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, uid := range slices.Sorted(maps.Keys(l.object.Data)) {
		if uid == termKey {
			continue
		}
		in, err := parseIntent(uid, l.object.Data[uid])
		if err != nil {
			l.log.Warn("an entry of the ledger cannot be read and is dropped", "uid", uid, "err", err)
			continue
		}
		l.entries[in.UID] = entry{in.format(), true}
		out = append(out, in)
	}
	return out
}

// Commit returns when the intent stands in the ledger under this leader's
// term, and only then may its addresses be written anywhere else. All intents
// that wait at one moment are one write. ErrDeposed means that the process
// must stop.
func (l *ledger) Commit(ctx context.Context, in Intent) error {
	started := time.Now()
	l.mu.Lock()
	e := entry{text: in.format()}
	if have, ok := l.entries[in.UID]; ok && have.written && have.text == e.text {
		l.mu.Unlock()
		return nil
	}
	l.entries[in.UID] = e
	b := l.join()
	l.mu.Unlock()
	l.kick()
	select {
	case <-ctx.Done():
		return fmt.Errorf("write the intent for %s: %w", in.Key, ctx.Err())
	case <-b.done:
		l.stats.ledgerWait.Observe(time.Since(started).Seconds())
		return b.err
	}
}

// Confirm returns when this leader's term has been seen to stand in the ledger
// after the call began. What was decided before the call, by a leader whose
// term still stood, may be written to the version of the Service that it was
// decided on: a later leader reads that Service after it has written its term,
// and so sees either that write or a version to which the write is refused.
func (l *ledger) Confirm(ctx context.Context) error {
	l.mu.Lock()
	b := l.join()
	l.mu.Unlock()
	l.kick()
	select {
	case <-ctx.Done():
		return fmt.Errorf("confirm the leadership: %w", ctx.Err())
	case <-b.done:
		return b.err
	}
}

// join adds somebody to the batch that is being gathered. The caller holds mu.
func (l *ledger) join() *batch {
	if l.batch == nil {
		l.batch = &batch{done: make(chan struct{})}
	}
	l.batch.size++
	return l.batch
}

// Seen says that the API shows what was intended for this Service, or that
// the Service is gone. The entry leaves with the next write.
func (l *ledger) Seen(uid types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.entries[uid]; !ok {
		return
	}
	delete(l.entries, uid)
	if !l.stale {
		l.stale = true
		l.kick()
	}
}

func (l *ledger) kick() {
	select {
	case l.wake <- struct{}{}:
	default: // a run is already due
	}
}

func (l *ledger) String() string { return "ledger" }

// Run writes batches until ctx ends or the leader is deposed. It is the only
// writer of the ledger in this process.
func (l *ledger) Run(ctx context.Context) error {
	idle := time.NewTimer(lingering)
	idle.Stop()
	for {
		flush := false
		select {
		case <-ctx.Done():
			l.answer(l.take(), ctx.Err())
			return nil
		case <-l.wake:
		case <-idle.C:
			flush = true
		}
		runtime.Gosched() // whoever is about to join may do so; nobody waits for it
		b := l.take()
		if b == nil && !flush {
			idle.Reset(lingering) // only departures: let the next write take them along
			continue
		}
		err := l.write(ctx, b != nil)
		l.answer(b, err)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// take closes the batch that has been gathered and returns it.
func (l *ledger) take() *batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.batch
	l.batch = nil
	return b
}

func (l *ledger) answer(b *batch, err error) {
	if b == nil {
		return
	}
	b.err = err
	close(b.done)
	l.stats.ledgerBatch.Observe(float64(b.size))
}

// write makes the stored ledger equal the entries. It goes on through
// conflicts and an API server that does not answer for as long as the term in
// the ledger is ours: the write names the whole ledger, so doing it twice is
// doing it once. Writing what stands there already costs the API server no
// write, but it compares the version with the store; somebody who waits needs
// that.
func (l *ledger) write(ctx context.Context, awaited bool) error {
	pause := backoff{}
	for {
		l.mu.Lock()
		next := l.object.DeepCopy()
		next.Data = make(map[string]string, len(l.entries)+1)
		for uid, e := range l.entries {
			next.Data[string(uid)] = e.text
		}
		l.stale = false
		l.mu.Unlock()
		next.Data[termKey] = l.term

		if !awaited && maps.Equal(next.Data, l.object.Data) {
			return nil // it came and went before it was written
		}
		started := time.Now()
		var stored *v1.ConfigMap
		err := try(ctx, func(ctx context.Context) (err error) {
			stored, err = l.api.Update(ctx, next, metav1.UpdateOptions{FieldManager: FieldManager})
			return err
		})
		l.stats.ledgerWrite.Observe(time.Since(started).Seconds())
		if err == nil {
			l.object = stored
			l.stands(next.Data)
			return nil
		}
		if deposed := l.reread(ctx, err); deposed != nil {
			return deposed
		}
		if err := pause.wait(ctx); err != nil {
			return fmt.Errorf("write the ledger: %w", err)
		}
	}
}

// stands marks the entries that data, which was written, has.
func (l *ledger) stands(data map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for uid, e := range l.entries {
		if !e.written && data[string(uid)] == e.text {
			l.entries[uid] = entry{e.text, true}
		}
	}
}

// reread looks at what stands in the ledger after a write failed with cause.
// It returns ErrDeposed if that is not our term; any other failure means «try
// again».
func (l *ledger) reread(ctx context.Context, cause error) error {
	var have *v1.ConfigMap
	err := try(ctx, func(ctx context.Context) (err error) {
		have, err = l.api.Get(ctx, LedgerName, metav1.GetOptions{})
		return err
	})
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: ConfigMap %s was deleted; restarting to read everything anew", ErrDeposed, LedgerName)
	case err != nil:
		l.log.Warn("cannot write the ledger yet", "err", cause, "read", err)
		return nil
	case have.Data[termKey] != l.term:
		return fmt.Errorf("%w: the ledger %s holds the term %q, mine is %q", ErrDeposed, LedgerName,
			cmp.Or(have.Data[termKey], "none"), l.term)
	}
	l.object = have
	return nil
}
