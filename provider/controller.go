package provider

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	networking "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/cloud-provider/controllers/service"
	"k8s.io/component-base/featuregate"
	ctrlmetrics "k8s.io/component-base/metrics/prometheus/controllers"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/clarion-lb/clarion/allocator"
	"github.com/clarion-lb/clarion/internal/reconcile"
	"github.com/clarion-lb/clarion/internal/task"
)

// How the replicas agree on a leader. A leader that dies is replaced after at
// most leaseDuration plus one retry; one that ends in order releases the lease
// and is replaced after one retry. Nothing but the time until new Services are
// served depends on these: VIPs are kept and moved without the controller, and
// that two leaders give one address twice is the ledger's to prevent, so the
// lease may be short. A leader that cannot renew for renewDeadline gives up.
const (
	leaseDuration = 8 * time.Second
	renewDeadline = 5 * time.Second
	retryPeriod   = time.Second
)

// A Config is what a Controller is told by its flags.
type Config struct {
	Namespace string               // where the controller runs and the ConfigMaps are
	Class     string               // the loadBalancerClass that is ours beside none
	Identity  string               // of this process, in lease and ledger; no two processes may share it
	Lease     string               // name of the lease
	Workers   int                  // Services looked at at the same time, at least 1
	Reserved  []allocator.Reserved // ranges that no Service gets, beside those that the API knows
	Log       *slog.Logger
}

// A Controller is one replica of clarion-controller. Both replicas keep their
// caches warm; one of them leads.
type Controller struct {
	cfg    Config
	client kubernetes.Interface
	stats  *metrics
	health *leaderelection.HealthzAdaptor

	shared, userPools, forcePools informers.SharedInformerFactory
	services                      coreinformers.ServiceInformer
	hasServiceCIDRs               bool
	synced                        []cache.InformerSynced
}

// New returns a Controller that works with client, which should have no rate
// limit of its own: the API server's priority and fairness is the limit that
// knows the load. It registers its metrics with reg and starts nothing.
func New(client kubernetes.Interface, cfg Config, reg prometheus.Registerer) *Controller {
	only := func(name string) informers.SharedInformerFactory {
		return informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(cfg.Namespace),
			informers.WithTweakListOptions(func(o *metav1.ListOptions) {
				o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
			}))
	}
	c := &Controller{
		cfg: cfg, client: client, stats: newMetrics(reg),
		// A lease that expired this long ago without the process having ended
		// means that the process hangs.
		health:     leaderelection.NewLeaderHealthzAdaptor(20 * time.Second),
		shared:     informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim)),
		userPools:  only(PoolsName),
		forcePools: only(InForceName),
	}
	c.services = c.shared.Core().V1().Services()
	c.synced = []cache.InformerSynced{
		c.services.Informer().HasSynced,
		c.shared.Core().V1().Nodes().Informer().HasSynced,
		c.shared.Core().V1().Namespaces().Informer().HasSynced,
		c.userPools.Core().V1().ConfigMaps().Informer().HasSynced,
		c.forcePools.Core().V1().ConfigMaps().Informer().HasSynced,
	}
	return c
}

// trim drops what nobody here reads and what makes up half of most objects.
func trim(obj any) (any, error) {
	if o, ok := obj.(metav1.Object); ok {
		o.SetManagedFields(nil)
	}
	return obj, nil
}

func (c *Controller) String() string { return "controller" }

// Ready returns nil once the caches have been filled, which is when this
// replica could lead.
func (c *Controller) Ready() error {
	for _, synced := range c.synced {
		if !synced() {
			return errors.New("the caches are not filled yet; is the API server reachable and RBAC in place?")
		}
	}
	return nil
}

// Healthy returns an error when this replica should have given up the lease
// long ago and still runs.
func (c *Controller) Healthy() error { return c.health.Check(&http.Request{}) }

// Run takes part in the election and does the work whenever it is won, until
// ctx ends; then the lease is released, and the result is nil. It returns an
// error, after which the process must end, when the lease or the ledger was
// lost to another leader.
func (c *Controller) Run(ctx context.Context) error {
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer c.shared.Shutdown()
	defer c.userPools.Shutdown()
	defer c.forcePools.Shutdown()
	defer stop() // first of all, so that the three can end
	if err := c.watch(watching); err != nil {
		return err
	}
	if !cache.WaitForCacheSync(ctx.Done(), c.synced...) {
		return nil // asked to end before it began
	}
	return c.elect(ctx)
}

// watch starts the caches. API servers before 1.33 have no ServiceCIDR; there
// the flag names the ranges.
func (c *Controller) watch(ctx context.Context) error {
	var err error
	if c.hasServiceCIDRs, err = c.serves(networking.SchemeGroupVersion.String(), "servicecidrs"); err != nil {
		return err
	}
	if c.hasServiceCIDRs {
		c.synced = append(c.synced, c.shared.Networking().V1().ServiceCIDRs().Informer().HasSynced)
	} else {
		c.cfg.Log.Warn("the API server has no ServiceCIDR objects; name the service CIDRs with --service-cidrs, else they are not kept from Services")
	}
	c.shared.StartWithContext(ctx)
	c.userPools.StartWithContext(ctx)
	c.forcePools.StartWithContext(ctx)
	return nil
}

