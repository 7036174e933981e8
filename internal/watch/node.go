package watch

import (
	v1 "k8s.io/api/core/v1"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// node makes the plain value of a Node. What cannot be read is left out and
// told in problems.
func node(n *v1.Node) (out *cluster.Node, problems []string) {
	c := &collector{subject: "Node " + n.Name}
	out = &cluster.Node{
		Name:     n.Name,
		Labels:   n.Labels,
		PodCIDRs: c.prefixes("spec.podCIDRs", n.Spec.PodCIDRs),
		Zone:     n.Labels[v1.LabelTopologyZone],
		Refused:  refusal(n),
	}
	var internal []string
	for _, a := range n.Status.Addresses {
		if a.Type == v1.NodeInternalIP {
			internal = append(internal, a.Address)
		}
	}
	out.Addresses = c.addresses("status.addresses", internal)
	if text := n.Annotations[cluster.AnnotationLinks]; text != "" {
		links, err := cluster.ParseLinks(text)
		if err != nil {
			c.tell("annotation %s: %v; its agent will write it anew", cluster.AnnotationLinks, err)
		}
		out.Links = links
	}
	return out, c.problems
}

// refusal says why the API's view of a node forbids it to announce, the
// strongest reason first.
func refusal(n *v1.Node) cluster.Refusal {
	for _, t := range n.Spec.Taints {
		if t.Key == v1.TaintNodeOutOfService {
			return cluster.OutOfService
		}
	}
	ready := false
	for _, c := range n.Status.Conditions {
		switch {
		case c.Type == v1.NodeNetworkUnavailable && c.Status == v1.ConditionTrue:
			return cluster.NetworkUnavailable
		case c.Type == v1.NodeReady:
			ready = c.Status == v1.ConditionTrue
		}
	}
	if !ready {
		return cluster.NotReady
	}
	if _, excluded := n.Labels[v1.LabelNodeExcludeBalancers]; excluded {
		return cluster.Excluded
	}
	if n.Spec.Unschedulable {
		return cluster.Cordoned
	}
	return cluster.Eligible
}
