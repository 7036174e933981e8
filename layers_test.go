package clarion_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/clarion-lb/clarion/"

// owners lists, for each outside library that touches the world, the only
// packages that may import it. A name that ends in «/» stands for everything
// below it.
var owners = map[string][]string{
	"k8s.io/":                            {"provider", "internal/watch", "internal/tell", "cmd/"},
	"github.com/mdlayher/arp":            {"speaker"},
	"github.com/mdlayher/ndp":            {"speaker"},
	"github.com/mdlayher/packet":         {"speaker"},
	"github.com/vishvananda/netlink":     {"internal/rtnl"},
	"github.com/vishvananda/netns":       {"internal/nstest", "internal/rtnl"},
	"github.com/hashicorp/memberlist":    {"internal/member"},
	"github.com/containernetworking/":    {"cni/plugin", "cmd/clarion-cni"},
	"github.com/prometheus/":             {"internal/metrics", "provider", "cmd/"},
	"os/exec":                            {"internal/nstest"},
	"github.com/hashicorp/go-multierror": {"config"},
}

// parts are the pieces of the product. They do not know each other; only cmd
// joins them.
var parts = []string{"speaker", "proxy", "cni", "allocator", "provider", "config"}

// mayImport lists the exception: provider drives allocator with what config
// parsed.
var mayImport = map[string][]string{"provider": {"allocator", "config"}}

func TestLayers(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (path == "e2e" || strings.HasPrefix(d.Name(), ".") && path != "."):
			return fs.SkipDir // e2e is another module: it stands outside and may use everything
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		files++
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		from := filepath.ToSlash(filepath.Dir(path))
		for _, spec := range f.Imports {
			to, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if !allowed(from, to) {
				t.Errorf("%s imports %s; see the diagram in ARCHITECTURE.md", path, to)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files == 0 {
		t.Fatal("no file was checked")
	}
}

func TestAllowed(t *testing.T) {
	tests := []struct {
		from, to string
		want     bool
	}{
		{"speaker", module + "internal/cluster", true},
		{"speaker", module + "allocator", false},
		{"provider", module + "allocator", true},
		{"allocator", module + "provider", false},
		{"cmd/clarion-agent", module + "speaker", true},
		{"speaker", "k8s.io/api/core/v1", false},
		{"internal/watch", "k8s.io/api/core/v1", true},
		{"internal/cluster", module + "speaker", false},
		{"proxy", "github.com/vishvananda/netlink/nl", false},
		{"proxy/sub", module + "proxy", true},
	}
	for _, tt := range tests {
		if got := allowed(tt.from, tt.to); got != tt.want {
			t.Errorf("allowed(%s, %s) = %v", tt.from, tt.to, got)
		}
	}
}

func allowed(from, to string) bool {
	if own, ok := strings.CutPrefix(to, module); ok {
		target := part(own)
		return target == "" || target == part(from) || strings.HasPrefix(from, "cmd/") ||
			slices.Contains(mayImport[part(from)], target)
	}
	for lib, packages := range owners {
		if strings.HasPrefix(to, lib) {
			return slices.ContainsFunc(packages, func(p string) bool {
				return from == p || strings.HasSuffix(p, "/") && strings.HasPrefix(from, p)
			})
		}
	}
	return true
}

// part returns the part of the product that an own package belongs to, or ""
// for internal packages, which everybody may use.
func part(own string) string {
	for _, p := range parts {
		if own == p || strings.HasPrefix(own, p+"/") {
			return p
		}
	}
	return ""
}
