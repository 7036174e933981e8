package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/clarion-lb/clarion/e2e/internal/build"
	"github.com/clarion-lb/clarion/e2e/internal/hostinit"
	"github.com/clarion-lb/clarion/e2e/internal/plan"
	"github.com/clarion-lb/clarion/e2e/internal/proc"
	"github.com/clarion-lb/clarion/e2e/internal/step"
	"github.com/clarion-lb/clarion/e2e/lab"
)

// startHosts starts the control plane and the nodes' container runtimes at the same time; the nodes load their images
// while the API server starts.
func (c *Cluster) startHosts(ctx context.Context, s *step.Step) error {
	if err := c.makePKI(); err != nil {
		return err
	}
	s.Now("starting the control plane")
	if err := c.startControlPlane(); err != nil {
		return err
	}
	for _, n := range c.Nodes() {
		s.Now("starting %s", n.Name)
		if err := c.startNode(n); err != nil {
			return err
		}
	}
	var archives []string
	for _, img := range build.Images() {
		archive, err := c.cache.Pack(img)
		if err != nil {
			return err
		}
		archives = append(archives, archive)
	}
	if c.Settings.InstallsClarion() {
		archives = append(archives, c.clarionArchives()...)
	}
	s.Now("loading images")
	return c.loadImages(ctx, archives)
}

// realDirs are directories of a node that cannot live on an overlay, because container layers are overlays themselves,
// or that the lab and its tests want to look into from outside: target on the node, name below the node's directory.
var realDirs = map[string]string{
	"/var/lib/containerd": "containerd",
	"/var/lib/kubelet":    "kubelet",
	"/var/lib/clarion":    "clarion",
	"/etc/cni":            "cni-conf",
	"/etc/kubernetes":     "kubernetes",
	"/opt/cni":            "cni",
}

// startNode writes what a node needs and starts it. Its kubelet and proxy wait for their gates.
func (c *Cluster) startNode(n *lab.Host) error {
	dir := c.HostDir(n.Name)
	binds := map[string]string{}
	for target, name := range realDirs {
		binds[target] = filepath.Join(dir, name)
	}
	dirs := []string{"cni/bin", "cni-conf/net.d", "containerd", "kubelet", "clarion", "kubernetes"}
	for _, sub := range dirs {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return fmt.Errorf("make the directories of %s: %w", n.Name, err)
		}
	}
	if err := c.installCNI(n); err != nil {
		return err
	}
	// Where kubeadm puts it: an agent that is the cluster's service proxy learns from it where the API server is.
	if err := copyFile(c.PKI(n.Name+"-kubelet.conf"), filepath.Join(dir, "kubernetes", "kubelet.conf")); err != nil {
		return fmt.Errorf("give %s the kubelet's kubeconfig: %w", n.Name, err)
	}
	files := map[string]string{
		"containerd.toml": containerdConfig(),
		"kubelet.json":    c.kubeletConfig(n.Host),
		"kube-proxy.json": c.proxyConfig(n.Host),
		"resolv.conf":     "# The lab has no name server outside the cluster.\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write %s of %s: %w", name, n.Name, err)
		}
	}
	kubelet := c.program("kubelet", []string{
		"--config=" + filepath.Join(dir, "kubelet.json"),
		"--kubeconfig=" + c.PKI(n.Name+"-kubelet.conf"),
		"--hostname-override=" + n.Name,
		"--node-ip=" + n.V4().String() + "," + n.V6().String(),
	})
	kubelet.Log, kubelet.Gate = c.Log(n.Name+"-kubelet"), c.Gate(n.Name, "kubelet")
	spec := hostinit.Spec{
		Host: n.Name, Cgroup: c.cgroup(n.Name),
		Private: privateDirs, Upper: filepath.Join(dir, "private"), Binds: binds,
		Programs: []hostinit.Program{
			{Name: "containerd", Args: []string{"/usr/bin/containerd", "--config", filepath.Join(dir, "containerd.toml")},
				Log: c.Log(n.Name + "-containerd")},
			kubelet,
		},
	}
	if c.Settings.Profile.HasUpstreamNetwork() {
		proxy := c.program("kube-proxy", []string{"--config=" + filepath.Join(dir, "kube-proxy.json")})
		proxy.Log, proxy.Gate = c.Log(n.Name+"-kube-proxy"), c.Gate(n.Name, "kube-proxy")
		spec.Programs = append(spec.Programs, proxy)
	}
	if err := spec.Write(n.Spec()); err != nil {
		return err
	}
	return n.StartInit()
}

