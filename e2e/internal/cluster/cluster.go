// Package cluster brings the lab up and takes it down. Read up.go (the order of things), then controlplane.go, node.go,
// podnetwork.go, dns.go and clarion.go (one part each), then down.go, which does not trust any of them.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/clarion-lb/clarion/e2e/internal/build"
	"github.com/clarion-lb/clarion/e2e/internal/plan"
	"github.com/clarion-lb/clarion/e2e/internal/step"
	"github.com/clarion-lb/clarion/e2e/lab"
)

// Cluster is the lab of one repository, whatever state it is in.
type Cluster struct {
	*lab.Lab
	Root  string // of the repository
	steps *step.List
	cache build.Cache
}

// New describes the lab with the settings, whose state is in dir. Nothing is touched.
func New(root, dir string, settings plan.Settings, out io.Writer) *Cluster {
	return &Cluster{
		Lab:   &lab.Lab{Settings: settings, Dir: dir},
		Root:  root,
		steps: step.New(out),
		cache: build.Cache{Dir: filepath.Join(root, ".cache", "lab"), Module: filepath.Join(root, "e2e")},
	}
}

// FindRoot finds the repository that the directory is part of.
func FindRoot(dir string) (string, error) {
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "e2e", "lab.mk")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("%s is not inside the Clarion repository (no e2e/lab.mk in it or above)", dir)
		}
	}
}

// lock keeps two commands from working on the machine's one lab at a time. The lock is an abstract socket, so it ends
// with its process and leaves no file.
func lock() (unlock func(), err error) {
	l, err := net.Listen("unix", "@clarion-lab-lock")
	if err != nil {
		return nil, errors.New("another lab command is at work on this machine (only one lab fits, because the names of " +
			"its network namespaces are fixed); wait for it or end it")
	}
	return func() { l.Close() }, nil
}

// privateDirs are where every host has its own view of the file system; see hostinit.Spec.
var privateDirs = []string{"/etc", "/var", "/opt"}

// check refuses what cannot work, before anything is done.
func (c *Cluster) check() error {
	if os.Geteuid() != 0 {
		return errors.New("the lab makes network namespaces, mounts and containers, so it must be run as root")
	}
	for _, hidden := range append([]string{"/run"}, privateDirs...) {
		for _, used := range []string{c.Root, c.Dir} {
			if rel, err := filepath.Rel(hidden, used); err == nil && filepath.IsLocal(rel) {
				return fmt.Errorf("%s is below %s, of which every host of the lab has a view of its own; move it "+
					"elsewhere, such as below /srv or /home", used, hidden)
			}
		}
	}
	return nil
}

// log returns the tail of a program's log, to be shown with an error.
func (c *Cluster) tail(name string) string { return step.Tail(c.Log(name), 15) }

// parallel runs the functions at the same time and joins their errors.
func parallel(ctx context.Context, run ...func(ctx context.Context) error) error {
	errs := make(chan error, len(run))
	for _, f := range run {
		go func() { errs <- f(ctx) }()
	}
	var all []error
	for range run {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}
