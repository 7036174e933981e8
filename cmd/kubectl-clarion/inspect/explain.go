package inspect

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/clarion-lb/clarion/allocator"
	"github.com/clarion-lb/clarion/config"
	"github.com/clarion-lb/clarion/internal/annotation"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/provider"
)

// An Explanation follows one Service from its request to its packets.
type Explanation struct {
	Service cluster.Key `json:"service"`
	// Works is true when the Service has what it must have and somebody
	// announces it. Verdict says the same as a sentence.
	Works   bool    `json:"works"`
	Verdict string  `json:"verdict"`
	Request Request `json:"request"`

	Pools     []PoolAnswer `json:"pools"` // in the order in which they are tried
	Addresses []Address    `json:"addresses"`
	Assigned  *Condition   `json:"assigned,omitempty"`  // the controller's word
	Announced *Condition   `json:"announced,omitempty"` // the agents' word
	Units     []Unit       `json:"units"`
	Endpoints []Endpoints  `json:"endpoints"` // by node
	Events    []Event      `json:"events"`    // the last first
	Todo      []string     `json:"todo"`      // empty when nothing is to be done
	Gaps      []string     `json:"gaps"`
}

// A Request is what the Service asks for. The By fields name the annotation or
// the field that says it.
type Request struct {
	Ours         bool     `json:"ours"`
	Why          string   `json:"why"` // it is ours, or not
	Families     []string `json:"families"`
	Policy       string   `json:"policy"`
	Ports        []string `json:"ports"`
	Addresses    []string `json:"addresses,omitempty"`
	AddressesBy  string   `json:"addressesBy,omitempty"`
	Pool         string   `json:"pool,omitempty"`
	PoolBy       string   `json:"poolBy,omitempty"`
	Share        string   `json:"share,omitempty"`
	ShareBy      string   `json:"shareBy,omitempty"`
	Local        bool     `json:"local"` // externalTrafficPolicy
	SourceRanges []string `json:"sourceRanges,omitempty"`
	Malformed    string   `json:"malformed,omitempty"`
}

// A PoolAnswer is what one pool has to say to the Service in one family.
type PoolAnswer struct {
	Pool   string   `json:"pool"`
	Family string   `json:"family"`
	Gave   []string `json:"gave,omitempty"`
	Answer string   `json:"answer"` // why, or why not
}

// An Address is one that the Service holds or shows.
type Address struct {
	Address  netip.Addr    `json:"address"`
	Pool     string        `json:"pool,omitempty"` // absent when stranded
	Stranded bool          `json:"stranded,omitempty"`
	Reserved string        `json:"reserved,omitempty"` // what else it is
	With     []cluster.Key `json:"with,omitempty"`
	InStatus bool          `json:"inStatus"`
	Lost     string        `json:"lost,omitempty"` // why the Service must give it up
}

// Endpoints counts what stands behind the Service on one node.
type Endpoints struct {
	Node     string `json:"node"`
	Ready    int    `json:"ready"`
	NotReady int    `json:"notReady"`
}

// An Event is what the API keeps of what happened.
type Event struct {
	At      time.Time `json:"at"`
	Type    string    `json:"type"`
	Reason  string    `json:"reason"`
	From    string    `json:"from"`
	Message string    `json:"message"`
}

// Explain makes the value of what was read for one Service, which must be
// among the Services.
func Explain(c *Cluster, key cluster.Key) Explanation {
	svc := c.service(key)
	if svc == nil {
		panic("explain " + string(key) + " without reading it")
	}
	inForce, _, _ := c.pools()
	snapshot, problems := c.snapshot(inForce)
	answer, ours := snapshot.Answers[key]
	out := Explanation{Service: key, Pools: []PoolAnswer{}, Addresses: []Address{}, Units: []Unit{}, Endpoints: []Endpoints{}, Todo: []string{},
		Request: requestOf(svc, answer, c.class()), Assigned: condition(svc, provider.ConditionAssigned), Announced: condition(svc, announcedType),
		Events: eventsOf(c.Events, svc), Gaps: append([]string{}, c.Gaps...)}
	for _, err := range problems {
		out.Gaps = append(out.Gaps, err.Error())
	}
	out.Endpoints = c.endpoints(key)
	if !ours {
		out.Verdict = "is not Clarion's: " + out.Request.Why
		return out
	}
	if len(inForce.Pools) > 0 {
		out.Pools = poolAnswers(snapshot.Alloc, inForce, answer, c.Now)
	}
	out.Addresses = addressesOf(answer)
	out.Units = c.units(svc, inForce)
	out.Works, out.Verdict, out.Todo = judge(c, svc, out, answer)
	return out
}

