package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/clarion-lb/clarion/internal/ownership"
)

// options are what a user can set. Everything has a default but the node's
// name, which only the Pod's own environment knows.
type options struct {
	node       string
	namespace  string
	class      string
	profile    string
	kubeconfig string
	apiserver  string
	state      string
	host       string
	health     string
	address    netip.Addr
	gossip     uint16
	silence    time.Duration

	// For profile full.
	serviceCIDRs            []netip.Prefix
	plugin, cniBin, cniConf string
	level                   slog.Level
}

// profiles that the agent can run, and what each switches on.
const (
	profileLB   = "lb"   // announce VIPs; the cluster's own service proxy and pod network carry the packets
	profileFull = "full" // also the service proxy and the pod network; the cluster runs without kube-proxy and other CNI plugins
)

// parse reads flags and environment. Its errors name the setting and say what
// to do.
func parse(args []string, getenv func(string) string, stderr io.Writer) (options, error) {
	o := options{level: slog.LevelInfo}
	fs := flag.NewFlagSet("clarion-agent", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.node, "node", getenv("NODE_NAME"), "name of the Node this agent runs on (NODE_NAME)")
	fs.StringVar(&o.namespace, "namespace", or(getenv("POD_NAMESPACE"), "clarion-system"), "namespace of Clarion (POD_NAMESPACE)")
	fs.StringVar(&o.class, "class", "clarion.dev/lb", "the loadBalancerClass that is served beside none")
	fs.StringVar(&o.profile, "profile", profileLB, "what the agent does: lb announces VIPs beside another service proxy and pod network, full is all three")
	fs.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig file; empty uses the Pod's service account")
	fs.StringVar(&o.apiserver, "apiserver", "", "URL of the API server; empty tries the kubelet's, the last endpoints known, and the cluster IP")
	fs.StringVar(&o.state, "state", "/var/lib/clarion", "directory on the node's disk for what outlives the agent")
	fs.StringVar(&o.host, "host", "/host", "where directories of the host are mounted; only the kubelet's kubeconfig is looked for there")
	fs.StringVar(&o.health, "health", ":7949", "address of /healthz, /readyz and /metrics")
	fs.TextVar(&o.level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	fs.Func("address", "address of the node at which other agents reach this one (HOST_IP)", func(text string) (err error) {
		o.address, err = netip.ParseAddr(text)
		return err
	})
	fs.Func("service-cidr", "a CIDR of the cluster's Services; may be given for each family. What is sent to an address in it that is no Service is dropped", func(text string) error {
		p, err := netip.ParsePrefix(text)
		o.serviceCIDRs = append(o.serviceCIDRs, p.Masked())
		return err
	})
	fs.StringVar(&o.plugin, "cni-plugin", "/clarion-cni", "the CNI plugin to install, as the image has it")
	fs.StringVar(&o.cniBin, "cni-bin-dir", "/opt/cni/bin", "where the container runtime looks for CNI plugins")
	fs.StringVar(&o.cniConf, "cni-conf-dir", "/etc/cni/net.d", "where the container runtime looks for CNI configurations")
	port := fs.Uint("gossip-port", 7947, "UDP and TCP port on which the agents talk; the same on all nodes, and open between them")
	fs.DurationVar(&o.silence, "failover-silence", ownership.DefaultSilence, "how long a node may be silent before its VIPs are asked for on the wire; 200ms to 5s. Shorter stalls never move a VIP")
	if ip := getenv("HOST_IP"); ip != "" {
		if a, err := netip.ParseAddr(ip); err == nil {
			o.address = a
		}
	}
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if *port == 0 || *port > 65535 {
		return o, fmt.Errorf("--gossip-port=%d is not a port", *port)
	}
	o.gossip = uint16(*port)
	return o, o.check(fs.Args())
}

// check tells every problem at once.
func (o options) check(rest []string) error {
	var errs []error
	if len(rest) > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q: all settings are flags", rest[0]))
	}
	if o.node == "" {
		errs = append(errs, errors.New("the name of the node is not known: set NODE_NAME from the Pod's spec.nodeName, or --node"))
	}
	if !o.address.IsValid() {
		errs = append(errs, errors.New("the address of the node is not known: set HOST_IP from the Pod's status.hostIP, or --address"))
	}
	if o.silence < minSilence || o.silence > maxSilence {
		errs = append(errs, fmt.Errorf("--failover-silence=%s is outside %s to %s", o.silence, minSilence, maxSilence))
	}
	if o.profile != profileLB && o.profile != profileFull {
		errs = append(errs, fmt.Errorf("--profile=%s is not a profile: there are %s and %s", o.profile, profileLB, profileFull))
	}
	if !filepath.IsAbs(o.state) {
		errs = append(errs, fmt.Errorf("--state=%s is not an absolute path", o.state))
	}
	return errors.Join(errs...)
}

// The bounds of --failover-silence. Below, a stall that the agent's own guard
// does not notice (150 ms) could move a VIP; above, the API server's view of a
// dead node is as fast.
const (
	minSilence = 200 * time.Millisecond
	maxSilence = 5 * time.Second
)

// apiGrace is how long the API server may take to answer at start before the
// view that was stored on disk is served: long enough for a healthy one, so
// that nothing stale is announced beside it, short against any outage.
const apiGrace = 3 * time.Second

// storeEvery is how often the view is written to disk at most.
const storeEvery = time.Second

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
