// Package speaker makes the network send traffic for VIPs to this node; it
// does not choose addresses and forwards no packet.
//
// Read plan.go (who may answer for what: pure), elector.go and rendezvous.go
// (who does, and when it says so: a state machine), table.go, arp.go and ndp.go
// (what a frame brings about: pure), conn.go and packet.go (the wire),
// speaker.go (the loop).
package speaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// A Config is what a Speaker is made of. Self, Log, Feed, Links and Open are
// needed.
type Config struct {
	Self string // the name of this node
	Log  *slog.Logger
	Feed *cluster.Feed
	// Links returns the links of this host as they are now. LinksChanged is
	// signalled when they are no longer; see package rtnl.
	Links        func() ([]rtnl.Link, error)
	LinksChanged <-chan struct{}
	Open         Opener // OpenPacket, but for tests

	Rules   func(vip netip.Addr) Rule // of the pool of a VIP; nil for no rules. See SetRules
	Ready   func(vip netip.Addr) bool // the rules for it are in the kernel; nil for always. See Kick
	Elector Elector                   // nil for Rendezvous
	// Report is called from the loop with what changed. It must not block.
	Report func(Report)
	// StrangerGrace is how long an unknown MAC is given the benefit of the doubt
	// while some node has not published its links yet. Zero means 5 s.
	StrangerGrace time.Duration
}

// A Speaker announces VIPs from this node. Its Run is a task.
type Speaker struct {
	cfg    Config
	rules  atomic.Pointer[func(netip.Addr) Rule]
	events chan Event
	kicks  *kicks
	asks   chan func()
	lease  Lease
	open   atomic.Pointer[map[string]Conn] // by link, for Stats
	loop   loop
}

// New returns a Speaker that does nothing until Run.
func New(cfg Config) (*Speaker, error) {
	switch {
	case cfg.Self == "":
		return nil, errors.New("the speaker must know the name of its node, or it would stand for election as nobody: " +
			"give the agent its node's name, as the downward API has it in spec.nodeName")
	case cfg.Log == nil || cfg.Feed == nil || cfg.Links == nil || cfg.Open == nil:
		panic("speaker.New: Log, Feed, Links and Open are needed")
	}
	if cfg.Elector == nil {
		cfg.Elector = NewRendezvous(cfg.Self, rand.Float64)
	}
	if cfg.Ready == nil {
		cfg.Ready = func(netip.Addr) bool { return true }
	}
	if cfg.Report == nil {
		cfg.Report = func(Report) {}
	}
	if cfg.StrangerGrace == 0 {
		cfg.StrangerGrace = 5 * time.Second
	}
	s := &Speaker{
		cfg:    cfg,
		events: make(chan Event, 4096),
		kicks:  newKicks(),
		asks:   make(chan func()),
	}
	s.setRules(cfg.Rules)
	s.open.Store(&map[string]Conn{})
	s.loop = newLoop(s)
	return s, nil
}

func (s *Speaker) String() string { return "speaker" }

// SetRules replaces the pools' rules, at any time and from anywhere.
func (s *Speaker) SetRules(rules func(vip netip.Addr) Rule) {
	s.setRules(rules)
	s.kicks.all()
}

func (s *Speaker) setRules(rules func(netip.Addr) Rule) {
	if rules == nil {
		rules = func(netip.Addr) Rule { return Rule{} }
	}
	s.rules.Store(&rules)
}

// Kick says that Ready may have another answer for these VIPs, or for any VIP
// when none is named. It never blocks and may be called from anywhere.
func (s *Speaker) Kick(vips ...netip.Addr) {
	if len(vips) == 0 {
		s.kicks.all()
		return
	}
	s.kicks.some(vips)
}

// Stats returns what the responder of each open link has counted.
func (s *Speaker) Stats() map[string]Stats {
	out := map[string]Stats{}
	for name, c := range *s.open.Load() {
		out[name] = c.Stats()
	}
	return out
}

// Explain says for each unit of a Service how it stands and why which node is
// no candidate. It fails only when ctx ends first.
func (s *Speaker) Explain(ctx context.Context, key cluster.Key) ([]UnitReport, error) {
	answer := make(chan []UnitReport, 1)
	select {
	case s.asks <- func() { answer <- s.loop.explain(key) }:
		return <-answer, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("explain %s: the speaker did not answer: %w", key, ctx.Err())
	}
}

