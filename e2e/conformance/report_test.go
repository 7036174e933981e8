package conformance

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/onsi/ginkgo/v2/types"

	"github.com/clarion-lb/clarion/e2e/bench"
)

func spec(text string, state types.SpecState) types.SpecReport {
	return types.SpecReport{LeafNodeType: types.NodeTypeIt, LeafNodeText: text, State: state, NumAttempts: 1}
}

func report(willRun int, specs ...types.SpecReport) types.Report {
	return types.Report{PreRunStats: types.PreRunStats{SpecsThatWillRun: willRun}, SpecReports: specs}
}

func TestSpecsAreCountedByWhatBecameOfThem(t *testing.T) {
	notSelected := types.SpecReport{LeafNodeType: types.NodeTypeIt, LeafNodeText: "e", State: types.SpecStateSkipped}
	o, err := count([]types.Report{report(5, spec("a", types.SpecStatePassed), spec("b", types.SpecStateFailed),
		spec("c", types.SpecStateTimedout), spec("d", types.SpecStateSkipped), notSelected, spec("f", types.SpecStatePassed),
		types.SpecReport{LeafNodeType: types.NodeTypeSynchronizedBeforeSuite, State: types.SpecStatePassed})})
	if err != nil {
		t.Fatal(err)
	}
	if o.Passed != 2 || o.Failed != 2 || o.Skipped != 1 || !slices.Equal(o.Names, []string{"b", "c"}) || o.OK() {
		t.Errorf("%+v, ok %v", o, o.OK())
	}
}

func TestWhatIsNotAllPassedIsNotOK(t *testing.T) {
	for _, c := range []struct {
		name string
		o    Outcome
		want bool
	}{
		{"all passed", Outcome{Passed: 47}, true},
		{"nothing ran", Outcome{}, false},
		{"one failed", Outcome{Passed: 46, Failed: 1}, false},
		{"one was skipped", Outcome{Passed: 46, Skipped: 1}, false},
	} {
		if got := c.o.OK(); got != c.want {
			t.Errorf("%s: ok is %v", c.name, got)
		}
	}
}

func TestARunThatWasCutShortIsAnError(t *testing.T) {
	_, err := count([]types.Report{report(3, spec("a", types.SpecStatePassed))})
	if err == nil || !strings.Contains(err.Error(), "3 specs were to run, but 1") {
		t.Errorf("error %v", err)
	}
}

func TestAFailureBeforeAllSpecsHasAName(t *testing.T) {
	before := types.SpecReport{LeafNodeType: types.NodeTypeSynchronizedBeforeSuite, State: types.SpecStateFailed}
	o, err := count([]types.Report{report(0, before)})
	if err != nil {
		t.Fatal(err)
	}
	if o.Failed != 1 || len(o.Names) != 1 || o.Names[0] != "SynchronizedBeforeSuite" {
		t.Errorf("%+v", o)
	}
}

func TestTheReportIsWhereOthersLookForIt(t *testing.T) {
	root := t.TempDir()
	about := &bench.Report{Bench: "conformance", Commit: "1234567", Host: map[string]any{"cpus": 2}}
	path, err := Outcome{Passed: 46, Failed: 1, Names: []string{"a"}}.Write(about, root)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(root, ".bench", "conformance.json"); path != want {
		t.Errorf("written to %s, not to %s", path, want)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"bench", "commit", "host", "passed", "failed", "skipped", "names"} {
		if _, ok := got[key]; !ok {
			t.Errorf("%q is missing in %s", key, text)
		}
	}
}
