package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/clarion-lb/clarion/e2e/internal/plan"
	"github.com/clarion-lb/clarion/e2e/internal/step"
)

// setUpPodNetwork gives every host its routes to pods and, where Clarion does not bring the pod network, every node its
// CNI configuration and its proxy. Pod ranges are handed out in order of arrival, so they are read back.
func (c *Cluster) setUpPodNetwork(ctx context.Context, _ *step.Step) error {
	cidrs, err := c.podCIDRs(ctx)
	if err != nil {
		return err
	}
	for _, h := range c.Settings.Hosts() {
		if err := c.configure(ctx, h, cidrs); err != nil {
			return err
		}
	}
	if !c.Settings.Profile.HasUpstreamNetwork() {
		return nil
	}
	if err := c.applyProxyRole(ctx); err != nil {
		return err
	}
	if err := c.openGate("kube-proxy", c.Settings.HostsWith(plan.Node)...); err != nil {
		return err
	}
	for _, n := range c.Nodes() {
		path := filepath.Join(c.HostDir(n.Name), "cni-conf", "net.d", "10-lab.conflist")
		if err := os.WriteFile(path+".part", []byte(conflist(cidrs[n.Name])), 0o644); err != nil {
			return fmt.Errorf("write the CNI configuration of %s: %w", n.Name, err)
		}
		if err := os.Rename(path+".part", path); err != nil {
			return fmt.Errorf("write the CNI configuration of %s: %w", n.Name, err)
		}
	}
	return nil
}

func (c *Cluster) podCIDRs(ctx context.Context) (map[string][]netip.Prefix, error) {
	nodes, err := c.nodes(ctx)
	if err != nil {
		return nil, err
	}
	cidrs := map[string][]netip.Prefix{}
	for _, n := range nodes {
		for _, text := range n.Spec.PodCIDRs {
			cidr, err := netip.ParsePrefix(text)
			if err != nil {
				return nil, fmt.Errorf("pod range of %s: %w", n.Metadata.Name, err)
			}
			cidrs[n.Metadata.Name] = append(cidrs[n.Metadata.Name], cidr)
		}
	}
	return cidrs, nil
}

// conflist is the upstream pod network: a veth per pod with a host route, addresses from a file, host ports.
func conflist(cidrs []netip.Prefix) string {
	var ranges [][]map[string]string
	var routes []map[string]string
	for _, cidr := range cidrs {
		ranges = append(ranges, []map[string]string{{"subnet": cidr.String()}})
		everything := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		if cidr.Addr().Is4() {
			everything = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		routes = append(routes, map[string]string{"dst": everything.String()})
	}
	return jsonText(map[string]any{
		"cniVersion": "1.0.0", "name": "clarion-lab",
		"plugins": []map[string]any{
			{"type": "ptp", "ipam": map[string]any{"type": "host-local", "ranges": ranges, "routes": routes}},
			{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}, "backend": "nftables"},
		},
	})
}

// configure gives a host its routes and rules, and keeps them for its next boot.
func (c *Cluster) configure(ctx context.Context, h plan.Host, cidrs map[string][]netip.Prefix) error {
	host, err := c.Host(h.Name)
	if err != nil {
		return err
	}
	routes, rules := c.Settings.PodRoutes(h, cidrs), ""
	if h.Role == plan.Node && c.Settings.Profile.HasUpstreamNetwork() {
		rules = c.Settings.Masquerade()
	}
	return host.Configure(ctx, routes, rules)
}

// applyProxyRole lets kube-proxy, which runs as a program of its node, read what it needs. kubeadm does the same.
func (c *Cluster) applyProxyRole(ctx context.Context) error {
	return c.Apply(ctx, jsonText(map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
		"metadata": map[string]any{"name": "lab:kube-proxy"},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
		"subjects": []map[string]any{{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:kube-proxy"}},
	}))
}
