// Command conformance runs upstream's network conformance specs against the running lab, prints what failed and writes
// .bench/conformance.json. It fails unless every spec ran and passed.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/clarion-lb/clarion/e2e/bench"
	"github.com/clarion-lb/clarion/e2e/conformance"
	"github.com/clarion-lb/clarion/e2e/internal/step"
	"github.com/clarion-lb/clarion/e2e/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("conformance", flag.ContinueOnError)
	name := flags.String("name", "conformance", "the name of the report, .bench/NAME.json, and of the log")
	focus := flags.String("focus", `\[sig-network\].*\[Conformance\]`, "a regular expression over the names of specs")
	procs := flags.Int("procs", 3, "how many specs run at the same time")
	from := flags.String("from", "", "the host of the lab in whose network the suite runs, such as client; empty for this machine")
	dir := flags.String("lab", "../.lab", "the lab")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *procs < 1 {
		return fmt.Errorf("-procs=%d: at least one spec has to run at a time", *procs)
	}
	root, err := filepath.Abs("..")
	if err != nil {
		return fmt.Errorf("find the repository: %w", err)
	}
	l, err := lab.Open(*dir)
	if err != nil {
		return err
	}
	what := conformance.Run{Lab: l, Root: root, Name: *name, Focus: *focus, Procs: *procs}
	if *from != "" {
		if what.From, err = l.Host(*from); err != nil {
			return err
		}
	}
	about, err := bench.New(*name, root)
	if err != nil {
		return err
	}
	outcome, err := what.Do(ctx, step.New(out))
	if err != nil {
		return err
	}
	path, err := outcome.Write(about, root)
	if err != nil {
		return err
	}
	for _, failed := range outcome.Names {
		fmt.Fprintln(out, "FAILED", failed)
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped; written to %s\n", outcome.Passed, outcome.Failed, outcome.Skipped, path)
	if !outcome.OK() {
		return fmt.Errorf("not every spec passed; %s says why", l.Log(*name))
	}
	return nil
}
