package ownership

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestDebug(t *testing.T) {
	f := os.Getenv("F")
	if f == "" {
		t.Skip()
	}
	for i := range 400 {
		s := setup{seed: uint64(i + 1), nodes: []int{2, 3, 5, 7}[i%4], vips: 6, loss: 0.01, gateway: true, faults: []string{f}, count: 4}
		w := newWorld(t, s)
		w.tracing = true
		play(w)
		if w.judge.gap > 600*time.Millisecond || w.judge.double > 200*time.Millisecond {
			t.Logf("%v\n%s\n%v", s, strings.Join(w.log, "\n"), w.judge.worst)
			return
		}
	}
}
