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
// without a failure, and reads back what it printed. With a base, the file has
// only the sets and chains that differ from it.
func golden(t *testing.T, h *nstest.Host, table, name, base string) (listing string) {
	t.Helper()
	nstest.Tool(t, "nft")
	got := h.Run("nft", "list", "table", "inet", table) + "\n"
	h.Run("nft", "-j", "list", "ruleset")
	// nft 1.0.6 prints the statements that remember an IPv6 client, but aborts when
	// it reads a map statement with a key of more than 16 bytes, its own included
	// (`add @m { ip6 saddr . th dport : meta priority }` in netlink_linearize.c).
	if !strings.Contains(got, "update @affinity6") {
		rereads(t, table, got)
	}

	show := got
	if base != "" {
		known := map[string]bool{}
		for _, block := range strings.Split(base, "\n\n") {
			known[block] = true
		}
		var own []string
		for _, block := range strings.Split(got, "\n\n") {
			if !known[block] {
				own = append(own, block)
			}
		}
		show = strings.TrimSpace(strings.Join(own, "\n\n")) + "\n"
	}
	file := filepath.Join("testdata", name+".nft")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(show), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (write it with -update)", err)
	}
	if show != string(want) {
		t.Errorf("the table differs from %s (-update writes it anew):\n%s", file, diff(string(want), show))
	}
	return got
}

// rereads proves that nft makes the same table of what it printed.
func rereads(t *testing.T, table, printed string) {
	t.Helper()
	again := filepath.Join(t.TempDir(), "again.nft")
	if err := os.WriteFile(again, []byte(printed), 0o644); err != nil {
		t.Fatal(err)
	}
	reader := nstest.NewHost(t, "reader")
	reader.Run("nft", "-f", again)
	if back := reader.Run("nft", "list", "table", "inet", table) + "\n"; back != printed {
		t.Errorf("nft reads back something else than it printed:\n%s", diff(printed, back))
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
