package watch

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/clarion-lb/clarion/internal/annotation"
	"github.com/clarion-lb/clarion/internal/cluster"
)

// The labels with which a user or a controller takes a Service away from the
// cluster's service proxy (kube-proxy honours the same two).
const (
	labelProxyName = "service.kubernetes.io/service-proxy-name"
	labelHeadless  = v1.IsHeadlessService
)

// service makes the plain value of a Service and its slices. class is the
// loadBalancerClass that is ours beside none. It never fails: what cannot be
// read is left out and told in problems, one sentence each.
func service(svc *v1.Service, found []*discovery.EndpointSlice, class string) (s *cluster.Service, problems []string) {
	c := &collector{subject: fmt.Sprintf("Service %s/%s", svc.Namespace, svc.Name)}
	// The controller shares by the same reading: an agent that knew fewer names
	// would withhold an address that was given to be shared.
	share, _ := annotation.ForShare().Read(svc.Annotations)
	s = &cluster.Service{
		Key:           cluster.Key(svc.Namespace + "/" + svc.Name),
		UID:           string(svc.UID),
		Created:       svc.CreationTimestamp.Time,
		ExternalIPs:   c.addresses("spec.externalIPs", svc.Spec.ExternalIPs),
		ShareKey:      share,
		InternalLocal: svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == v1.ServiceInternalTrafficPolicyLocal,
		ExternalLocal: svc.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal,
		HealthPort:    uint16(svc.Spec.HealthCheckNodePort), // the API allows 0-65535 only
		SourceRanges:  c.prefixes("spec.loadBalancerSourceRanges", svc.Spec.LoadBalancerSourceRanges),
	}
	if svc.Spec.Type != v1.ServiceTypeExternalName && svc.Spec.ClusterIP != v1.ClusterIPNone {
		s.ClusterIPs = c.addresses("spec.clusterIPs", svc.Spec.ClusterIPs)
	}
	_, proxied := svc.Labels[labelProxyName]
	_, headless := svc.Labels[labelHeadless]
	s.OtherProxy = proxied || headless
	if svc.Spec.TrafficDistribution != nil {
		s.Distribution = *svc.Spec.TrafficDistribution
	}
	if svc.Spec.SessionAffinity == v1.ServiceAffinityClientIP {
		s.Affinity = affinity(svc.Spec.SessionAffinityConfig)
	}
	if svc.Spec.Type == v1.ServiceTypeLoadBalancer {
		s.Ours = svc.Spec.LoadBalancerClass == nil || *svc.Spec.LoadBalancerClass == class
		s.VIPs = c.addresses("status.loadBalancer.ingress", vips(svc.Status.LoadBalancer.Ingress))
		s.Announced = slices.ContainsFunc(svc.Status.Conditions, func(c metav1.Condition) bool {
			return c.Type == cluster.ConditionAnnounced && c.Status == metav1.ConditionTrue
		})
	}
	for _, p := range svc.Spec.Ports {
		protocol, ok := protocols[p.Protocol]
		if !ok {
			c.tell("port %q: protocol %q is not TCP, UDP or SCTP", p.Name, p.Protocol)
			continue
		}
		s.Ports = append(s.Ports, cluster.Port{
			Name: p.Name, Protocol: protocol, Port: uint16(p.Port), NodePort: uint16(p.NodePort), // validated by the API
			Endpoints: c.endpoints(p, found),
		})
	}
	return s, c.problems
}

var protocols = map[v1.Protocol]cluster.Protocol{
	v1.ProtocolTCP: cluster.TCP, v1.ProtocolUDP: cluster.UDP, v1.ProtocolSCTP: cluster.SCTP, "": cluster.TCP,
}

// defaultAffinity is the API's default for
// spec.sessionAffinityConfig.clientIP.timeoutSeconds.
const defaultAffinity = time.Duration(v1.DefaultClientIPServiceAffinitySeconds) * time.Second

func affinity(c *v1.SessionAffinityConfig) time.Duration {
	if c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
		return defaultAffinity
	}
	return time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
}

