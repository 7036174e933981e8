package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/conntrack"
	"github.com/clarion-lb/clarion/internal/nft"
)

// Options say what a Proxy works with. Node and Feed are needed.
type Options struct {
	Node string        // the name of this node
	Feed *cluster.Feed // where changes come from
	Log  *slog.Logger

	// NodePortAddresses are the prefixes of this host's addresses on which
	// NodePorts answer; none means the node's InternalIPs. Local lists the
	// host's addresses and is asked only when prefixes are given.
	NodePortAddresses []netip.Prefix
	Local             func() []netip.Addr

	PodCIDRs     []netip.Prefix // pods' addresses beside those that Nodes say
	ServiceCIDRs []netip.Prefix // cluster IPs that belong to no Service are dropped and not routed away

	Observe Observer                                            // may be nil
	OnVIPs  func(served map[netip.Addr]bool)                    // told which VIPs have rules in the kernel; may be nil
	Listen  func(network, address string) (net.Listener, error) // for the health check node ports; net.Listen when nil
	Resync  time.Duration                                       // how often all is compared unasked; 5 minutes when 0
}

// An Observer is told what the proxy did, for metrics. Its methods must not
// block.
type Observer interface {
	// Applied is called after each attempt to bring the kernel to a change:
	// kind is "change", "compare" or "sweep".
	Applied(kind string, took time.Duration, services int, err error)
	// Repaired is called when somebody else had changed our table.
	Repaired()
}

type unobserved struct{}

func (unobserved) Applied(string, time.Duration, int, error) {}
func (unobserved) Repaired()                                 {}

// A Proxy keeps the packet rules of one node for all Services. It is a Task.
type Proxy struct {
	o      Options
	engine *engine
	watch  *nft.Watch
	cutter *cutter
	health *health

	nodes map[string]*cluster.Node
	dead  map[string]bool
	vips  map[netip.Addr]bool // as last told

	mu   sync.Mutex
	said map[string]bool // the dead, as last said; nil when there is no news; guarded by mu
	news chan struct{}
}

// New returns a proxy in the network namespace of the calling thread. Nothing
// is changed before Run. The error is nft.ErrMissing, in words for the user,
// when the kernel has no nftables.
func New(o Options) (*Proxy, error) {
	if o.Node == "" || o.Feed == nil {
		return nil, errors.New("proxy: a node's name and a feed are needed")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Observe == nil {
		o.Observe = unobserved{}
	}
	if o.Listen == nil {
		o.Listen = net.Listen
	}
	if o.Resync == 0 {
		o.Resync = 5 * time.Minute
	}
	conn, err := nft.Open()
	if err != nil {
		return nil, err
	}
	watch, err := conn.Watch(Table)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	ct, err := conntrack.Open()
	if err != nil {
		return nil, errors.Join(err, watch.Close(), conn.Close())
	}
	p := &Proxy{
		o: o, engine: newEngine(conn, o.Log), watch: watch, cutter: newCutter(ct, o.Log),
		health: newHealth(o.Listen, o.Log),
		nodes:  map[string]*cluster.Node{}, news: make(chan struct{}, 1),
	}
	p.engine.watch = watch
	p.engine.view.Node = o.Node
	p.engine.view.Dead = func(node string) bool { return p.dead[node] }
	return p, nil
}

func (p *Proxy) String() string { return "proxy" }

// SetDead says which nodes are known to be dead, the whole set. Their endpoints
// are taken out at once where others remain. It never blocks and may be called
// from any goroutine.
func (p *Proxy) SetDead(nodes map[string]bool) {
	p.mu.Lock()
	p.said = maps.Clone(nodes)
	if p.said == nil {
		p.said = map[string]bool{}
	}
	p.mu.Unlock()
	select {
	case p.news <- struct{}{}:
	default: // the loop will see this with the earlier news
	}
}

// Healthy returns an error when the rules in the kernel are not what they
// should be, and since when.
func (p *Proxy) Healthy() error { return p.health.err() }

// Off removes all rules that any proxy of this name has made. It must not be
// called while Run runs.
func (p *Proxy) Off() error {
	p.engine.have, p.engine.guarded = nil, false
	if err := p.engine.conn.Remove(Table); err != nil {
		return fmt.Errorf("remove the proxy's rules: %w", err)
	}
	var guard nft.Batch
	guard.DeleteTable(GuardTable)
	if err := p.engine.conn.Commit(&guard); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the proxy's guard: %w", err)
	}
	return nil
}

