package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apps "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/inspect"
	"github.com/clarion-lb/clarion/provider"
)

// The load balancers that can be taken over, as --from names them.
const (
	MetalLBName = "metallb"
	KubeVIP     = "kube-vip"
)

// defaultNamespaces are where their manifests install them.
var defaultNamespaces = map[string]string{MetalLBName: "metallb-system", KubeVIP: "kube-system"}

// A Reader reads what a take-over is made of.
type Reader struct {
	*inspect.Reader
	PeerNamespace string // empty for the usual one
}

// Read reads one cluster. Nothing may be missing: half a plan would lose
// addresses.
func (r *Reader) Read(ctx context.Context, from string) (State, Converted, error) {
	usual, ok := defaultNamespaces[from]
	if !ok {
		return State{}, Converted{}, fmt.Errorf("%q cannot be taken over; %s and %s can", from, KubeVIP, MetalLBName)
	}
	namespace := r.PeerNamespace
	if namespace == "" {
		namespace = usual
	}
	s := State{Now: r.Now(), Namespace: r.Namespace, Peer: Peer{Name: from}}
	if err := r.common(ctx, &s); err != nil {
		return State{}, Converted{}, err
	}
	if err := r.workloads(ctx, &s.Peer, namespace); err != nil {
		return State{}, Converted{}, err
	}
	var c Converted
	var err error
	if from == MetalLBName {
		c, err = r.metalLB(ctx, namespace, s.Namespaces)
	} else {
		c, err = r.kubeVIP(ctx, namespace, s)
	}
	return s, c, err
}

// common reads what does not depend on the peer.
func (r *Reader) common(ctx context.Context, s *State) error {
	all := metav1.ListOptions{}
	services, err := r.Client.CoreV1().Services("").List(ctx, all)
	if err != nil {
		return unreadable("the Services of all namespaces", err)
	}
	nodes, err := r.Client.CoreV1().Nodes().List(ctx, all)
	if err != nil {
		return unreadable("the Nodes", err)
	}
	namespaces, err := r.Client.CoreV1().Namespaces().List(ctx, all)
	if err != nil {
		return unreadable("the Namespaces", err)
	}
	s.Services, s.Nodes, s.Namespaces = services.Items, nodes.Items, namespaces.Items
	s.User, err = r.Client.CoreV1().ConfigMaps(r.Namespace).Get(ctx, provider.PoolsName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		s.User, err = nil, nil
	}
	if err != nil {
		return unreadable(fmt.Sprintf("the ConfigMap %s/%s", r.Namespace, provider.PoolsName), err)
	}
	s.DaemonSet, err = r.Client.AppsV1().DaemonSets(r.Namespace).Get(ctx, inspect.AgentName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		s.DaemonSet, err = nil, nil
	}
	if err != nil {
		return unreadable(fmt.Sprintf("the DaemonSet %s/%s", r.Namespace, inspect.AgentName), err)
	}
	controller, err := r.Client.AppsV1().Deployments(r.Namespace).Get(ctx, inspect.ControllerName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return unreadable(fmt.Sprintf("the Deployment %s/%s", r.Namespace, inspect.ControllerName), err)
	default:
		s.Class = provider.Class
		if class, ok := argument(controller.Spec.Template.Spec, "load-balancer-class"); ok {
			s.Class = class
		}
	}
	return nil
}

func unreadable(what string, err error) error {
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("%s cannot be read, because you lack the permission; a take-over needs all of it", what)
	}
	return fmt.Errorf("read %s: %w", what, err)
}

