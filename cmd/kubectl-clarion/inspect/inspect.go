// Package inspect says how Clarion stands and why, from what anybody with a
// kubeconfig can read.
//
// Read inspect.go (what is read), read.go and agents.go (how), then status.go,
// pools.go, explain.go and plan.go: each makes one value of what was read, which
// is also the JSON, and the file beside it with the same name and _text puts it
// on a page.
package inspect

import (
	"cmp"
	"maps"
	"net/netip"
	"strings"
	"time"

	apps "k8s.io/api/apps/v1"
	coordination "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"

	"github.com/clarion-lb/clarion/config"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/report"
	"github.com/clarion-lb/clarion/internal/watch"
	"github.com/clarion-lb/clarion/provider"
)

// Names of what the manifest installs.
const (
	ControllerName = "clarion-controller"
	AgentName      = "clarion-agent"
	labelName      = "app.kubernetes.io/name"
)

// A Cluster is what was read of one. What could not be read is empty, and Gaps
// says so.
type Cluster struct {
	Now       time.Time
	Namespace string // Clarion's

	Services   []v1.Service
	Nodes      []v1.Node
	Namespaces []v1.Namespace
	CIDRs      []networking.ServiceCIDR
	Slices     []discovery.EndpointSlice // read for an explanation only
	Events     []v1.Event                // read for an explanation only

	User, InForce, Ledger *v1.ConfigMap // nil when there is none
	Lease                 *coordination.Lease
	Deployment            *apps.Deployment
	DaemonSet             *apps.DaemonSet
	Controllers, Agents   []v1.Pod

	Reports      map[string]report.Status      // of the agents that answered, by node; read for a status
	Explanations map[string]report.Explanation // by node; read for an explanation

	// Gaps say what could not be read, why, and what is missing therefore.
	Gaps []string
	// unread marks lists that could not be read, so that «empty» is not told
	// as «there is none».
	unread map[string]bool
}

// pools returns the pools in force and what is wrong in the user's text.
// pending says that the text differs from what is in force without being wrong.
func (c *Cluster) pools() (inForce config.Config, problems []*config.Problem, pending bool) {
	inForce.Settings = config.DefaultSettings()
	if c.InForce != nil {
		// Whatever cannot be read of it was not written by a controller.
		inForce, _ = config.Parse(c.InForce.Data, config.Config{})
	}
	if c.unread["configmaps"] {
		return inForce, nil, false
	}
	var data map[string]string
	if c.User != nil {
		data = c.User.Data
	}
	next, err := config.Parse(data, inForce)
	return inForce, config.Problems(err), !maps.Equal(next.Raw(), inForce.Raw())
}

// snapshot decides as a new leader would.
func (c *Cluster) snapshot(pools config.Config) (*provider.Snapshot, []error) {
	flags, wrong := controllerFlags(c.Controllers)
	s, problems := provider.NewSnapshot(provider.Objects{
		Services: c.Services, Nodes: c.Nodes, Namespaces: c.Namespaces, CIDRs: c.CIDRs, Ledger: c.Ledger,
		Pools: pools, Class: flags.class, Reserved: flags.reserved,
	}, c.Now)
	return s, append(wrong, problems...)
}

// class is the loadBalancerClass that is Clarion's beside none.
func (c *Cluster) class() string {
	flags, _ := controllerFlags(c.Controllers)
	return cmp.Or(flags.class, provider.Class)
}

// view is the cluster as the agents see it.
func (c *Cluster) view() cluster.View {
	v, _ := watch.Objects(c.Services, c.Slices, c.Nodes, c.class())
	return v
}

// service returns the Service of that name, nil when there is none.
func (c *Cluster) service(key cluster.Key) *v1.Service {
	namespace, name, _ := strings.Cut(string(key), "/")
	for i := range c.Services {
		if s := &c.Services[i]; s.Name == name && s.Namespace == namespace {
			return s
		}
	}
	return nil
}

func keyOf(svc *v1.Service) cluster.Key { return cluster.Key(svc.Namespace + "/" + svc.Name) }

// A Condition is a condition of a Service that Clarion wrote.
type Condition struct {
	Status  string    `json:"status"`
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	Since   time.Time `json:"since,omitzero"`
}

func condition(svc *v1.Service, kind string) *Condition {
	for _, c := range svc.Status.Conditions {
		if c.Type == kind {
			return &Condition{Status: string(c.Status), Reason: c.Reason, Message: c.Message, Since: c.LastTransitionTime.Time}
		}
	}
	return nil
}

// An Owner is a node that answers for a VIP.
type Owner struct {
	Node    string       `json:"node"`
	Segment netip.Prefix `json:"segment,omitzero"`
	Since   time.Time    `json:"since,omitzero"`
	// Told is true when the owner comes from the Service's condition, because
	// its agent could not be asked.
	Told bool `json:"told,omitempty"`
}
