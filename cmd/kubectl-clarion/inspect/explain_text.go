package inspect

import (
	"fmt"
	"strings"
	"time"

	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/text"
)

// Write puts the explanation on a page. now is what ages are counted to.
func (e Explanation) Write(page *text.Page, now time.Time, all bool) {
	age := func(t time.Time) string { return text.Age(now.Sub(t)) }
	if e.Works || !e.Request.Ours {
		page.Head("%s %s", e.Service, e.Verdict)
	} else {
		page.Bad("%s %s", e.Service, e.Verdict)
	}
	if len(e.Todo) > 0 {
		page.Head("WHAT TO DO")
		for _, t := range e.Todo {
			page.Line("  %s", t)
		}
	}
	page.Head("REQUEST")
	page.Table(nil, e.Request.rows())
	if len(e.Pools) > 0 {
		page.Head("POOLS, as they are tried")
		var rows [][]string
		for _, p := range capped(e.Pools, all) {
			rows = append(rows, []string{p.Pool, p.Family, p.Answer})
		}
		page.Table([]string{"POOL", "FAMILY", "ANSWER"}, rows)
		writeMore(page, len(e.Pools)-len(rows))
	}
	if len(e.Addresses) > 0 {
		page.Head("ADDRESSES")
		var rows [][]string
		for _, a := range e.Addresses {
			rows = append(rows, []string{a.Address.String(), a.Pool, a.note()})
		}
		page.Table([]string{"ADDRESS", "POOL", "NOTE"}, rows)
	}
	for _, u := range e.Units {
		where := "on no segment"
		switch {
		case u.Withheld != "":
			where = "is not this Service's"
		case u.Segment.IsValid():
			where = "on " + u.Segment.String()
		}
		if u.Fallback {
			where += ", the segment of the default gateway, because no link has a prefix that holds it"
		}
		page.Head("%v %s", u.VIP, where)
		if u.Withheld != "" {
			page.Line("  is announced for %s only", u.Withheld)
		}
		if u.Conflict != "" {
			page.Bad("  is used by the foreign host %s", u.Conflict)
		}
		var rows [][]string
		for _, n := range capped(u.Nodes, all) {
			rows = append(rows, []string{n.Node, n.answer(u.Owners, age)})
		}
		if len(rows) > 0 {
			page.Table([]string{"NODE", "ANSWER"}, rows)
		}
		writeMore(page, len(u.Nodes)-len(rows))
	}
	if len(e.Endpoints) > 0 {
		page.Head("ENDPOINTS")
		var rows [][]string
		for _, n := range capped(e.Endpoints, all) {
			rows = append(rows, []string{n.Node, fmt.Sprint(n.Ready), zeroless(n.NotReady)})
		}
		page.Table([]string{"NODE", "READY", "NOT READY"}, rows)
		writeMore(page, len(e.Endpoints)-len(rows))
	}
	if len(e.Events) > 0 {
		page.Head("LAST EVENTS")
		var rows [][]string
		for _, v := range capped(e.Events, all) {
			rows = append(rows, []string{age(v.At), v.Reason, v.From, v.Message})
		}
		page.Table([]string{"AGE", "REASON", "FROM", "MESSAGE"}, rows)
		writeMore(page, len(e.Events)-len(rows))
	}
	writeGaps(page, e.Gaps)
}

func (r Request) rows() [][]string {
	by := func(value, key string) string { return fmt.Sprintf("%s (%s)", value, key) }
	whose := "Clarion's: " + r.Why
	if !r.Ours {
		whose = "not Clarion's: " + r.Why
	}
	rows := [][]string{{"whose", whose}, {"families", strings.Join(r.Families, " and ") + ", " + r.Policy}, {"ports", strings.Join(r.Ports, ", ")}}
	if r.Malformed != "" {
		rows = append(rows, []string{"cannot be read", r.Malformed})
	}
	if len(r.Addresses) > 0 {
		rows = append(rows, []string{"addresses", by(strings.Join(r.Addresses, ", "), r.AddressesBy)})
	}
	if r.Pool != "" {
		rows = append(rows, []string{"pool", by(r.Pool, r.PoolBy)})
	}
	if r.Share != "" {
		rows = append(rows, []string{"shares with", by("those with the key "+r.Share, r.ShareBy)})
	}
	if r.Local {
		rows = append(rows, []string{"traffic", "externalTrafficPolicy Local: only nodes with a ready endpoint announce it"})
	}
	if len(r.SourceRanges) > 0 {
		rows = append(rows, []string{"clients", "only from " + strings.Join(r.SourceRanges, ", ")})
	}
	return rows
}

// note says what is special about an address.
func (a Address) note() string {
	var words []string
	if a.Lost != "" {
		words = append(words, "is not its own: "+a.Lost)
	} else {
		if a.Stranded {
			words = append(words, "stranded: in no pool any more; it stays until the Service asks for another one")
		}
		if a.Reserved != "" {
			words = append(words, "is also "+a.Reserved)
		}
		if !a.InStatus {
			words = append(words, "not yet in the status")
		}
	}
	if len(a.With) > 0 {
		var names []string
		for _, k := range a.With {
			names = append(names, string(k))
		}
		words = append(words, "shared with "+list(names))
	}
	return strings.Join(words, "; ")
}

func zeroless(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}
