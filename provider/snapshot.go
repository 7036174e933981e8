package provider

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/clarion-lb/clarion/allocator"
	"github.com/clarion-lb/clarion/config"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
)

// Objects are what somebody who is not the controller has listed of the API.
// What could not be listed is left empty.
type Objects struct {
	Services   []v1.Service
	Nodes      []v1.Node
	Namespaces []v1.Namespace
	CIDRs      []networking.ServiceCIDR
	Ledger     *v1.ConfigMap // LedgerName
	Pools      config.Config // in force

	Class    string               // beside none; empty for Class
	Reserved []allocator.Reserved // what the controller's flags add to what it knows
}

// A Snapshot is what a leader that began now would know and decide. It gives
// nothing to anybody: tools ask it why a Service has what it has, and what an
// edit would change. What only the leader's memory holds is not in it: which
// addresses rest or are in quarantine.
type Snapshot struct {
	Alloc   *allocator.Allocator
	Answers map[cluster.Key]Answer // of every Service that wants addresses of Clarion

	reserved []allocator.Reserved
}

// An Answer is what a Service asks for, what it has, and why it has not more.
type Answer struct {
	Request allocator.Request
	Shown   []netip.Addr // in its status
	Held    []allocator.Held
	Missing []ipfam.Family
	// Refusals say why something that was asked for is not given.
	Refusals []allocator.Refusal
	// Removed are addresses that its status shows and that it loses, as those
	// that two statuses show.
	Removed []allocator.Removed
	// Malformed is why the request cannot be read; the Service then keeps what
	// it has.
	Malformed error
	// Assigned is the condition that the Service should carry.
	Assigned metav1.Condition
}

// NewSnapshot decides for every Service as a new leader would, the oldest
// first. The objects are not changed. The errors tell what could not be read,
// one sentence each.
func NewSnapshot(o Objects, now time.Time) (*Snapshot, []error) {
	class := cmp.Or(o.Class, Class)
	ranges, problems := reserved(pointers(o.Nodes), pointers(o.CIDRs), o.Reserved)
	s := &Snapshot{Alloc: allocator.New(), Answers: map[cluster.Key]Answer{}, reserved: ranges}
	s.Alloc.SetReserved(ranges)
	s.Alloc.SetPools(PoolsOf(o.Pools))
	intents, wrong := intentsOf(o.Ledger)
	problems = append(problems, wrong...)

	labels := map[string]map[string]string{}
	for _, ns := range o.Namespaces {
		labels[ns.Name] = ns.Labels
	}
	services := pointers(o.Services)
	slices.SortFunc(services, func(a, b *v1.Service) int {
		return cmp.Or(a.CreationTimestamp.Time.Compare(b.CreationTimestamp.Time), cmp.Compare(a.UID, b.UID))
	})
	var moving []mover
	for _, svc := range services {
		if roleOf(svc, class, false) == hidden {
			continue
		}
		r, err := request(svc, labels[svc.Namespace])
		if err != nil {
			r.Addresses = nil
		}
		has := vips(svc)
		if in := intents[svc.UID]; len(in.Addrs) > 0 && wants(svc, class) {
			moving = append(moving, mover{r, has}) // the ledger is newer than the status
			has = in.Addrs
		}
		s.Alloc.Restore(r, has)
	}
	for _, m := range moving {
		s.leave(m)
	}
	for _, svc := range services {
		if !wants(svc, class) {
			continue
		}
		r, err := request(svc, labels[svc.Namespace])
		s.Answers[r.Key] = s.decide(r, vips(svc), err, now)
	}
	return s, problems
}

// A mover is a Service whose status still shows addresses that it gave up.
type mover struct {
	request allocator.Request
	shows   []netip.Addr
}

// leave keeps from everybody what a status still shows, as the controller does
// until the status shows it no more.
func (s *Snapshot) leave(m mover) {
	left := slices.DeleteFunc(slices.Clone(m.shows), func(a netip.Addr) bool { return len(s.Alloc.Owners(a)) > 0 })
	if len(left) > 0 {
		r := m.request
		r.Key, r.Addresses, r.Pool = r.Key+" (moving away)", nil, ""
		s.Alloc.Restore(r, left)
	}
}

func (s *Snapshot) decide(r allocator.Request, shows []netip.Addr, malformedBy error, now time.Time) Answer {
	out := Answer{Request: r, Shown: shows, Malformed: malformedBy}
	var v verdict
	if malformedBy != nil {
		out.Held, _ = s.Alloc.Get(r.Key)
		v = malformed(out.Held, malformedBy)
	} else {
		res, err := s.Alloc.Assign(r, now)
		var refused *allocator.Refused
		if err != nil && !errors.As(err, &refused) {
			panic(fmt.Sprintf("the allocator failed for %v: %v", r, err)) // it promises a Refused or nil
		}
		out.Held, out.Missing, out.Refusals, out.Removed = res.Held, res.Missing, res.Refusals, res.Removed
		v = judge(res, err)
	}
	out.Assigned = metav1.Condition{Type: ConditionAssigned, Status: v.status, Reason: v.reason, Message: v.message}
	return out
}

// Collisions tells where pools overlap with what no Service gets, one sentence
// for each.
func (s *Snapshot) Collisions(pools []config.Pool) []string { return collide(pools, s.reserved) }

// PoolsOf returns what the allocator needs to know of the pools.
func PoolsOf(c config.Config) []allocator.Pool {
	out := make([]allocator.Pool, len(c.Pools))
	for i, p := range c.Pools {
		out[i] = allocator.Pool{
			Name: p.Name, Addresses: p.Addresses,
			AutoAssign: p.AutoAssign, AvoidBuggyIPs: p.AvoidBuggyIPs, Priority: p.Priority,
			Namespaces: p.Namespaces, NamespaceSelector: p.NamespaceSelector, ServiceSelector: p.ServiceSelector,
		}
	}
	return out
}

// intentsOf reads the ledger by the UID of the Services.
func intentsOf(ledger *v1.ConfigMap) (map[types.UID]Intent, []error) {
	out := map[types.UID]Intent{}
	if ledger == nil {
		return out, nil
	}
	var wrong []error
	for uid, text := range ledger.Data {
		if strings.HasPrefix(uid, "_") {
			continue
		}
		in, err := parseIntent(uid, text)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("ConfigMap %s, key %s: %w", LedgerName, uid, err))
			continue
		}
		out[in.UID] = in
	}
	slices.SortFunc(wrong, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return out, wrong
}

func pointers[T any](in []T) []*T {
	out := make([]*T, len(in))
	for i := range in {
		out[i] = &in[i]
	}
	return out
}
