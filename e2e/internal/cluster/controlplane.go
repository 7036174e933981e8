package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/clarion-lb/clarion/e2e/internal/hostinit"
	"github.com/clarion-lb/clarion/e2e/internal/pki"
	"github.com/clarion-lb/clarion/e2e/internal/plan"
	"github.com/clarion-lb/clarion/e2e/internal/step"
	"github.com/clarion-lb/clarion/e2e/lab"
)

const (
	apiPort         = 6443
	controllersGate = "controllers"
)

func (c *Cluster) controlPlane() plan.Host { return c.Settings.HostsWith(plan.ControlPlane)[0] }

// apiServer is the API server as nodes reach it.
func (c *Cluster) apiServer() string {
	return "https://" + netip.AddrPortFrom(c.controlPlane().V4(), apiPort).String()
}

// makePKI writes every key, certificate and kubeconfig of the cluster.
func (c *Cluster) makePKI() error {
	ca, err := pki.NewAuthority("clarion-lab")
	if err != nil {
		return err
	}
	front, err := pki.NewAuthority("clarion-lab-front-proxy")
	if err != nil {
		return err
	}
	cp := c.controlPlane()
	server, err := ca.Server("kube-apiserver",
		[]string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"},
		[]netip.Addr{cp.V4(), cp.V6(), netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback(),
			plan.ServiceCIDRs[0].Addr().Next(), plan.ServiceCIDRs[1].Addr().Next()})
	if err != nil {
		return err
	}
	toKubelet, err := ca.Client("kube-apiserver-kubelet-client", "system:masters")
	if err != nil {
		return err
	}
	toExtension, err := front.Client("front-proxy-client")
	if err != nil {
		return err
	}
	own, err := ca.Pair()
	if err != nil {
		return err
	}
	private, public, err := pki.SigningKey()
	if err != nil {
		return err
	}
	files := map[string][]byte{"front-proxy-ca.crt": front.PEM, "sa.key": private, "sa.pub": public}
	for name, text := range files {
		if err := os.WriteFile(c.PKI(name), text, 0o600); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	dir := filepath.Dir(c.PKI("ca.crt"))
	err = errors.Join(
		server.Write(dir, "apiserver"),
		toKubelet.Write(dir, "apiserver-kubelet-client"),
		toExtension.Write(dir, "front-proxy-client"),
		own.Write(dir, "ca"),
	)
	if err != nil {
		return err
	}
	return c.makeKubeconfigs(ca)
}

func (c *Cluster) makeKubeconfigs(ca *pki.Authority) error {
	type user struct {
		path, server, name string
		groups             []string
	}
	relay := fmt.Sprintf("https://127.0.0.1:%d", lab.RelayPort)
	users := []user{
		{c.Kubeconfig(), relay, "lab-admin", []string{"system:masters"}},
		{c.PKI("controller-manager.conf"), c.apiServer(), "system:kube-controller-manager", nil},
		{c.PKI("scheduler.conf"), c.apiServer(), "system:kube-scheduler", nil},
	}
	for _, n := range c.Nodes() {
		users = append(users,
			user{c.PKI(n.Name + "-kubelet.conf"), c.apiServer(), "system:node:" + n.Name, []string{"system:nodes"}},
			user{c.PKI(n.Name + "-proxy.conf"), c.apiServer(), "system:kube-proxy", nil},
		)
	}
	for _, u := range users {
		pair, err := ca.Client(u.name, u.groups...)
		if err != nil {
			return err
		}
		if err := pki.WriteKubeconfig(u.path, u.server, ca, u.name, pair); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) startControlPlane() error {
	h, err := c.Host("cp")
	if err != nil {
		return err
	}
	data := c.HostDir(h.Name)
	if err := os.MkdirAll(data, 0o755); err != nil {
		return fmt.Errorf("make the directory of %s: %w", h.Name, err)
	}
	// These two give up when the API server does not know their roles yet, so they start when it is ready.
	controllers := c.program("kube-controller-manager", c.controllerManagerFlags())
	controllers.Gate = c.Gate(h.Name, controllersGate)
	scheduler := c.program("kube-scheduler", c.schedulerFlags())
	scheduler.Gate = c.Gate(h.Name, controllersGate)
	spec := hostinit.Spec{
		Host: h.Name, Cgroup: c.cgroup(h.Name),
		Private: privateDirs, Upper: filepath.Join(data, "private"),
		Relay:     netip.AddrPortFrom(h.V4(), apiPort).String(),
		Listeners: c.RelayCount(),
		Programs: []hostinit.Program{
			c.program("etcd", c.etcdFlags(data)),
			c.program("kube-apiserver", c.apiServerFlags(h.Host)),
			controllers,
			scheduler,
		},
	}
	if err := spec.Write(h.Spec()); err != nil {
		return err
	}
	return h.StartInit()
}

func (c *Cluster) program(name string, flags []string) hostinit.Program {
	return hostinit.Program{Name: name, Args: append([]string{c.Bin(name)}, flags...), Log: c.Log(name)}
}

func (c *Cluster) etcdFlags(data string) []string {
	return []string{
		"--data-dir=" + filepath.Join(data, "etcd"),
		"--listen-client-urls=http://127.0.0.1:2379",
		"--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380",
		"--initial-advertise-peer-urls=http://127.0.0.1:2380",
		"--initial-cluster=default=http://127.0.0.1:2380",
		"--unsafe-no-fsync", // a lab's data may be lost with the machine
		"--log-level=warn",
	}
}

func (c *Cluster) apiServerFlags(cp plan.Host) []string {
	return []string{
		"--advertise-address=" + cp.V4().String(),
		"--bind-address=::",
		"--secure-port=" + strconv.Itoa(apiPort),
		"--etcd-servers=http://127.0.0.1:2379",
		"--service-cluster-ip-range=" + joinPrefixes(plan.ServiceCIDRs),
		"--tls-cert-file=" + c.PKI("apiserver.crt"),
		"--tls-private-key-file=" + c.PKI("apiserver.key"),
		"--client-ca-file=" + c.PKI("ca.crt"),
		"--kubelet-client-certificate=" + c.PKI("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + c.PKI("apiserver-kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP", // nobody resolves the names of nodes
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + c.PKI("sa.pub"),
		"--service-account-signing-key-file=" + c.PKI("sa.key"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--requestheader-client-ca-file=" + c.PKI("front-proxy-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + c.PKI("front-proxy-client.crt"),
		"--proxy-client-key-file=" + c.PKI("front-proxy-client.key"),
		// No proxy runs beside the API server, so it reaches webhooks and extension servers by their pods' addresses.
		"--enable-aggregator-routing=true",
	}
}

func (c *Cluster) controllerManagerFlags() []string {
	config := c.PKI("controller-manager.conf")
	return []string{
		"--kubeconfig=" + config,
		"--authentication-kubeconfig=" + config,
		"--authorization-kubeconfig=" + config,
		"--allocate-node-cidrs=true",
		"--cluster-cidr=" + joinPrefixes(plan.ClusterCIDRs),
		"--service-cluster-ip-range=" + joinPrefixes(plan.ServiceCIDRs),
		"--root-ca-file=" + c.PKI("ca.crt"),
		"--service-account-private-key-file=" + c.PKI("sa.key"),
		"--cluster-signing-cert-file=" + c.PKI("ca.crt"),
		"--cluster-signing-key-file=" + c.PKI("ca.key"),
		"--use-service-account-credentials=true",
		"--leader-elect=false", // there is only one
	}
}

func (c *Cluster) schedulerFlags() []string {
	config := c.PKI("scheduler.conf")
	return []string{
		"--kubeconfig=" + config,
		"--authentication-kubeconfig=" + config,
		"--authorization-kubeconfig=" + config,
		"--leader-elect=false",
	}
}

func (c *Cluster) waitControlPlane(ctx context.Context, s *step.Step) error {
	err := step.Until(ctx, 90*time.Second, func(ctx context.Context) (bool, string, error) {
		for _, name := range []string{"etcd", "kube-apiserver"} {
			if why := c.crashed("cp", name); why != "" {
				return false, "", fmt.Errorf("%s\n%s", why, c.tail(name))
			}
		}
		s.Now("asking the API server whether it is ready")
		_, err := c.Kubectl(ctx, "--request-timeout=2s", "get", "--raw", "/readyz")
		if err != nil {
			return false, err.Error(), nil
		}
		return true, "", nil
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, c.tail("kube-apiserver"))
	}
	return c.openGate(controllersGate, c.controlPlane())
}

// crashed says whether a program of the host ends again and again. Once is no news: some give up when the API server is
// not there yet.
func (c *Cluster) crashed(host, program string) string {
	text, err := os.ReadFile(c.Log(host + "-init"))
	if err != nil {
		return ""
	}
	count, last := 0, ""
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, host+" "+program+" ended") {
			count, last = count+1, strings.TrimSpace(line)
		}
	}
	if count < 3 {
		return ""
	}
	return fmt.Sprintf("%d times: %s", count, last)
}

func joinPrefixes(prefixes []netip.Prefix) string {
	var text []string
	for _, p := range prefixes {
		text = append(text, p.String())
	}
	return strings.Join(text, ",")
}
