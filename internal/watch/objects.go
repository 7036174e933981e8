package watch

import (
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// Objects makes a view of what somebody has listed, for tools that look once
// and follow nothing. class is the loadBalancerClass that is ours beside none.
// What cannot be read is left out and told in problems, one sentence each.
func Objects(services []v1.Service, found []discovery.EndpointSlice, nodes []v1.Node, class string) (view cluster.View, problems []string) {
	view = cluster.View{Services: map[cluster.Key]*cluster.Service{}, Nodes: map[string]*cluster.Node{}}
	of := map[string][]*discovery.EndpointSlice{}
	for i := range found {
		key := found[i].Namespace + "/" + found[i].Labels[discovery.LabelServiceName]
		of[key] = append(of[key], &found[i])
	}
	for i := range services {
		s, wrong := service(&services[i], of[services[i].Namespace+"/"+services[i].Name], class)
		view.Services[s.Key], problems = s, append(problems, wrong...)
	}
	for i := range nodes {
		n, wrong := node(&nodes[i])
		view.Nodes[n.Name], problems = n, append(problems, wrong...)
	}
	return view, problems
}
