// Package failover measures how long a client is not served when something happens to the node that owns a VIP.
// Read failover.go (a trial), cases.go (the faults), udp.go and conns.go (the client), owners.go (the witness).
package failover

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/clarion-lb/clarion/e2e/app"
	"github.com/clarion-lb/clarion/e2e/bench"
	"github.com/clarion-lb/clarion/e2e/internal/step"
	"github.com/clarion-lb/clarion/e2e/lab"
)

const (
	name     = "failover"
	webPort  = 80
	echoPort = 81
	streams  = 20 // open connections, over both addresses
	before   = 500 * time.Millisecond
	settle   = time.Second      // after the first answer, to see what else happens
	worst    = 20 * time.Second // of a failover, before the trial fails
	heal     = 2500 * time.Millisecond
)

// A trial is what one fault did.
type trial struct {
	gap, two time.Duration
	lost     int
	kept     float64
}

// Run tries each case n times and adds the results. No cases means all.
func Run(ctx context.Context, l *lab.Lab, steps *step.List, report *bench.Report, n int, cases []string) (err error) {
	vips, err := prepare(ctx, l)
	if err != nil {
		return err
	}
	bridge := l.Client().Segment().Bridge
	w, err := newWitness(ctx, l, bridge, vips)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close(context.WithoutCancel(ctx))) }()
	known := map[string]bool{}
	for _, f := range faults(bridge) {
		known[f.name] = true
		if len(cases) > 0 && !slices.Contains(cases, f.name) {
			continue
		}
		err := steps.Do(fmt.Sprintf("%s, %d trials", f.name, n), func(s *step.Step) error {
			trials, err := try(ctx, l, w, vips, f, n, s)
			add(report, f.name, trials)
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, c := range cases {
		if !known[c] {
			return fmt.Errorf("there is no case %q", c)
		}
	}
	return nil
}

// prepare makes a Service with a TCP and a UDP port and pods on all nodes.
func prepare(ctx context.Context, l *lab.Lab) ([]netip.Addr, error) {
	if err := app.Pool(ctx, l, "default", "192.0.2.200-192.0.2.250, 2001:db8:1::200-2001:db8:1::250"); err != nil {
		return nil, err
	}
	if err := app.Pods(ctx, l, name, 2*len(l.Nodes())); err != nil {
		return nil, err
	}
	err := l.Apply(ctx, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: %[1]s}
  ports:
    - {name: web, port: %[2]d, targetPort: 8080}
    - {name: echo, port: %[3]d, targetPort: 8081, protocol: UDP}
`, name, webPort, echoPort))
	if err != nil {
		return nil, err
	}
	vips, err := app.Addresses(ctx, l, name, 2, 30*time.Second)
	if err != nil {
		return nil, err
	}
	for _, vip := range vips {
		if _, err := app.Reachable(ctx, l.Client(), vip, 30*time.Second); err != nil {
			return nil, err
		}
	}
	return vips, nil
}

func try(ctx context.Context, l *lab.Lab, w *witness, vips []netip.Addr, f fault, n int, s *step.Step) ([]trial, error) {
	var trials []trial
	for i := range n {
		s.Now("trial %d of %d", i+1, n)
		owner, err := steady(ctx, l, vips)
		if err != nil {
			return trials, fmt.Errorf("trial %d, before the fault: %w", i+1, err)
		}
		t, err := one(ctx, l, w, vips, f, owner)
		if err != nil {
			return trials, fmt.Errorf("trial %d on %s: %w", i+1, owner.Name, err)
		}
		trials = append(trials, t)
	}
	var gaps []float64
	for _, t := range trials {
		gaps = append(gaps, t.gap.Seconds())
	}
	s.Result("gap p50 %.0f ms, max %.0f ms", 1000*bench.Percentile(gaps, 50), 1000*bench.Percentile(gaps, 100))
	return trials, nil
}

// steady waits until all agents are ready and both addresses answer, and returns the node that owns the first one.
func steady(ctx context.Context, l *lab.Lab, vips []netip.Addr) (owner *lab.Host, err error) {
	if _, err := l.Kubectl(ctx, "-n", app.Namespace, "rollout", "status", "daemonset/clarion-agent", "--timeout=60s"); err != nil {
		return nil, err
	}
	if _, err := l.Kubectl(ctx, "wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s"); err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(heal): // peers see each other again and majorities are regained
	}
	for _, vip := range vips {
		if _, err := app.Reachable(ctx, l.Client(), vip, worst); err != nil {
			return nil, err
		}
	}
	err = step.Until(ctx, worst, func(ctx context.Context) (bool, string, error) {
		node, _, failure := app.Owner(ctx, l, l.Client(), vips[0])
		owner = node
		return failure == nil, fmt.Sprint(failure), nil
	})
	return owner, err
}

// one makes the fault happen once under load, and ends it.
func one(ctx context.Context, l *lab.Lab, w *witness, vips []netip.Addr, f fault, owner *lab.Host) (t trial, err error) {
	open, err := open(ctx, l.Client(), vips, streams/len(vips))
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, open.close()) }()
	load, stop := context.WithCancel(ctx)
	defer stop()
	var all sync.WaitGroup
	errs := make(chan error, len(vips)+1)
	var asked []*requests
	for _, vip := range vips {
		r := &requests{vip: vip}
		asked = append(asked, r)
		all.Go(func() { errs <- r.run(load, l.Client()) })
	}
	all.Go(func() { errs <- w.run(load) })
	all.Go(func() { open.run(load) })

	begin := time.Now()
	pause(ctx, before)
	fault := time.Now()
	if kept := open.kept(begin); kept < 1 {
		err = fmt.Errorf("only %.0f %% of the connections worked before the fault", 100*kept)
	} else {
		err = f.begin(ctx, l, owner)
	}
	if err == nil {
		pause(ctx, settle/2)
		err = step.Until(ctx, worst, func(context.Context) (bool, string, error) {
			for _, r := range asked {
				if !r.answered(fault.Add(settle / 2)) {
					return false, r.vip.String() + " does not answer", nil
				}
			}
			return true, "", nil
		})
	}
	pause(ctx, settle)
	recovered := time.Now().Add(-settle / 2)
	t.kept = open.kept(recovered)
	err = errors.Join(err, f.end(context.WithoutCancel(ctx), l, owner))
	pause(ctx, settle) // what the return of the node brings about belongs to the trial
	stop()
	all.Wait()
	close(errs)
	for e := range errs {
		err = errors.Join(err, e)
	}
	for _, r := range asked {
		gap, lost := r.gap(fault)
		t.gap, t.lost = max(t.gap, gap), t.lost+lost
	}
	t.two = twoOwners(w.said, vips)
	return t, err
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// add writes what the trials of a case gave, under the names that DESIGN section 8 lists.
func add(report *bench.Report, name string, trials []trial) {
	var gaps, lost, two, kept []float64
	for _, t := range trials {
		gaps, two = append(gaps, t.gap.Seconds()), append(two, t.two.Seconds())
		lost, kept = append(lost, float64(t.lost)), append(kept, t.kept)
	}
	if len(trials) == 0 {
		return
	}
	for _, p := range []struct {
		percent float64
		label   string
	}{{50, "p50"}, {99, "p99"}, {100, "max"}} {
		report.Add(name+"/gap-"+p.label, "s", bench.One(bench.Percentile(gaps, p.percent), len(gaps)))
	}
	report.Add(name+"/two-owners", "s", bench.SpreadOf(two))
	report.Add(name+"/lost", "requests", bench.SpreadOf(lost))
	report.Add(name+"/connections-kept", "ratio", bench.SpreadOf(kept))
}
