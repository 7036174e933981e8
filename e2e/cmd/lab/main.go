// Command lab brings a real Kubernetes cluster up on this machine, with a network namespace for every host, and takes it
// down again.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/e2e/internal/cluster"
	"github.com/clarion-lb/clarion/e2e/internal/hostinit"
	"github.com/clarion-lb/clarion/e2e/internal/plan"
	"github.com/clarion-lb/clarion/e2e/lab"
)

const usage = `usage: lab VERB

  up                    bring the lab up, unless it is up and healthy
  down                  remove every trace of it
  status                show hosts, nodes, pods and Services
  clarion               build Clarion anew and replace it in the running lab
  exec HOST -- COMMAND  run a command on a host: cp, node1…, client, lan, router
  client -- COMMAND     the same on the machine that is no part of the cluster
  kubectl ARGUMENTS     kubectl as the cluster's admin
  cable HOST out|in     unplug a host from the switch, or plug it in
  crash HOST            cut the power of cp or a node
  boot HOST             switch it on again

Settings come from the environment: LAB_NODES (3), LAB_PROFILE (lb, full, upstream; default lb), LAB_TOPOLOGY (flat,
routed; default flat), LAB_DIR (.lab in the repository), LAB_SKIP_CLARION=1 (leave Clarion out, to debug the lab).
`

func main() {
	// A host's init must not stop at ^C in the terminal of its starter, so it has no part in run's signals.
	if len(os.Args) == 3 && os.Args[1] == "init" {
		if err := hostinit.Main(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() > 0 && isCommand(os.Args):
		os.Exit(exit.ExitCode()) // the command has said itself what is wrong
	case err != nil:
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

// isCommand tells whether the verb runs a command for the user.
func isCommand(args []string) bool {
	return len(args) > 1 && (args[1] == "exec" || args[1] == "client" || args[1] == "kubectl")
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	here, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("find the repository: %w", err)
	}
	root, err := cluster.FindRoot(here)
	if err != nil {
		return err
	}
	settings, dir, err := plan.FromEnv(os.Getenv, root)
	if err != nil {
		return err
	}
	c := cluster.New(root, dir, settings, out)
	switch verb, rest := args[0], args[1:]; verb {
	case "up":
		return c.Up(ctx)
	case "down":
		return c.Down(ctx)
	case "status":
		return c.Status(ctx, out)
	case "clarion":
		return c.Reinstall(ctx)
	case "kubectl":
		l, _, err := lab.Read(dir)
		if err != nil {
			return err
		}
		return interactive(l.KubectlCommand(ctx, rest...))
	case "client":
		return onHost(ctx, dir, append([]string{"client"}, rest...))
	case "exec":
		return onHost(ctx, dir, rest)
	case "cable", "crash", "boot":
		return power(ctx, dir, verb, rest)
	default:
		return fmt.Errorf("there is no verb %q\n%s", verb, usage)
	}
}

// onHost runs a command on the host that comes first, with «--» between them if the user likes.
func onHost(ctx context.Context, dir string, args []string) error {
	if len(args) > 1 && args[1] == "--" {
		args = append(args[:1:1], args[2:]...)
	}
	if len(args) < 2 {
		return errors.New("name a host and a command: lab exec HOST -- COMMAND")
	}
	h, err := host(dir, args[0])
	if err != nil {
		return err
	}
	return interactive(h.Command(ctx, args[1:]...))
}

func host(dir, name string) (*lab.Host, error) {
	l, _, err := lab.Read(dir)
	if err != nil {
		return nil, err
	}
	return l.Host(name)
}

// interactive joins the command to the user's terminal.
func interactive(cmd *exec.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

func power(ctx context.Context, dir, verb string, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("name a host: lab %s HOST", verb)
	}
	h, err := host(dir, args[0])
	if err != nil {
		return err
	}
	switch {
	case verb == "crash":
		return h.Crash(ctx)
	case verb == "boot":
		return h.Boot(ctx)
	case len(args) == 2 && args[1] == "out":
		return h.CableOut(ctx)
	case len(args) == 2 && args[1] == "in":
		return h.CableIn(ctx)
	}
	return errors.New("say what to do with the cable: lab cable HOST out|in")
}
