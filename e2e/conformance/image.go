package conformance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clarion-lb/clarion/e2e/internal/build"
	"github.com/clarion-lb/clarion/e2e/internal/imagetar"
	"github.com/clarion-lb/clarion/e2e/internal/proc"
	"github.com/clarion-lb/clarion/e2e/internal/step"
)

// The specs run commands in their pods, so agnhost alone is not enough: it gets a small Debian around it.
const suiteOfDebian = "bookworm"

// tools are the packages whose programs the specs call: curl, wget, nc, dig, ip, iperf, socat, conntrack, ping.
var tools = []string{"ca-certificates", "conntrack", "curl", "dnsutils", "iperf", "iproute2", "iputils-ping",
	"netcat-openbsd", "socat", "wget"}

// searchPath is the usual one, with the directory of agnhost.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/"

const wgetrc = "tries = 1\n"

// kind is what an image does if a pod says nothing.
type kind string

const (
	agnhost kind = "agnhost" // agnhost's first argument is what the pod gives; without any it waits
	shell   kind = "shell"   // a shell
)

// archive is an image on the disk. The name, which only this package uses, tells whether a node has it.
type archive struct{ path, name string }

// makeImages packs what is not packed yet under the names that the suite asks for.
func (r Run) makeImages(ctx context.Context, s *step.Step) ([]archive, error) {
	cache := build.Cache{Dir: filepath.Join(r.Root, ".cache", "lab"), Module: filepath.Join(r.Root, "e2e")}
	if _, err := cache.Build(ctx, build.Agnhost, s); err != nil {
		return nil, err
	}
	program, err := cache.Path(build.Agnhost)
	if err != nil {
		return nil, err
	}
	base, err := r.makeBase(ctx, s)
	if err != nil {
		return nil, err
	}
	sources, err := r.sourcesOf(ctx, "k8s.io/kubernetes/test/images/agnhost/porter")
	if err != nil {
		return nil, err
	}
	files := []imagetar.File{{From: program, To: "/agnhost"},
		// agnhost's TLS servers read these two, and without them do not start.
		{From: filepath.Join(sources, "localhost.crt"), To: "/localhost.crt", Mode: 0o644},
		{From: filepath.Join(sources, "localhost.key"), To: "/localhost.key", Mode: 0o644}}
	list, err := proc.Output(exec.CommandContext(ctx, r.suite(), "-images"))
	if err != nil {
		return nil, fmt.Errorf("ask the suite for its images: %w", err)
	}
	names, err := parseImages(list)
	if err != nil {
		return nil, err
	}
	// The specs take one failure of wget for an answer, as that of busybox does; Debian's would try twenty times.
	files = append(files, imagetar.File{Content: []byte(wgetrc), To: "/etc/wgetrc", Mode: 0o644})
	var made []archive
	for _, k := range []kind{agnhost, shell} {
		key := hash(slices.Concat([]string{string(k), base, program, sources, wgetrc}, names[k]))
		a := archive{filepath.Join(r.cache(), string(k)+"-"+key+".tar"), "clarion.dev/lab/conformance-" + string(k) + ":" + key}
		img := imagetar.Image{Tags: append([]string{a.name}, names[k]...), Base: base, Files: files,
			Env: []string{searchPath}}
		switch k {
		case agnhost:
			img.Entrypoint, img.Command = []string{"/agnhost"}, []string{"pause"}
		case shell:
			img.Command = []string{"sh"}
		}
		s.Now("packing %s", a.path)
		if err := pack(img, a.path); err != nil {
			return nil, err
		}
		made = append(made, a)
	}
	return made, nil
}

// sourcesOf is the directory of a Go package among the modules. It has the module's version in its name.
func (r Run) sourcesOf(ctx context.Context, pkg string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", pkg)
	cmd.Dir = filepath.Join(r.Root, "e2e")
	dir, err := proc.Output(cmd)
	if err != nil {
		return "", fmt.Errorf("find the sources of %s: %w", pkg, err)
	}
	return strings.TrimSpace(dir), nil
}

// parseImages reads the answer to «-images»: lines of a kind and a name.
func parseImages(list string) (map[kind][]string, error) {
	names := map[kind][]string{}
	for line := range strings.Lines(list) {
		k, name, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || name == "" || (kind(k) != agnhost && kind(k) != shell) {
			return nil, fmt.Errorf("the suite lists an image as %q; it should be «%s NAME» or «%s NAME»", line, agnhost, shell)
		}
		names[kind(k)] = append(names[kind(k)], name)
	}
	if len(names[agnhost]) == 0 || len(names[shell]) == 0 {
		return nil, fmt.Errorf("the suite lists the images %q, but of both kinds some are needed", list)
	}
	return names, nil
}

// makeBase makes the tar of the Debian root, unless it is there.
func (r Run) makeBase(ctx context.Context, s *step.Step) (string, error) {
	path := filepath.Join(r.cache(), "debian-"+hash(append([]string{suiteOfDebian}, tools...))+".tar")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	root, err := os.MkdirTemp("", "conformance-root-")
	if err != nil {
		return "", fmt.Errorf("make a directory for the root: %w", err)
	}
	commands := [][]string{
		{"debootstrap", "--variant=minbase", "--include=" + strings.Join(tools, ","), suiteOfDebian, root},
		// Devices come from the container runtime; what packages were unpacked from is of no use to anybody.
		{"tar", "--create", "--file", path + ".part", "--directory", root, "--sort=name", "--mtime=@0", "--numeric-owner",
			"--exclude=./dev/*", "--exclude=./var/cache/*", "--exclude=./var/lib/apt/lists/*", "--exclude=./var/log/*", "."},
	}
	for _, args := range commands {
		s.Now("making the Debian root: %s", args[0])
		if _, err = proc.Output(exec.CommandContext(ctx, args[0], args[1:]...)); err != nil {
			err = fmt.Errorf("make the Debian root of the images: %w", err)
			break
		}
	}
	if err := errors.Join(err, os.RemoveAll(root)); err != nil {
		return "", err
	}
	if err := os.Rename(path+".part", path); err != nil {
		return "", fmt.Errorf("keep the Debian root: %w", err)
	}
	return path, nil
}

func pack(img imagetar.Image, path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	out, err := os.Create(path + ".part")
	if err != nil {
		return fmt.Errorf("pack %s: %w", path, err)
	}
	defer out.Close()
	if err := img.Write(out); err != nil {
		return fmt.Errorf("pack %s: %w", path, err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("pack %s: %w", path, err)
	}
	if err := os.Rename(out.Name(), path); err != nil {
		return fmt.Errorf("keep %s: %w", path, err)
	}
	return nil
}

// loadImages gives every node the images that it lacks, one node after the other: the disk is the same for all.
func (r Run) loadImages(ctx context.Context, images []archive) error {
	for _, node := range r.Lab.Nodes() {
		have, err := node.Output(ctx, "ctr", "--namespace", "k8s.io", "images", "list", "--quiet")
		if err != nil {
			return fmt.Errorf("list the images of %s: %w", node.Name, err)
		}
		for _, img := range images {
			if slices.Contains(strings.Fields(have), img.name) {
				continue
			}
			if _, err := node.Output(ctx, "ctr", "--namespace", "k8s.io", "images", "import", img.path); err != nil {
				return fmt.Errorf("load %s on %s: %w", img.path, node.Name, err)
			}
		}
	}
	return nil
}

func hash(parts []string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return hex.EncodeToString(sum[:])[:12]
}
