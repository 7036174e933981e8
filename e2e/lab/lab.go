// Package lab drives a running lab: commands on its hosts, kubectl, cables, power, packet captures, HTTP from the client.
//
// Open the lab that «make lab-up» started, then ask it for hosts:
//
//	l, err := lab.Open(".lab")
//	client, err := l.Host("client")
//	out, err := client.Output(ctx, "ip", "neigh")
package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/clarion-lb/clarion/e2e/internal/build"
	"github.com/clarion-lb/clarion/e2e/internal/plan"
	"github.com/clarion-lb/clarion/e2e/internal/proc"
)

// The settings of a lab, under names that other packages can use.
type (
	Settings = plan.Settings
	Profile  = plan.Profile
	Topology = plan.Topology
)

// What settings may be.
const (
	Upstream = plan.Upstream
	LB       = plan.LB
	Full     = plan.Full
	Flat     = plan.Flat
	Routed   = plan.Routed
)

// The images that every node has. Agnhost is the upstream test program (netexec, connect, serve-hostname, …) alone on an
// empty root.
const (
	AgnhostImage = build.AgnhostImage
	PauseImage   = build.PauseImage
)

// Lab is a lab that is up, or one that is being started or taken down.
type Lab struct {
	Settings Settings
	Dir      string
}

// Dirs and files of a lab. All of it is removed with the lab.
func (l *Lab) Kubeconfig() string            { return filepath.Join(l.Dir, "kubeconfig") }
func (l *Lab) Log(name string) string        { return filepath.Join(l.Dir, "logs", name+".log") }
func (l *Lab) Bin(program string) string     { return filepath.Join(l.Dir, "bin", program) }
func (l *Lab) HostDir(host string) string    { return filepath.Join(l.Dir, "hosts", host) }
func (l *Lab) Book() proc.Book               { return proc.Book{Path: filepath.Join(l.Dir, "processes")} }
func (l *Lab) statePath() string             { return filepath.Join(l.Dir, "lab.json") }
func (l *Lab) PKI(name string) string        { return filepath.Join(l.Dir, "pki", name) }
func (l *Lab) Gate(host, name string) string { return filepath.Join(l.HostDir(host), "gate-"+name) }

// Phase is how far a lab has come.
type Phase string

const (
	Starting Phase = "starting"
	Up       Phase = "up"
	Failed   Phase = "failed"
)

type state struct {
	Phase    Phase    `json:"phase"`
	Settings Settings `json:"settings"`
}

// Open finds the lab whose state is in dir. It fails if there is none or if it has not come up.
func Open(dir string) (*Lab, error) {
	l, phase, err := Read(dir)
	if err != nil {
		return nil, fmt.Errorf("%w (start it with «make lab-up»)", err)
	}
	if phase != Up {
		return nil, fmt.Errorf("the lab in %s is not up but %s; «make lab-up» starts it anew", dir, phase)
	}
	return l, nil
}

// Read finds a lab in any phase.
func Read(dir string) (*Lab, Phase, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, "", fmt.Errorf("find lab: %w", err)
	}
	l := &Lab{Dir: dir}
	text, err := os.ReadFile(l.statePath())
	if err != nil {
		return nil, "", fmt.Errorf("there is no lab in %s: %w", dir, err)
	}
	var st state
	if err := json.Unmarshal(text, &st); err != nil {
		return nil, "", fmt.Errorf("read the state of the lab in %s: %w", dir, err)
	}
	l.Settings = st.Settings
	return l, st.Phase, nil
}

// Mark writes down how far the lab has come. Only the lab's own commands call it.
func (l *Lab) Mark(phase Phase) error {
	text, err := json.MarshalIndent(state{Phase: phase, Settings: l.Settings}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the state of the lab: %w", err)
	}
	unfinished := l.statePath() + ".part"
	if err := os.WriteFile(unfinished, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the state of the lab: %w", err)
	}
	if err := os.Rename(unfinished, l.statePath()); err != nil {
		return fmt.Errorf("write the state of the lab: %w", err)
	}
	return nil
}

// Host finds a host by its name: cp, node1…, client, lan, router.
func (l *Lab) Host(name string) (*Host, error) {
	h, ok := l.Settings.Host(name)
	if !ok {
		return nil, fmt.Errorf("the lab has no host %q; it has %s", name, strings.Join(l.hostNames(), ", "))
	}
	return &Host{Host: h, lab: l}, nil
}

// Nodes lists the nodes of the cluster in order.
func (l *Lab) Nodes() []*Host {
	var nodes []*Host
	for _, h := range l.Settings.HostsWith(plan.Node) {
		nodes = append(nodes, &Host{Host: h, lab: l})
	}
	return nodes
}

// Client is the machine on the LAN that is no part of the cluster.
func (l *Lab) Client() *Host { return l.one(plan.Client) }

// Switch is the host whose bridge joins all others.
func (l *Lab) Switch() *Host { return l.one(plan.Switch) }

func (l *Lab) one(role plan.Role) *Host {
	return &Host{Host: l.Settings.HostsWith(role)[0], lab: l}
}

func (l *Lab) hostNames() []string {
	var names []string
	for _, h := range l.Settings.Hosts() {
		names = append(names, h.Name)
	}
	return names
}

// KubectlCommand is kubectl with the lab's admin kubeconfig.
func (l *Lab) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, l.Bin("kubectl"), append([]string{"--kubeconfig", l.Kubeconfig()}, args...)...)
	// The user's own kuberc and cache have no part in this.
	cmd.Env = append(os.Environ(), "KUBERC=off", "KUBECACHEDIR="+filepath.Join(l.Dir, "kubectl-cache"))
	return cmd
}

// Kubectl runs kubectl and returns what it printed; an error holds what it said on stderr.
func (l *Lab) Kubectl(ctx context.Context, args ...string) (string, error) {
	return proc.Output(l.KubectlCommand(ctx, args...))
}

// Apply creates or changes the objects of a YAML or JSON text, by server-side apply.
func (l *Lab) Apply(ctx context.Context, manifest string) error {
	cmd := l.KubectlCommand(ctx, "apply", "--server-side", "--force-conflicts", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	_, err := proc.Output(cmd)
	return err
}

// KubectlJSON runs «kubectl get … -o json» and decodes the answer into v.
func (l *Lab) KubectlJSON(ctx context.Context, v any, args ...string) error {
	text, err := l.Kubectl(ctx, append(append([]string{"get"}, args...), "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), v); err != nil {
		return fmt.Errorf("read the answer of kubectl get %s: %w", strings.Join(args, " "), err)
	}
	return nil
}