// Close closes what New opened. The rules stay.
func (p *Proxy) Close() error {
	return errors.Join(p.watch.Close(), p.cutter.conn.Close(), p.engine.conn.Close())
}

// Run keeps the kernel at what the feed says until ctx ends. The first change
// after silence is applied at once; those that come while it works are applied
// together. What the kernel has when Run returns stays.
func (p *Proxy) Run(ctx context.Context) error {
	foreign := make(chan struct{}, 1)
	broken := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		broken <- p.watch.Run(func() {
			select {
			case foreign <- struct{}{}:
			default:
			}
		})
	})
	wg.Go(func() { p.cutter.run(ctx) })
	defer func() {
		cancel()
		// Closing is what ends the watch; its error says no more than that.
		_ = p.watch.Close()
		p.health.close()
		wg.Wait()
	}()

	const firstRetry, lastRetry = 100 * time.Millisecond, 30 * time.Second
	var (
		timer  = time.NewTimer(p.o.Resync)
		retry  = firstRetry
		resync = time.Now().Add(p.o.Resync)
		sweep  time.Time
		quiet  time.Time // until when foreign changes wait
	)
	defer timer.Stop()
	for {
		var err error
		work := func() error { return nil }
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("the watch of our own table ended: %w", err)
		case <-p.o.Feed.Ready():
			work = func() error { return p.take(p.o.Feed.Take()) }
		case <-p.news:
			work = p.bury
		case <-foreign:
			if now := time.Now(); now.Before(quiet) {
				// Somebody keeps at it. The first change was repaired at once; a full
				// compare for each would be a fight that costs a CPU.
				resync = earlier(resync, quiet)
				break
			}
			quiet = time.Now().Add(foreignPause)
			p.o.Log.Warn("somebody else changed our table; it is compared and repaired", "table", Table)
			p.o.Observe.Repaired()
			work = func() error { return p.compare() }
		case <-timer.C:
			if now := time.Now(); !now.Before(resync) || p.engine.have == nil {
				work = func() error { return p.compare() }
			}
		}
		err = work()
		now := time.Now()
		if err == nil {
			sweep, err = p.engine.sweep(now)
		}
		p.cutter.cut(p.engine.flows)
		p.engine.flows = nil
		if err != nil || p.engine.have != nil {
			p.health.applied(err, now)
		}
		next := resync
		if err != nil {
			p.o.Log.Error("the rules are not what they should be", "err", err, "retry", retry)
			next, retry = now.Add(retry), min(2*retry, lastRetry)
			p.engine.have = nil
		} else {
			retry = firstRetry
			if !now.Before(resync) {
				resync = now.Add(p.o.Resync)
				next = resync
			}
			if !sweep.IsZero() && sweep.Before(next) {
				next = sweep
			}
			p.publish()
		}
		timer.Reset(max(0, time.Until(next)))
	}
}

// foreignPause is the least time between two compares because of changes that
// others made.
const foreignPause = 500 * time.Millisecond

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// take applies a delta.
func (p *Proxy) take(d cluster.Delta) error {
	start := time.Now()
	maps.Copy(p.nodes, d.Nodes)
	maps.DeleteFunc(p.nodes, func(_ string, n *cluster.Node) bool { return n == nil })
	changed := maps.Clone(d.Services)
	if changed == nil {
		changed = map[cluster.Key]*cluster.Service{}
	}
	first := d.Synced && !p.engine.synced
	if first {
		p.engine.synced = true
		p.engine.have = nil // now that everything is known, what nobody wants can go
	}
	if !p.engine.synced {
		// «Not synced» never means «empty»: what is gone may only not have come yet.
		maps.DeleteFunc(changed, func(_ cluster.Key, s *cluster.Service) bool { return s == nil })
	}
	if len(d.Nodes) > 0 || first {
		p.look(changed)
	}
	if p.nodes[p.o.Node] == nil && !p.engine.synced {
		// Without the node itself it is not known whose addresses are pods' and where
		// NodePorts answer. What the kernel has stays until then.
		p.engine.put(changed)
		return nil
	}
	err := p.engine.change(changed, start)
	if err == nil && first {
		err = p.orphans()
	}
	p.health.set(p.engine.services, changed, p.engine.view)
	p.o.Observe.Applied("change", time.Since(start), len(changed), err)
	return err
}

