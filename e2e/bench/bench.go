// Package bench writes what a benchmark measured: a table for people and .bench/NAME.json for programs.
package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// A Spread is what several measurements of one thing gave.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	N      int     `json:"n"`
}

// SpreadOf sums up values. Without any it is all zero.
func SpreadOf(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	sorted := slices.Sorted(slices.Values(values))
	return Spread{Median: Percentile(sorted, 50), Min: sorted[0], Max: sorted[len(sorted)-1], N: len(sorted)}
}

// Percentile returns the value that p percent of the values do not exceed (nearest rank).
func Percentile(values []float64, p float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	if len(sorted) == 0 {
		return 0
	}
	rank := int(float64(len(sorted))*p/100+0.999999) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}

// One is the spread of a single figure that n measurements gave together, such as a percentile.
func One(value float64, n int) Spread { return Spread{value, value, value, n} }

// A Yardstick is what something else gave in the same run.
type Yardstick struct {
	What string `json:"what"`
	Spread
}

// A Result is one line of the table.
type Result struct {
	Name      string     `json:"name"`
	Unit      string     `json:"unit"`
	Clarion   *Spread    `json:"clarion,omitempty"`
	Yardstick *Yardstick `json:"yardstick,omitempty"`
}

// A Report is all that one benchmark measured.
type Report struct {
	Bench   string         `json:"bench"`
	Commit  string         `json:"commit"`
	Host    map[string]any `json:"host"`
	Results []Result       `json:"results"`
}

// New returns an empty report about the checkout in dir.
func New(name, dir string) (*Report, error) {
	commit, err := exec.Command("git", "-C", dir, "describe", "--always", "--dirty").Output()
	if err != nil {
		return nil, fmt.Errorf("ask git for the commit: %w", err)
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return nil, fmt.Errorf("read the kernel's version: %w", err)
	}
	return &Report{Bench: name, Commit: strings.TrimSpace(string(commit)),
		Host: map[string]any{"kernel": strings.TrimSpace(string(kernel)), "cpus": runtime.NumCPU()}}, nil
}

// Add adds a result of Clarion.
func (r *Report) Add(name, unit string, s Spread) {
	r.Results = append(r.Results, Result{Name: name, Unit: unit, Clarion: &s})
}

// Against gives the result of that name a yardstick, and adds it if it is not there.
func (r *Report) Against(name, unit, what string, s Spread) {
	for i := range r.Results {
		if r.Results[i].Name == name {
			r.Results[i].Yardstick = &Yardstick{what, s}
			return
		}
	}
	r.Results = append(r.Results, Result{Name: name, Unit: unit, Yardstick: &Yardstick{what, s}})
}

// Write prints the table and writes .bench/NAME.json below dir.
func (r *Report) Write(out io.Writer, dir string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\tunit\tmedian\tmin\tmax\tn\tyardstick\n", r.Bench)
	for _, res := range r.Results {
		line := "\t\t\t"
		if c := res.Clarion; c != nil {
			line = fmt.Sprintf("%.4g\t%.4g\t%.4g\t%d", c.Median, c.Min, c.Max, c.N)
		}
		if y := res.Yardstick; y != nil {
			line += fmt.Sprintf("\t%s: %.4g (%.4g to %.4g, %d)", y.What, y.Median, y.Min, y.Max, y.N)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", res.Name, res.Unit, line)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the results: %w", err)
	}
	path := filepath.Join(dir, ".bench", r.Bench+".json")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "written to %s\n", path)
	return err
}
