package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/clarion-lb/clarion/cni/nat"
	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/nft"
	"github.com/clarion-lb/clarion/internal/reconcile"
	"github.com/clarion-lb/clarion/internal/rtnl"
	"github.com/clarion-lb/clarion/internal/task"
)

// breath is the least time from one run to the next. A burst of events, such
// as the pods of a node that starts, then costs few runs, and what breaks is
// still repaired well within a second.
const breath = 50 * time.Millisecond

// leastMTU is what pods get before a link was ever up: what every path takes
// (RFC 8200 section 5).
const leastMTU = 1280

// An Agent keeps the pod network of one node. It is a task.Task.
type Agent struct {
	self    string
	opts    Options
	install Install
	feed    *cluster.Feed
	log     *slog.Logger
	h       *rtnl.Handle
	events  *rtnl.Events
	rules   *rules // nil where the kernel has no nftables
	noRules error
	loop    *reconcile.Loop

	// Owned by the loop's goroutine.
	nodes     map[string]*cluster.Node
	services  map[cluster.Key]*cluster.Service
	synced    bool
	mtuForced bool            // the far ends of all cables have been given their MTU once
	told      map[string]bool // problems that the log has

	paths paths

	mu     sync.Mutex
	status Status
}

// Status is what there is to know about the pod network of this node. Its
// slices are not changed after it was given out.
type Status struct {
	Synced   bool
	MTU      int    // of pods, bytes
	NotReady string // why no pod can be served; empty when one can
	Peers    []Peer
	Problems []string
}

// Config is what New needs.
type Config struct {
	Node    string // the name of this node
	Options Options
	Install Install
	Feed    *cluster.Feed
	Log     *slog.Logger
	Handle  *rtnl.Handle // on the network namespace of the node; New takes it over
}

// New returns an agent that is not yet running.
func New(c Config) (*Agent, error) {
	a := &Agent{
		self: c.Node, opts: c.Options.withDefaults(), install: c.Install, feed: c.Feed,
		log: c.Log.With("part", "cni"), h: c.Handle,
		nodes: map[string]*cluster.Node{}, services: map[cluster.Key]*cluster.Service{}, told: map[string]bool{},
	}
	a.loop = reconcile.NewLoop("cni", c.Log, a.sync)
	err := a.h.Do(func() (err error) {
		if a.events, err = rtnl.SubscribeEvents(); err != nil {
			return err
		}
		if a.rules, err = openRules(); errors.Is(err, nft.ErrMissing) {
			a.noRules, err = err, nil // pods work without, within the cluster
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(err, a.h.Close())
	}
	return a, nil
}

func (a *Agent) String() string { return "cni" }

// Status returns what the last run found.
func (a *Agent) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status
}

// Run keeps the pod network until ctx ends. It leaves everything in the
// kernel as it is: pods go on without the agent.
func (a *Agent) Run(ctx context.Context) error {
	tasks := []task.Task{a.loop, a.events, task.Func("cni kicks", a.kick), task.Func("cni paths", func(ctx context.Context) error { return a.paths.watch(ctx, a.h, a.log, a.loop.Kick) })}
	if a.rules != nil {
		tasks = append(tasks, task.Func("cni rules", func(ctx context.Context) error { return a.rules.watch(ctx, a.loop.Kick) }))
	}
	err := task.Run(ctx, tasks...)
	if a.rules != nil {
		err = errors.Join(err, a.rules.close())
	}
	return errors.Join(err, a.h.Close())
}

// kick asks for a run after every change, with a breath between them.
func (a *Agent) kick(ctx context.Context) error {
	pause := time.NewTicker(breath)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.feed.Ready():
		case <-a.events.Changed():
		}
		a.loop.Kick()
		pause.Reset(breath)
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
	}
}

// take folds what came from the cluster into what is known.
func (a *Agent) take() {
	d := a.feed.Take()
	for name, n := range d.Nodes {
		if n == nil {
			delete(a.nodes, name)
		} else {
			a.nodes[name] = n
		}
	}
	for key, s := range d.Services {
		if s == nil {
			delete(a.services, key)
		} else {
			a.services[key] = s
		}
	}
	a.synced = a.synced || d.Synced
}

// sync is one run: everything is read anew and everything is compared.
func (a *Agent) sync(ctx context.Context) error {
	a.take()
	if len(a.nodes) == 0 && !a.synced {
		return nil // nothing has been delivered yet, so there is nothing to say or do
	}
	links, err := a.h.Links()
	if err != nil {
		return err
	}
	want := Plan(View{Nodes: a.nodes, Self: a.self, Links: links, Paths: a.paths.learned(links), Options: a.opts})
	k := kernel{h: a.h, keep: !a.synced}
	var errs []error
	if len(want.Routes) > 0 {
		set, problems := Hygiene(readSysctl(a.h), links, want.Node.PodCIDRs)
		want.Problems = append(want.Problems, problems...)
		errs = append(errs, a.tidy(set), k.apply(want), a.follow(want))
	}
	// A Node that vanished or lost its CIDRs leaves the routes of its living
	// pods alone: it may be on its way back, and Off is somebody's decision.
	problems, err := a.pods(ctx, k, want)
	want.Problems = append(want.Problems, problems...)
	errs = append(errs, err)
	if err := a.describe(&want); err != nil {
		errs = append(errs, err)
	}
	err = errors.Join(errs...)
	a.publish(want, err)
	return err
}

