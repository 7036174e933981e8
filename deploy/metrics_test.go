package deploy

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	sigsyaml "sigs.k8s.io/yaml"
)

// A metric is what the code says of one of its metrics.
type metric struct {
	kind   string // counter, gauge, histogram, or empty where the source does not show it
	labels []string
}

// metricsInCode reads every metric from the sources of the product: from the
// calls of client_golang that make them. A name that is put together from a
// prefix and a table is read from the table in the same file.
func metricsInCode(t *testing.T) map[string]metric {
	t.Helper()
	out := map[string]metric{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != ".." && (strings.HasPrefix(d.Name(), ".") || slices.Contains([]string{"e2e", "tools", "bin"}, d.Name())):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool {
			return i.Path.Value == `"github.com/prometheus/client_golang/prometheus"`
		}) {
			metricsOf(t, path, file, out)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 10 {
		t.Fatalf("only %d metrics were found: %v", len(out), out)
	}
	return out
}

var suffix = regexp.MustCompile(`^[a-z]+(_[a-z]+)*_(total|seconds|bytes|size|info)$`)

func metricsOf(t *testing.T, path string, file *ast.File, out map[string]metric) {
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		function, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if pkg, ok := function.X.(*ast.Ident); !ok || pkg.Name != "prometheus" {
			return true
		}
		m := metric{kind: kindOf(function.Sel.Name)}
		var names []string
		for _, arg := range call.Args {
			m.labels = append(m.labels, labelsIn(arg)...)
			for _, s := range stringsIn(arg) {
				if strings.HasPrefix(s, "clarion_") {
					names = append(names, s)
				}
			}
		}
		for _, name := range names {
			if !strings.HasSuffix(name, "_") {
				out[name] = m
				continue
			}
			for _, rest := range stringsIn(file) {
				if suffix.MatchString(rest) && !strings.HasPrefix(rest, "clarion_") {
					out[name+rest] = m
				}
			}
		}
		if len(names) == 0 && (m.kind != "" || function.Sel.Name == "NewDesc") {
			t.Errorf("%s: a metric is made by %s and its name is not seen here; write it as one string", path, function.Sel.Name)
		}
		return true
	})
}

func kindOf(function string) string {
	for _, kind := range []string{"Counter", "Gauge", "Histogram"} {
		if function == "New"+kind || function == "New"+kind+"Vec" {
			return strings.ToLower(kind)
		}
	}
	return ""
}

// labelsIn returns the words of an argument of type []string.
func labelsIn(arg ast.Expr) []string {
	list, ok := arg.(*ast.CompositeLit)
	if !ok {
		return nil
	}
	if array, ok := list.Type.(*ast.ArrayType); !ok || array.Len != nil {
		return nil
	}
	return stringsIn(list)
}

func stringsIn(n ast.Node) (out []string) {
	ast.Inspect(n, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if s, err := strconv.Unquote(lit.Value); err == nil {
				out = append(out, s)
			}
		}
		return true
	})
	return out
}

