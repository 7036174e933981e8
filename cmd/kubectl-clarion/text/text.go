// Package text lays out values for people: aligned tables, bars, ages.
package text

import (
	"fmt"
	"io"
	"math/big"
	"strings"
	"time"
	"unicode/utf8"
)

// A Page collects text. The first error of the writer ends it; see Err.
type Page struct {
	w     io.Writer
	color bool
	any   bool // something has been written
	err   error
}

// NewPage returns a page on w. color marks headings and bad news with ANSI
// escapes, for terminals.
func NewPage(w io.Writer, color bool) *Page { return &Page{w: w, color: color} }

// Err returns the first error of the writer.
func (p *Page) Err() error { return p.err }

// Line writes one line.
func (p *Page) Line(format string, args ...any) {
	p.any = true
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

// Head begins a section: a blank line before it, if it is not the first.
func (p *Page) Head(format string, args ...any) {
	if p.any {
		p.Line("")
	}
	p.Line("%s", p.paint("1", fmt.Sprintf(format, args...)))
}

// Bad writes a line of bad news.
func (p *Page) Bad(format string, args ...any) {
	p.Line("%s", p.paint("31", fmt.Sprintf(format, args...)))
}

func (p *Page) paint(code, s string) string {
	if !p.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// Table writes rows below a header, each column as wide as its widest cell.
// Columns without any cell but the header are left out. All rows are as long
// as the first; without a header there is none.
func (p *Page) Table(header []string, rows [][]string) {
	const gap = 2
	if len(rows) == 0 {
		return
	}
	titled := header != nil
	if !titled {
		header = make([]string, len(rows[0]))
	}
	width := make([]int, len(header))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	line := func(cells []string) {
		var b strings.Builder
		for i, cell := range cells {
			if width[i] > 0 {
				b.WriteString(cell + strings.Repeat(" ", max(width[i], utf8.RuneCountInString(header[i]))-utf8.RuneCountInString(cell)+gap))
			}
		}
		p.Line("  %s", strings.TrimRight(b.String(), " "))
	}
	if titled {
		line(header)
	}
	for _, row := range rows {
		line(row)
	}
}

// Bar draws how much of total is used, ten signs wide: "[###.......]". Any use
// shows as at least one sign, and only a full pool shows as full.
func Bar(used, total *big.Int) string {
	const signs = 10
	n := 0
	if total.Sign() > 0 && used.Sign() > 0 {
		n = int(new(big.Int).Div(new(big.Int).Mul(used, big.NewInt(signs)), total).Int64())
		if n = max(n, 1); used.Cmp(total) < 0 {
			n = min(n, signs-1)
		}
	}
	return "[" + strings.Repeat("#", n) + strings.Repeat(".", signs-n) + "]"
}

// Count writes a number of addresses: in full below ten million, then as a
// power of two, with «~» when it is not exactly one.
func Count(n *big.Int) string {
	if n.CmpAbs(big.NewInt(10_000_000)) < 0 {
		return n.String()
	}
	power := new(big.Int).Lsh(big.NewInt(1), uint(n.BitLen()-1))
	if n.Cmp(power) == 0 {
		return fmt.Sprintf("2^%d", n.BitLen()-1)
	}
	nearest := n.BitLen() - 1
	if n.Bit(n.BitLen()-2) == 1 { // above one and a half times the power
		nearest++
	}
	return fmt.Sprintf("~2^%d", nearest)
}

// Age writes how long ago something was, in its two largest units at most:
// "45s", "12m", "5h10m", "3d4h", "214d". The future, which a clock that differs
// makes of the last seconds, is "0s".
func Age(d time.Duration) string {
	const day = 24 * time.Hour
	d = max(d, 0)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < day:
		return two(int(d.Hours()), "h", int(d.Minutes())%60, "m")
	case d < 10*day:
		return two(int(d/day), "d", int(d.Hours())%24, "h")
	}
	return fmt.Sprintf("%dd", int(d/day))
}

func two(a int, unitA string, b int, unitB string) string {
	if b == 0 {
		return fmt.Sprintf("%d%s", a, unitA)
	}
	return fmt.Sprintf("%d%s%d%s", a, unitA, b, unitB)
}

// Plural returns "1 thing" or "2 things".
func Plural(n int, thing string) string {
	switch {
	case n == 1:
		return "1 " + thing
	case strings.HasSuffix(thing, "s"):
		return fmt.Sprintf("%d %ses", n, thing)
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
