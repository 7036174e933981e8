// Package app is the workload that the demo and the end-to-end tests run in the lab: a few pods that tell their names
// over HTTP behind a dual-stack Service of type LoadBalancer.
package app

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/clarion-lb/clarion/e2e/internal/step"
	"github.com/clarion-lb/clarion/e2e/lab"
)

// Namespace is where the controller runs and where pools are.
const Namespace = "clarion-system"

// Pool makes the ConfigMap clarion-pools hold one pool. It replaces what was there.
func Pool(ctx context.Context, l *lab.Lab, name, addresses string) error {
	return Pools(ctx, l, map[string]string{name: addresses})
}

// Pools makes the ConfigMap clarion-pools hold these pools and no others.
func Pools(ctx context.Context, l *lab.Lab, pools map[string]string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: clarion-pools, namespace: %s}\ndata:\n", Namespace)
	for name, value := range pools {
		fmt.Fprintf(&b, "  %s: %q\n", name, value)
	}
	return l.Apply(ctx, b.String())
}

// Pods applies a Deployment whose pods answer GET /hostname with their name on port 8080, and waits until it is rolled out.
func Pods(ctx context.Context, l *lab.Lab, name string, replicas int) error {
	manifest := fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: %[1]s}}}
      containers:
        - name: web
          image: %[3]s
          imagePullPolicy: IfNotPresent
          args: [netexec, --http-port=8080, --udp-port=8081]
          readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
`, name, replicas, lab.AgnhostImage)
	if err := l.Apply(ctx, manifest); err != nil {
		return err
	}
	_, err := l.Kubectl(ctx, "rollout", "status", "deployment/"+name, "--timeout=90s")
	return err
}

// A Service is a Service of type LoadBalancer to apply.
type Service struct {
	Name   string
	App    string            // the Deployment behind it
	Spec   string            // further lines of spec, indented by two
	Notes  map[string]string // annotations
	Single bool              // one family only; else RequireDualStack
}

// Apply applies the Service: port 80 leads to port 8080 of the pods.
func (s Service) Apply(ctx context.Context, l *lab.Lab) error {
	policy := "RequireDualStack"
	if s.Single {
		policy = "SingleStack"
	}
	var notes strings.Builder
	for key, value := range s.Notes {
		fmt.Fprintf(&notes, "    %s: %q\n", key, value)
	}
	annotations := ""
	if notes.Len() > 0 {
		annotations = "  annotations:\n" + notes.String()
	}
	return l.Apply(ctx, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata:
  name: %s
%sspec:
  type: LoadBalancer
  ipFamilyPolicy: %s
  selector: {app: %s}
  ports: [{name: web, port: 80, targetPort: 8080}]
%s`, s.Name, annotations, policy, s.App, s.Spec))
}

// Object is what the tests read of a Service.
type Object struct {
	Metadata struct {
		UID        string
		Finalizers []string
	}
	Spec   struct{ ClusterIPs []string }
	Status struct {
		LoadBalancer struct {
			Ingress []struct{ IP, IPMode string }
		}
		Conditions []Condition
	}
}

// A Condition of a Service.
type Condition struct{ Type, Status, Reason, Message string }

// Condition returns the condition of that type, or the zero one.
func (o Object) Condition(kind string) Condition {
	for _, c := range o.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return Condition{}
}

// VIPs returns the addresses in the status.
func (o Object) VIPs() []netip.Addr {
	var out []netip.Addr
	for _, in := range o.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(in.IP); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// Get reads a Service of the default namespace.
func Get(ctx context.Context, l *lab.Lab, name string) (Object, error) {
	var o Object
	err := l.KubectlJSON(ctx, &o, "service", name)
	return o, err
}

// Addresses waits until the Service has n addresses and returns them, IPv4 first.
func Addresses(ctx context.Context, l *lab.Lab, name string, n int, limit time.Duration) ([]netip.Addr, error) {
	var got []netip.Addr
	err := step.Until(ctx, limit, func(ctx context.Context) (bool, string, error) {
		o, err := Get(ctx, l, name)
		if err != nil {
			return false, "", err
		}
		got = o.VIPs()
		return len(got) == n, fmt.Sprintf("Service %s has addresses %v, want %d; condition: %s", name, got, n, o.Condition("clarion.dev/Assigned").Message), nil
	})
	if len(got) == 2 && got[1].Is4() {
		got[0], got[1] = got[1], got[0]
	}
	return got, err
}

// URL of port 80 of an address.
func URL(vip netip.Addr) string {
	return "http://" + netip.AddrPortFrom(vip, 80).String() + "/hostname"
}

// Ask asks the pod behind the address for its name, from the host, over a new connection.
func Ask(ctx context.Context, from *lab.Host, vip netip.Addr, timeout time.Duration) (pod string, err error) {
	return ask(ctx, from.HTTP(timeout), vip)
}

func ask(ctx context.Context, client *http.Client, vip netip.Addr) (string, error) {
	return get(ctx, client, URL(vip))
}

func get(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil {
		return "", fmt.Errorf("read the answer of %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return string(body), nil
}

// Reachable waits until the address answers the host and returns the pod that did.
func Reachable(ctx context.Context, from *lab.Host, vip netip.Addr, limit time.Duration) (pod string, err error) {
	err = step.Until(ctx, limit, func(ctx context.Context) (bool, string, error) {
		var failure error
		if pod, failure = Ask(ctx, from, vip, time.Second); failure != nil {
			return false, failure.Error(), nil
		}
		return true, "", nil
	})
	return pod, err
}

// Owner tells which node the host sends packets for the address to, with its link address, as the host's own neighbour
// table has it.
func Owner(ctx context.Context, l *lab.Lab, from *lab.Host, vip netip.Addr) (node *lab.Host, mac string, err error) {
	out, err := from.Output(ctx, "ip", "neigh", "show", vip.String())
	if err != nil {
		return nil, "", err
	}
	words := strings.Fields(out)
	for i, w := range words {
		if w == "lladdr" && i+1 < len(words) {
			mac = words[i+1]
		}
	}
	if mac == "" {
		return nil, "", fmt.Errorf("%s has no link address for %s: %q", from.Name, vip, strings.TrimSpace(out))
	}
	for _, n := range l.Nodes() {
		links, err := n.Output(ctx, "ip", "-o", "link", "show")
		if err != nil {
			return nil, "", err
		}
		if strings.Contains(links, "link/ether "+mac) {
			return n, mac, nil
		}
	}
	return nil, mac, fmt.Errorf("%s sends packets for %s to %s, which is no node's", from.Name, vip, mac)
}

// ClientAddress asks the pod behind the address from where it sees the request come.
func ClientAddress(ctx context.Context, from *lab.Host, vip netip.Addr, timeout time.Duration) (netip.Addr, error) {
	text, err := get(ctx, from.HTTP(timeout), "http://"+netip.AddrPortFrom(vip, 80).String()+"/clientip")
	if err != nil {
		return netip.Addr{}, err
	}
	seen, err := netip.ParseAddrPort(text)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("the pod behind %s says %q, which is not an address and a port", vip, text)
	}
	return seen.Addr().Unmap(), nil
}
