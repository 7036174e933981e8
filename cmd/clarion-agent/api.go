package main

import (
	"errors"
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// apiConfig finds the API server: from a kubeconfig, else from the Pod's
// service account with, if given, another URL than the cluster IP.
func apiConfig(o options) (*rest.Config, error) {
	var config *rest.Config
	var err error
	if o.kubeconfig != "" {
		if config, err = clientcmd.BuildConfigFromFlags("", o.kubeconfig); err != nil {
			return nil, fmt.Errorf("read the kubeconfig: %w", err)
		}
	} else if config, err = rest.InClusterConfig(); err != nil {
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, errors.New("no API server is known: this is no Pod (KUBERNETES_SERVICE_HOST is not set); pass --kubeconfig")
		}
		return nil, fmt.Errorf("read the Pod's service account: %w", err)
	}
	if o.apiserver != "" {
		config.Host = o.apiserver
	}
	// Protobuf is a third of the bytes of JSON; the API server's own fairness
	// limits us better than a client-side guess.
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	config.QPS = -1
	config.UserAgent = "clarion-agent"
	return config, nil
}
