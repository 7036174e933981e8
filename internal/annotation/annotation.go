// Package annotation reads what a user asks of Clarion on a Service. Each wish
// has one key of Clarion's own and, so that manifests need no edit after a
// migration, the keys of other load balancers as aliases. Controller, agents
// and tools read them here, so that they never disagree.
package annotation

import "strings"

// A Wish is one thing that can be asked for: a list of keys, the strongest
// first. The first that is present and not blank counts; the others are
// ignored, whatever they say.
type Wish []string

// Clarion's own keys.
const (
	Addresses = "clarion.dev/addresses" // IP addresses, separated by commas
	Pool      = "clarion.dev/pool"      // the name of a pool
	Share     = "clarion.dev/share"     // Services with the same key may share an address
)

// ForAddresses, ForPool and ForShare return the wishes. The aliases and their
// meaning are those of MetalLB (also under the name that it used before 0.14),
// kube-vip, Cilium LB-IPAM (also under the name that it used before 1.15) and
// PureLB; all address lists have the same shape.
func ForAddresses() Wish {
	return Wish{
		Addresses,
		"metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs",
		"kube-vip.io/loadbalancerIPs",
		"lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips",
		"purelb.io/addresses",
	}
}

// ForPool returns the wish for a pool; see ForAddresses.
func ForPool() Wish {
	return Wish{
		Pool,
		"metallb.io/address-pool", "metallb.universe.tf/address-pool",
		"purelb.io/service-group",
	}
}

// ForShare returns the wish to share an address; see ForAddresses.
func ForShare() Wish {
	return Wish{
		Share,
		"metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip",
		"lbipam.cilium.io/sharing-key", "io.cilium/lb-ipam-sharing-key",
		"purelb.io/allow-shared-ip",
	}
}

// Read returns the value of the strongest key of w that annotations have, and
// that key; both are empty when there is none. White space around the value is
// cut off.
func (w Wish) Read(annotations map[string]string) (value, key string) {
	if len(annotations) == 0 {
		return "", ""
	}
	for _, k := range w {
		if v := strings.TrimSpace(annotations[k]); v != "" {
			return v, k
		}
	}
	return "", ""
}