// Run announces until ctx ends. When it returns this node answers for nothing.
func (s *Speaker) Run(ctx context.Context) error {
	defer s.loop.end()
	if err := s.loop.relink(); err != nil {
		return err
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next := s.loop.turn(time.Now())
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-s.cfg.Feed.Ready():
		case <-s.cfg.Elector.Ready():
		case <-s.kicks.ready:
		case e := <-s.events:
			s.loop.events = append(s.loop.events, e)
		case ask := <-s.asks:
			ask()
		case <-s.cfg.LinksChanged:
			s.loop.relinkAt = time.Now()
		}
	}
}

// offer gives an event to the loop if it has room for one.
func (s *Speaker) offer(e Event) bool {
	select {
	case s.events <- e:
		return true
	default:
		return false
	}
}

// loop is the state of a Speaker. The goroutine of Run owns it.
type loop struct {
	*Speaker
	view     cluster.View
	synced   bool
	topology *Topology
	macs     map[cluster.MAC]string    // whose, by the nodes' own word
	quiet    bool                      // some node has not published its links
	strange  map[cluster.MAC]time.Time // MACs of nobody, and since when they are heard
	carriers map[netip.Addr]map[cluster.Key]struct{}

	links    []rtnl.Link
	relinkAt time.Time         // when to read links again; zero for not at all
	conns    map[string]Conn   // by link name
	opened   map[string]int    // the index each was opened with
	stale    map[string]bool   // links whose table must be set again
	failed   map[string]string // links that the kernel refused something on; why, if it was the responder

	units  map[netip.Addr][]Unit // the present seats of each VIP
	seats  map[Unit]*Seat
	modes  map[Unit]Mode
	onLink map[string]map[Unit]struct{}
	asked  map[string]map[netip.Addr]time.Time // addresses asked for on a link, and until when answers matter

	events  []Event
	facts   Facts
	told    map[cluster.Key]*ServiceReport
	changed map[cluster.Key]struct{}
	report  Report
}

func newLoop(s *Speaker) loop {
	return loop{
		Speaker: s, topology: NewTopology(nil), macs: map[cluster.MAC]string{}, strange: map[cluster.MAC]time.Time{},
		carriers: map[netip.Addr]map[cluster.Key]struct{}{},
		conns:    map[string]Conn{}, opened: map[string]int{}, stale: map[string]bool{}, failed: map[string]string{},
		units: map[netip.Addr][]Unit{}, seats: map[Unit]*Seat{}, modes: map[Unit]Mode{}, onLink: map[string]map[Unit]struct{}{},
		asked: map[string]map[netip.Addr]time.Time{},
		told:  map[cluster.Key]*ServiceReport{}, changed: map[cluster.Key]struct{}{},
	}
}

// turn does all that is to be done now and returns when it must be called
// again at the latest; zero for not before something happens.
func (l *loop) turn(now time.Time) time.Time {
	vips := l.take()
	if !l.relinkAt.IsZero() && !now.Before(l.relinkAt) {
		if err := l.relink(); err != nil {
			// What we know stays in force; the kernel will say it again.
			l.cfg.Log.Error("cannot read the links of this host", "err", err, "retry", retryPause)
			l.relinkAt = now.Add(retryPause)
		}
	}
	if l.facts.Links != nil {
		vips = l.everyVIP()
	}
	for vip := range vips {
		l.plan(vip)
	}
	l.hear(now)
	next := l.elect(now)
	l.tell()
	return earlier(next, l.relinkAt)
}

// retryPause is between attempts at what the kernel refused.
const retryPause = time.Second

// take folds in what the feed and the kicks brought, and returns the VIPs that
// must be planned again.
func (l *loop) take() map[netip.Addr]struct{} {
	vips, all := l.kicks.take()
	d := l.cfg.Feed.Take()
	l.synced = l.synced || d.Synced
	for key, now := range d.Services {
		for _, vip := range vipsOf(l.view.Services[key]) {
			vips[vip] = struct{}{}
			delete(l.carriers[vip], key)
		}
		for _, vip := range vipsOf(now) {
			vips[vip] = struct{}{}
			if l.carriers[vip] == nil {
				l.carriers[vip] = map[cluster.Key]struct{}{}
			}
			l.carriers[vip][key] = struct{}{}
		}
		l.changed[key] = struct{}{}
	}
	moved := false
	for name, now := range d.Nodes {
		moved = moved || !sameNode(l.view.Nodes[name], now)
	}
	l.view.Apply(d)
	if moved || d.Synced {
		l.renode()
	}
	if moved || all {
		return l.everyVIP()
	}
	return vips
}

// vipsOf returns the addresses that we announce for a Service.
func vipsOf(s *cluster.Service) []netip.Addr {
	if s == nil || !s.Ours {
		return nil
	}
	return s.VIPs
}