func requestOf(svc *v1.Service, a provider.Answer, class string) Request {
	out := Request{Policy: string(v1.IPFamilyPolicySingleStack), Families: []string{}, Ports: []string{},
		Local: svc.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal, SourceRanges: svc.Spec.LoadBalancerSourceRanges}
	out.Ours, out.Why = whose(svc, class)
	for _, f := range svc.Spec.IPFamilies {
		out.Families = append(out.Families, string(f))
	}
	if svc.Spec.IPFamilyPolicy != nil {
		out.Policy = string(*svc.Spec.IPFamilyPolicy)
	}
	for _, p := range svc.Spec.Ports {
		out.Ports = append(out.Ports, fmt.Sprintf("%s/%d", cmp.Or(p.Protocol, v1.ProtocolTCP), p.Port))
	}
	for _, addr := range a.Request.Addresses {
		out.Addresses = append(out.Addresses, addr.String())
	}
	if _, out.AddressesBy = annotation.ForAddresses().Read(svc.Annotations); out.AddressesBy == "" && len(out.Addresses) > 0 {
		out.AddressesBy = "spec.loadBalancerIP"
	}
	out.Pool, out.PoolBy = annotation.ForPool().Read(svc.Annotations)
	out.Share, out.ShareBy = annotation.ForShare().Read(svc.Annotations)
	if a.Malformed != nil {
		out.Malformed = a.Malformed.Error()
	}
	return out
}

// whose says whether Clarion serves svc, and why.
func whose(svc *v1.Service, class string) (ours bool, why string) {
	switch {
	case svc.Spec.Type != v1.ServiceTypeLoadBalancer:
		return false, fmt.Sprintf("its type is %s, and only Services of type LoadBalancer get addresses", svc.Spec.Type)
	case svc.DeletionTimestamp != nil:
		return false, "it is being deleted"
	case svc.Spec.LoadBalancerClass == nil:
		return true, "it has no loadBalancerClass, and Clarion serves those"
	case *svc.Spec.LoadBalancerClass == class:
		return true, fmt.Sprintf("its loadBalancerClass is %s", class)
	}
	return false, fmt.Sprintf("its loadBalancerClass is %s, and Clarion serves %s and none", *svc.Spec.LoadBalancerClass, class)
}

// poolAnswers asks every pool, in the order in which the allocator tries them.
func poolAnswers(alloc *allocator.Allocator, inForce config.Config, a provider.Answer, now time.Time) []PoolAnswer {
	pools := slices.SortedStableFunc(slices.Values(provider.PoolsOf(inForce)), func(a, b allocator.Pool) int { return cmp.Compare(b.Priority, a.Priority) })
	out := []PoolAnswer{}
	for _, p := range pools {
		for _, f := range a.Request.Families {
			out = append(out, poolAnswer(alloc, p, f, a, now))
		}
	}
	return out
}

func poolAnswer(alloc *allocator.Allocator, p allocator.Pool, f ipfam.Family, a provider.Answer, now time.Time) PoolAnswer {
	out := PoolAnswer{Pool: p.Name, Family: f.String()}
	has := false // an address of the family from elsewhere
	for _, h := range a.Held {
		switch {
		case ipfam.Of(h.Addr) != f:
		case h.Pool == p.Name:
			out.Gave = append(out.Gave, h.Addr.String())
		default:
			has = true
		}
	}
	named := slices.ContainsFunc(a.Request.Addresses, func(addr netip.Addr) bool { return ipfam.Of(addr) == f })
	inIt := slices.ContainsFunc(a.Request.Addresses, func(addr netip.Addr) bool { return ipfam.Of(addr) == f && p.Addresses.Contains(addr) })
	switch {
	case len(out.Gave) > 0:
		out.Answer = "gave " + strings.Join(out.Gave, " and ")
		return out
	case named && !inIt:
		out.Answer = "has none of the addresses that the Service asks for"
		return out
	case !named && a.Request.Pool != "" && a.Request.Pool != p.Name:
		out.Answer = fmt.Sprintf("is not asked: the Service asks for the pool %q", a.Request.Pool)
		return out
	}
	// The same question by another Service, with no other pool to turn to.
	probe := a.Request
	probe.Key, probe.UID, probe.Created = probe.Key+" (what if)", "", now
	probe.Families, probe.Policy = []ipfam.Family{f}, allocator.SingleStack
	probe.Addresses = slices.DeleteFunc(slices.Clone(probe.Addresses), func(addr netip.Addr) bool { return ipfam.Of(addr) != f })
	alone := alloc.Clone()
	alone.SetPools([]allocator.Pool{p})
	res, err := alone.Assign(probe, now)
	var why []string
	for _, r := range res.Refusals {
		why = append(why, r.String())
	}
	switch {
	case err != nil:
		out.Answer = strings.Join(why, "; ")
	case has:
		out.Answer = "has room, but the Service has its address already"
	default:
		out.Answer = "has room"
	}
	return out
}

