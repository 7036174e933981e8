// Command testsum reads `go test -json` from its standard input, prints the
// output of what failed, the reason of each skip, a line per package, and at
// the end «N passed, N failed, N skipped». It exits 1 if anything failed or if
// no test ran.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

func main() {
	if !run(os.Stdin, os.Stdout) {
		os.Exit(1)
	}
}

// event is what test2json writes per line (go doc test2json).
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

type tally struct{ passed, failed, skipped int }

func run(in io.Reader, out io.Writer) bool {
	var t tally
	output := map[string][]string{} // package and test → lines
	var skips, broken []string
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(out, lines.Text()) // what the go command says beside its tests
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "output":
			output[key] = append(output[key], e.Output)
		case "build-output":
			fmt.Fprint(out, e.Output)
		case "pass", "fail", "skip":
			if e.Test == "" {
				broken = append(broken, t.packageEnd(e, output[key], out)...)
			} else if said := t.testEnd(e, output[key], out); said != "" {
				skips = append(skips, said)
			}
			delete(output, key)
		}
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(out, "testsum: read the test output:", err)
		return false
	}
	for _, s := range skips {
		fmt.Fprintln(out, "skipped:", s)
	}
	for _, b := range broken {
		fmt.Fprintln(out, "broken:", b)
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
	return t.failed == 0 && t.passed > 0 && len(broken) == 0
}

func (t *tally) testEnd(e event, output []string, out io.Writer) (skip string) {
	switch e.Action {
	case "pass":
		t.passed++
	case "fail":
		t.failed++
		fmt.Fprintf(out, "--- %s %s failed:\n%s", e.Package, e.Test, strings.Join(output, ""))
	case "skip":
		t.skipped++
		return fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(output))
	}
	return ""
}

// packageEnd prints the package's line. A package that fails without a failed
// test did not build, crashed or ran out of time: its output is shown.
func (t *tally) packageEnd(e event, output []string, out io.Writer) (broken []string) {
	word := map[string]string{"pass": "ok", "fail": "FAIL", "skip": "no tests"}[e.Action]
	fmt.Fprintf(out, "%-8s %7.1fs  %s\n", word, e.Elapsed, e.Package)
	if e.Action == "fail" {
		fmt.Fprint(out, strings.Join(output, ""))
		return []string{e.Package}
	}
	return nil
}

var frame = regexp.MustCompile(`^\s*(=== |--- )`)

// reason returns what a test said when it skipped.
func reason(output []string) string {
	said := slices.DeleteFunc(slices.Clone(output), frame.MatchString)
	return strings.Join(strings.Fields(strings.Join(said, " ")), " ")
}
