package migrate

import (
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// legacyConfig is the ConfigMap «config» of MetalLB before 0.13, as far as
// Clarion has something like it.
type legacyConfig struct {
	Pools []struct {
		Name          string   `json:"name"`
		Protocol      string   `json:"protocol"`
		Addresses     []string `json:"addresses"`
		AutoAssign    *bool    `json:"auto-assign"`
		AvoidBuggyIPs bool     `json:"avoid-buggy-ips"`
	} `json:"address-pools"`
}

// ParseLegacy reads MetalLB's configuration from before it had custom
// resources.
func ParseLegacy(cm *v1.ConfigMap) (MetalLB, error) {
	text, ok := cm.Data["config"]
	if !ok {
		return MetalLB{}, errors.New("the ConfigMap has no key «config», where MetalLB before 0.13 kept its configuration")
	}
	var in legacyConfig
	if err := yaml.Unmarshal([]byte(text), &in); err != nil {
		return MetalLB{}, fmt.Errorf("the key «config» cannot be read: %w", err)
	}
	m := MetalLB{legacy: true}
	names := map[string]bool{}
	for _, p := range in.Pools {
		if names[p.Name] {
			return MetalLB{}, fmt.Errorf("the pool %q stands twice in the key «config»", p.Name)
		}
		names[p.Name] = true
		pool := ipAddressPool{Metadata: metadata{Name: p.Name}}
		pool.Spec.Addresses, pool.Spec.AutoAssign, pool.Spec.AvoidBuggyIPs = p.Addresses, p.AutoAssign, p.AvoidBuggyIPs
		m.pools = append(m.pools, pool)
		var a advertisement
		a.Spec.IPAddressPools = []string{p.Name}
		if p.Protocol == "bgp" {
			m.bgp = append(m.bgp, a)
		} else {
			m.l2 = append(m.l2, a)
		}
	}
	return m, nil
}
