package main

import (
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"

	"github.com/clarion-lb/clarion/allocator"
	"github.com/clarion-lb/clarion/internal/iprange"
	"github.com/clarion-lb/clarion/provider"
)

// options are the flags and what the environment says.
type options struct {
	kubeconfig   string
	namespace    string
	class        string
	podCIDRs     prefixes
	serviceCIDRs prefixes
	health       string
	lease        string
	workers      int
	logLevel     slog.Level
	identity     string
}

// parse reads args and the environment variable POD_NAMESPACE. All that is
// wrong is in the error, not only the first.
func parse(args []string, getenv func(string) string, stderr io.Writer) (options, error) {
	o := options{namespace: getenv("POD_NAMESPACE")}
	if o.namespace == "" {
		o.namespace = "clarion-system"
	}
	f := flag.NewFlagSet("clarion-controller", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "file with the API server's address and credentials; empty: as a pod of the cluster")
	f.StringVar(&o.namespace, "namespace", o.namespace, "namespace of the ConfigMap clarion-pools, the ledger and the lease; default is POD_NAMESPACE")
	f.StringVar(&o.class, "load-balancer-class", provider.Class, "the spec.loadBalancerClass that is served beside none")
	f.Var(&o.podCIDRs, "pod-cidrs", "further ranges of pods, separated by commas, that no Service gets; those on the nodes are known")
	f.Var(&o.serviceCIDRs, "service-cidrs", "further ranges of cluster IPs, separated by commas, that no Service gets; ServiceCIDR objects are known")
	f.StringVar(&o.health, "health", ":7948", "address and port for /healthz, /readyz and /metrics")
	f.StringVar(&o.lease, "leader-elect-lease", "clarion-controller", "name of the lease by which the replicas elect their leader")
	f.IntVar(&o.workers, "workers", 24, "Services that are looked at at the same time, 1 to 256")
	f.TextVar(&o.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	if err := f.Parse(args); err != nil {
		return options{}, err
	}
	var errs []error
	if f.NArg() > 0 {
		errs = append(errs, fmt.Errorf("%q is no flag; there are no arguments", f.Arg(0)))
	}
	if o.workers < 1 || o.workers > 256 {
		errs = append(errs, fmt.Errorf("--workers is %d; it must be 1 to 256", o.workers))
	}
	for _, r := range []struct{ flag, value string }{{"namespace", o.namespace}, {"load-balancer-class", o.class}, {"leader-elect-lease", o.lease}} {
		if r.value == "" {
			errs = append(errs, fmt.Errorf("--%s is empty; leave it out for the default", r.flag))
		}
	}
	host, err := os.Hostname()
	if err != nil {
		errs = append(errs, fmt.Errorf("name this process in the election: %w", err))
	}
	// A pod that is restarted keeps its name, and must not be taken for the
	// process that was there before it.
	o.identity = host + "_" + strings.ToLower(rand.Text()[:8])
	return o, errors.Join(errs...)
}

func (o options) config(log *slog.Logger) provider.Config {
	var reserved []allocator.Reserved
	add := func(flag string, ranges prefixes) {
		for _, p := range ranges {
			reserved = append(reserved, allocator.Reserved{Range: iprange.OfPrefix(p), Reason: fmt.Sprintf("in %s, which the flag --%s names", p, flag)})
		}
	}
	add("service-cidrs", o.serviceCIDRs)
	add("pod-cidrs", o.podCIDRs)
	return provider.Config{
		Namespace: o.namespace, Class: o.class, Identity: o.identity, Lease: o.lease,
		Workers: o.workers, Reserved: reserved, Log: log,
	}
}

// prefixes is a flag with CIDRs, separated by commas.
type prefixes []netip.Prefix

func (p prefixes) String() string {
	texts := make([]string, len(p))
	for i, prefix := range p {
		texts[i] = prefix.String()
	}
	return strings.Join(texts, ",")
}

// Set implements flag.Value.
func (p *prefixes) Set(value string) error {
	var out prefixes
	for text := range strings.SplitSeq(value, ",") {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("%q is not a CIDR such as 10.244.0.0/16", text)
		}
		out = append(out, prefix.Masked())
	}
	*p = out
	return nil
}
