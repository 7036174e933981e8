package inspect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/provider"
)

// A Reader reads one cluster.
type Reader struct {
	Client    kubernetes.Interface
	Raw       Raw
	Namespace string // Clarion's
	Now       func() time.Time
}

// A Raw gets a path below the API server's root, as in
// "/apis/metallb.io/v1beta1/ipaddresspools".
type Raw func(ctx context.Context, path string, query map[string]string) ([]byte, error)

// A reading collects what concurrent reads bring.
type reading struct {
	mu  sync.Mutex
	c   *Cluster
	err error // the API server cannot be reached at all
	wg  sync.WaitGroup
}

// do runs one read. what is its object for people, as in "the Services of all
// namespaces"; key its name in unread; lost what is missing when it fails.
func (r *reading) do(key, what, lost string, read func() error) {
	r.wg.Go(func() {
		err := read()
		if err == nil || apierrors.IsNotFound(err) {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.c.unread[key] = true
		if status := apierrors.APIStatus(nil); !errors.As(err, &status) || apierrors.IsUnauthorized(err) {
			r.err = err
			return
		}
		r.c.Gaps = append(r.c.Gaps, fmt.Sprintf("%s cannot be read (%s): %s", what, refusal(err), lost))
	})
}

// refusal says in short why the API server did not give something.
func refusal(err error) string {
	if apierrors.IsForbidden(err) {
		return "you lack the permission"
	}
	return err.Error()
}

// finish waits for all reads.
func (r *reading) finish() error {
	r.wg.Wait()
	slices.Sort(r.c.Gaps)
	switch {
	case apierrors.IsUnauthorized(r.err):
		return errors.New("the API server does not accept the credentials of your kubeconfig; log in again, or choose another context with --context")
	case r.err != nil:
		return fmt.Errorf("the API server cannot be read: %w", r.err)
	}
	return nil
}

// Read reads what every verb needs. It fails only when the API server cannot
// be reached; what it does not give is told in Gaps.
func (r *Reader) Read(ctx context.Context) (*Cluster, error) {
	c := &Cluster{Now: r.Now(), Namespace: r.Namespace, unread: map[string]bool{}}
	all := metav1.ListOptions{}
	in := &reading{c: c}
	in.do("services", "the Services of all namespaces", "no VIP is shown, and pools may look emptier than they are", func() error {
		list, err := r.Client.CoreV1().Services("").List(ctx, all)
		if err == nil {
			c.Services = list.Items
		}
		return err
	})
	in.do("nodes", "the Nodes", "no node is shown, and addresses of nodes are not known to be taken", func() error {
		list, err := r.Client.CoreV1().Nodes().List(ctx, all)
		if err == nil {
			c.Nodes = list.Items
		}
		return err
	})
	in.do("namespaces", "the Namespaces", "pools with a namespaceSelector seem to refuse every Service", func() error {
		list, err := r.Client.CoreV1().Namespaces().List(ctx, all)
		if err == nil {
			c.Namespaces = list.Items
		}
		return err
	})
	in.do("servicecidrs", "the ServiceCIDRs", "addresses in them are not known to be taken", func() error {
		list, err := r.Client.NetworkingV1().ServiceCIDRs().List(ctx, all)
		if err == nil {
			c.CIDRs = list.Items
		}
		return err
	})
	for name, into := range map[string]**v1.ConfigMap{provider.PoolsName: &c.User, provider.InForceName: &c.InForce, provider.LedgerName: &c.Ledger} {
		key, lost := "configmaps", "the pools are not known"
		if name == provider.LedgerName {
			key, lost = "ledger", "what is being given right now is not known"
		}
		in.do(key, fmt.Sprintf("the ConfigMap %s/%s", r.Namespace, name), lost, func() error {
			cm, err := r.Client.CoreV1().ConfigMaps(r.Namespace).Get(ctx, name, metav1.GetOptions{})
			if err == nil {
				*into = cm
			}
			return err
		})
	}
	in.do("lease", fmt.Sprintf("the Lease %s/%s", r.Namespace, ControllerName), "who leads is not known", func() error {
		lease, err := r.Client.CoordinationV1().Leases(r.Namespace).Get(ctx, ControllerName, metav1.GetOptions{})
		if err == nil {
			c.Lease = lease
		}
		return err
	})
	in.do("deployment", fmt.Sprintf("the Deployment %s/%s", r.Namespace, ControllerName), "how many replicas there should be is not known", func() error {
		d, err := r.Client.AppsV1().Deployments(r.Namespace).Get(ctx, ControllerName, metav1.GetOptions{})
		if err == nil {
			c.Deployment = d
		}
		return err
	})
	in.do("daemonset", fmt.Sprintf("the DaemonSet %s/%s", r.Namespace, AgentName), "on which nodes an agent should run is not known", func() error {
		d, err := r.Client.AppsV1().DaemonSets(r.Namespace).Get(ctx, AgentName, metav1.GetOptions{})
		if err == nil {
			c.DaemonSet = d
		}
		return err
	})
	in.do("pods", fmt.Sprintf("the Pods of %s", r.Namespace), "neither the controller's replicas nor the agents are shown", func() error {
		list, err := r.Client.CoreV1().Pods(r.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labelName + " in (" + ControllerName + "," + AgentName + ")"})
		if err != nil {
			return err
		}
		for _, p := range list.Items {
			switch p.Labels[labelName] {
			case ControllerName:
				c.Controllers = append(c.Controllers, p)
			case AgentName:
				c.Agents = append(c.Agents, p)
			}
		}
		return nil
	})
	return c, in.finish()
}

