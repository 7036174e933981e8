package allocator

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/iprange"
)

// A harness drives an allocator in a test and says what it expects in one
// line: addresses and reasons, separated by blanks.
type harness struct {
	*testing.T
	a    *Allocator
	now  time.Time
	born int
}

func newHarness(t *testing.T, pools ...Pool) *harness {
	h := &harness{T: t, a: New(), now: time.Unix(1_000_000, 0)}
	h.a.SetPools(pools)
	return h
}

func addrs(words string) []netip.Addr {
	var out []netip.Addr
	for w := range strings.FieldsSeq(words) {
		out = append(out, netip.MustParseAddr(w))
	}
	return out
}

func ranges(words ...string) []iprange.Range {
	var out []iprange.Range
	for _, w := range words {
		r, err := iprange.Parse(w)
		if err != nil {
			panic(err)
		}
		out = append(out, r)
	}
	return out
}

// poolOf returns a pool with the ranges, which gives addresses to everybody.
func poolOf(name string, words ...string) Pool {
	return Pool{Name: name, AutoAssign: true, Addresses: iprange.SetOf(ranges(words...)...)}
}

func with(p Pool, change func(*Pool)) Pool {
	change(&p)
	return p
}

// req returns the request of a dual-stack Service, born after those before it.
func (h *harness) req(key cluster.Key, changes ...func(*Request)) Request {
	h.born++
	ns, _, _ := strings.Cut(string(key), "/")
	r := Request{
		Key: key, UID: fmt.Sprint(key), Created: h.now.Add(time.Duration(h.born) * time.Second), Namespace: ns,
		Families: []ipfam.Family{ipfam.V4, ipfam.V6}, Policy: RequireDualStack, Ports: []Port{{cluster.TCP, 80}}, Selector: "app=web",
	}
	for _, c := range changes {
		c(&r)
	}
	return r
}

func prefer(r *Request)               { r.Policy = PreferDualStack }
func single6(r *Request)              { r.Policy, r.Families = SingleStack, []ipfam.Family{ipfam.V6} }
func single4(r *Request)              { r.Policy, r.Families = SingleStack, []ipfam.Family{ipfam.V4} }
func local(r *Request)                { r.Local = true }
func share(k string) func(*Request)   { return func(r *Request) { r.ShareKey = k } }
func inPool(p string) func(*Request)  { return func(r *Request) { r.Pool = p } }
func ask(words string) func(*Request) { return func(r *Request) { r.Addresses = addrs(words) } }
func selects(s string) func(*Request) { return func(r *Request) { r.Selector = s } }
func labels(k, v string) func(*Request) {
	return func(r *Request) { r.Labels = map[string]string{k: v} }
}
func ports(ports ...Port) func(*Request) { return func(r *Request) { r.Ports = ports } }

// assign assigns and compares: want are the addresses held, then the reasons
// of the error, each once.
func (h *harness) assign(r Request, want string) Result {
	h.Helper()
	res, err := h.a.Assign(r, h.now)
	h.compare(r.Key, res, err, want)
	return res
}

func (h *harness) compare(key cluster.Key, res Result, err error, want string) {
	h.Helper()
	var got []string
	for _, a := range res.Addresses() {
		got = append(got, a.String())
	}
	var refused *Refused
	if errors.As(err, &refused) {
		for _, r := range refused.Refusals {
			if !slices.Contains(got, string(r.Reason)) {
				got = append(got, string(r.Reason))
			}
		}
	}
	if g := strings.Join(got, " "); g != want {
		h.Errorf("%s got %q, want %q (error: %v)", key, g, want, err)
	}
}

// holds compares what the Service holds.
func (h *harness) holds(key cluster.Key, want string) {
	h.Helper()
	held, _ := h.a.Get(key)
	h.compare(key, Result{Held: held}, nil, want)
}

// serves compares who is served now.
func (h *harness) serves(want ...cluster.Key) {
	h.Helper()
	if got := h.a.Serve(h.now); !slices.Equal(got, want) {
		h.Errorf("served %v, want %v", got, want)
	}
}

func (h *harness) release(key cluster.Key) { h.a.Release(key, "", h.now) }

// lead returns a harness for the next leader, which knows what status says.
func (h *harness) lead(pools []Pool, reqs ...Request) *harness {
	next := newHarness(h.T, pools...)
	next.now, next.born = h.now, h.born
	for _, r := range reqs {
		var held []netip.Addr
		was, _ := h.a.Get(r.Key)
		for _, x := range was {
			held = append(held, x.Addr)
		}
		next.a.Restore(r, held)
	}
	return next
}