// workloads finds the peer's Pods' makers and its class.
func (r *Reader) workloads(ctx context.Context, p *Peer, namespace string) error {
	deployments, err := r.Client.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return unreadable("the Deployments of "+namespace, err)
	}
	sets, err := r.Client.AppsV1().DaemonSets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return unreadable("the DaemonSets of "+namespace, err)
	}
	for _, d := range deployments.Items {
		if p.controls(d) {
			p.Controllers = append(p.Controllers, d)
			if class, ok := argument(d.Spec.Template.Spec, "lb-class"); ok && p.Name == MetalLBName {
				p.Class, p.OnlyClass = class, true // it then serves no Service without
			}
		}
	}
	for _, d := range sets.Items {
		if p.speaks(d) {
			p.Speakers = append(p.Speakers, d)
		}
	}
	if p.Name != KubeVIP {
		return nil
	}
	p.Class = "kube-vip.io/kube-vip-class" // unless configured otherwise
	specs := map[string]v1.PodSpec{}
	for _, d := range p.Speakers {
		specs["the DaemonSet "+d.Namespace+"/"+d.Name] = d.Spec.Template.Spec
	}
	pods, err := r.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return unreadable("the Pods of "+namespace, err)
	}
	for _, pod := range pods.Items {
		if isKubeVIP(pod.Spec) && len(pod.OwnerReferences) > 0 && pod.OwnerReferences[0].Kind == "Node" {
			specs["the static Pod "+pod.Name] = pod.Spec
		}
	}
	for _, name := range sortedKeys(specs) {
		spec := specs[name]
		if class := env(spec, "lb_class_name"); class != "" {
			p.Class = class
		}
		p.OnlyClass = p.OnlyClass || env(spec, "lb_class_only") == "true"
		static := strings.HasPrefix(name, "the static Pod")
		switch {
		case static:
			p.KeepSpeakers = "set svc_enable to \"false\" in the manifest of kube-vip on each node that has it as a static Pod (usually /etc/kubernetes/manifests/kube-vip.yaml)"
		case env(spec, "cp_enable") == "true" && p.KeepSpeakers == "":
			p.KeepSpeakers = "set svc_enable to \"false\" in " + name + ", which must go on running for the address of the control plane"
		}
	}
	return nil
}

// controls reports whether a Deployment gives addresses for the peer: MetalLB's
// by its labels (of the manifest, or of the chart), kube-vip's cloud provider
// by its image.
func (p Peer) controls(d apps.Deployment) bool {
	if p.Name == MetalLBName {
		return isMetalLB(d.Labels, "controller")
	}
	return image(d.Spec.Template.Spec, "kube-vip-cloud-provider")
}

// speaks reports whether a DaemonSet announces for the peer.
func (p Peer) speaks(d apps.DaemonSet) bool {
	if p.Name == MetalLBName {
		return isMetalLB(d.Labels, "speaker")
	}
	return isKubeVIP(d.Spec.Template.Spec)
}

func isMetalLB(labels map[string]string, component string) bool {
	return labels["app"] == "metallb" && labels["component"] == component ||
		labels["app.kubernetes.io/name"] == "metallb" && labels["app.kubernetes.io/component"] == component
}

// isKubeVIP reports whether a Pod is a kube-vip that serves Services.
func isKubeVIP(spec v1.PodSpec) bool {
	return image(spec, "kube-vip") && (env(spec, "svc_enable") == "true" || env(spec, "svc_enable") == "" && env(spec, "cp_enable") != "true")
}

// image reports whether a container's image has that name, whatever its
// registry and tag.
func image(spec v1.PodSpec, name string) bool {
	return slices.ContainsFunc(spec.Containers, func(c v1.Container) bool {
		base := c.Image[strings.LastIndexByte(c.Image, '/')+1:]
		base, _, _ = strings.Cut(base, "@")
		base, _, _ = strings.Cut(base, ":")
		return base == name || base == name+"-iptables"
	})
}

func env(spec v1.PodSpec, name string) string {
	for _, c := range spec.Containers {
		for _, e := range c.Env {
			if e.Name == name {
				return e.Value
			}
		}
	}
	return ""
}

