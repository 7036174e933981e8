// Package cluster describes a Kubernetes cluster in plain values: no API
// types, no pointers into a cache. A value is built once and never mutated;
// who wants another one makes a copy.
//
// Read cluster.go (the words), then feed.go (how changes reach a part).
package cluster

import (
	"net/netip"
	"slices"
	"time"
)

// Key names a Service, "namespace/name".
type Key string

// A Protocol is the number that the IP header carries for it.
type Protocol uint8

// The protocols a Service port can have (core/v1 Protocol).
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return "unknown"
}

// A MAC is a 48-bit link address. The zero MAC means «has none».
type MAC [6]byte

// A Node is a machine of the cluster as the API and its agent describe it.
type Node struct {
	Name      string
	Labels    map[string]string
	Addresses []netip.Addr   // status.addresses of type InternalIP, in the order given
	PodCIDRs  []netip.Prefix // spec.podCIDRs
	Zone      string         // topology.kubernetes.io/zone
	Links     []Link         // what its agent published in the annotation clarion.dev/links
	Refused   Refusal        // why the node may not announce VIPs; empty when it may
}

// A Refusal says why a node is no candidate. The values are part of the
// conditions that users read, so they are sentences' ends, not codes.
type Refusal string

// The refusals that the API server's view of a node gives.
const (
	Eligible           Refusal = ""
	NotReady           Refusal = "the node is not Ready"
	Excluded           Refusal = "the node carries the label node.kubernetes.io/exclude-from-external-load-balancers"
	NetworkUnavailable Refusal = "the node's network is unavailable"
	OutOfService       Refusal = "the node carries the taint node.kubernetes.io/out-of-service"
	Cordoned           Refusal = "the node is cordoned"
	Gone               Refusal = "the node does not exist"
)

// A Link is a network interface of a node that can carry VIPs.
type Link struct {
	Name     string
	MAC      MAC
	Prefixes []netip.Prefix // on-link prefixes, masked
	Gateways []netip.Addr   // next hops of the default routes through it, preferred first
}

// A Service is everything that the parts need to know of one Service and its
// endpoints.
type Service struct {
	Key     Key
	UID     string
	Created time.Time

	ClusterIPs  []netip.Addr // none for a headless Service
	ExternalIPs []netip.Addr // spec.externalIPs
	VIPs        []netip.Addr // status.loadBalancer.ingress with ipMode VIP or none
	Ours        bool         // the VIPs are Clarion's to announce: type LoadBalancer and of our class
	OtherProxy  bool         // another proxy serves it: label service.kubernetes.io/service-proxy-name or headless
	Announced   bool         // it carries the condition clarion.dev/Announced, so a node has announced it before
	ShareKey    string       // annotation clarion.dev/share; empty when not shared
	Ports       []Port

	InternalLocal bool           // internalTrafficPolicy: Local
	ExternalLocal bool           // externalTrafficPolicy: Local
	HealthPort    uint16         // spec.healthCheckNodePort, 0 for none
	SourceRanges  []netip.Prefix // spec.loadBalancerSourceRanges; none means everybody
	Affinity      time.Duration  // ClientIP affinity; 0 for none
	Distribution  string         // spec.trafficDistribution
}

// A Port is one port of a Service with the endpoints that stand behind it.
type Port struct {
	Name      string
	Protocol  Protocol
	Port      uint16
	NodePort  uint16 // 0 for none
	Endpoints []Endpoint
}

// An Endpoint is one address and port behind a Service port (discovery/v1,
// KEP-1669 for the three conditions).
type Endpoint struct {
	Addr        netip.AddrPort
	Node        string // empty when the slice does not say
	Ready       bool
	Serving     bool
	Terminating bool
	Zone        string
	ForZones    []string // hints
	ForNodes    []string // hints
}

// ReadyNodes returns the names of the nodes that hold at least one endpoint
// which is ready, in order and without repeats.
func (s Service) ReadyNodes() []string {
	var nodes []string
	for _, p := range s.Ports {
		for _, e := range p.Endpoints {
			if e.Ready && e.Node != "" {
				nodes = append(nodes, e.Node)
			}
		}
	}
	slices.Sort(nodes)
	return slices.Compact(nodes)
}