// installCNI puts the reference plugins where the runtime looks for them. Every cluster has loopback; the others belong
// to the upstream pod network.
func (c *Cluster) installCNI(n *lab.Host) error {
	plugins := []build.Program{build.Loopback}
	if c.Settings.Profile.HasUpstreamNetwork() {
		plugins = append(plugins, build.PTP, build.HostLocal, build.Portmap)
	}
	for _, p := range plugins {
		from, err := c.cache.Path(p)
		if err != nil {
			return err
		}
		if err := copyFile(from, filepath.Join(c.HostDir(n.Name), "cni", "bin", p.Name)); err != nil {
			return fmt.Errorf("install CNI plugin on %s: %w", n.Name, err)
		}
	}
	return nil
}

func containerdConfig() string {
	return fmt.Sprintf(`version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  # A machine that is itself a container may lack the right to make a process less likely to be killed.
  restrict_oom_score_adj = true
`, build.PauseImage)
}

func (c *Cluster) kubeletConfig(n plan.Host) string {
	return jsonText(map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": true},
			"x509":      map[string]any{"clientCAFile": c.PKI("ca.crt")},
		},
		"authorization":            map[string]any{"mode": "Webhook"},
		"clusterDNS":               []string{plan.DNSAddress.String()},
		"clusterDomain":            "cluster.local",
		"containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
		"resolvConf":               filepath.Join(c.HostDir(n.Name), "resolv.conf"),
		"volumePluginDir":          "/var/lib/kubelet/volume-plugins",
		"cgroupDriver":             "cgroupfs",
		"failCgroupV1":             false,
		"failSwapOn":               false,
		// Nodes share the machine's disk, so how full it is says nothing about a node.
		"evictionHard": map[string]string{
			"imagefs.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.inodesFree": "0%",
		},
		"imageGCHighThresholdPercent": 100, // nothing could be pulled again
	})
}

func (c *Cluster) proxyConfig(n plan.Host) string {
	return jsonText(map[string]any{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
		"mode":             "nftables",
		"clusterCIDR":      joinPrefixes(plan.ClusterCIDRs),
		"hostnameOverride": n.Name,
		"clientConnection": map[string]any{"kubeconfig": c.PKI(n.Name + "-proxy.conf")},
		// The size of the connection table belongs to the machine, and a network namespace may not change it.
		"conntrack": map[string]any{"maxPerCore": 0, "min": 0},
	})
}

func jsonText(v any) string {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("a configuration made of strings and maps cannot be encoded: %v", err))
	}
	return string(text) + "\n"
}

// loadImages waits for every node's runtime and loads the archives into it.
func (c *Cluster) loadImages(ctx context.Context, archives []string) error {
	var loads []func(ctx context.Context) error
	for _, n := range c.Nodes() {
		loads = append(loads, func(ctx context.Context) error { return c.loadImagesOn(ctx, n, archives) })
	}
	return parallel(ctx, loads...)
}

func (c *Cluster) loadImagesOn(ctx context.Context, n *lab.Host, archives []string) error {
	name := n.Name + "-containerd"
	err := step.Until(ctx, 30*time.Second, func(ctx context.Context) (bool, string, error) {
		if why := c.crashed(n.Name, "containerd"); why != "" {
			return false, "", fmt.Errorf("%s", why)
		}
		_, err := ctr(ctx, n, "version")
		if err != nil {
			return false, err.Error(), nil
		}
		return true, "", nil
	})
	if err != nil {
		return fmt.Errorf("container runtime of %s: %w\n%s", n.Name, err, c.tail(name))
	}
	for _, archive := range archives {
		if _, err := ctr(ctx, n, "--namespace", "k8s.io", "images", "import", archive); err != nil {
			return fmt.Errorf("load image on %s: %w\n%s", n.Name, err, c.tail(name))
		}
	}
	return nil
}