func addressesOf(a provider.Answer) []Address {
	out := []Address{}
	for _, h := range a.Held {
		out = append(out, Address{Address: h.Addr, Pool: h.Pool, Stranded: h.Stranded(), Reserved: h.Reserved, With: h.With,
			InStatus: slices.Contains(a.Shown, h.Addr)})
	}
	for _, r := range a.Removed {
		if slices.Contains(a.Shown, r.Addr) {
			out = append(out, Address{Address: r.Addr, InStatus: true, Lost: r.Why})
		}
	}
	return out
}

// endpoints counts by node what stands behind a Service, each address once
// whatever the number of ports.
func (c *Cluster) endpoints(key cluster.Key) []Endpoints {
	s := c.view().Services[key]
	out := []Endpoints{}
	seen := map[netip.Addr]bool{}
	for _, p := range s.Ports {
		for _, e := range p.Endpoints {
			if seen[e.Addr.Addr()] {
				continue
			}
			seen[e.Addr.Addr()] = true
			i := slices.IndexFunc(out, func(n Endpoints) bool { return n.Node == e.Node })
			if i < 0 {
				i, out = len(out), append(out, Endpoints{Node: e.Node})
			}
			if e.Ready {
				out[i].Ready++
			} else {
				out[i].NotReady++
			}
		}
	}
	slices.SortFunc(out, func(a, b Endpoints) int { return cmp.Compare(a.Node, b.Node) })
	return out
}

// eventsOf returns the Events about svc, the last first.
func eventsOf(events []v1.Event, svc *v1.Service) []Event {
	out := []Event{}
	for _, e := range events {
		about := e.InvolvedObject
		if about.Kind != "Service" || about.Namespace != svc.Namespace || about.Name != svc.Name || about.UID != "" && about.UID != svc.UID {
			continue
		}
		at := e.LastTimestamp.Time
		if at.IsZero() {
			at = e.EventTime.Time
		}
		from := cmp.Or(e.Source.Component, e.ReportingController)
		if e.Source.Host != "" {
			from += " on " + e.Source.Host
		}
		out = append(out, Event{At: at, Type: e.Type, Reason: e.Reason, From: from, Message: e.Message})
	}
	slices.SortStableFunc(out, func(a, b Event) int { return b.At.Compare(a.At) })
	return out
}

// judge says whether the Service works and what is to be done.
func judge(c *Cluster, svc *v1.Service, e Explanation, a provider.Answer) (works bool, verdict string, todo []string) {
	todo = []string{}
	assigned := assigned(svc, a)
	if assigned.Reason != provider.ReasonAssigned {
		todo = append(todo, assigned.Message)
	}
	for _, r := range a.Removed {
		todo = append(todo, fmt.Sprintf("%v is in the status and will be exchanged: %s", r.Addr, r.Why))
	}
	if due := due(a); len(due) > 0 {
		todo = append(todo, fmt.Sprintf("see whether a controller leads (kubectl clarion status): the Service is due %s, and its status does not show that", strings.Join(due, " and ")))
	}
	var silent []string
	announced := map[string][]string{} // by owner
	for _, u := range e.Units {
		switch vip := u.VIP.String(); {
		case !u.works():
			silent = append(silent, vip)
			if !slices.ContainsFunc(a.Removed, func(r allocator.Removed) bool { return r.Addr == u.VIP }) {
				todo = append(todo, u.todo())
			}
		case !slices.Contains(announced[u.owners()], vip): // it may have two segments
			announced[u.owners()] = append(announced[u.owners()], vip)
		}
	}
	ready := 0
	for _, n := range e.Endpoints {
		ready += n.Ready
	}
	if ready == 0 && !c.unread["slices"] {
		text := "make an endpoint ready: there is none, so packets to the addresses are refused"
		if len(svc.Spec.Selector) > 0 {
			text += fmt.Sprintf("; see kubectl -n %s get pods -l %s", svc.Namespace, labelsText(svc.Spec.Selector))
		}
		todo = append(todo, text)
	}
	switch {
	case len(a.Shown) == 0:
		return false, "has no address", todo
	case len(silent) > 0:
		return false, strings.Join(silent, " and ") + " " + verb(len(silent), "is", "are") + " not announced", todo
	case assigned.Status != string(v1.ConditionTrue):
		return false, "does not have what it asks for", todo
	case ready == 0 && !c.unread["slices"]:
		return false, "is announced but has no ready endpoint", todo
	}
	var words []string
	for _, owner := range slices.Sorted(maps.Keys(announced)) {
		words = append(words, fmt.Sprintf("%s announces %s", owner, strings.Join(announced[owner], " and ")))
	}
	return true, "works: " + strings.Join(words, ", "), todo
}

func labelsText(labels map[string]string) string {
	var words []string
	for k, v := range labels {
		words = append(words, k+"="+v)
	}
	slices.Sort(words)
	return strings.Join(words, ",")
}
