package failover

import (
	"context"
	"fmt"

	"github.com/clarion-lb/clarion/e2e/app"
	"github.com/clarion-lb/clarion/e2e/lab"
)

// A fault is something that happens to the node that owns the VIPs.
type fault struct {
	name  string
	begin func(ctx context.Context, l *lab.Lab, owner *lab.Host) error
	end   func(ctx context.Context, l *lab.Lab, owner *lab.Host) error
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
		{"power-off", cable.begin, cable.end},
		{"agent-kill", signal("KILL"), renew},
		{"agent-stop", signal("STOP"), func(ctx context.Context, l *lab.Lab, owner *lab.Host) error {
			return signal("CONT")(ctx, l, owner)
		}},
		{"link-down", ownLink("down"), ownLink("up")},
		{"partition", partition.begin, partition.end},
		{"api-down-power-off", func(ctx context.Context, l *lab.Lab, owner *lab.Host) error {
			if err := api(ctx, l, "STOP"); err != nil {
				return err
			}
			return cable.begin(ctx, l, owner)
		}, func(ctx context.Context, l *lab.Lab, owner *lab.Host) error {
			if err := cable.end(ctx, l, owner); err != nil {
				return err
			}
			return api(ctx, l, "CONT")
		}},
		{"drain", kubectl("cordon"), kubectl("uncordon")},
	}
}

func port(ctx context.Context, l *lab.Lab, owner *lab.Host, args ...string) error {
	_, err := l.Switch().Output(ctx, append([]string{"ip", "link", "set", owner.Links[0].Port}, args...)...)
	return err
}

// signal sends a signal to the agent of the node.
func signal(name string) func(context.Context, *lab.Lab, *lab.Host) error {
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

func ownLink(state string) func(context.Context, *lab.Lab, *lab.Host) error {
	return func(ctx context.Context, _ *lab.Lab, owner *lab.Host) error {
		_, err := owner.NetCommand(ctx, "ip", "link", "set", owner.Links[0].Dev, state).Output()
		return err
	}
}

func api(ctx context.Context, l *lab.Lab, name string) error {
	cp, err := l.Host("cp")
	if err != nil {
		return err
	}
	if _, err := cp.Output(ctx, "pkill", "-"+name, "-f", "kube-apiserver"); err != nil {
		return fmt.Errorf("send the API server %s: %w", name, err)
	}
	return nil
}

func kubectl(verb string) func(context.Context, *lab.Lab, *lab.Host) error {
	return func(ctx context.Context, l *lab.Lab, owner *lab.Host) error {
		_, err := l.Kubectl(ctx, verb, owner.Name)
		return err
	}
}
