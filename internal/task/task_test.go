package task

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func wait(ctx context.Context) error { <-ctx.Done(); return nil }

func TestRun(t *testing.T) {
	tests := []struct {
		name string
		task Task
		want string
	}{
		{"a failure ends the others and is named", Func("disk", func(context.Context) error { return errors.New("full") }), "disk: full"},
		{"leaving early is a failure", Func("loop", func(context.Context) error { return nil }), "loop: ended by itself"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Run(t.Context(), Func("wait", wait), tt.task)
			if err == nil || err.Error() != tt.want {
				t.Fatalf("err = %v, want %q", err, tt.want)
			}
		})
	}
	t.Run("the end of the context is no failure", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		canceled := Func("canceled", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		if err := Run(ctx, Func("wait", wait), canceled); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("two failures are both told", func(t *testing.T) {
		late := Func("late", func(ctx context.Context) error { <-ctx.Done(); return errors.New("could not close") })
		err := Run(t.Context(), late, Func("first", func(context.Context) error { return errors.New("boom") }))
		if err == nil || !strings.Contains(err.Error(), "late: could not close") || !strings.Contains(err.Error(), "first: boom") {
			t.Fatal(err)
		}
	})
}
