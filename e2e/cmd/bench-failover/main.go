// Command bench-failover measures failovers in the running lab. BENCH_TRIALS sets the number of trials of each case (30),
// BENCH_CASES names the cases, separated by commas (all).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/clarion-lb/clarion/e2e/bench"
	"github.com/clarion-lb/clarion/e2e/bench/failover"
	"github.com/clarion-lb/clarion/e2e/internal/step"
	"github.com/clarion-lb/clarion/e2e/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench-failover: failed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	trials := 30
	if text := os.Getenv("BENCH_TRIALS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("BENCH_TRIALS=%s is not a number of trials", text)
		}
		trials = n
	}
	var cases []string
	if text := os.Getenv("BENCH_CASES"); text != "" {
		cases = strings.Split(text, ",")
	}
	l, err := lab.Open("../.lab")
	if err != nil {
		return err
	}
	report, err := bench.New("failover", "..")
	if err != nil {
		return err
	}
	failed := failover.Run(ctx, l, step.New(os.Stdout), report, trials, cases)
	return errors.Join(failed, report.Write(os.Stdout, ".."))
}
