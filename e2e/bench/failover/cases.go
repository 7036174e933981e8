package failover

import (
	"context"
	"errors"
	"fmt"

	"github.com/clarion-lb/clarion/e2e/app"
	"github.com/clarion-lb/clarion/e2e/lab"
)

// A deed is done to the lab, or to the node that owns the VIPs.
type deed func(ctx context.Context, l *lab.Lab, owner *lab.Host) error

// A fault is what happens to the owner, and how it ends.
type fault struct {
	name       string
	begin, end deed
}

// both does one after the other, and the second also if the first failed.
func both(a, b deed) deed {
	return func(ctx context.Context, l *lab.Lab, owner *lab.Host) error {
		return errors.Join(a(ctx, l, owner), b(ctx, l, owner))
	}
}

// faults in the order in which they are tried.
func faults(bridge string) []fault {
	cable := fault{
		begin: func(ctx context.Context, _ *lab.Lab, owner *lab.Host) error { return owner.CableOut(ctx) },
		end:   func(ctx context.Context, _ *lab.Lab, owner *lab.Host) error { return owner.CableIn(ctx) },
	}
	// The node's port leaves the bridge: nothing gets through and nobody sees a carrier go.
	partition := fault{
		begin: func(ctx context.Context, l *lab.Lab, owner *lab.Host) error {
			return port(ctx, l, owner, "nomaster")
		},
		end: func(ctx context.Context, l *lab.Lab, owner *lab.Host) error {
			return port(ctx, l, owner, "master", bridge)
		},
	}
	return []fault{
		// Nothing runs any more and nothing gets through. The agent is only stopped, so that a trial takes seconds.
		{"power-off", both(signal("STOP"), cable.begin), both(cable.end, signal("CONT"))},
		{"agent-kill", signal("KILL"), renew},
		{"agent-stop", signal("STOP"), signal("CONT")},
		{"link-down", cable.begin, cable.end}, // the node lives and sees its carrier go
		{"partition", partition.begin, partition.end},
		{"api-down-power-off", both(api("STOP"), both(signal("STOP"), cable.begin)), both(both(cable.end, signal("CONT")), api("CONT"))},
		{"drain", kubectl("cordon"), kubectl("uncordon")},
	}
}

func port(ctx context.Context, l *lab.Lab, owner *lab.Host, args ...string) error {
	_, err := l.Switch().Output(ctx, append([]string{"ip", "link", "set", owner.Links[0].Port}, args...)...)
	return err
}

// signal sends a signal to the agent of the node.
func signal(name string) deed {
	return func(ctx context.Context, _ *lab.Lab, owner *lab.Host) error {
		_, err := owner.Output(ctx, "pkill", "-"+name, "-x", "clarion-agent")
		return err
	}
}

// renew replaces the agent's Pod, so that the kubelet's back-off after many kills does not become part of the next trial.
func renew(ctx context.Context, l *lab.Lab, owner *lab.Host) error {
	_, err := l.Kubectl(ctx, "-n", app.Namespace, "delete", "pod", "-l", "app.kubernetes.io/name=clarion-agent",
		"--field-selector", "spec.nodeName="+owner.Name, "--force", "--grace-period=0")
	return err
}

// api sends a signal to the API server.
func api(name string) deed {
	return func(ctx context.Context, l *lab.Lab, _ *lab.Host) error {
		cp, err := l.Host("cp")
		if err != nil {
			return err
		}
		if _, err := cp.Output(ctx, "pkill", "-"+name, "-f", "kube-apiserver"); err != nil {
			return fmt.Errorf("send the API server %s: %w", name, err)
		}
		return nil
	}
}

func kubectl(verb string) deed {
	return func(ctx context.Context, l *lab.Lab, owner *lab.Host) error {
		_, err := l.Kubectl(ctx, verb, owner.Name)
		return err
	}
}
