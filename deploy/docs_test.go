package deploy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	sigsyaml "sigs.k8s.io/yaml"
)

// said returns the text of every string in the product's sources, with
// strings that are joined by «+» as one.
func said(t *testing.T) string {
	t.Helper()
	var out strings.Builder
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
		ast.Inspect(file, func(n ast.Node) bool {
			if e, ok := n.(ast.Expr); ok {
				if text, ok := literal(e); ok {
					out.WriteString(text + "\x00")
					return false
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	out.WriteString(read(t, "clarion.yaml")) // the admission policies speak too
	return out.String()
}

// literal returns the text of a string, or of strings joined by «+»; what
// stands between them and is no string counts as something that differs.
func literal(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			text, err := strconv.Unquote(e.Value)
			return text, err == nil
		}
	case *ast.BinaryExpr:
		if e.Op == token.ADD {
			left, ok1 := literal(e.X)
			right, ok2 := literal(e.Y)
			return left + right, ok1 && ok2
		}
	}
	return "", false
}

var codeSpan = regexp.MustCompile("`([^`\n]+)`")

// TestMessagesAreReal wants each message that the page about troubleshooting
// quotes to be in the code: every piece of at least two words between the
// parts that differ.
func TestMessagesAreReal(t *testing.T) {
	text := said(t)
	quoted := 0
	for _, m := range codeSpan.FindAllStringSubmatch(read(t, "../docs/troubleshooting.md"), -1) {
		span := m[1]
		if strings.HasPrefix(span, "kubectl ") || strings.HasPrefix(span, "make ") || !strings.Contains(span, " ") {
			continue
		}
		for _, piece := range strings.Split(span, "…") {
			piece = strings.Trim(piece, " ")
			if !strings.Contains(piece, " ") {
				continue // too short to be looked for
			}
			quoted++
			if !strings.Contains(text, piece) {
				t.Errorf("nothing in the code says %q", piece)
			}
		}
	}
	if quoted < 30 {
		t.Fatalf("only %d quotes were checked", quoted)
	}
}

// TestReasonsAreDocumented wants every reason that a condition can have to be
// in the guide, and no other.
func TestReasonsAreDocumented(t *testing.T) {
	pages := read(t, "../docs/services.md") + read(t, "../docs/troubleshooting.md")
	for _, source := range []string{"../allocator/refusal.go", "../provider/condition.go", "../cmd/clarion-agent/statement.go"} {
		found := 0
		for _, m := range regexp.MustCompile(`(?m)^\t\w+\s+(?:Reason )?\s*=\s+"([A-Z][A-Za-z]+)"`).FindAllStringSubmatch(read(t, source), -1) {
			found++
			if m[1] != "Quarantined" && !strings.Contains(pages, "`"+m[1]+"`") { // nothing puts an address into quarantine yet
				t.Errorf("%s: the guide does not explain the reason %s", source, m[1])
			}
		}
		if found < 4 {
			t.Errorf("%s: only %d reasons were found", source, found)
		}
	}
}

// TestLinks wants every relative link of the guide to lead somewhere.
func TestLinks(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, page := range pages {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			path := page
			if target != "" {
				path = filepath.Join(filepath.Dir(page), target)
			}
			if matches, err := filepath.Glob(path); err != nil || len(matches) == 0 {
				t.Errorf("%s links to %s, which is not there", page, m[1])
				continue
			}
			if anchor != "" && !slices.Contains(anchors(read(t, path)), anchor) {
				t.Errorf("%s links to %s, and there is no such heading", page, m[1])
			}
		}
	}
}

// anchors returns the names that GitHub gives to headings.
func anchors(page string) (out []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		out = append(out, strings.ReplaceAll(name, " ", "-"))
	}
	return out
}

// TestFlagsAndValuesAreReal wants each flag and each value of the chart that
// the guide names to exist.
func TestFlagsAndValuesAreReal(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	code := said(t)
	var values map[string]any
	unmarshal(t, "chart/clarion/values.yaml", &values)
	for _, page := range pages {
		for _, span := range codeSpan.FindAllStringSubmatch(read(t, page), -1) {
			if m := regexp.MustCompile(`^--([a-z-]+)$`).FindStringSubmatch(span[1]); m != nil && !strings.Contains(code, "\x00"+m[1]+"\x00") {
				t.Errorf("%s names the flag %s, which does not exist", page, span[1])
			}
			keys := strings.Split(span[1], ".")
			if _, ok := values[keys[0]].(map[string]any); !ok || len(keys) < 2 {
				continue
			}
			at := any(values)
			for _, key := range keys {
				key, _, _ = strings.Cut(key, "=")
				group, _ := at.(map[string]any)
				next, ok := group[key]
				if !ok {
					t.Errorf("%s names the value %s, which does not exist", page, span[1])
					break
				}
				at = next
			}
		}
	}
}

func unmarshal(t *testing.T, path string, into any) {
	t.Helper()
	if err := sigsyaml.Unmarshal([]byte(read(t, path)), into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
