// Command clarion-agent runs on every node. It announces the cluster's VIPs
// from there and tells the API server what it does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/rtnl"
	"github.com/clarion-lb/clarion/internal/task"
	"github.com/clarion-lb/clarion/internal/tell"
	"github.com/clarion-lb/clarion/internal/viewfile"
	"github.com/clarion-lb/clarion/internal/watch"
	"github.com/clarion-lb/clarion/proxy"
	"github.com/clarion-lb/clarion/speaker"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch err := run(ctx, os.Args[1:], os.Getenv, os.Stderr); {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "clarion-agent:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, getenv func(string) string, stderr io.Writer) error {
	o, err := parse(args, getenv, stderr)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: o.level})).With("node", o.node)
	klog.SetSlogLogger(log)

	fence, err := proxy.NewFence()
	if err != nil {
		return err
	}
	links, err := rtnl.Open()
	if err != nil {
		return err
	}
	defer links.Close()
	changes, err := rtnl.Subscribe()
	if err != nil {
		return err
	}
	if err := speaker.Check(); err != nil {
		return err
	}
	health, err := net.Listen("tcp", o.health)
	if err != nil {
		return fmt.Errorf("serve health and metrics at %s: %w; choose another address with --health", o.health, err)
	}
	stored, written, err := viewfile.Load(o.view())
	switch {
	case err != nil:
		log.Warn("no stored view", "err", err)
	case !written.IsZero():
		log.Info("found a stored view of the cluster", "written", written, "services", len(stored.Services))
	}

	client, err := connect(o, stored, log)
	if err != nil {
		return err
	}
	w, err := watch.New(client, watch.Config{Namespace: o.namespace, Class: o.class, Log: log, Stored: stored, Grace: apiGrace})
	if err != nil {
		return err
	}
	teller := tell.New(client, o.node, log)
	events := newEvents(log)
	fencer := &fencer{fence: fence, feed: w.Feed(), log: log}
	rules := &rules{feed: w.Feed(), log: log}
	inKernel := fencer.stands
	tasks := []task.Task{w, changes, teller, fencer, rules, &viewfile.Writer{Path: o.view(), Every: storeEvery, Feed: w.Feed(), Log: log}}
	stats := newProxyStats()
	a := &announcer{o: o, client: client, feed: w.Feed(), mesh: w.Feed(), links: links.Links, changed: changes.Changed(),
		rules: rules.of, events: events, log: log}
	if o.profile == profileFull {
		f, err := newFull(o, w.Feed, log, stats)
		if err != nil {
			return err
		}
		f.kick, events.dead = a.kick, f.proxy.SetDead
		inKernel = func(vip netip.Addr) bool { return fencer.stands(vip) && f.stands(vip) }
		tasks = append(tasks, f.tasks...)
	}
	explain := &explainer{node: o.node, ready: fencer.ready, rules: inKernel, speaker: a}
	a.ready, a.report = inKernel, func(r speaker.Report) { explain.note(r); report(o.node, teller, r) }
	fencer.kick, rules.kick = a.kick, a.kick
	tasks = append(tasks, a, serve("health", health, explain.over(handler(fencer.ready, a, append(events.collectors(), stats.collectors()...)))))
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { leave(a.leave(), log); stop() })()
	return task.Run(working, tasks...)
}

// leaveLimit bounds what a planned end may take. It is more than the claims
// take by themselves and less than the Pod's grace.
const leaveLimit = 7 * time.Second

// leave waits until this node's VIPs are with others.
func leave(left <-chan struct{}, log *slog.Logger) {
	select {
	case <-left:
	case <-time.After(leaveLimit):
		log.Error("the VIPs of this node could not be handed over in time; others take them when it is silent")
	}
}

func (o options) view() string { return filepath.Join(o.state, "view.json") }

// report carries what the speaker says to the API server.
func report(self string, teller *tell.Teller, r speaker.Report) {
	if r.Links != nil {
		teller.Links(r.Links)
	}
	for key, service := range r.Services {
		if s, ok := statement(self, service); ok {
			teller.Say(cluster.Key(key), s)
		}
	}
}
