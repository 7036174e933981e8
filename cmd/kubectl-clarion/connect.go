package main

import (
	"context"
	"fmt"
	"log/slog"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/inspect"
)

// A connection is a way to one API server.
type connection struct {
	client    kubernetes.Interface
	raw       inspect.Raw
	namespace string // of the context
}

// connect reads the kubeconfig as kubectl does.
func connect(t target) (*connection, error) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // what the library has to say comes back as an error, too
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = t.kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: t.context})
	config, err := loader.ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, fmt.Errorf("no cluster is known: there is no kubeconfig; set KUBECONFIG or pass --kubeconfig")
	}
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, fmt.Errorf("read the namespace of the kubeconfig's context: %w", err)
	}
	config.Impersonate = rest.ImpersonationConfig{UserName: t.as}
	config.QPS = -1 // a handful of requests, and the API server protects itself
	config.UserAgent = "kubectl-clarion"
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	config.WarningHandler = rest.NoWarnings{}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("set up the client of the API server %s: %w", config.Host, err)
	}
	raw := func(ctx context.Context, path string, query map[string]string) ([]byte, error) {
		request := client.CoreV1().RESTClient().Get().AbsPath(path).SetHeader("Accept", "application/json")
		for k, v := range query {
			request.Param(k, v)
		}
		return request.DoRaw(ctx)
	}
	return &connection{client: client, raw: raw, namespace: namespace}, nil
}
