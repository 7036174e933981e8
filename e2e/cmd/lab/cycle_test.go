//go:build labcycle

// These tests bring labs up and take them down, so they cannot run beside a lab that somebody uses: «make lab-test».
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/e2e/internal/step"
	"github.com/clarion-lb/clarion/e2e/lab"
)

// program is the lab command as a user has it, with a directory of its own.
type program struct {
	binary, dir string
	env         []string
}

func newProgram(t *testing.T, env ...string) program {
	t.Helper()
	p := program{binary: filepath.Join(t.TempDir(), "lab"), dir: filepath.Join(t.TempDir(), "state")}
	if out, err := exec.Command("go", "build", "-o", p.binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the lab command: %v\n%s", err, out)
	}
	p.env = append(os.Environ(), append(env, "LAB_DIR="+p.dir)...)
	return p
}

func (p program) command(args ...string) *exec.Cmd {
	cmd := exec.Command(p.binary, args...)
	cmd.Env = p.env
	return cmd
}

func (p program) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := p.command(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("lab %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestTheLabComesUpWorksAndLeavesNothing(t *testing.T) {
	for _, topology := range []string{"flat", "routed"} {
		t.Run(topology, func(t *testing.T) {
			before := look(t)
			p := newProgram(t, "LAB_PROFILE=upstream", "LAB_TOPOLOGY="+topology)
			t.Cleanup(func() { p.run(t, "down") })
			t.Log(p.run(t, "up"))

			began := time.Now()
			if said := p.run(t, "up"); !strings.Contains(said, "healthy already") {
				t.Errorf("the second «lab up» did not find the first one's lab:\n%s", said)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("the second «lab up» took %s", took)
			}
			l, err := lab.Open(p.dir)
			if err != nil {
				t.Fatal(err)
			}
			testPods(t, l)
			testCrashAndBoot(t, l)
			testControlPlaneOutage(t, l)
			t.Log(p.run(t, "status"))

			p.run(t, "down")
			before.compare(t, look(t), p.dir)
		})
	}
}

// echo is a DaemonSet whose pods answer HTTP on port 8080.
var echo = fmt.Sprintf(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: echo, namespace: default}
spec:
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      containers: [{name: echo, image: %q, args: [netexec]}]
`, lab.AgnhostImage)

type pod struct {
	Metadata struct{ Name string }
	Spec     struct{ NodeName string }
	Status   struct {
		PodIPs            []struct{ IP netip.Addr }
		ContainerStatuses []struct{ RestartCount int }
	}
}

func echoPods(ctx context.Context, l *lab.Lab) ([]pod, error) {
	var list struct{ Items []pod }
	err := l.KubectlJSON(ctx, &list, "pods", "-l", "app=echo")
	return list.Items, err
}

// testPods shows that pods on all nodes reach each other over both families, and that every node reaches every pod.
func testPods(t *testing.T, l *lab.Lab) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := l.Apply(ctx, echo); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Kubectl(ctx, "rollout", "status", "daemonset/echo", "--timeout=90s"); err != nil {
		t.Fatal(err)
	}
	pods, err := echoPods(ctx, l)
	if err != nil || len(pods) != l.Settings.Nodes {
		t.Fatalf("%d pods on %d nodes (%v)", len(pods), l.Settings.Nodes, err)
	}
	for _, to := range pods {
		if len(to.Status.PodIPs) != 2 {
			t.Fatalf("the pod on %s has addresses %v, not one per family", to.Spec.NodeName, to.Status.PodIPs)
		}
		for _, address := range to.Status.PodIPs {
			target := netip.AddrPortFrom(address.IP, 8080).String()
			for _, from := range pods {
				if _, err := l.Kubectl(ctx, "exec", from.Metadata.Name, "--", "/agnhost", "connect", "--timeout=3s", target); err != nil {
					t.Errorf("pod on %s to pod on %s: %v", from.Spec.NodeName, to.Spec.NodeName, err)
				}
			}
			for _, n := range l.Nodes() {
				if err := get(n, target); err != nil {
					t.Errorf("%s to pod on %s: %v", n.Name, to.Spec.NodeName, err)
				}
			}
		}
	}
}

func get(from *lab.Host, target string) error {
	response, err := from.HTTP(3 * time.Second).Get("http://" + target + "/hostname")
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

// testCrashAndBoot shows that a node without power is gone and comes back as itself, with its pods.
func testCrashAndBoot(t *testing.T, l *lab.Lab) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	n := l.Nodes()[0]
	if err := n.Crash(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Client().Output(ctx, "ping", "-c1", "-W1", n.V4().String()); err == nil {
		t.Error("a node without power answers ping")
	}
	if err := n.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	err := step.Until(ctx, 2*time.Minute, func(ctx context.Context) (bool, string, error) {
		pods, err := echoPods(ctx, l)
		if err != nil {
			return false, "", err
		}
		for _, p := range pods {
			if p.Spec.NodeName != n.Name {
				continue
			}
			if len(p.Status.ContainerStatuses) != 1 || p.Status.ContainerStatuses[0].RestartCount == 0 {
				return false, "its pod has not been started again", nil
			}
			for _, address := range p.Status.PodIPs {
				if err := get(l.Nodes()[1], netip.AddrPortFrom(address.IP, 8080).String()); err != nil {
					return false, err.Error(), nil
				}
			}
			return true, "", nil
		}
		return false, "it has no pod", nil
	})
	if err != nil {
		t.Errorf("after the boot of %s: %v", n.Name, err)
	}
}

// testControlPlaneOutage shows that the control plane comes back with what it knew, and that pods do not need it.
func testControlPlaneOutage(t *testing.T, l *lab.Lab) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	pods, err := echoPods(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	cp, err := l.Host("cp")
	if err != nil {
		t.Fatal(err)
	}
	if err := cp.Crash(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Kubectl(ctx, "get", "nodes", "--request-timeout=2s"); err == nil {
		t.Error("a crashed control plane answers")
	}
	if err := get(l.Nodes()[1], netip.AddrPortFrom(pods[0].Status.PodIPs[0].IP, 8080).String()); err != nil {
		t.Error(err)
	}
	if err := cp.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	err = step.Until(ctx, time.Minute, func(ctx context.Context) (bool, string, error) {
		after, err := echoPods(ctx, l)
		if err != nil {
			return false, err.Error(), nil
		}
		return len(after) == len(pods), fmt.Sprintf("%d pods", len(after)), nil
	})
	if err != nil {
		t.Errorf("after the boot of the control plane: %v", err)
	}
}

// TestDownClearsUpAfterAKilledUp kills «lab up» at random moments of its life.
func TestDownClearsUpAfterAKilledUp(t *testing.T) {
	const moments = 8
	p := newProgram(t, "LAB_PROFILE=upstream")
	t.Cleanup(func() { p.run(t, "down") })
	before := look(t)
	for i := range moments {
		// The first moments come early and close together, where most things are being made.
		limit := time.Duration(float64(16*time.Second) * float64(i+1) / moments)
		after := time.Duration(rand.Int64N(int64(limit)))
		t.Run(fmt.Sprintf("after %s", after.Round(time.Millisecond)), func(t *testing.T) {
			up := p.command("up")
			var said bytes.Buffer
			up.Stdout, up.Stderr = &said, &said
			if err := up.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(after) // the moment is the test's input, not a condition that it waits for
			if err := up.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = up.Wait()
			p.run(t, "down")
			before.compare(t, look(t), p.dir)
			if t.Failed() {
				t.Logf("the killed «lab up» had said:\n%s", said.String())
			}
		})
	}
	// After all that, a lab comes up as if nothing had been.
	p.run(t, "up")
}

// machine is what the lab could leave traces on.
type machine map[string][]string

func look(t *testing.T) machine {
	t.Helper()
	lines := func(command ...string) []string {
		out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", command, err, out)
		}
		return strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	m := machine{
		"mounts":     lines("cut", "-d", " ", "-f", "4-", "/proc/self/mountinfo"),
		"links":      lines("ip", "-brief", "address"),
		"routes":     lines("ip", "route", "show", "table", "all"),
		"rules":      lines("nft", "list", "ruleset"),
		"cgroups":    lines("find", "/sys/fs/cgroup", "-type", "d", "-not", "-path", "*/process_api/*"),
		"namespaces": lines("sh", "-c", "ls -A /run/netns 2>/dev/null || true"),
		"sysctls": lines("sysctl", "vm.overcommit_memory", "vm.panic_on_oom", "kernel.panic", "kernel.panic_on_oops",
			"fs.inotify.max_user_instances", "fs.inotify.max_user_watches"),
		"files": lines("sh", "-c", "ls -Ad /etc/cni /opt/cni /var/lib/kubelet /var/lib/cni /var/lib/clarion "+
			"/var/log/pods /var/log/containers /run/* /tmp/layer-* 2>/dev/null || true"),
		// Other programs come and go on a machine; these are the ones that a lab runs. Dead ones wait for process 1.
		"processes": lines("sh", "-c", `ps -eo stat,comm | awk '$1 !~ /^Z/ {print $2}' | grep -E '^(etcd|kube|containerd|runc|agnhost|coredns|lab|ctr|tcpdump)' | sort || true`),
	}
	return m
}

func (before machine) compare(t *testing.T, after machine, dir string) {
	t.Helper()
	for what, had := range before {
		for _, line := range after[what] {
			if !slices.Contains(had, line) {
				t.Errorf("%s: the lab left «%s»", what, line)
			}
		}
		for _, line := range had {
			if !slices.Contains(after[what], line) {
				t.Errorf("%s: the lab took away «%s»", what, line)
			}
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("the lab's directory %s is still there", dir)
	}
}
