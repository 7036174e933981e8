package step

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestALongStepShowsLifeAndHowItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := New(&out)
		err := l.Do("build", func(s *Step) error {
			s.Now("compiling x")
			time.Sleep(25 * time.Second)
			s.Result("done well")
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want := "[  10.0s]   … build: compiling x, 10 s so far\n" +
			"[  20.0s]   … build: compiling x, 20 s so far\n" +
			"[  25.0s] build: done well (25.0 s)\n"
		if out.String() != want {
			t.Errorf("said\n%swant\n%s", out.String(), want)
		}
	})
}

func TestAFailedStepSaysWhichOne(t *testing.T) {
	var out bytes.Buffer
	broken := errors.New("broken")
	err := New(&out).Do("build", func(*Step) error { return broken })
	if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "build: ") {
		t.Errorf("error %v", err)
	}
	if !strings.Contains(out.String(), "FAILED build") {
		t.Errorf("said %s", out.String())
	}
}

func TestUntilTellsTheLastReasonOrStopsAtAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		count := 0
		if err := Until(t.Context(), time.Second, func(context.Context) (bool, string, error) {
			count++
			return count == 3, "not yet", nil
		}); err != nil || count != 3 {
			t.Errorf("%d tries, %v", count, err)
		}
		err := Until(t.Context(), time.Second, func(context.Context) (bool, string, error) { return false, "the door is shut", nil })
		if err == nil || !strings.Contains(err.Error(), "the door is shut") {
			t.Errorf("error %v", err)
		}
		broken := errors.New("broken")
		if err := Until(t.Context(), time.Second, func(context.Context) (bool, string, error) { return false, "", broken }); !errors.Is(err, broken) {
			t.Errorf("error %v", err)
		}
	})
}

func TestTailShowsTheEndOfALog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	if err := os.WriteFile(path, []byte("one\ntwo\nthree\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := Tail(path, 2); strings.Contains(got, "one") || !strings.Contains(got, "    two\n    three\n") {
		t.Errorf("got %s", got)
	}
	if got := Tail(path+".none", 2); !strings.Contains(got, "no log") {
		t.Errorf("got %s", got)
	}
}
