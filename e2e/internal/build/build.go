// Package build compiles the programs of the lab and packs its images, and keeps both by the hash of what they are made
// from, so that only the first start pays for them.
package build

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/e2e/internal/step"
)

// KubernetesVersion is what the cluster's programs call themselves. It is the version in go.mod, held by a test.
const KubernetesVersion = "v1.37.1"

// Program is one binary of the lab.
type Program struct {
	Name    string
	Package string
}

// The programs. Kube is every part of Kubernetes and etcd in one.
var (
	Kube    = Program{"kube", "./cmd/kube"}
	CoreDNS = Program{"coredns", "./cmd/coredns"}
	Agnhost = Program{"agnhost", "k8s.io/kubernetes/test/images/agnhost"}
	// The reference CNI plugins.
	Loopback  = Program{"loopback", "github.com/containernetworking/plugins/plugins/main/loopback"}
	PTP       = Program{"ptp", "github.com/containernetworking/plugins/plugins/main/ptp"}
	HostLocal = Program{"host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local"}
	Portmap   = Program{"portmap", "github.com/containernetworking/plugins/plugins/meta/portmap"}
)

// Programs lists all of them, the slowest last.
func Programs() []Program {
	return []Program{Agnhost, CoreDNS, Loopback, PTP, HostLocal, Portmap, Kube}
}

// Cache is a directory of what has been built.
type Cache struct {
	Dir    string // such as .cache/lab
	Module string // the directory of this Go module
}

// flags go into the hash as well.
func flags() []string {
	version := "k8s.io/component-base/version."
	major, minor, _ := strings.Cut(strings.TrimPrefix(KubernetesVersion, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	return []string{"-tags=labprograms", "-trimpath", "-buildvcs=false", "-ldflags",
		fmt.Sprintf("-s -w -X %sgitVersion=%s -X %sgitMajor=%s -X %sgitMinor=%s",
			version, KubernetesVersion, version, major, version, minor)}
}

// Path is where the program is, once Build has returned.
func (c Cache) Path(p Program) (string, error) {
	key, err := c.key(p)
	if err != nil {
		return "", err
	}
	return filepath.Join(c.Dir, p.Name+"-"+key, p.Name), nil
}

// key is the hash of everything that goes into the program: dependencies by go.sum, own sources, flags, toolchain.
func (c Cache) key(p Program) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, p.Package, flags(), runtime.Version(), runtime.GOARCH)
	sources := []string{"go.mod", "go.sum"}
	if strings.HasPrefix(p.Package, "./") {
		own, err := filepath.Glob(filepath.Join(c.Module, p.Package, "*.go"))
		if err != nil {
			return "", fmt.Errorf("list the sources of %s: %w", p.Name, err)
		}
		for _, file := range own {
			sources = append(sources, filepath.Join(p.Package, filepath.Base(file)))
		}
	}
	slices.Sort(sources)
	for _, name := range sources {
		text, err := os.ReadFile(filepath.Join(c.Module, name))
		if err != nil {
			return "", fmt.Errorf("hash the sources of %s: %w", p.Name, err)
		}
		fmt.Fprintln(h, name, len(text))
		h.Write(text)
	}
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}

// Build compiles the program unless that has been done, and removes what older sources made of it. It tells s what the
// compiler is busy with. The compiler ends with this process.
func (c Cache) Build(ctx context.Context, p Program, s *step.Step) (built bool, err error) {
	path, err := c.Path(p)
	if err != nil {
		return false, err
	}
	if _, err := os.Stat(path); err == nil {
		return false, nil
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, fmt.Errorf("make the cache of %s: %w", p.Name, err)
	}
	unfinished := path + ".part"
	if err := c.seed(p.Name, unfinished); err != nil {
		return false, err
	}
	args := append([]string{"build", "-v", "-o", unfinished}, flags()...)
	if err := c.compile(ctx, append(args, p.Package), p.Name, s); err != nil {
		return false, err
	}
	if err := os.Rename(unfinished, path); err != nil {
		return false, fmt.Errorf("keep %s: %w", p.Name, err)
	}
	return true, prune(c.Dir, p.Name, dir)
}

// seed puts the binary of an earlier entry where the new one will be. The go command leaves it as it is if it would link
// the same again, as after a change of go.mod that the program has no part in.
func (c Cache) seed(name, to string) error {
	earlier, err := filepath.Glob(filepath.Join(c.Dir, name+"-*", name))
	if err != nil {
		return fmt.Errorf("look for an earlier %s: %w", name, err)
	}
	if len(earlier) == 0 {
		return nil
	}
	in, err := os.Open(earlier[0])
	if err != nil {
		return fmt.Errorf("copy the earlier %s: %w", name, err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return fmt.Errorf("copy the earlier %s: %w", name, err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("copy the earlier %s: %w", name, err)
	}
	return out.Close()
}

func (c Cache) compile(ctx context.Context, args []string, name string, s *step.Step) error {
	// The parent-death signal is bound to the thread that starts the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = c.Module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("compile %s: %w", name, err)
	}
	s.Now("compiling %s: loading packages", name)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("compile %s: %w", name, err)
	}
	said := follow(out, name, s)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("compile %s: %w\n%s", name, err, strings.Join(said, "\n"))
	}
	return nil
}

// follow reads the names of packages that «go build -v» prints and keeps the last lines, which hold the errors.
func follow(out io.Reader, name string, s *step.Step) (last []string) {
	const kept = 20
	count := 0
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := lines.Text()
		last = append(last, line)
		last = last[max(0, len(last)-kept):]
		if strings.HasPrefix(line, "go: ") {
			s.Now("compiling %s: %s", name, line) // such as downloading a module
		} else if !strings.Contains(line, " ") {
			count++
			s.Now("compiling %s: package %d, %s", name, count, line)
		}
	}
	return last
}

// prune removes the entries of name other than keep.
func prune(dir, name, keep string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list the cache: %w", err)
	}
	const keyLength = 12
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), name+"-")
		if !ok || len(rest) != keyLength || e.Name() == filepath.Base(keep) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("remove old %s: %w", name, err)
		}
	}
	return nil
}