// vips returns the addresses that stand for the Service itself: ipMode Proxy
// names an address that somebody else terminates (KEP-1860).
func vips(ingress []v1.LoadBalancerIngress) []string {
	var out []string
	for _, in := range ingress {
		if in.IP != "" && (in.IPMode == nil || *in.IPMode == v1.LoadBalancerIPModeVIP) {
			out = append(out, in.IP)
		}
	}
	return out
}

// A collector reads texts into values and gathers what it could not read.
type collector struct {
	subject  string
	problems []string
}

func (c *collector) tell(format string, args ...any) {
	c.problems = append(c.problems, c.subject+": "+fmt.Sprintf(format, args...))
}

func (c *collector) addresses(field string, texts []string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			c.tell("%s: %q is not an IP address", field, text)
			continue
		}
		out = append(out, a.Unmap())
	}
	return out
}

func (c *collector) prefixes(field string, texts []string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			c.tell("%s: %q is not a CIDR", field, text)
			continue
		}
		out = append(out, p.Masked())
	}
	return out
}

// endpoints returns the endpoints behind one port, ordered by address, each
// once: while a controller moves an endpoint from one slice to another, both
// may hold it (discovery/v1), and the one that is more ready counts.
func (c *collector) endpoints(port v1.ServicePort, from []*discovery.EndpointSlice) []cluster.Endpoint {
	var out []cluster.Endpoint
	for _, slice := range from {
		if slice.AddressType == discovery.AddressTypeFQDN {
			continue
		}
		for _, p := range slice.Ports {
			if deref(p.Name) != port.Name || p.Port == nil || derefOr(p.Protocol, v1.ProtocolTCP) != cmp.Or(port.Protocol, v1.ProtocolTCP) {
				continue
			}
			for _, e := range slice.Endpoints {
				if ep, ok := c.endpoint(slice, e, uint16(*p.Port)); ok { // validated by the API
					out = append(out, ep)
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b cluster.Endpoint) int {
		return cmp.Or(a.Addr.Compare(b.Addr), -cmp.Compare(readiness(a), readiness(b)))
	})
	return slices.CompactFunc(out, func(a, b cluster.Endpoint) bool { return a.Addr == b.Addr })
}

func (c *collector) endpoint(slice *discovery.EndpointSlice, e discovery.Endpoint, port uint16) (cluster.Endpoint, bool) {
	if len(e.Addresses) == 0 {
		return cluster.Endpoint{}, false
	}
	// All addresses of an endpoint are fungible; consumers take the first
	// (discovery/v1 Endpoint.addresses).
	addr, err := netip.ParseAddr(e.Addresses[0])
	if err != nil || addr.Zone() != "" || port == 0 {
		c.tell("EndpointSlice %s: endpoint %q port %d is not an address and a port", slice.Name, e.Addresses[0], port)
		return cluster.Endpoint{}, false
	}
	ready := e.Conditions.Ready == nil || *e.Conditions.Ready // nil means ready (discovery/v1)
	ep := cluster.Endpoint{
		Addr:        netip.AddrPortFrom(addr.Unmap(), port),
		Node:        deref(e.NodeName),
		Ready:       ready,
		Serving:     derefOr(e.Conditions.Serving, ready),
		Terminating: deref(e.Conditions.Terminating),
		Zone:        deref(e.Zone),
	}
	if e.Hints != nil {
		for _, z := range e.Hints.ForZones {
			ep.ForZones = append(ep.ForZones, z.Name)
		}
		for _, n := range e.Hints.ForNodes {
			ep.ForNodes = append(ep.ForNodes, n.Name)
		}
	}
	return ep, true
}

// readiness orders two records of one endpoint.
func readiness(e cluster.Endpoint) int {
	switch {
	case e.Ready:
		return 2
	case e.Serving:
		return 1
	}
	return 0
}

func deref[T any](p *T) T {
	var zero T
	return derefOr(p, zero)
}

func derefOr[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
