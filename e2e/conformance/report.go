package conformance

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/onsi/ginkgo/v2/types"

	"github.com/clarion-lb/clarion/e2e/bench"
)

// Outcome is what became of the specs that were to run.
type Outcome struct {
	Passed  int      `json:"passed"`
	Failed  int      `json:"failed"`
	Skipped int      `json:"skipped"` // specs that found that they cannot run here
	Names   []string `json:"names"`   // of what failed
}

// OK tells whether every spec ran and passed.
func (o Outcome) OK() bool { return o.Passed > 0 && o.Failed == 0 && o.Skipped == 0 }

// count sums up reports. It fails if specs are missing that were to run, as after an interrupt.
func count(suites []types.Report) (Outcome, error) {
	o := Outcome{Names: []string{}}
	want, got := 0, 0
	for _, suite := range suites {
		want += suite.PreRunStats.SpecsThatWillRun
		for _, spec := range suite.SpecReports {
			isSpec := spec.LeafNodeType.Is(types.NodeTypeIt)
			switch {
			case spec.Failed():
				// What stands before and after all specs counts as well: without it they prove nothing.
				o.Failed++
				o.Names = append(o.Names, name(spec))
			case !isSpec:
			case spec.State.Is(types.SpecStatePassed):
				o.Passed++
			case spec.NumAttempts > 0 || spec.Failure.Message != "":
				o.Skipped++
			default:
				continue // not selected
			}
			if isSpec {
				got++
			}
		}
	}
	if got != want {
		return o, fmt.Errorf("%d specs were to run, but %d are in the report: the run was cut short", want, got)
	}
	return o, nil
}

func name(spec types.SpecReport) string {
	if text := spec.FullText(); text != "" {
		return text
	}
	return spec.LeafNodeType.String()
}

// Write writes .bench/NAME.json below root. About, made when the run began, has the name, the commit and the machine.
func (o Outcome) Write(about *bench.Report, root string) (path string, err error) {
	text, err := json.MarshalIndent(struct {
		Bench  string         `json:"bench"`
		Commit string         `json:"commit"`
		Host   map[string]any `json:"host"`
		Outcome
	}{about.Bench, about.Commit, about.Host, o}, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode the outcome: %w", err)
	}
	path = filepath.Join(root, ".bench", about.Bench+".json")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("write the outcome: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return "", fmt.Errorf("write the outcome: %w", err)
	}
	return path, nil
}
