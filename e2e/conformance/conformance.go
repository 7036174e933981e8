// Package conformance runs the network part of the upstream Kubernetes end-to-end suite against a running lab.
//
// Its test files, behind the tag «conformance», are the suite: only the specs of sig-network, because a binary of all
// specs takes a quarter of an hour to compile. The rest drives it: builder.go makes the programs, image.go the images that
// the specs start, report.go reads what came out.
package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/onsi/ginkgo/v2/types"

	"github.com/clarion-lb/clarion/e2e/internal/proc"
	"github.com/clarion-lb/clarion/e2e/internal/step"
	"github.com/clarion-lb/clarion/e2e/lab"
)

// Run says what to run.
type Run struct {
	Lab   *lab.Lab
	Root  string // the repository
	Name  string // of the log and of the report, such as «conformance»
	Focus string // a regular expression over the specs' full names
	Procs int    // specs that run at the same time, at least 1
	// From is the host of the lab in whose network the suite runs, such as the client, which reaches the addresses of
	// Services. Nil is this machine, which reaches the API server only; that is enough for the conformance specs.
	From *lab.Host
}

func (r Run) cache() string { return filepath.Join(r.Root, ".cache", "conformance") }

// Do builds what is not built yet, loads the images into the nodes and runs the specs. An error means that they could not
// be run; specs that fail are part of the outcome.
func (r Run) Do(ctx context.Context, steps *step.List) (Outcome, error) {
	if err := os.MkdirAll(r.cache(), 0o755); err != nil {
		return Outcome{}, fmt.Errorf("make the cache of the suite: %w", err)
	}
	if err := steps.Do("build the suite", func(*step.Step) error { return r.build(ctx) }); err != nil {
		return Outcome{}, err
	}
	var images []archive
	err := steps.Do("make the images", func(s *step.Step) (err error) {
		images, err = r.makeImages(ctx, s)
		return err
	})
	if err != nil {
		return Outcome{}, err
	}
	if err := steps.Do("load the images", func(*step.Step) error { return r.loadImages(ctx, images) }); err != nil {
		return Outcome{}, err
	}
	var outcome Outcome
	err = steps.Do("run the specs", func(s *step.Step) (err error) {
		s.Now("the log is %s", r.Lab.Log(r.Name))
		outcome, err = r.specs(ctx)
		return err
	})
	return outcome, err
}

// command is a command in the network of From.
func (r Run) command(ctx context.Context, args ...string) *exec.Cmd {
	if r.From != nil {
		return r.From.NetCommand(ctx, args...)
	}
	return exec.CommandContext(ctx, args[0], args[1:]...)
}

// specs runs the suite and reads its report. Ginkgo's exit code only repeats what the report says, unless there is none.
func (r Run) specs(ctx context.Context) (Outcome, error) {
	log, err := os.Create(r.Lab.Log(r.Name))
	if err != nil {
		return Outcome{}, fmt.Errorf("make the log of the suite: %w", err)
	}
	defer log.Close()
	report := filepath.Join(r.cache(), r.Name+".report.json")
	if err := os.Remove(report); err != nil && !os.IsNotExist(err) {
		return Outcome{}, fmt.Errorf("remove the report of an earlier run: %w", err)
	}
	cmd := r.command(ctx, r.ginkgo(), "run", "-procs="+strconv.Itoa(r.Procs), "-no-color", "-silence-skips",
		"-timeout=2h", "-focus="+r.Focus, "-output-dir="+filepath.Dir(report), "-json-report="+filepath.Base(report), r.suite(), "--",
		"-kubeconfig="+r.Lab.Kubeconfig(), "-provider=skeleton", "-num-nodes="+strconv.Itoa(len(r.Lab.Nodes())))
	cmd.Stdout, cmd.Stderr = log, log
	failed := proc.Run(cmd)
	text, err := os.ReadFile(report)
	if err != nil {
		return Outcome{}, fmt.Errorf("the suite left no report (%v): %w; its log is %s", failed, err, log.Name())
	}
	var suites []types.Report
	if err := json.Unmarshal(text, &suites); err != nil {
		return Outcome{}, fmt.Errorf("read %s: %w", report, err)
	}
	return count(suites)
}
