package inspect

import (
	"fmt"
	"math/big"
	"strings"

	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/text"
)

// Write puts the pools on a page, problems first.
func (p Pools) Write(page *text.Page, all bool) {
	writeProblems(page, p.Problems, all)
	if len(p.Pools) > 0 {
		page.Head("POOLS")
		page.Table([]string{"NAME", "FAMILY", "USED", "", "FREE", "SHARED", "RANGES", "RULES"}, poolRows(p.Pools, all))
	}
	if len(p.Stranded) > 0 {
		page.Head("STRANDED (%s in no pool; the Services keep them and nobody else gets them)", text.Plural(len(p.Stranded), "address"))
		var rows [][]string
		for _, s := range capped(p.Stranded, all) {
			rows = append(rows, []string{s.Address, string(s.Service)})
		}
		page.Table([]string{"ADDRESS", "SERVICE"}, rows)
		writeMore(page, len(p.Stranded)-len(rows))
	}
	if len(p.Pools) > 0 {
		page.Head("SETTINGS")
		page.Line("  an address rests %s after its Service gave it up, and %s after a foreign host was seen using it", p.RestTime, p.Quarantine)
	}
	writeGaps(page, p.Gaps)
}

// poolRows are the lines of the table of pools, one for each family.
func poolRows(pools []Pool, all bool) [][]string {
	var rows [][]string
	for _, p := range pools {
		name, rules := p.Name, p.rules()
		for _, u := range p.Families {
			shared := ""
			if u.Shared > 0 {
				shared = fmt.Sprint(u.Shared)
			}
			used := big.NewInt(int64(u.Used))
			rows = append(rows, []string{name, u.Family, text.Bar(used, u.Total), fmt.Sprintf("%d/%s", u.Used, text.Count(u.Total)),
				text.Count(u.Free), shared, ranges(u.Ranges, all), rules})
			name, rules = "", ""
		}
	}
	return rows
}

// ranges lists ranges, the first few unless all are asked for.
func ranges(of []string, all bool) string {
	const most = 3
	out := ""
	for i, r := range of {
		if i == most && !all {
			return fmt.Sprintf("%s and %d more", out, len(of)-most)
		}
		if i > 0 {
			out += ", "
		}
		out += r
	}
	return out
}

// mostRows keeps a list to a part of a screen.
const mostRows = 12

// capped returns the first rows, or all.
func capped[T any](of []T, all bool) []T {
	if all || len(of) <= mostRows {
		return of
	}
	return of[:mostRows]
}

func writeMore(page *text.Page, n int) {
	if n > 0 {
		page.Line("  and %d more: --all shows them", n)
	}
}

func writeProblems(page *text.Page, problems []Problem, all bool) {
	if len(problems) == 0 {
		return
	}
	page.Head("%s", plural(len(problems), "PROBLEM"))
	shown := capped(problems, all)
	for _, p := range shown {
		page.Bad("  %s", p.line())
	}
	writeMore(page, len(problems)-len(shown))
}

// line is the problem as one line. A mistake in a pool begins with its path,
// which names the pool already.
func (p Problem) line() string {
	if pool, ok := strings.CutPrefix(p.About, "pool "); ok && strings.HasPrefix(p.Text, pool) {
		return "pool " + p.Text
	}
	return p.About + ": " + p.Text
}

func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %sS", n, thing)
}

func writeGaps(page *text.Page, gaps []string) {
	if len(gaps) == 0 {
		return
	}
	page.Head("NOT SHOWN")
	for _, g := range gaps {
		page.Line("  %s", g)
	}
}
