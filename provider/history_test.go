package provider

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	clienttesting "k8s.io/client-go/testing"

	"github.com/clarion-lb/clarion/internal/ipfam"
)

// A history is a random life of one cluster: users create, edit and delete,
// pools change, the API server fails now and then, leaders are stopped in the
// middle of anything, replaced, woken up, killed. The API in memory checks A1
// and A2 at every single write.
type history struct {
	t       *testing.T
	a       *api
	rng     *rand.Rand
	leaders []*leader
	names   int

	mu      sync.Mutex
	stopped map[string]chan struct{} // of clients that are stopped now
	errors  *rand.Rand
}

// TestHistories runs 10 histories, or as many as CLARION_HISTORIES says;
// CLARION_HISTORY runs the one with that seed.
func TestHistories(t *testing.T) {
	n, first := 10, uint64(1)
	if text := os.Getenv("CLARION_HISTORIES"); text != "" {
		v, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		n = v
	}
	if text := os.Getenv("CLARION_HISTORY"); text != "" {
		v, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		n, first = 1, v
	}
	for seed := first; seed < first+uint64(n); seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			h := &history{t: t, a: newAPI(), rng: rand.New(rand.NewPCG(seed, 1)), errors: rand.New(rand.NewPCG(seed, 2)), stopped: map[string]chan struct{}{}}
			h.a.before = h.before
			h.run(60)
		})
	}
}

// before stops clients and lets one request in thirty fail.
func (h *history) before(client string, action clienttesting.Action) error {
	h.mu.Lock()
	stop := h.stopped[client]
	fail := h.errors.IntN(30) == 0
	h.mu.Unlock()
	if stop != nil {
		<-stop
	}
	if fail && (action.GetVerb() == "patch" || action.GetVerb() == "update") {
		return apierrors.NewServiceUnavailable("a blip")
	}
	return nil
}

func (h *history) run(steps int) {
	h.pools()
	h.lead()
	for range steps {
		h.step()
		if h.rng.IntN(3) > 0 {
			<-time.After(time.Duration(h.rng.IntN(4000)) * time.Microsecond)
		}
		if h.t.Failed() {
			return
		}
	}
	h.wakeAll()
	last := h.lead()
	for _, l := range h.leaders[:len(h.leaders)-1] {
		l.end()
		if err := l.ended.wait(); err != nil && !errors.Is(err, ErrDeposed) {
			h.t.Errorf("%s ended with %v", l.Identity(), err)
		}
	}
	h.calm(last)
	h.check(last)
}

// step does one thing at random.
func (h *history) step() {
	switch n := h.rng.IntN(100); {
	case n < 35:
		h.create()
	case n < 50:
		h.onOne(func(key string) { h.a.remove("services", key) })
	case n < 75:
		h.onOne(h.edit)
	case n < 82:
		h.pools()
	case n < 88:
		h.lead()
	case n < 93:
		h.stop()
	case n < 97:
		h.wakeAll()
	default:
		if len(h.leaders) > 1 {
			h.wakeAll()
			h.leaders[h.rng.IntN(len(h.leaders))].end()
		}
	}
}

// lead makes a new leader beside those who believe that they lead.
func (h *history) lead() *leader {
	l := lead(h.t, h.a, fmt.Sprintf("leader-%d", len(h.leaders)))
	h.leaders = append(h.leaders, l)
	return l
}

// stop stops a leader in front of its next request.
func (h *history) stop() {
	l := h.leaders[h.rng.IntN(len(h.leaders))]
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped[l.Identity()] == nil {
		h.stopped[l.Identity()] = make(chan struct{})
	}
}

func (h *history) wakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for client, c := range h.stopped {
		close(c)
		delete(h.stopped, client)
	}
}

func (h *history) pools() {
	forms := [][]string{
		{"default", "192.0.2.200-192.0.2.205, 2001:db8:1::1-2001:db8:1::5"},
		{"default", "192.0.2.200-192.0.2.203", "public", "198.51.100.0/30, 2001:db8:1::1-2001:db8:1::3"},
		{"public", "addresses: [198.51.100.0/29]\nautoAssign: false\n", "default", "192.0.2.202-192.0.2.208"},
		{"default", "192.0.2.2oo", "public", "198.51.100.0/30"},
		{"default", "addresses: [192.0.2.200-192.0.2.210]\npriority: 3\n", "_settings", "restTime: 5ms\n"},
	}
	setPools(h.a, forms[h.rng.IntN(len(forms))]...)
}

func (h *history) create() {
	h.names++
	name := fmt.Sprintf("s%d", h.names)
	if h.rng.IntN(4) == 0 {
		name = fmt.Sprintf("s%d", 1+h.rng.IntN(h.names)) // one that may have lived before
	}
	if h.a.service("shop/"+name) != nil {
		return
	}
	var options []option
	for range h.rng.IntN(3) {
		options = append(options, h.wish())
	}
	create(h.a, name, append(options, withPort(int32(80+h.rng.IntN(3))))...)
}

