package build

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

func TestTheVersionIsThatOfTheModules(t *testing.T) {
	text, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^\tk8s\.io/kubernetes (v\S+)$`).FindSubmatch(text)
	if found == nil || string(found[1]) != KubernetesVersion {
		t.Errorf("go.mod has %q, but the programs would call themselves %s", found, KubernetesVersion)
	}
}

func TestAProgramIsBuiltAnewWhenItsSourcesChange(t *testing.T) {
	module := t.TempDir()
	put := func(name, text string) {
		path := filepath.Join(module, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	key := func() string {
		path, err := Cache{Dir: "cache", Module: module}.Path(Kube)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	put("go.mod", "module x")
	put("go.sum", "")
	put("cmd/kube/main.go", "package main")
	first := key()
	if key() != first {
		t.Error("the same sources give two keys")
	}
	put("cmd/other/main.go", "package main")
	if key() != first {
		t.Error("another program's sources change the key")
	}
	for _, change := range []string{"go.mod", "go.sum", "cmd/kube/main.go", "cmd/kube/more.go"} {
		before := key()
		put(change, "package main // "+change)
		if key() == before {
			t.Errorf("a change of %s does not change the key", change)
		}
	}
}

func TestPruneKeepsOtherProgramsAndTheNewEntry(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"kube-0123456789ab", "kube-ba9876543210", "kube-other", "kubectl-0123456789ab"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := prune(dir, "kube", filepath.Join(dir, "kube-ba9876543210")); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 3 {
		t.Fatalf("left: %v, %v", left, err)
	}
	for _, e := range left {
		if e.Name() == "kube-0123456789ab" {
			t.Error("the old entry is still there")
		}
	}
}
