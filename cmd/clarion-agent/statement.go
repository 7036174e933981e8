package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/tell"
	"github.com/clarion-lb/clarion/speaker"
)

// Reasons of the condition clarion.dev/Announced.
const (
	reasonAnnounced   = "Announced"
	reasonConflict    = "AddressConflict"
	reasonNoCandidate = "NoCandidate"
	reasonWithheld    = "AddressOfAnotherService"
	reasonPartly      = "PartlyAnnounced"
)

// statement puts a report into words for the Service's condition. It returns
// false while there is nothing to tell: the report is another node's to tell,
// or an address is just being probed.
func statement(self string, r *speaker.ServiceReport) (tell.Statement, bool) {
	if r == nil || r.Teller != self || len(r.Units) == 0 {
		return tell.Statement{}, false
	}
	s := tell.Statement{UID: r.UID, Announced: true, Reason: reasonAnnounced}
	byOwner, problems := map[string][]string{}, []string(nil)
	for _, u := range r.Units {
		if u.Owner == self && !u.Mine && u.Conflict == (cluster.MAC{}) && u.Self == cluster.Eligible {
			return tell.Statement{}, false // about to answer
		}
		if u.Owner == "" && u.Withheld == "" && len(u.Refused) == 0 {
			return tell.Statement{}, false // there are candidates, and one of them is about to take it
		}
		if reason, problem := trouble(u); problem != "" {
			problems = append(problems, problem)
			if s.Announced {
				s.Announced, s.Reason = false, reason
			}
			continue
		}
		byOwner[u.Owner] = append(byOwner[u.Owner], u.VIP.String())
		if u.Since.After(s.Since) {
			s.Since = u.Since
		}
	}
	if len(problems) > 0 && len(byOwner) > 0 {
		s.Reason = reasonPartly
	}
	words := problems
	for _, owner := range slices.Sorted(maps.Keys(byOwner)) {
		words = append(words, fmt.Sprintf("node %s announces %s", owner, strings.Join(byOwner[owner], " and ")))
	}
	s.Message = strings.Join(words, "; ")
	if s.Since.IsZero() {
		s.Since = time.Now()
	}
	return s, true
}

// trouble says why a unit is not announced, or nothing when it is.
func trouble(u speaker.UnitReport) (reason, words string) {
	switch {
	case u.Withheld != "":
		return reasonWithheld, fmt.Sprintf("%s is not announced for this Service: Service %s had it before and the two do not share it. Give both the same annotation clarion.dev/share, or delete one of them", u.VIP, u.Withheld)
	case u.Conflict != (cluster.MAC{}) && !u.Mine:
		return reasonConflict, fmt.Sprintf("%s is not announced: the host with the link address %s, which is no node of this cluster, uses it. Take the address away from that host, or out of the pool", u.VIP, u.Conflict)
	case u.Conflict != (cluster.MAC{}):
		return reasonConflict, fmt.Sprintf("node %s announces %s, but the host with the link address %s, which is no node of this cluster, uses it too. Take the address away from that host", u.Owner, u.VIP, u.Conflict)
	case u.Owner == "":
		return reasonNoCandidate, fmt.Sprintf("no node can announce %s: %s", u.VIP, refusals(u.Refused))
	case u.Self != cluster.Eligible && !u.Mine:
		return reasonNoCandidate, fmt.Sprintf("node %s should announce %s but cannot: %s", u.Owner, u.VIP, u.Self)
	}
	return "", ""
}

// refusals lists the nodes by the reason they share, so that the message stays
// short in a large cluster.
func refusals(of map[string]cluster.Refusal) string {
	by := map[cluster.Refusal][]string{}
	for node, why := range of {
		by[why] = append(by[why], node)
	}
	var words []string
	for _, why := range slices.Sorted(maps.Keys(by)) {
		const shown = 3
		nodes := by[why]
		slices.Sort(nodes)
		more := ""
		if len(nodes) > shown {
			more = fmt.Sprintf(" and %d more", len(nodes)-shown)
			nodes = nodes[:shown]
		}
		words = append(words, fmt.Sprintf("%s%s: %s", strings.Join(nodes, ", "), more, why))
	}
	return strings.Join(words, "; ")
}
