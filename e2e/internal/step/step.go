// Package step tells a person what the lab is doing: one line per step with the time it took, and a line every ten
// seconds from a step that takes longer.
package step

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// List is the list of steps of one command.
type List struct {
	out   io.Writer
	began time.Time
	mu    sync.Mutex // guards writes to out
}

// New begins a list now.
func New(out io.Writer) *List { return &List{out: out, began: time.Now()} }

// Elapsed is the time since the list began.
func (l *List) Elapsed() time.Duration { return time.Since(l.began) }

// Say writes one line with the time since the list began.
func (l *List) Say(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.out, "[%6.1fs] %s\n", l.Elapsed().Seconds(), fmt.Sprintf(format, args...))
}

// patience is how long a step may be silent.
const patience = 10 * time.Second

// Do runs one step and says when it begins to take long, when it ends, and how.
func (l *List) Do(what string, run func(s *Step) error) error {
	s := &Step{list: l, what: what, began: time.Now()}
	over := make(chan struct{})
	reporter := sync.WaitGroup{}
	reporter.Go(func() {
		tick := time.NewTicker(patience)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			case <-tick.C:
				l.Say("  … %s: %s, %.0f s so far", what, s.detail(), time.Since(s.began).Seconds())
			}
		}
	})
	err := run(s)
	close(over)
	reporter.Wait()
	if err != nil {
		l.Say("FAILED %s after %.1f s", what, time.Since(s.began).Seconds())
		return fmt.Errorf("%s: %w", what, err)
	}
	l.Say("%s (%.1f s)", what+s.suffix(), time.Since(s.began).Seconds())
	return nil
}

// Step is a running step.
type Step struct {
	list  *List
	what  string
	began time.Time

	mu     sync.Mutex // guards now and result
	now    string
	result string
}

// Now tells what the step is busy with; it is shown when the step takes long.
func (s *Step) Now(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = fmt.Sprintf(format, args...)
}

// Result adds what came out of the step to its last line.
func (s *Step) Result(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.result = fmt.Sprintf(format, args...)
}

func (s *Step) detail() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == "" {
		return "at work"
	}
	return s.now
}

func (s *Step) suffix() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.result == "" {
		return ""
	}
	return ": " + s.result
}

// Tail returns the last lines of a log file, indented, under its name. A file that cannot be read says so.
func Tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Sprintf("  (no log: %v)\n", err)
	}
	all := bytes.Split(bytes.TrimRight(text, "\n"), []byte("\n"))
	all = all[max(0, len(all)-lines):]
	var b bytes.Buffer
	fmt.Fprintf(&b, "  last lines of %s:\n", path)
	for _, line := range all {
		const widest = 400
		fmt.Fprintf(&b, "    %s\n", line[:min(len(line), widest)])
	}
	return b.String()
}
