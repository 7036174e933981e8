// Package task runs the long-lived parts of a program together: they start
// together, and when one of them fails or the context ends, all of them end.
package task

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// A Task does one job until ctx ends and then returns nil. Any other return is
// a failure, and a failure of one task ends its neighbours.
type Task interface {
	Run(ctx context.Context) error
	fmt.Stringer
}

// Func makes a Task of a name and a function.
func Func(name string, run func(context.Context) error) Task { return fn{name, run} }

type fn struct {
	name string
	run  func(context.Context) error
}

func (f fn) Run(ctx context.Context) error { return f.run(ctx) }
func (f fn) String() string                { return f.name }

// Run runs all tasks and returns when every one of them has returned. The
// error joins what each failed task said, with its name. A task that returns
// nil before ctx has ended is a failure too: it left its job.
func Run(ctx context.Context, tasks ...Task) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(tasks))
	var wg sync.WaitGroup
	for i, t := range tasks {
		wg.Go(func() {
			defer cancel()
			err := t.Run(ctx)
			switch {
			case err != nil && !(errors.Is(err, context.Canceled) && ctx.Err() != nil):
				errs[i] = fmt.Errorf("%s: %w", t, err)
			case err == nil && ctx.Err() == nil:
				errs[i] = fmt.Errorf("%s: ended by itself", t)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
