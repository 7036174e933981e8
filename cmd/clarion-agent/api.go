package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/clarion-lb/clarion/internal/apidial"
	"github.com/clarion-lb/clarion/internal/cluster"
)

// connect returns a client of the API server. A kubeconfig or a URL that the
// user gave is used as it is. Else the Pod's service account is used over
// every way to the API server that is known, because in a cluster without
// another proxy its cluster IP works only once this agent has programmed it.
func connect(o options, stored cluster.View, log *slog.Logger) (kubernetes.Interface, error) {
	config, err := apiConfig(o, stored, log)
	if err != nil {
		return nil, err
	}
	// Protobuf is a third of the bytes of JSON; the API server's own fairness
	// limits us better than a client-side guess.
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	config.QPS = -1
	config.UserAgent = "clarion-agent"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("set up the client of the API server %s: %w", config.Host, err)
	}
	return client, nil
}

func apiConfig(o options, stored cluster.View, log *slog.Logger) (*rest.Config, error) {
	if o.kubeconfig != "" {
		config, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("read the kubeconfig: %w", err)
		}
		return config, nil
	}
	config, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, errors.New("no API server is known: this is no Pod (KUBERNETES_SERVICE_HOST is not set); pass --kubeconfig")
	}
	if err != nil {
		return nil, fmt.Errorf("read the Pod's service account: %w", err)
	}
	if o.apiserver != "" {
		config.Host = o.apiserver
		log.Info("the API server is the one of --apiserver", "url", o.apiserver)
		return config, nil
	}
	kubelet, ca := kubeletWays(o.host, log)
	clusterIP, err := hostPort(config.Host)
	if err != nil {
		return nil, fmt.Errorf("the Pod's environment names the API server %q: %w", config.Host, err)
	}
	ways := append(kubelet, storedWays(stored)...)
	ways = append(ways, apidial.Way{Address: clusterIP, From: "the cluster IP"})
	dialer, err := apidial.New(log, ways...)
	if err != nil {
		return nil, err
	}
	// Every API server's certificate carries this name, whatever the way to it.
	config.Host = "https://" + apiName
	config.TLSClientConfig.ServerName = apiName
	config.Dial = dialer.DialContext
	return config, trust(config, ca)
}

const apiName = "kubernetes.default.svc"

// kubeletConfigs are where the distributions keep the kubelet's kubeconfig:
// kubeadm, its older form and others, k3s, RKE2.
var kubeletConfigs = []string{
	"etc/kubernetes/kubelet.conf",
	"var/lib/kubelet/kubeconfig",
	"var/lib/rancher/k3s/agent/kubelet.kubeconfig",
	"var/lib/rancher/rke2/agent/kubelet.kubeconfig",
}

// kubeletWays reads the API server's address, and the CA it is known by, from
// the kubelet's kubeconfig below root. Nothing else of the file is used: this
// agent has a token of its own.
func kubeletWays(root string, log *slog.Logger) (ways []apidial.Way, ca []byte) {
	for _, path := range kubeletConfigs {
		file, err := clientcmd.LoadFromFile(filepath.Join(root, path))
		if err != nil {
			if !os.IsNotExist(err) {
				log.Warn("the kubelet's kubeconfig cannot be read; looking for another way to the API server", "path", "/"+path, "err", err)
			}
			continue
		}
		for _, c := range file.Clusters {
			address, err := hostPort(c.Server)
			if err != nil {
				log.Warn("the kubelet's kubeconfig names no usable API server", "path", "/"+path, "err", err)
				continue
			}
			ways = append(ways, apidial.Way{Address: address, From: "the kubelet's /" + path})
			ca = append(append(ca, c.CertificateAuthorityData...), '\n')
		}
	}
	return ways, ca
}

// storedWays returns the API servers that stood behind the cluster IP when
// the view was written.
func storedWays(v cluster.View) []apidial.Way {
	s := v.Services["default/kubernetes"]
	if s == nil {
		return nil
	}
	var ways []apidial.Way
	for _, p := range s.Ports {
		for _, e := range p.Endpoints {
			ways = append(ways, apidial.Way{Address: e.Addr.String(), From: "the stored view"})
		}
	}
	return ways
}

// hostPort returns host:port of an API server's URL.
func hostPort(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", err
	}
	if u.Scheme != "https" || u.Hostname() == "" {
		return "", fmt.Errorf("%q is not an https URL", text)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%q has no usable port", text)
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// trust adds the CA of the kubelet's kubeconfig to that of the service
// account: in front of the API server may stand a load balancer that only the
// former knows.
func trust(config *rest.Config, ca []byte) error {
	if !x509.NewCertPool().AppendCertsFromPEM(ca) {
		return nil // there is none, or it is a file that is not mounted
	}
	own, err := os.ReadFile(config.TLSClientConfig.CAFile)
	if err != nil {
		return fmt.Errorf("read the CA of the Pod's service account: %w", err)
	}
	config.TLSClientConfig.CAData = append(append(own, '\n'), ca...)
	config.TLSClientConfig.CAFile = ""
	return nil
}
