package inspect

import (
	"fmt"
	"strings"
	"time"

	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/text"
	"github.com/clarion-lb/clarion/internal/cluster"
)

// Write puts the plan on a page. now is what ages are counted to.
func (p Plan) Write(page *text.Page, now time.Time, all bool) {
	if len(p.Refused) > 0 {
		page.Head("WOULD BE REFUSED")
		shown := capped(p.Refused, all)
		for _, r := range shown {
			page.Bad("  %s", r.Text)
		}
		writeMore(page, len(p.Refused)-len(shown))
	}
	if len(p.Warnings) > 0 {
		page.Head("WARNINGS")
		shown := capped(p.Warnings, all)
		for _, w := range shown {
			page.Line("  %s", w.Text)
		}
		writeMore(page, len(p.Warnings)-len(shown))
	}
	page.Head("POOLS")
	var rows [][]string
	for _, c := range capped(p.Pools, all) {
		rows = append(rows, []string{c.Name, c.Change, strings.Join(c.What, "; ")})
	}
	if len(rows) == 0 {
		page.Line("  none, before and after")
	}
	page.Table([]string{"NAME", "CHANGE", "WHAT"}, rows)
	writeMore(page, len(p.Pools)-len(rows))

	writeMoves(page, "WOULD BE STRANDED (the Services keep them, nobody else gets them)", p.Stranded, all)
	if len(p.Silenced) > 0 {
		page.Head("WOULD BE ANNOUNCED BY NOBODY")
		var rows [][]string
		for _, s := range capped(p.Silenced, all) {
			rows = append(rows, []string{s.Address.String(), keys(s.Services), s.Segment.String(), s.Why})
		}
		page.Table([]string{"ADDRESS", "SERVICE", "SEGMENT", "WHY"}, rows)
		writeMore(page, len(p.Silenced)-len(rows))
	}
	writeMoves(page, "WOULD BECOME SERVED", p.Served, all)
	writeMoves(page, "STRANDED NOW, WOULD BE IN A POOL", p.Adopted, all)
	writeMoves(page, "STRANDED NOW, WOULD STAY SO", p.Astray, all)
	if len(p.Waiting) > 0 {
		page.Head("WOULD STILL WAIT")
		var rows [][]string
		for _, w := range capped(p.Waiting, all) {
			rows = append(rows, []string{string(w.Service), text.Age(now.Sub(w.Created)), w.Why})
		}
		page.Table([]string{"SERVICE", "AGE", "WHY"}, rows)
		writeMore(page, len(p.Waiting)-len(rows))
	}
	page.Head("IN SHORT")
	page.Line("  %s", p.short())
	writeGaps(page, p.Gaps)
}

// short says in one sentence what the edit would do.
func (p Plan) short() string {
	words := []string{text.Plural(len(p.Keep), "address") + " " + verb(len(p.Keep), "stays", "stay") + " as they are"}
	if len(p.Keep) == 1 {
		words[0] = "1 address stays as it is"
	}
	add := func(n int, what string) {
		if n > 0 {
			words = append(words, fmt.Sprintf("%d %s", n, what))
		}
	}
	add(len(p.Stranded), "would be stranded")
	add(len(p.Silenced), "would be announced by nobody")
	add(len(p.Served), "would be given to Services that wait")
	add(len(p.Waiting), verb(len(p.Waiting), "Service would still wait", "Services would still wait"))
	add(len(p.Refused), verb(len(p.Refused), "mistake would keep its pool as it is", "mistakes would keep their pools as they are"))
	return strings.Join(words, ", ")
}

func verb(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func writeMoves(page *text.Page, title string, moves []Move, all bool) {
	if len(moves) == 0 {
		return
	}
	page.Head("%s", title)
	var rows [][]string
	for _, m := range capped(moves, all) {
		rows = append(rows, []string{string(m.Service), m.Address.String(), m.From, m.To})
	}
	page.Table([]string{"SERVICE", "ADDRESS", "FROM", "TO"}, rows)
	writeMore(page, len(moves)-len(rows))
}

func keys(of []cluster.Key) string {
	var names []string
	for _, k := range of {
		names = append(names, string(k))
	}
	return list(names)
}
