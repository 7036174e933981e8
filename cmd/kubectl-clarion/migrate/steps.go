package migrate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/clarion-lb/clarion/config"
	"github.com/clarion-lb/clarion/internal/annotation"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/provider"
)

// retired is the node selector that takes a DaemonSet off all nodes: no node
// has the label. Removing it brings the Pods back.
const retired = "clarion.dev/retired"

// steps are the take-over. At no point do two controllers give addresses, and
// the old speakers end only when the new ones wait to take over.
func (s State) steps(p Plan, mine []v1.Service, keys map[cluster.Key]string) []Step {
	steps := []Step{s.writePools(p, mine)}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		namespace, name, _ := strings.Cut(string(key), "/")
		steps = append(steps, Step{Kind: ShareAddresses, Object: string(key), Progress: Ready,
			What: fmt.Sprintf("annotate the Service with %s: %s", annotation.Share, keys[key]), Why: "it shares its address, which Clarion allows only those that name the same key",
			Command: fmt.Sprintf("kubectl -n %s annotate --overwrite service %s %s=%s", namespace, name, annotation.Share, keys[key])})
	}
	for _, d := range s.Peer.Controllers {
		steps = append(steps, stopController(d))
	}
	steps = append(steps, s.install(mine))
	steps = append(steps, s.stopSpeakers()...)
	steps = append(steps, Step{Kind: RemovePeer, Object: s.Peer.Name, What: "remove what is left of " + s.Peer.Name + " when you are content", Progress: ByHand,
		Why: "its controller must not come back: it would write into the same Services. Until then everything can be undone"})
	blocked := false // by a step that a person has to do
	for i := range steps {
		if blocked && steps[i].Progress == Ready {
			steps[i].Progress = Waits
		}
		blocked = blocked || steps[i].Progress == ByHand
	}
	return steps
}

// writePools is done when the pools stand there as they are here; that for
// addresses in use may have become another one since, as long as each of them
// is in some pool.
func (s State) writePools(p Plan, mine []v1.Service) Step {
	step := Step{Kind: WritePools, Object: s.Namespace + "/" + provider.PoolsName, What: "create the ConfigMap with the pools above", Progress: Ready,
		Why: "Clarion finds them when it starts", Command: fmt.Sprintf("kubectl create namespace %s; kubectl apply -f FILE, with the manifest above", s.Namespace)}
	switch {
	case s.User == nil:
	case s.holds(p.Pools, mine):
		step.Progress = Done
	default:
		step.Progress = ByHand
		step.What = "add the pools above to the ConfigMap, which exists"
		step.Why = "it is yours, and this program does not mix its pools with others"
		step.Command = fmt.Sprintf("kubectl -n %s edit configmap %s", s.Namespace, provider.PoolsName)
	}
	return step
}

// holds reports whether clarion-pools has the pools and all addresses in use.
func (s State) holds(pools map[string]string, mine []v1.Service) bool {
	for name, text := range pools {
		if !isKept(name) && s.User.Data[name] != text {
			return false
		}
	}
	now, err := config.Parse(s.User.Data, config.Config{})
	if err != nil {
		return false
	}
	for _, svc := range mine {
		for _, a := range vips(&svc) {
			if !slices.ContainsFunc(now.Pools, func(p config.Pool) bool { return p.Addresses.Contains(a) }) {
				return false
			}
		}
	}
	return true
}

func stopController(d apps.Deployment) Step {
	step := Step{Kind: StopController, Object: d.Namespace + "/" + d.Name, What: "scale the Deployment to 0", Progress: Ready,
		Why:     "two controllers would both write addresses into the same Services. Do not delete its pools before: it would take the addresses back",
		Command: fmt.Sprintf("kubectl -n %s scale deployment %s --replicas=0", d.Namespace, d.Name)}
	switch {
	case d.Spec.Replicas != nil && *d.Spec.Replicas == 0:
		step.Progress = Done
	case len(d.OwnerReferences) > 0:
		step.Progress = ByHand
		step.Why = fmt.Sprintf("%s; it belongs to %s %s, which would start it again: stop that first", step.Why, d.OwnerReferences[0].Kind, d.OwnerReferences[0].Name)
	}
	return step
}

