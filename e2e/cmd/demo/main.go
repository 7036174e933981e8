// Command demo shows Clarion's main job in a running lab: a Service gets addresses, a machine on the LAN reaches pods
// through them, and goes on reaching them when the node that owned them is cut off.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/clarion-lb/clarion/e2e/app"
	"github.com/clarion-lb/clarion/e2e/internal/step"
	"github.com/clarion-lb/clarion/e2e/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "demo: failed:", err)
		os.Exit(1)
	}
}

const (
	name     = "demo"
	pods     = 6
	interval = 10 * time.Millisecond  // between requests to one address
	patience = 300 * time.Millisecond // after which a request has failed
)

func run(ctx context.Context, args []string, out, stderr io.Writer) error {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	dir := flags.String("lab", "../.lab", "directory of the lab")
	if err := flags.Parse(args); err != nil {
		return err
	}
	l, err := lab.Open(*dir)
	if err != nil {
		return err
	}
	d := &demo{lab: l, client: l.Client(), steps: step.New(out), out: out}
	if err := d.serve(ctx); err != nil {
		return err
	}
	gap, err := d.failover(ctx)
	if err != nil {
		return err
	}
	kubeconfig, err := filepath.Abs(l.Kubeconfig())
	if err != nil {
		return err
	}
	fmt.Fprintf(out, `
The cluster stays up. Look around:
  export KUBECONFIG=%s
  kubectl get services,pods -o wide          (kubectl describe service %s says who announces it)
  ip netns exec clarion-client curl %s
Take it down with: make lab-down

demo: v4 %s v6 %s
demo: failover %d ms
demo: ok
`, kubeconfig, name, app.URL(d.vips[0]), d.vips[0], d.vips[1], gap.Milliseconds())
	return nil
}

type demo struct {
	lab    *lab.Lab
	client *lab.Host
	steps  *step.List
	out    io.Writer
	vips   []netip.Addr // IPv4, IPv6
}

// serve makes the Service and shows that it answers the client.
func (d *demo) serve(ctx context.Context) error {
	const pool = "192.0.2.200-192.0.2.250, 2001:db8:1::200-2001:db8:1::250"
	err := d.inTurn(
		todo{"pool default: " + pool, func(*step.Step) error { return app.Pool(ctx, d.lab, "default", pool) }},
		todo{fmt.Sprintf("Deployment %s with %d pods", name, pods), func(*step.Step) error {
			return app.Pods(ctx, d.lab, name, pods)
		}},
		todo{"Service " + name + " of type LoadBalancer, both families", func(s *step.Step) error {
			if err := (app.Service{Name: name, App: name}).Apply(ctx, d.lab); err != nil {
				return err
			}
			var err error
			if d.vips, err = app.Addresses(ctx, d.lab, name, 2, 30*time.Second); err != nil {
				return err
			}
			s.Result("it got %s and %s", d.vips[0], d.vips[1])
			return nil
		}},
	)
	if err != nil {
		return err
	}
	for _, vip := range d.vips {
		err := d.inTurn(
			todo{fmt.Sprintf("%s answers a machine on the LAN", vip), func(s *step.Step) error {
				if _, err := app.Reachable(ctx, d.client, vip, 30*time.Second); err != nil {
					return err
				}
				node, mac, err := app.Owner(ctx, d.lab, d.client, vip)
				if err != nil {
					return err
				}
				s.Result("%s at %s announces it", node.Name, mac)
				return nil
			}},
			todo{fmt.Sprintf("GET %s, 24 times", app.URL(vip)), func(s *step.Step) error {
				names, err := d.names(ctx, vip, 24)
				s.Result("%d pods answered: %s", len(names), strings.Join(names, " "))
				return err
			}},
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// A todo is one line of the demo.
type todo struct {
	what string
	run  func(*step.Step) error
}

// inTurn does one after the other and stops at the first that fails.
func (d *demo) inTurn(todos ...todo) error {
	for _, t := range todos {
		if err := d.steps.Do(t.what, t.run); err != nil {
			return err
		}
	}
	return nil
}

// names returns the pods that answered n requests, each once.
func (d *demo) names(ctx context.Context, vip netip.Addr, n int) ([]string, error) {
	var names []string
	for range n {
		pod, err := app.Ask(ctx, d.client, vip, 2*time.Second)
		if err != nil {
			return nil, err
		}
		names = append(names, strings.TrimPrefix(pod, name+"-"))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) < 2 {
		return nil, fmt.Errorf("only the pod %v answered %d requests", names, n)
	}
	return names, nil
}

// failover pulls the cable of the node that owns the IPv4 address and returns the longest time in which the client got
// no answer from either address.
func (d *demo) failover(ctx context.Context) (time.Duration, error) {
	before, _, err := app.Owner(ctx, d.lab, d.client, d.vips[0])
	if err != nil {
		return 0, err
	}
	var worst time.Duration
	err = d.steps.Do(fmt.Sprintf("cut the cable of %s while the client asks both addresses every %s", before.Name, interval), func(s *step.Step) error {
		probe := app.StartProbe(ctx, d.client, d.vips, interval, patience)
		err := d.cut(ctx, before, probe)
		gaps, sent := probe.Stop()
		if err != nil {
			return err
		}
		after, mac, err := app.Owner(ctx, d.lab, d.client, d.vips[0])
		if err != nil {
			return err
		}
		for _, vip := range d.vips {
			d.steps.Say("  %s: no answer for %d ms", vip, gaps[vip].Length.Milliseconds())
			worst = max(worst, gaps[vip].Length)
		}
		s.Result("%s at %s took over, %d requests sent", after.Name, mac, sent)
		return nil
	})
	return worst, errors.Join(err, d.steps.Do("put the cable of "+before.Name+" back", func(*step.Step) error {
		return before.CableIn(ctx)
	}))
}

// cut pulls the cable and waits until both addresses answer again.
func (d *demo) cut(ctx context.Context, node *lab.Host, probe *app.Probe) error {
	begin := time.Now()
	if err := step.Until(ctx, 5*time.Second, func(context.Context) (bool, string, error) {
		return probe.Recovered(begin), "the addresses do not answer", nil
	}); err != nil {
		return err
	}
	if err := node.CableOut(ctx); err != nil {
		return err
	}
	cut := time.Now()
	return step.Until(ctx, 2*time.Minute, func(context.Context) (bool, string, error) {
		return probe.Failing(cut, time.Now(), patience) && probe.Recovered(cut.Add(patience)), "the addresses do not answer", nil
	})
}
