package migrate

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/clarion-lb/clarion/allocator"
	"github.com/clarion-lb/clarion/config"
	"github.com/clarion-lb/clarion/internal/annotation"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/iprange"
	"github.com/clarion-lb/clarion/provider"
)

// A State is what the plan is made of, beside the converted pools.
type State struct {
	Now       time.Time
	Namespace string // Clarion's

	Services   []v1.Service
	Nodes      []v1.Node
	Namespaces []v1.Namespace

	Peer Peer

	User      *v1.ConfigMap // clarion-pools; nil when there is none
	DaemonSet *apps.DaemonSet
	Class     string // the loadBalancerClass that Clarion serves beside none; empty when it does not run
}

// A Peer is the load balancer that is taken over.
type Peer struct {
	Name  string // as --from names it
	Class string // the loadBalancerClass that it serves, maybe beside none
	// OnlyClass is true when it does not serve Services without a class.
	OnlyClass bool
	// Controllers give addresses, Speakers announce them.
	Controllers []apps.Deployment
	Speakers    []apps.DaemonSet
	// KeepSpeakers says why the speakers cannot be stopped by a program; empty
	// when they can.
	KeepSpeakers string
}

// A Plan is a take-over in which every Service keeps its address, or says
// which does not.
type Plan struct {
	From      string            `json:"from"`
	Namespace string            `json:"namespace"`
	Pools     map[string]string `json:"pools"` // the data of clarion-pools
	Notes     []Note            `json:"notes"`
	Services  []Service         `json:"services"`
	Steps     []Step            `json:"steps"`
}

// A Service is one that is taken over.
type Service struct {
	Service   cluster.Key  `json:"service"`
	Addresses []netip.Addr `json:"addresses"`
	Pools     []string     `json:"pools"`           // of each address, in the same order
	Share     string       `json:"share,omitempty"` // the key that it is given
	Keeps     bool         `json:"keeps"`
	Why       string       `json:"why,omitempty"` // it does not keep them
}

// A Kind is what a step does.
type Kind string

// The kinds of steps, in their order.
const (
	WritePools     Kind = "write-pools"
	ShareAddresses Kind = "share-addresses"
	StopController Kind = "stop-controller"
	InstallClarion Kind = "install-clarion"
	StopSpeakers   Kind = "stop-speakers"
	RemovePeer     Kind = "remove-peer"
)

// A Progress is how far a step is.
type Progress string

// The progress of a step.
const (
	Done   Progress = "done"
	Ready  Progress = "ready"   // --apply does it
	ByHand Progress = "by hand" // a person has to do it
	Waits  Progress = "waits"   // for a step before it
)

// A Step is one step of the take-over.
type Step struct {
	Kind     Kind     `json:"kind"`
	Object   string   `json:"object"` // NAMESPACE/NAME
	What     string   `json:"what"`
	Why      string   `json:"why"`
	Command  string   `json:"command,omitempty"` // that does the same by hand
	Progress Progress `json:"progress"`
}

// Bad reports whether something would be lost by the take-over.
func (p Plan) Bad() bool {
	return slices.ContainsFunc(p.Notes, func(n Note) bool { return n.Bad }) || slices.ContainsFunc(p.Services, func(s Service) bool { return !s.Keeps })
}

// keptPool is the pool for addresses in use that no pool of the peer has.
const keptPool = "kept"

func isKept(name string) bool { return name == keptPool || strings.HasPrefix(name, keptPool+"-") }