// ErrNoService is the error of ReadService when there is none of that name.
var ErrNoService = errors.New("there is no such Service")

// ReadService reads what an explanation of one Service needs beside what Read
// brought.
func (r *Reader) ReadService(ctx context.Context, c *Cluster, key cluster.Key) error {
	namespace, name, _ := strings.Cut(string(key), "/")
	svc := c.service(key)
	if svc == nil { // not listed, or it may not be
		one, err := r.Client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("%w: %s in namespace %s", ErrNoService, name, namespace)
		}
		if err != nil {
			return fmt.Errorf("read the Service %s: %s", key, refusal(err))
		}
		c.Services = append(c.Services, *one)
		svc = one
	}
	in := &reading{c: c}
	for _, s := range c.sharers(svc) {
		in.do("slices", fmt.Sprintf("the EndpointSlices of %s", keyOf(&s)), "its endpoints are not known", func() error {
			list, err := r.Client.DiscoveryV1().EndpointSlices(s.Namespace).List(ctx, metav1.ListOptions{LabelSelector: discovery.LabelServiceName + "=" + s.Name})
			if err == nil {
				in.mu.Lock()
				c.Slices = append(c.Slices, list.Items...)
				in.mu.Unlock()
			}
			return err
		})
	}
	in.do("events", fmt.Sprintf("the Events of namespace %s", namespace), "the last moves are not shown", func() error {
		list, err := r.Client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: fields.Set{
			"involvedObject.kind": "Service", "involvedObject.name": name}.AsSelector().String()})
		if err == nil {
			c.Events = list.Items
		}
		return err
	})
	return in.finish()
}

// sharers returns the Services that carry an address of svc, svc among them.
func (c *Cluster) sharers(svc *v1.Service) []v1.Service {
	var out []v1.Service
	for _, s := range c.Services {
		if s.UID == svc.UID || slices.ContainsFunc(s.Status.LoadBalancer.Ingress, func(a v1.LoadBalancerIngress) bool {
			return slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(b v1.LoadBalancerIngress) bool { return a.IP == b.IP && a.IP != "" })
		}) {
			out = append(out, s)
		}
	}
	return out
}
