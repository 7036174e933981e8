package provider

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/clarion-lb/clarion/allocator"
	"github.com/clarion-lb/clarion/config"
	"github.com/clarion-lb/clarion/internal/annotation"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/selector"
)

var families = map[v1.IPFamily]ipfam.Family{v1.IPv4Protocol: ipfam.V4, v1.IPv6Protocol: ipfam.V6}

var policies = map[v1.IPFamilyPolicy]allocator.Policy{
	v1.IPFamilyPolicySingleStack:      allocator.SingleStack,
	v1.IPFamilyPolicyPreferDualStack:  allocator.PreferDualStack,
	v1.IPFamilyPolicyRequireDualStack: allocator.RequireDualStack,
}

var protocols = map[v1.Protocol]cluster.Protocol{
	v1.ProtocolTCP: cluster.TCP, v1.ProtocolUDP: cluster.UDP, v1.ProtocolSCTP: cluster.SCTP, "": cluster.TCP,
}

// request reads what svc asks for. namespace are the labels of its namespace.
// The error names the annotation or field that cannot be read, its value, and
// what to do; the request is then complete but for that.
func request(svc *v1.Service, namespace map[string]string) (allocator.Request, error) {
	r := allocator.Request{
		Key:             keyOf(svc),
		UID:             string(svc.UID),
		Created:         svc.CreationTimestamp.Time,
		Namespace:       svc.Namespace,
		NamespaceLabels: namespace,
		Labels:          svc.Labels,
		Local:           svc.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal,
		Selector:        selector.Canonical(svc.Spec.Selector),
	}
	for _, f := range svc.Spec.IPFamilies {
		if family, ok := families[f]; ok {
			r.Families = append(r.Families, family)
		}
	}
	if svc.Spec.IPFamilyPolicy != nil {
		r.Policy = policies[*svc.Spec.IPFamilyPolicy]
	}
	for _, p := range svc.Spec.Ports {
		r.Ports = append(r.Ports, allocator.Port{Protocol: protocols[p.Protocol], Port: uint16(p.Port)}) // 1-65535 by the API
	}
	r.Pool, _ = annotation.ForPool().Read(svc.Annotations)
	r.ShareKey, _ = annotation.ForShare().Read(svc.Annotations)

	var err error
	r.Addresses, err = addresses(svc)
	return r, err
}

// addresses reads the addresses that svc asks for by name: the strongest
// annotation, else spec.loadBalancerIP.
func addresses(svc *v1.Service) ([]netip.Addr, error) {
	value, key := annotation.ForAddresses().Read(svc.Annotations)
	subject := "the annotation " + key
	if key == "" {
		value, subject = svc.Spec.LoadBalancerIP, "spec.loadBalancerIP"
	}
	if value == "" {
		return nil, nil
	}
	out, err := config.ParseAddresses(value)
	if err == nil {
		if i := slices.IndexFunc(out, netip.Addr.IsUnspecified); i >= 0 {
			err = fmt.Errorf("%s is no address of a host, and Clarion does not ask a DHCP server for one", out[i])
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s is %q: %w; write IP addresses separated by commas, or remove it", subject, value, err)
	}
	return out, nil
}

func keyOf(svc *v1.Service) cluster.Key { return cluster.Key(svc.Namespace + "/" + svc.Name) }

func nameOf(key cluster.Key) string {
	_, name, _ := strings.Cut(string(key), "/")
	return name
}