// look derives the view from the nodes and adds to changed the Services that
// see another one.
func (p *Proxy) look(changed map[cluster.Key]*cluster.Service) {
	v := p.engine.view
	n := p.nodes[p.o.Node]
	if n == nil && !p.engine.synced {
		return
	}
	if n != nil {
		v.Zone = n.Zone
		v.NodePorts = slices.Clone(n.Addresses)
	}
	if len(p.o.NodePortAddresses) > 0 && p.o.Local != nil {
		v.NodePorts = nil
		for _, a := range p.o.Local() {
			// Loopback addresses cannot be served: the kernel does not route what comes
			// from them anywhere else. kube-proxy refuses them in this mode too.
			if !a.IsLoopback() && slices.ContainsFunc(p.o.NodePortAddresses, func(x netip.Prefix) bool { return x.Contains(a) }) {
				v.NodePorts = append(v.NodePorts, a)
			}
		}
	}
	slices.SortFunc(v.NodePorts, netip.Addr.Compare)
	v.NodePorts = slices.Compact(v.NodePorts)
	old := p.engine.view
	p.engine.view = v
	p.engine.touch(p.engine.setStatic(staticEntries(v, p.nodes, p.o.PodCIDRs, p.o.ServiceCIDRs)))
	if old.Zone == v.Zone && slices.Equal(old.NodePorts, v.NodePorts) {
		return
	}
	for k, r := range p.engine.services {
		if _, there := changed[k]; !there {
			changed[k] = r.service
		}
	}
}

// bury plans the Services anew that have endpoints on nodes of which it is
// newly known that they are dead, or not dead.
func (p *Proxy) bury() error {
	p.mu.Lock()
	said := p.said
	p.said = nil
	p.mu.Unlock()
	if said == nil {
		return nil
	}
	start := time.Now()
	old := p.dead
	p.dead = said
	changed := p.engine.onNodes(func(n string) bool { return n != "" && old[n] != said[n] })
	err := p.engine.change(changed, start)
	p.o.Observe.Applied("change", time.Since(start), len(changed), err)
	return err
}

func (p *Proxy) compare() error {
	if p.nodes[p.o.Node] == nil && !p.engine.synced {
		return nil // as in take
	}
	start := time.Now()
	err := p.engine.compare(nil, start)
	p.health.set(p.engine.services, nil, p.engine.view) // ports that could not be opened are tried again
	p.o.Observe.Applied("compare", time.Since(start), len(p.engine.services), err)
	return err
}

// orphans finds the flows that an earlier process did not come to cut.
func (p *Proxy) orphans() error {
	for _, fam := range families {
		if err := p.cutter.each(fam, func(f conntrack.Flow) {
			if p.engine.orphan(f) {
				p.engine.flows = append(p.engine.flows, f)
			}
		}); err != nil {
			return err
		}
	}
	return nil
}

// publish tells which VIPs are served, when that changed.
func (p *Proxy) publish() {
	if p.o.OnVIPs == nil || p.engine.have == nil {
		return
	}
	now := map[netip.Addr]bool{}
	for _, f := range families {
		for key := range p.engine.have[setVIPs(f)] {
			now[nft.KeyAddr(key, 0, f)] = true
		}
	}
	if p.vips == nil || !maps.Equal(now, p.vips) {
		p.vips = now
		p.o.OnVIPs(maps.Clone(now))
	}
}