func (c *Controller) serves(groupVersion, resource string) (bool, error) {
	list, err := c.client.Discovery().ServerResourcesForGroupVersion(groupVersion)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask the API server whether it has %s: %w", resource, err)
	}
	for _, r := range list.APIResources {
		if r.Name == resource {
			return true, nil
		}
	}
	return false, nil
}

// elect waits for the lease and leads. When ctx ends the work ends first, then
// the lease is released, so that the next leader does not meet this one.
func (c *Controller) elect(ctx context.Context) error {
	electing, endElection := context.WithCancel(context.WithoutCancel(ctx))
	defer endElection()

	var mu sync.Mutex
	var led chan error // not nil once the work has begun
	stopWaiting := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		if led == nil {
			endElection()
		}
	})
	defer stopWaiting()

	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: c.cfg.Namespace, Name: c.cfg.Lease},
			Client:     c.client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: c.cfg.Identity},
		},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		ReleaseOnCancel: true, Name: c.cfg.Lease,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStoppedLeading: func() {},
			OnStartedLeading: func(leased context.Context) {
				mu.Lock()
				if ctx.Err() != nil || leased.Err() != nil {
					mu.Unlock()
					return
				}
				result := make(chan error, 1)
				led = result
				mu.Unlock()

				working, stop := context.WithCancel(leased)
				defer context.AfterFunc(ctx, stop)()
				defer stop()
				result <- c.lead(working)
				endElection()
			},
		},
	})
	if err != nil {
		return fmt.Errorf("prepare the election: %w", err)
	}
	c.health.SetLeaderElection(elector)
	c.cfg.Log.Info("waiting for the lease", "lease", c.cfg.Namespace+"/"+c.cfg.Lease, "identity", c.cfg.Identity)
	elector.Run(electing)

	mu.Lock()
	working := led
	mu.Unlock()
	if working != nil {
		if err := <-working; err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("%w: the lease %s was lost; is the API server slow, or unreachable from here?", ErrDeposed, c.cfg.Lease)
}

// lead does the work of the leader until ctx ends or it is deposed.
func (c *Controller) lead(ctx context.Context) error {
	log := c.cfg.Log.With("leader", c.cfg.Identity)
	log.Info("leading")
	c.stats.leader.Set(1)
	defer c.stats.leader.Set(0)

	p := newProvider(log, c.stats, c.shared.Core().V1().Namespaces().Lister())
	p.ledger = newLedger(c.client.CoreV1().ConfigMaps(c.cfg.Namespace), c.cfg.Identity, log, c.stats)
	p.ours = &ours{ServiceInformer: c.services, class: c.cfg.Class, known: p.known, changed: p.changed, idle: p.idle}
	events := newEvents(c.client.CoreV1(), c.cfg.Identity, log, c.stats)
	p.writes = newWrites(ctx, c.client.CoreV1(), events, log, c.stats)
	p.writes.again, p.writes.confirm = p.retry, p.ledger.Confirm
	reserved, pools := c.followers(p, events, log)

	intents, err := p.ledger.Claim(ctx, c.cfg.Namespace)
	if err != nil {
		return ended(ctx, err)
	}
	if err := reserved.begin(); err != nil {
		return err
	}
	if err := pools.load(ctx); err != nil {
		return ended(ctx, err)
	}
	list, err := c.adopt(ctx, p, intents)
	if err != nil {
		return ended(ctx, err)
	}
	if err := catchUp(ctx, list, c.services.Informer()); err != nil {
		return ended(ctx, err)
	}
	p.begin()
	c.stats.provider.Store(p)
	defer c.stats.provider.Store(nil)

	controller, err := service.New(p, client{c.client, p.writes}, p.ours, stillNodes{c.shared.Core().V1().Nodes()}, Name, featuregate.NewFeatureGate())
	if err != nil {
		return fmt.Errorf("make the service controller: %w", err)
	}
	p.sweep()
	unregister, err := c.follow(p, reserved.loop, pools.loop)
	if err != nil {
		return err
	}
	defer unregister()
	return task.Run(ctx, p.ledger, p, events, reserved.loop, pools.loop,
		task.Func("service controller", func(ctx context.Context) error {
			controller.Run(ctx, c.cfg.Workers, ctrlmetrics.NewControllerManagerMetrics(FieldManager))
			return nil
		}))
}

// ended turns an error that came only because ctx ended into nil.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// followers makes the two loops that keep the allocator's rules current.
func (c *Controller) followers(p *Provider, events *events, log *slog.Logger) (*guard, *pools) {
	g := &guard{nodes: c.shared.Core().V1().Nodes().Lister(), extra: c.cfg.Reserved, provider: p, log: log}
	if c.hasServiceCIDRs {
		g.cidrs = c.shared.Networking().V1().ServiceCIDRs().Lister()
	}
	ps := &pools{
		namespace: c.cfg.Namespace, api: c.client.CoreV1().ConfigMaps(c.cfg.Namespace),
		user:    c.userPools.Core().V1().ConfigMaps().Lister(),
		inForce: c.forcePools.Core().V1().ConfigMaps().Lister(),
		guard:   g, provider: p, events: events, log: log, stats: c.stats,
	}
	g.loop = reconcile.NewLoop("reserved ranges", log, g.sync)
	ps.loop = reconcile.NewLoop("pools", log, ps.sync)
	g.changed = ps.loop.Kick
	return g, ps
}