func (h *history) edit(key string) {
	if h.a.service(key).DeletionTimestamp != nil {
		return
	}
	switch h.rng.IntN(5) {
	case 0:
		h.a.edit(key, func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeClusterIP })
	case 1:
		h.a.edit(key, func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeLoadBalancer })
	case 2:
		h.a.setStatus(key, func(svc *v1.Service) { svc.Labels = map[string]string{"touched": fmt.Sprint(h.rng.IntN(9))} })
	default:
		h.a.edit(key, h.wish())
	}
}

func (h *history) wish() option {
	switch h.rng.IntN(9) {
	case 0:
		return dualStack(v1.IPFamilyPolicyPreferDualStack)
	case 1:
		return dualStack(v1.IPFamilyPolicyRequireDualStack)
	case 2:
		return func(svc *v1.Service) {
			single := v1.IPFamilyPolicySingleStack
			svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies = &single, []v1.IPFamily{v1.IPv4Protocol}
		}
	case 3, 4:
		return annotate("clarion.dev/addresses", fmt.Sprintf("192.0.2.%d", 200+h.rng.IntN(8)))
	case 5:
		return annotate("clarion.dev/share", string(rune('a'+h.rng.IntN(2))))
	case 6:
		return annotate("clarion.dev/pool", []string{"default", "public"}[h.rng.IntN(2)])
	case 7:
		return annotate("clarion.dev/addresses", "not an address")
	}
	return func(svc *v1.Service) { svc.Annotations = nil }
}

func (h *history) onOne(do func(key string)) {
	h.a.mu.Lock()
	var keys []string
	for key := range h.a.objects["services"] {
		keys = append(keys, key)
	}
	h.a.mu.Unlock()
	if len(keys) == 0 {
		return
	}
	slices.Sort(keys)
	do(keys[h.rng.IntN(len(keys))])
}

// calm waits until nothing is written any more.
func (h *history) calm(l *leader) {
	settled(h.t, h.a, l)
	quiet := 0
	last := int64(-1)
	eventually(h.t, "calm", func() bool {
		h.a.mu.Lock()
		now := h.a.version
		h.a.mu.Unlock()
		if now != last {
			last, quiet = now, 0
			return false
		}
		quiet++
		return quiet > 100
	})
}

// check compares what the statuses show with what the last leader believes.
func (h *history) check(l *leader) {
	noDoubles(h.t, h.a)
	p := l.stats.provider.Load()
	if p == nil {
		h.t.Fatalf("the last leader does not lead: %v", l.ended.wait())
	}
	free := map[ipfam.Family]bool{}
	for _, u := range p.alloc.Usage(time.Now()) {
		if u.Pool == "default" && u.Free.Sign() > 0 {
			free[u.Family] = true
		}
	}
	held := p.alloc.Holdings()
	for key := range held {
		if strings.Contains(string(key), "moving") {
			h.t.Errorf("an address is still held back: %v", held[key])
		}
	}
	all, err := l.services.Lister().List(labels.Everything())
	if err != nil {
		h.t.Fatal(err)
	}
	for _, svc := range all {
		key := keyOf(svc)
		stored := h.a.service(string(key))
		if stored == nil || stored.ResourceVersion != svc.ResourceVersion {
			h.t.Errorf("the cache shows an old %s", key)
			continue
		}
		shows := vips(stored)
		if !wants(stored, Class) {
			if len(held[key]) > 0 || len(shows) > 0 || stored.DeletionTimestamp != nil {
				h.t.Errorf("%s wants nothing, holds %v and shows %v", key, held[key], shows)
			}
			continue
		}
		if !shown(held[key], shows) {
			h.t.Errorf("%s holds %v and shows %v", key, held[key], shows)
		}
		c, ok := findCondition(stored)
		if !ok || (c.Status == "True") != (len(shows) > 0) {
			h.t.Errorf("%s shows %v and says %+v", key, shows, c)
		}
		if len(shows) > 0 && !hasFinalizer(h.a, string(key)) {
			h.t.Errorf("%s has %v and no finalizer", key, shows)
		}
		plain := len(stored.Annotations) == 0 && len(stored.Spec.IPFamilies) == 1
		if plain && len(shows) == 0 && free[ipfam.V4] {
			h.t.Errorf("%s waits though there is a free address: %+v", key, c)
		}
	}
	owners := map[netip.Addr]int{}
	for _, hs := range held {
		for _, x := range hs {
			owners[x.Addr]++
			if owners[x.Addr] > 1 && len(x.With) == 0 {
				h.t.Errorf("%s is held twice", x.Addr)
			}
		}
	}
}