// install is done when a controller of Clarion has taken up every Service and
// an agent is ready on every node that should have one.
func (s State) install(mine []v1.Service) Step {
	step := Step{Kind: InstallClarion, Object: s.Namespace + "/clarion", What: "install Clarion", Progress: ByHand, Command: "kubectl apply -f clarion.yaml",
		Why: "its controller takes up every Service with the address that the status shows. Until the old speakers end, a node of each may answer for an address, and both ways reach the Service"}
	if classes := s.classes(mine); len(classes) > 0 {
		step.What += fmt.Sprintf(" with --load-balancer-class=%s for the controller and --class=%s for the agents", classes[0], classes[0])
		step.Why += "; the flags are for the Services of that class, which cannot be changed on a Service"
		if s.Class != "" && s.Class != classes[0] {
			return step
		}
	}
	if s.DaemonSet == nil || s.DaemonSet.Status.DesiredNumberScheduled == 0 || s.DaemonSet.Status.NumberReady < s.DaemonSet.Status.DesiredNumberScheduled {
		return step
	}
	for _, svc := range mine {
		taken := slices.ContainsFunc(svc.Status.Conditions, func(c metav1.Condition) bool { return c.Type == provider.ConditionAssigned })
		if !taken && len(vips(&svc)) > 0 {
			step.What = fmt.Sprintf("wait until Clarion's controller has taken up every Service; it has not taken up %s", keyOf(&svc))
			step.Command = "kubectl clarion status"
			return step
		}
	}
	step.Progress = Done
	return step
}

// classes are the loadBalancerClasses of the Services.
func (s State) classes(mine []v1.Service) []string {
	var out []string
	for _, svc := range mine {
		if c := svc.Spec.LoadBalancerClass; c != nil && !slices.Contains(out, *c) {
			out = append(out, *c)
		}
	}
	return out
}

// silence says what follows when the speakers end.
func (p Peer) silence() string {
	why := "from then on only Clarion's agents answer for the addresses"
	if p.Name == KubeVIP {
		why += "; kube-vip takes them off the nodes' links when it ends, and if it is killed one may be left there: see ip address on the nodes"
	}
	return why
}

// stopSpeakers come last: steps lets them wait until Clarion is installed.
func (s State) stopSpeakers() []Step {
	var out []Step
	for _, d := range s.Peer.Speakers {
		step := Step{Kind: StopSpeakers, Object: d.Namespace + "/" + d.Name, What: fmt.Sprintf("take the DaemonSet off the nodes, by the nodeSelector %s", retired), Progress: Ready,
			Why: s.Peer.silence(),
			Command: fmt.Sprintf(`kubectl -n %s patch daemonset %s -p '{"spec":{"template":{"spec":{"nodeSelector":{%q:"true"}}}}}'`,
				d.Namespace, d.Name, retired)}
		switch {
		case d.Spec.Template.Spec.NodeSelector[retired] != "":
			step.Progress = Done
		case s.Peer.KeepSpeakers != "":
			step.Progress, step.What, step.Command = ByHand, s.Peer.KeepSpeakers, ""
		case len(d.OwnerReferences) > 0:
			step.Progress = ByHand
			step.Why = fmt.Sprintf("%s; it belongs to %s %s, which would put it back: stop that first", step.Why, d.OwnerReferences[0].Kind, d.OwnerReferences[0].Name)
		}
		out = append(out, step)
	}
	if len(out) == 0 {
		what := s.Peer.KeepSpeakers
		if what == "" {
			what = "stop the speakers of " + s.Peer.Name + ", if there are any"
		}
		out = append(out, Step{Kind: StopSpeakers, Object: s.Peer.Name, What: what, Progress: ByHand, Why: s.Peer.silence()})
	}
	return out
}
