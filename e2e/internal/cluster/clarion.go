package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/clarion-lb/clarion/e2e/internal/plan"
	"github.com/clarion-lb/clarion/e2e/internal/proc"
	"github.com/clarion-lb/clarion/e2e/internal/step"
	"github.com/clarion-lb/clarion/e2e/lab"
)

// Clarion is installed as a user installs it: its images are built by the repository, loaded on every node, and one
// manifest is applied. The lab starts no process of Clarion.

const clarionNamespace = "clarion-system"

var clarionWorkloads = []string{"deployment/clarion-controller", "daemonset/clarion-agent"}

func (c *Cluster) clarionArchives() []string {
	dir := filepath.Join(c.Root, "bin", "images")
	return []string{filepath.Join(dir, "clarion-controller.tar"), filepath.Join(dir, "clarion-agent.tar")}
}

func (c *Cluster) clarionManifest() string {
	name := "clarion.yaml"
	if c.Settings.Profile == plan.Full {
		name = "clarion-full.yaml"
	}
	return filepath.Join(c.Root, "deploy", name)
}

// buildClarion runs the repository's own target, which knows what is up to date.
func (c *Cluster) buildClarion(ctx context.Context, s *step.Step) error {
	s.Now("make images")
	cmd := exec.CommandContext(ctx, "make", "--no-print-directory", "-C", c.Root, "images")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := proc.Run(cmd); err != nil {
		return fmt.Errorf("make images: %w\n%s", err, lastLines(said.String(), 30))
	}
	return nil
}

func (c *Cluster) installClarion(ctx context.Context, s *step.Step) error {
	if _, err := c.Kubectl(ctx, "apply", "-f", c.clarionManifest()); err != nil {
		return err
	}
	if err := c.waitClarion(ctx, s); err != nil {
		return err
	}
	return c.noteClarion()
}

func (c *Cluster) clarionNote() string { return filepath.Join(c.Dir, "clarion.sum") }

// clarionSum is the hash of all that a user would install: both images, which are reproducible, and the manifest.
func (c *Cluster) clarionSum() (string, error) {
	h := sha256.New()
	for _, path := range append(c.clarionArchives(), c.clarionManifest()) {
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("hash Clarion: %w", err)
		}
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return "", fmt.Errorf("hash Clarion: %w", err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// noteClarion remembers what has been installed.
func (c *Cluster) noteClarion() error {
	sum, err := c.clarionSum()
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.clarionNote(), []byte(sum), 0o644); err != nil {
		return fmt.Errorf("note which Clarion is installed: %w", err)
	}
	return nil
}

// refreshClarion replaces Clarion in a running lab if the sources make another one by now.
func (c *Cluster) refreshClarion(ctx context.Context) error {
	if err := c.steps.Do("build Clarion's images", func(s *step.Step) error { return c.buildClarion(ctx, s) }); err != nil {
		return err
	}
	want, err := c.clarionSum()
	if err != nil {
		return err
	}
	if have, err := os.ReadFile(c.clarionNote()); err == nil && string(have) == want {
		c.steps.Say("Clarion in it is what the sources make")
		return nil
	}
	return c.replaceClarion(ctx)
}

func (c *Cluster) waitClarion(ctx context.Context, s *step.Step) error {
	for _, workload := range clarionWorkloads {
		s.Now("waiting for %s", workload)
		limit, cancel := context.WithTimeout(ctx, 3*time.Minute)
		defer cancel()
		if _, err := c.Kubectl(limit, "-n", clarionNamespace, "rollout", "status", workload, "--timeout=120s"); err != nil {
			return fmt.Errorf("%w\n%s", err, c.describeClarion(ctx))
		}
	}
	return nil
}

// describeClarion says what a person would look at first when Clarion does not come up.
func (c *Cluster) describeClarion(ctx context.Context) string {
	var b strings.Builder
	for _, args := range [][]string{
		{"get", "pods", "-o", "wide"},
		{"get", "events", "--sort-by=.lastTimestamp"},
		{"logs", "deployment/clarion-controller", "--tail=20", "--all-pods=true"},
		{"logs", "daemonset/clarion-agent", "--tail=20", "--all-pods=true"},
	} {
		out, err := c.Kubectl(ctx, append([]string{"-n", clarionNamespace, "--request-timeout=5s"}, args...)...)
		fmt.Fprintf(&b, "$ kubectl %s\n%s", strings.Join(args, " "), lastLines(out, 30))
		if err != nil {
			fmt.Fprintf(&b, "%v\n", err)
		}
	}
	return b.String()
}

// Reinstall builds Clarion anew, loads its images on every node of a running lab, and replaces its pods.
func (c *Cluster) Reinstall(ctx context.Context) error {
	running, err := lab.Open(c.Dir)
	if err != nil {
		return err
	}
	c.Lab = running
	if !c.Settings.Profile.HasClarion() {
		return fmt.Errorf("the lab has profile %s, in which there is no Clarion", c.Settings.Profile)
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.steps.Do("build Clarion's images", func(s *step.Step) error { return c.buildClarion(ctx, s) }); err != nil {
		return err
	}
	return c.replaceClarion(ctx)
}

func (c *Cluster) replaceClarion(ctx context.Context) error {
	if err := c.steps.Do("load Clarion's images", func(*step.Step) error { return c.loadImages(ctx, c.clarionArchives()) }); err != nil {
		return err
	}
	return c.steps.Do("replace Clarion", func(s *step.Step) error {
		if _, err := c.Kubectl(ctx, "apply", "-f", c.clarionManifest()); err != nil {
			return err
		}
		if _, err := c.Kubectl(ctx, append([]string{"-n", clarionNamespace, "rollout", "restart"}, clarionWorkloads...)...); err != nil {
			return err
		}
		if err := c.waitClarion(ctx, s); err != nil {
			return err
		}
		return c.noteClarion()
	})
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n") + "\n"
}