// foreign are the metrics of others that alerts and dashboard may use.
var foreign = []string{"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}

// foreignLabels are those that scraping adds.
var foreignLabels = []string{"job", "instance", "node", "le", "__rate_interval", "__range"}

var (
	reserved = []string{"and", "or", "unless", "by", "without", "on", "ignoring", "sum", "max", "min", "count", "rate", "increase",
		"histogram_quantile", "vector", "absent", "bool", "group_left"}
	quoted    = regexp.MustCompile(`"[^"]*"`)
	duration  = regexp.MustCompile(`\[[^\]]*\]`)
	matchers  = regexp.MustCompile(`\{[^}]*\}`)
	groupings = regexp.MustCompile(`\b(?:by|on|ignoring|without)\s*\(([^)]*)\)`)
	word      = regexp.MustCompile(`[a-zA-Z_][a-zA-Z0-9_]*`)
)

// problems says which metrics and labels of a PromQL expression do not exist.
func problems(expr string, code map[string]metric) (out []string) {
	text := duration.ReplaceAllString(quoted.ReplaceAllString(expr, ""), "")
	var labels []string
	for _, m := range matchers.FindAllString(text, -1) {
		labels = append(labels, word.FindAllString(m, -1)...)
	}
	for _, m := range groupings.FindAllStringSubmatch(text, -1) {
		labels = append(labels, word.FindAllString(m[1], -1)...)
	}
	known := slices.Clone(foreignLabels)
	metrics := 0
	for _, name := range word.FindAllString(groupings.ReplaceAllString(matchers.ReplaceAllString(text, ""), ""), -1) {
		if slices.Contains(reserved, name) {
			continue
		}
		metrics++
		m, ok := code[name]
		if base := trimHistogram(name); !ok && base != name {
			m, ok = code[base]
			ok = ok && m.kind == "histogram"
		}
		if !ok && !slices.Contains(foreign, name) {
			out = append(out, "no metric "+name+" is in the code")
		}
		known = append(known, m.labels...)
	}
	if metrics == 0 {
		out = append(out, "there is no metric in it")
	}
	for _, label := range labels {
		if !slices.Contains(known, label) {
			out = append(out, "no metric in it has the label "+label)
		}
	}
	return out
}

func trimHistogram(name string) string {
	for _, s := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, s); ok {
			return base
		}
	}
	return name
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestAlerts(t *testing.T) {
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := sigsyaml.UnmarshalStrict([]byte(read(t, "monitoring/alerts.yaml")), &rules); err != nil {
		t.Fatal(err)
	}
	code, page := metricsInCode(t), read(t, "../docs/metrics.md")
	seen := 0
	for _, group := range rules.Groups {
		for _, r := range group.Rules {
			seen++
			for _, problem := range problems(r.Expr, code) {
				t.Errorf("%s: %s: %s", r.Alert, r.Expr, problem)
			}
			if !slices.Contains([]string{"info", "warning", "critical"}, r.Labels["severity"]) {
				t.Errorf("%s has the severity %q", r.Alert, r.Labels["severity"])
			}
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s does not say what happened and what to do", r.Alert)
			}
			if !strings.Contains(page, "`"+r.Alert+"`") {
				t.Errorf("docs/metrics.md does not name the alert %s", r.Alert)
			}
		}
	}
	if seen == 0 {
		t.Fatal("no alerts")
	}
}

func TestDashboard(t *testing.T) {
	var dashboard struct {
		Title, UID string
		Panels     []struct {
			ID          int
			Title, Type string
			Description string
			GridPos     struct{ H, W, X, Y int }
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "monitoring/dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	code, ids := metricsInCode(t), map[int]bool{}
	for _, p := range dashboard.Panels {
		if ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q: id %d, place %+v", p.Title, p.ID, p.GridPos)
		}
		ids[p.ID] = true
		if p.Type != "row" && (len(p.Targets) == 0 || p.Description == "") {
			t.Errorf("panel %q shows nothing or does not say what", p.Title)
		}
		for _, target := range p.Targets {
			for _, problem := range problems(target.Expr, code) {
				t.Errorf("panel %q: %s: %s", p.Title, target.Expr, problem)
			}
		}
	}
}

// TestMetricsPage wants docs/metrics.md to have a row for each metric, with its
// kind and labels as they are in the code, and for no other.
func TestMetricsPage(t *testing.T) {
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([a-z]+) \\|([^|]*)\\| ([^|]+) \\|$")
	code, documented := metricsInCode(t), map[string]bool{}
	for _, m := range row.FindAllStringSubmatch(read(t, "../docs/metrics.md"), -1) {
		name, kind := m[1], m[2]
		documented[name] = true
		have, ok := code[name]
		if !ok {
			t.Errorf("docs/metrics.md has %s, the code has not", name)
			continue
		}
		if have.kind != "" && have.kind != kind {
			t.Errorf("docs/metrics.md: %s is a %s, not a %s", name, have.kind, kind)
		}
		var labels []string
		for _, l := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(m[3], -1) {
			labels = append(labels, l[1])
		}
		if !slices.Equal(slices.Sorted(slices.Values(labels)), slices.Sorted(slices.Values(have.labels))) {
			t.Errorf("docs/metrics.md: %s has the labels %v, not %v", name, have.labels, labels)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(code)) {
		if !documented[name] {
			t.Errorf("docs/metrics.md has no row for %s", name)
		}
	}
}

func TestProblems(t *testing.T) {
	code := map[string]metric{"clarion_a": {kind: "gauge", labels: []string{"pool"}}, "clarion_b_seconds": {kind: "histogram"}}
	for _, tt := range []struct {
		expr string
		good bool
	}{
		{`max by (pool) (clarion_a{pool="x"})`, true},
		{`histogram_quantile(0.9, sum by (le) (rate(clarion_b_seconds_bucket[5m])))`, true},
		{`clarion_invented`, false},
		{`clarion_a_bucket`, false},
		{`clarion_a{colour="x"}`, false},
		{`sum by (colour) (clarion_a)`, false},
		{`1`, false},
	} {
		if found := problems(tt.expr, code); (len(found) == 0) != tt.good {
			t.Errorf("%s: %v", tt.expr, found)
		}
	}
}
