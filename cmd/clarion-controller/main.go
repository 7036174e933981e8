// Command clarion-controller gives addresses to Services of type LoadBalancer.
// Two replicas run; one leads.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/clarion-lb/clarion/internal/task"
	"github.com/clarion-lb/clarion/provider"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stderr))
}

// Exit codes, beside 0 for an end that was asked for.
const (
	exitFailed = 1 // lost the lease, was deposed, or cannot work here; the message says which
	exitUsage  = 2 // a flag or the environment is wrong
)

func run(ctx context.Context, args []string, getenv func(string) string, stderr io.Writer) int {
	o, err := parse(args, getenv, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "clarion-controller:", err)
		return exitUsage
	}
	log := logger(o.logLevel, stderr)
	client, err := connect(o.kubeconfig)
	if err != nil {
		log.Error("cannot talk to the API server", "err", err)
		return exitFailed
	}
	registry := prometheus.NewRegistry()
	controller := provider.New(client, o.config(log), registry)

	server := &http.Server{Addr: o.health, Handler: handler(controller, registry), ReadHeaderTimeout: readHeaderTimeout}
	if err := task.Run(ctx, serving(server), controller, &provider.KeyMaker{Client: client, Namespace: o.namespace, Log: log}); err != nil {
		log.Error("ending", "err", err)
		return exitFailed
	}
	log.Info("ended as asked; the lease is released")
	return 0
}