// follow makes the loss of an entry on a tunnel an event. An entry that went
// between the run and this is found by the next run, which the tunnel's own
// making has asked for.
func (a *Agent) follow(want State) error {
	var indexes []int
	for _, t := range want.Tunnels {
		l, err := a.h.Link(t.Name)
		if err != nil {
			return err
		}
		indexes = append(indexes, l.Index)
	}
	a.events.Follow(indexes...)
	return nil
}

// tidy sets values of the host, in their order and not past one that failed:
// forwarding without what comes before it would take routes away.
func (a *Agent) tidy(set []Sysctl) error {
	for _, s := range set {
		if err := a.h.SetSysctl(s.Key, s.Value); err != nil {
			return fmt.Errorf("%w (%s)", err, s.Why)
		}
		a.log.Info("set a sysctl of the host", "key", s.Key, "value", s.Value, "why", s.Why)
	}
	return nil
}

// pods repairs what belongs to single pods, keeps the packet rules, and
// collects what no pod stands behind.
func (a *Agent) pods(ctx context.Context, k kernel, want State) (problems []string, err error) {
	n := want.Node
	s, err := store.OpenThisBoot(a.opts.DataDir)
	if err != nil {
		return nil, fmt.Errorf("open the records of pods: %w", err)
	}
	records, err := s.List()
	if err != nil {
		return nil, fmt.Errorf("list the records of pods: %w", err)
	}
	mtu := n.MTU
	if n.NotReady != "" {
		mtu = 0
	}
	problems, err = k.pods(records, mtu, !a.mtuForced)
	if err == nil && mtu != 0 {
		a.mtuForced = true
	}
	freed, cerr := s.Collect(ctx, func(sb store.Sandbox) (bool, error) {
		_, err := a.h.Link(sb.Key().HostIf())
		if errors.Is(err, rtnl.ErrNoLink) {
			return true, nil
		}
		return false, err
	})
	for _, sb := range freed {
		a.log.Info("freed the addresses of a pod that is gone without a DEL", "pod", sb.Pod, "addresses", sb.Addresses)
	}
	more, rerr := a.packetRules(ctx, s, want, len(freed) > 0)
	return append(problems, more...), errors.Join(err, cerr, rerr)
}

// packetRules keeps masquerade and host ports. again says that they may not be
// right although nobody touched them.
func (a *Agent) packetRules(ctx context.Context, s *store.Store, want State, again bool) ([]string, error) {
	if a.rules == nil {
		return []string{fmt.Sprintf("%v: pods reach nothing outside the cluster, and host ports do not work", a.noRules)}, nil
	}
	if want.Node.NotReady != "" {
		return nil, nil // as with routes: what is there stays
	}
	if again {
		a.rules.dirty.Store(true)
	}
	traffic := Traffic(a.nodes, a.services, a.self, a.opts)
	if len(want.Tunnels) > 0 {
		traffic.Tunnels = []uint16{a.opts.Port}
	}
	problems, err := a.rules.set(ctx, traffic, s, a.synced, a.h)
	others, oerr := a.rules.others(time.Now())
	return slices.Concat(problems, others), errors.Join(err, oerr)
}

// describe tells the plugin about the node, and the runtime about the plugin
// once a pod can be served. Before everything was delivered, an absence says
// nothing, so a description that is there stays.
func (a *Agent) describe(want *State) error {
	if want.Node.NotReady != "" && !a.synced {
		return nil
	}
	if want.Node.MTU == 0 {
		want.Node.MTU = leastMTU
		if have, err := store.ReadNode(a.opts.DataDir); err == nil && have.NotReady == "" {
			want.Node.MTU = have.MTU
		}
	}
	if err := store.WriteNode(a.opts.DataDir, want.Node); err != nil {
		return fmt.Errorf("describe the node for the plugin: %w", err)
	}
	if want.Node.NotReady != "" {
		return nil
	}
	problems, err := a.install.install(a.opts.DataDir)
	want.Problems = append(want.Problems, problems...)
	return err
}

// publish makes the outcome of a run the status, and logs each problem once.
func (a *Agent) publish(want State, err error) {
	if want.Node.NotReady != "" {
		want.Problems = append(want.Problems, want.Node.NotReady)
	}
	now := map[string]bool{}
	for _, p := range want.Problems {
		now[p] = true
		if !a.told[p] {
			a.log.Warn("the pod network has a problem", "problem", p)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(a.told)) {
		if !now[p] {
			a.log.Info("a problem of the pod network is gone", "problem", p)
		}
	}
	a.told = now
	if err != nil {
		want.Problems = append(want.Problems, err.Error())
	}
	a.paths.follow(want.Peers)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status = Status{Synced: a.synced, MTU: want.Node.MTU, NotReady: want.Node.NotReady, Peers: want.Peers, Problems: want.Problems}
}

// Off removes everything that Clarion's pod network has put on a node: files,
// links, routes, and rules of both kinds. It is what an uninstall runs. Pods
// lose their network.
func Off(c Config) error {
	return errors.Join(c.Install.remove(), kernel{h: c.Handle}.off(), c.Handle.Do(func() error {
		conn, err := nft.Open()
		if errors.Is(err, nft.ErrMissing) {
			return nil
		}
		if err != nil {
			return err
		}
		return errors.Join(nat.Remove(conn), conn.Close())
	}))
}