// PlanOf decides how the Services of s.Peer are taken over with what was
// converted.
func PlanOf(s State, c Converted) Plan {
	out := Plan{From: s.Peer.Name, Namespace: s.Namespace, Notes: []Note{}, Services: []Service{}}
	var mine []v1.Service
	for _, svc := range s.Services {
		if s.Peer.serves(&svc) {
			mine = append(mine, svc)
		}
	}
	slices.SortFunc(mine, func(a, b v1.Service) int { return cmp.Compare(keyOf(&a), keyOf(&b)) })
	c.keep(s, mine)
	out.Pools = c.Data()
	inForce, err := config.Parse(out.Pools, config.Config{})
	for _, p := range config.Problems(err) {
		c.note(true, "pool "+p.Pool, "%s", p.Error())
	}
	keys := shareKeys(mine)
	out.Services = s.judge(&c, mine, keys, inForce)
	out.Steps = s.steps(out, mine, keys)
	out.Notes = append(out.Notes, c.Notes...)
	if unserved := s.unserved(); s.Peer.OnlyClass && len(unserved) > 0 {
		out.Notes = append(out.Notes, Note{"Services without a loadBalancerClass", fmt.Sprintf("%s serves only the class %s, and Clarion serves those without a class, too: it would take up %s",
			s.Peer.Name, s.Peer.Class, strings.Join(unserved, ", ")), true})
	}
	for _, svc := range mine {
		about := "Service " + string(keyOf(&svc))
		if svc.Annotations["kube-vip.io/ignore"] == "true" && s.Peer.Name == KubeVIP {
			out.Notes = append(out.Notes, Note{about, "is ignored by kube-vip (kube-vip.io/ignore), and Clarion will give it an address; to keep it from that, make it anew with another loadBalancerClass", false})
		}
		if usesDHCP(&svc) {
			out.Notes = append(out.Notes, Note{about, "asks for an address from a DHCP server, and Clarion asks none: it keeps the one that it has, which the DHCP server may give to somebody else; reserve it there, then name it in the annotation " + annotation.Addresses, true})
		}
	}
	return out
}

// unserved are the Services without a class, when the peer does not serve them.
func (s State) unserved() []string {
	var out []string
	for _, svc := range s.Services {
		if svc.Spec.Type == v1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass == nil {
			out = append(out, string(keyOf(&svc)))
		}
	}
	return out
}

func keyOf(svc *v1.Service) cluster.Key { return cluster.Key(svc.Namespace + "/" + svc.Name) }

// serves reports whether svc is the peer's.
func (p Peer) serves(svc *v1.Service) bool {
	if svc.Spec.Type != v1.ServiceTypeLoadBalancer || svc.DeletionTimestamp != nil {
		return false
	}
	if class := svc.Spec.LoadBalancerClass; class != nil {
		return *class == p.Class
	}
	return !p.OnlyClass
}

