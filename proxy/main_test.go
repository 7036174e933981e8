package proxy

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clarion-lb/clarion/internal/nstest"
)

var update = flag.Bool("update", false, "write the goldens in testdata anew")

func TestMain(m *testing.M) { nstest.Main(m) }

// golden compares what nft prints with a file in testdata, and proves that the
// user's own nft can live with the rules: it prints them as text and as JSON
// without a failure, and reads back what it printed.
func golden(t *testing.T, h *nstest.Host, table, name string) {
	t.Helper()
	nstest.Tool(t, "nft")
	got := h.Run("nft", "list", "table", "inet", table) + "\n"
	h.Run("nft", "-j", "list", "ruleset")
	file := filepath.Join("testdata", name+".nft")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (write it with -update)", err)
	}
	if got != string(want) {
		t.Errorf("the table differs from %s (-update writes it anew):\n%s", file, diff(string(want), got))
	}
	again := filepath.Join(t.TempDir(), "again.nft")
	if err := os.WriteFile(again, []byte(got), 0o644); err != nil {
		t.Fatal(err)
	}
	reader := nstest.NewHost(t, "reader")
	reader.Run("nft", "-f", again)
	if back := reader.Run("nft", "list", "table", "inet", table) + "\n"; back != got {
		t.Errorf("nft reads back something else than it printed:\n%s", diff(got, back))
	}
}

// diff shows the lines that only one of two texts has.
func diff(want, got string) string {
	count := map[string]int{}
	for _, l := range strings.Split(want, "\n") {
		count[l]++
	}
	var out []string
	for _, l := range strings.Split(got, "\n") {
		if count[l]--; count[l] < 0 {
			out = append(out, "+ "+l)
		}
	}
	for _, l := range strings.Split(want, "\n") {
		if count[l] > 0 {
			count[l]--
			out = append(out, "- "+l)
		}
	}
	return strings.Join(out, "\n")
}