// ctr runs the client of a node's container runtime, with the node's files but outside its process namespace: there it
// would outlive its parent if that was killed.
func ctr(ctx context.Context, n *lab.Host, args ...string) (string, error) {
	init, err := n.Init()
	if err != nil {
		return "", err
	}
	enter := []string{"--target", strconv.Itoa(init.PID), "--mount", "--net", "--", "ctr"}
	return proc.Output(exec.CommandContext(ctx, "nsenter", append(enter, args...)...))
}

// openGate lets the programs of the hosts start that wait for it.
func (c *Cluster) openGate(name string, hosts ...plan.Host) error {
	for _, h := range hosts {
		if err := os.WriteFile(c.Gate(h.Name, name), nil, 0o644); err != nil {
			return fmt.Errorf("let %s of %s start: %w", name, h.Name, err)
		}
	}
	return nil
}

// registerNodes starts the kubelets, and waits until the API server knows every node and its pod ranges.
func (c *Cluster) registerNodes(ctx context.Context, s *step.Step) error {
	if err := c.openGate("kubelet", c.Settings.HostsWith(plan.Node)...); err != nil {
		return err
	}
	if err := c.applyDNS(ctx); err != nil { // its pods wait for nodes, as those of any cluster do
		return err
	}
	return c.waitNodes(ctx, 90*time.Second, func(have []node) string {
		var known []string
		for _, n := range have {
			if len(n.Spec.PodCIDRs) == len(plan.ClusterCIDRs) {
				known = append(known, n.Metadata.Name)
			}
		}
		s.Now("registered with pod ranges so far: %s", strings.Join(known, " "))
		if len(known) < c.Settings.Nodes {
			return fmt.Sprintf("only these nodes are registered and have pod ranges: [%s]", strings.Join(known, " "))
		}
		return ""
	})
}

func (c *Cluster) waitNodesReady(ctx context.Context, s *step.Step) error {
	return c.waitNodes(ctx, 2*time.Minute, func(have []node) string {
		var waiting []string
		for _, n := range have {
			if why, ready := n.ready(); !ready {
				waiting = append(waiting, n.Metadata.Name+": "+why)
			}
		}
		s.Now("not Ready yet: %s", strings.Join(waiting, "; "))
		return strings.Join(waiting, "\n")
	})
}

// waitNodes asks for the nodes until lacking returns nothing. An error shows the log of every kubelet.
func (c *Cluster) waitNodes(ctx context.Context, limit time.Duration, lacking func([]node) string) error {
	err := step.Until(ctx, limit, func(ctx context.Context) (bool, string, error) {
		for _, name := range []string{"kube-controller-manager", "kube-scheduler"} {
			if why := c.crashed("cp", name); why != "" {
				return false, "", fmt.Errorf("%s\n%s", why, c.tail(name))
			}
		}
		for _, n := range c.Nodes() {
			if why := c.crashed(n.Name, "kubelet"); why != "" {
				return false, "", fmt.Errorf("%s", why)
			}
		}
		have, err := c.nodes(ctx)
		if err != nil {
			return false, err.Error(), nil
		}
		why := lacking(have)
		return why == "", why, nil
	})
	if err == nil {
		return nil
	}
	tails := ""
	for _, n := range c.Nodes() {
		tails += c.tail(n.Name + "-kubelet")
	}
	return fmt.Errorf("%w\n%s", err, tails)
}

// node is what the lab reads of a Node object.
type node struct {
	Metadata struct{ Name string }
	Spec     struct{ PodCIDRs []string }
	Status   struct {
		Conditions []struct{ Type, Status, Reason, Message string }
	}
}

func (n node) ready() (why string, ready bool) {
	for _, c := range n.Status.Conditions {
		if c.Type == "Ready" {
			return c.Message, c.Status == "True"
		}
	}
	return "no Ready condition yet", false
}

func (c *Cluster) nodes(ctx context.Context) ([]node, error) {
	var list struct{ Items []node }
	err := c.KubectlJSON(ctx, &list, "nodes", "--request-timeout=5s")
	return list.Items, err
}