// vips are the addresses in the status that the Service is reached at.
func vips(svc *v1.Service) []netip.Addr {
	var out []netip.Addr
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IPMode != nil && *in.IPMode != v1.LoadBalancerIPModeVIP {
			continue
		}
		if a, err := netip.ParseAddr(in.IP); err == nil && a.Zone() == "" {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// keep adds a pool with the addresses in use that no pool has, so that no
// Service is stranded. Nobody gets an address from it without asking.
func (c *Converted) keep(s State, mine []v1.Service) {
	var all iprange.Set
	for _, p := range c.Pools {
		all = iprange.SetOf(slices.Concat(all.Ranges(), p.Addresses.Ranges())...)
	}
	nodes := map[netip.Addr]string{}
	for _, n := range s.Nodes {
		for _, a := range n.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil {
				nodes[addr.Unmap()] = n.Name
			}
		}
	}
	var outside []iprange.Range
	for _, svc := range mine {
		for _, a := range vips(&svc) {
			switch {
			case nodes[a] != "":
				c.note(true, "Service "+string(keyOf(&svc)), "has %v, which is the address of node %s; Clarion leaves it there but would never give it: ask for another one with the annotation %s", a, nodes[a], annotation.Addresses)
			case !all.Contains(a):
				outside = append(outside, iprange.One(a))
			}
		}
	}
	if len(outside) == 0 {
		return
	}
	name := keptPool
	for n := 2; slices.ContainsFunc(c.Pools, func(p Pool) bool { return p.Name == name }); n++ {
		name = fmt.Sprintf("%s-%d", keptPool, n)
	}
	pool := Pool{Name: name, Addresses: iprange.SetOf(outside...), ByNameOnly: true}
	c.note(false, "pool "+name, "holds the addresses in use that are in no pool, so that their Services keep them in one: %v", pool.Addresses)
	c.Pools = append(c.Pools, pool)
	slices.SortFunc(c.Pools, func(a, b Pool) int { return cmp.Compare(a.Name, b.Name) })
}

// shareKeys returns the keys that Services need to go on sharing an address:
// each that shares one and does not name the same key as all others on it.
func shareKeys(services []v1.Service) map[cluster.Key]string {
	// Services that share an address, directly or by a third one, are a group.
	group := map[cluster.Key]cluster.Key{}
	var root func(k cluster.Key) cluster.Key
	root = func(k cluster.Key) cluster.Key {
		if group[k] == "" || group[k] == k {
			return k
		}
		return root(group[k])
	}
	first := map[netip.Addr]cluster.Key{}
	for i := range services {
		key := keyOf(&services[i])
		for _, a := range vips(&services[i]) {
			if other, ok := first[a]; ok {
				group[root(key)] = root(other)
			} else {
				first[a] = key
			}
		}
	}
	members := map[cluster.Key][]*v1.Service{}
	for i := range services {
		r := root(keyOf(&services[i]))
		members[r] = append(members[r], &services[i])
	}
	out := map[cluster.Key]string{}
	for _, of := range members {
		if len(of) < 2 {
			continue
		}
		named := map[string]bool{}
		for _, svc := range of {
			if key, _ := annotation.ForShare().Read(svc.Annotations); key != "" {
				named[key] = true
			}
		}
		key := "shared-" + slices.MinFunc(addresses(of), netip.Addr.Compare).String()
		if len(named) == 1 {
			key = slices.Collect(maps.Keys(named))[0]
		}
		for _, svc := range of {
			if has, _ := annotation.ForShare().Read(svc.Annotations); has != key {
				out[keyOf(svc)] = key
			}
		}
	}
	return out
}

func addresses(of []*v1.Service) []netip.Addr {
	var out []netip.Addr
	for _, svc := range of {
		out = append(out, vips(svc)...)
	}
	return out
}

// judge asks the allocator what each Service keeps, as the controller will.
func (s State) judge(c *Converted, mine []v1.Service, keys map[cluster.Key]string, inForce config.Config) []Service {
	after := make([]v1.Service, len(mine))
	for i := range mine {
		svc := *mine[i].DeepCopy()
		if key := keys[keyOf(&svc)]; key != "" {
			metav1.SetMetaDataAnnotation(&svc.ObjectMeta, annotation.Share, key)
		}
		after[i] = svc
	}
	snapshot, _ := provider.NewSnapshot(provider.Objects{Services: after, Nodes: s.Nodes, Namespaces: s.Namespaces, Pools: inForce, Class: cmp.Or(s.Peer.Class, provider.Class)}, s.Now)
	out := []Service{}
	for _, svc := range mine {
		a := snapshot.Answers[keyOf(&svc)]
		row := Service{Service: keyOf(&svc), Addresses: []netip.Addr{}, Pools: []string{}, Share: keys[keyOf(&svc)], Keeps: true}
		for _, addr := range a.Shown {
			row.Addresses = append(row.Addresses, addr)
			pool := ""
			i := slices.IndexFunc(a.Held, func(h allocator.Held) bool { return h.Addr == addr })
			if i >= 0 {
				pool = a.Held[i].Pool
			} else {
				row.Keeps = false
			}
			row.Pools = append(row.Pools, pool)
		}
		for _, r := range a.Removed {
			row.Why = strings.TrimPrefix(row.Why+"; "+fmt.Sprintf("%v: %s", r.Addr, r.Why), "; ")
		}
		if len(row.Addresses) == 0 {
			row.Why = "has no address now"
		}
		out = append(out, row)
	}
	return out
}
