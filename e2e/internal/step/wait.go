package step

import (
	"context"
	"fmt"
	"time"
)

// Until asks again and again until done says yes, fails, or the time is over; then the last reason is part of the error.
// «Not yet, because …» is (false, reason as text, nil).
func Until(ctx context.Context, limit time.Duration, done func(ctx context.Context) (ok bool, why string, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	last := "nothing was tried"
	for {
		ok, why, err := done(ctx)
		if err != nil {
			return err
		}
		if ok {
			return nil
		}
		if ctx.Err() == nil || last == "nothing was tried" {
			last = why // an attempt that the deadline cut short knows less than the one before
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %s", limit, last)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