// sameNode reports whether the speaker need not look at a node again. Nodes
// are written every few minutes for reasons that do not matter here.
func sameNode(a, b *cluster.Node) bool {
	return a != nil && b != nil && a.Refused == b.Refused && maps.Equal(a.Labels, b.Labels) && slices.Equal(a.Addresses, b.Addresses) &&
		slices.EqualFunc(a.Links, b.Links, func(x, y cluster.Link) bool {
			return x.Name == y.Name && x.MAC == y.MAC && slices.Equal(x.Prefixes, y.Prefixes) && slices.Equal(x.Gateways, y.Gateways)
		})
}

// renode reads what follows from the nodes.
func (l *loop) renode() {
	l.topology = NewTopology(l.view.Nodes)
	l.macs, l.quiet = map[cluster.MAC]string{}, false
	for name, n := range l.view.Nodes {
		l.quiet = l.quiet || len(n.Links) == 0
		for _, link := range n.Links {
			l.macs[link.MAC] = name
		}
	}
	l.facts.Nodes = l.view.Nodes
}

func (l *loop) everyVIP() map[netip.Addr]struct{} {
	all := map[netip.Addr]struct{}{}
	for vip := range l.carriers {
		all[vip] = struct{}{}
	}
	for vip := range l.units {
		all[vip] = struct{}{}
	}
	return all
}

// plan makes the seats of one VIP anew.
func (l *loop) plan(vip netip.Addr) {
	rule := (*l.rules.Load())(vip)
	announced, _ := Sharers(l.services(vip))
	ready := l.cfg.Ready(vip)
	before := l.units[vip]
	delete(l.units, vip)
	for _, p := range l.topology.Plan(vip, announced, rule) {
		seat := &Seat{Plan: p, Refused: l.topology.refuse(p.Unit, l.cfg.Self, rule, localNodes(announced)), New: unannounced(announced)}
		if link, ok := l.place(p.Unit, rule); ok {
			seat.Link, seat.MAC, seat.Able = link.Name, link.MAC, ready && l.failed[link.Name] == ""
		}
		l.units[vip] = append(l.units[vip], p.Unit)
		l.seat(p.Unit, seat)
	}
	for _, u := range before {
		if !slices.Contains(l.units[vip], u) {
			l.seat(u, nil)
		}
	}
	if len(l.carriers[vip]) == 0 {
		delete(l.carriers, vip)
	}
}

// unannounced reports whether no Service that carries a VIP was ever announced.
func unannounced(services []*cluster.Service) bool {
	return !slices.ContainsFunc(services, func(s *cluster.Service) bool { return s.Announced })
}

// services returns the Services that carry a VIP.
func (l *loop) services(vip netip.Addr) []*cluster.Service {
	var out []*cluster.Service
	for key := range l.carriers[vip] {
		out = append(out, l.view.Services[key])
	}
	return out
}

// place returns the link on which this node would answer for a unit: of several
// in one segment the one that is eldest, by the kernel's index.
func (l *loop) place(u Unit, rule Rule) (rtnl.Link, bool) {
	for _, link := range l.links {
		if link.Skip() == rtnl.Usable && slices.Contains(link.OnLink, u.Segment) && rule.allows(link.Name) {
			return link, true
		}
	}
	return rtnl.Link{}, false
}

// seat notes the new value of a unit, if it is new.
func (l *loop) seat(u Unit, now *Seat) {
	before := l.seats[u]
	if before != nil && now != nil && before.Link == now.Link && before.MAC == now.MAC && before.Able == now.Able &&
		before.Key == now.Key && before.Refused == now.Refused && before.New == now.New && slices.Equal(before.Candidates, now.Candidates) {
		return
	}
	if before != nil && before.Link != "" && (now == nil || now.Link != before.Link) {
		delete(l.onLink[before.Link], u)
		l.stale[before.Link] = true
	}
	if now != nil && now.Link != "" && (before == nil || now.Link != before.Link) {
		if l.onLink[now.Link] == nil {
			l.onLink[now.Link] = map[Unit]struct{}{}
		}
		l.onLink[now.Link][u] = struct{}{}
		l.stale[now.Link] = true
	}
	if now == nil {
		delete(l.seats, u)
	} else {
		l.seats[u] = now
	}
	if l.facts.Seats == nil {
		l.facts.Seats = map[Unit]*Seat{}
	}
	l.facts.Seats[u] = now
	l.mark(u)
}

// mark notes that the Services of a unit must be reported again.
func (l *loop) mark(u Unit) {
	for key := range l.carriers[u.VIP] {
		l.changed[key] = struct{}{}
	}
}