// argument finds the value of a flag in the arguments of a Pod's containers.
func argument(spec v1.PodSpec, name string) (string, bool) {
	for _, c := range spec.Containers {
		args := slices.Concat(c.Command, c.Args)
		for i, arg := range args {
			arg = strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-")
			if v, ok := strings.CutPrefix(arg, name+"="); ok {
				return v, v != ""
			}
			if arg == name && i+1 < len(args) {
				return args[i+1], true
			}
		}
	}
	return "", false
}

// metalLB reads MetalLB's custom resources, or its ConfigMap where it is so
// old that it has none.
func (r *Reader) metalLB(ctx context.Context, namespace string, namespaces []v1.Namespace) (Converted, error) {
	const root = "/apis/metallb.io/v1beta1/namespaces/"
	text, err := r.Raw(ctx, root+namespace+"/ipaddresspools", nil)
	if apierrors.IsNotFound(err) {
		return r.legacy(ctx, namespace)
	}
	if err != nil {
		return Converted{}, unreadable("the IPAddressPools of "+namespace, err)
	}
	var m MetalLB
	if m.pools, err = parseList[ipAddressPool](text); err != nil {
		return Converted{}, fmt.Errorf("read the IPAddressPools of %s: %w", namespace, err)
	}
	for kind, into := range map[string]*[]advertisement{"l2advertisements": &m.l2, "bgpadvertisements": &m.bgp} {
		text, err := r.Raw(ctx, root+namespace+"/"+kind, nil)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return Converted{}, unreadable("the "+kind+" of "+namespace, err)
		}
		if *into, err = parseList[advertisement](text); err != nil {
			return Converted{}, fmt.Errorf("read the %s of %s: %w", kind, namespace, err)
		}
	}
	if len(m.pools) == 0 {
		return Converted{}, fmt.Errorf("there is no IPAddressPool in the namespace %s; name MetalLB's namespace with --peer-namespace", namespace)
	}
	return m.Convert(namespaces), nil
}

func (r *Reader) legacy(ctx context.Context, namespace string) (Converted, error) {
	cm, err := r.Client.CoreV1().ConfigMaps(namespace).Get(ctx, "config", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return Converted{}, fmt.Errorf("there is no MetalLB: neither IPAddressPools nor the ConfigMap %s/config; name its namespace with --peer-namespace", namespace)
	}
	if err != nil {
		return Converted{}, unreadable(fmt.Sprintf("the ConfigMap %s/config", namespace), err)
	}
	m, err := ParseLegacy(cm)
	if err != nil {
		return Converted{}, fmt.Errorf("ConfigMap %s/config: %w", namespace, err)
	}
	return m.Convert(nil), nil
}

// knowsKubeVIP reports whether a Service has been in kube-vip's hands.
func knowsKubeVIP(svc v1.Service) bool {
	for key := range svc.Annotations {
		if strings.HasPrefix(key, "kube-vip.io/") {
			return true
		}
	}
	return svc.Labels["implementation"] == "kube-vip"
}

// kubeVIP reads the ConfigMap of kube-vip's cloud provider. Without it the
// addresses were all chosen by hand.
func (r *Reader) kubeVIP(ctx context.Context, namespace string, s State) (Converted, error) {
	cm, err := r.Client.CoreV1().ConfigMaps(namespace).Get(ctx, "kubevip", metav1.GetOptions{})
	switch {
	case err == nil:
		return FromKubeVIP(cm), nil
	case !apierrors.IsNotFound(err):
		return Converted{}, unreadable(fmt.Sprintf("the ConfigMap %s/kubevip", namespace), err)
	case len(s.Peer.Controllers)+len(s.Peer.Speakers) == 0 && s.Peer.KeepSpeakers == "" && !slices.ContainsFunc(s.Services, knowsKubeVIP):
		return Converted{}, errors.New("there is no kube-vip: neither its Pods, nor the ConfigMap kubevip, nor a Service with its annotations; name its namespace with --peer-namespace")
	}
	var c Converted
	c.note(false, "pools", "there is no ConfigMap %s/kubevip, so the only pool is of the addresses in use: add addresses that new Services may get", namespace)
	return c, nil
}
