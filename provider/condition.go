package provider

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/clarion-lb/clarion/allocator"
	"github.com/clarion-lb/clarion/internal/annotation"
)

// ConditionAssigned is the condition on a Service that says which addresses
// it has and from which pools (True), or why it has none and what to do
// (False). Its reason is one of the Reason constants here, of
// allocator.Reason when the allocator refused, or Malformed.
const ConditionAssigned = "clarion.dev/Assigned"

// Reasons of a condition that is True. When several hold, the first of them
// in this order is the reason and the message tells all.
const (
	ReasonRequestRefused = "RequestRefused" // keeps what it has; what it asked for since could not be given
	ReasonStranded       = "Stranded"       // an address is in no pool any more
	ReasonCollides       = "Collides"       // an address is also that of a node, or in the pod or service CIDRs
	ReasonFamilyMissing  = "FamilyMissing"  // PreferDualStack, and one family could not be had
	ReasonAssigned       = "Assigned"       // has all it asked for
)

// ReasonMalformed is the reason when the request itself cannot be read.
const ReasonMalformed = "Malformed"

// A verdict is what there is to say about one Service.
type verdict struct {
	status  metav1.ConditionStatus
	reason  string
	message string
}

// judge says what an Assign means to the user. err is what Assign returned.
func judge(res allocator.Result, err error) verdict {
	if len(res.Held) == 0 {
		reason := string(allocator.NoPools)
		if len(res.Refusals) > 0 {
			reason = string(res.Refusals[0].Reason)
		}
		return verdict{metav1.ConditionFalse, reason, sentence(err)}
	}
	var reasons, parts []string
	say := func(reason, text string) { reasons, parts = append(reasons, reason), append(parts, text) }
	if err != nil {
		say(ReasonRequestRefused, sentence(err))
	}
	for _, h := range res.Held {
		if h.Stranded() {
			say(ReasonStranded, fmt.Sprintf("%s is in no pool any more; the Service keeps it and nobody else gets it. "+
				"Put it back into a pool, or ask for another address with the annotation %s or %s",
				h.Addr, annotation.Addresses, annotation.Pool))
		}
	}
	for _, h := range res.Held {
		if h.Reserved != "" {
			say(ReasonCollides, fmt.Sprintf("%s is also %s; ask for another address with the annotation %s",
				h.Addr, h.Reserved, annotation.Addresses))
		}
	}
	if err == nil && len(res.Missing) > 0 {
		families := make([]string, len(res.Missing))
		for i, f := range res.Missing {
			families[i] = f.String()
		}
		text := fmt.Sprintf("no %s address", strings.Join(families, " and no "))
		if why := clauses(res.Refusals); why != "" {
			text += ": " + why
		}
		say(ReasonFamilyMissing, text)
	}
	if len(reasons) == 0 {
		reasons = []string{ReasonAssigned}
	}
	return verdict{metav1.ConditionTrue, reasons[0], strings.Join(append([]string{holding(res.Held)}, parts...), "; ")}
}

// malformed is the verdict on a request that cannot be read, for a Service
// that holds held. The Service is left as it is.
func malformed(held []allocator.Held, problem error) verdict {
	if len(held) == 0 {
		return verdict{metav1.ConditionFalse, ReasonMalformed, problem.Error()}
	}
	return verdict{metav1.ConditionTrue, ReasonMalformed, "keeps " + holding(held) + "; " + problem.Error()}
}

// sentence is err as text; an allocator that gave nothing always says why.
func sentence(err error) string {
	if err == nil {
		return "the Service asks for no address family (spec.ipFamilies is empty)"
	}
	return err.Error()
}

// mostClauses bounds what a condition says about a family that is missing; the
// API allows 32768 bytes for a message, and a person reads far less.
const mostClauses = 8

func clauses(refusals []allocator.Refusal) string {
	var texts []string
	for i, r := range refusals {
		if i == mostClauses {
			texts = append(texts, fmt.Sprintf("and %d more", len(refusals)-i))
			break
		}
		texts = append(texts, r.String())
	}
	return strings.Join(texts, "; ")
}

// holding lists addresses with their pools, as in
// "192.0.2.200 and 2001:db8:1::200 from pool default".
func holding(held []allocator.Held) string {
	var pools []string
	byPool := map[string][]string{}
	for _, h := range held {
		if !slices.Contains(pools, h.Pool) {
			pools = append(pools, h.Pool)
		}
		byPool[h.Pool] = append(byPool[h.Pool], h.Addr.String())
	}
	var texts []string
	for _, pool := range pools {
		text := strings.Join(byPool[pool], " and ")
		if pool != "" {
			text += " from pool " + pool
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}

// findCondition returns our condition on svc.
func findCondition(svc *v1.Service) (metav1.Condition, bool) {
	for _, c := range svc.Status.Conditions {
		if c.Type == ConditionAssigned {
			return c, true
		}
	}
	return metav1.Condition{}, false
}

// said reports whether svc carries the verdict already.
func (v verdict) said(svc *v1.Service) bool {
	c, ok := findCondition(svc)
	return ok && c.Status == v.status && c.Reason == v.reason && c.Message == v.message
}

// condition returns the verdict as the condition that svc should carry from
// now on. The time of transition moves only when the status changes (KEP-1623).
func (v verdict) condition(svc *v1.Service, now metav1.Time) metav1.Condition {
	c := metav1.Condition{Type: ConditionAssigned, Status: v.status, Reason: v.reason, Message: v.message, LastTransitionTime: now}
	if before, ok := findCondition(svc); ok && before.Status == v.status {
		c.LastTransitionTime = before.LastTransitionTime
	}
	return c
}

// event returns the type of the Event that the step from what svc says to v
// deserves, or "" for none. The plain case, a new Service that is given its
// address at once, needs none: its status and condition say it all, and
// Events would double the writes.
func (v verdict) event(svc *v1.Service) string {
	before, had := findCondition(svc)
	healthy := v.status == metav1.ConditionTrue && v.reason == ReasonAssigned
	switch {
	case had && before.Status == v.status && before.Reason == v.reason:
		return ""
	case !had && healthy:
		return ""
	case healthy:
		return v1.EventTypeNormal
	}
	return v1.EventTypeWarning
}

// ingress returns the addresses as status.loadBalancer.ingress holds them.
func ingress(held []allocator.Held) []v1.LoadBalancerIngress {
	mode := v1.LoadBalancerIPModeVIP
	var out []v1.LoadBalancerIngress
	for _, h := range held {
		out = append(out, v1.LoadBalancerIngress{IP: h.Addr.String(), IPMode: &mode})
	}
	return out
}

// vips returns the addresses that svc's status carries.
func vips(svc *v1.Service) []netip.Addr {
	var out []netip.Addr
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IPMode != nil && *in.IPMode != v1.LoadBalancerIPModeVIP {
			continue
		}
		if a, err := netip.ParseAddr(in.IP); err == nil && a.Zone() == "" {
			out = append(out, a.Unmap())
		}
	}
	return out
}
