package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/cni/nat"
	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/nfnl"
	"github.com/clarion-lb/clarion/internal/nft"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// neverTranslated are destinations for which another source makes no sense:
// multicast, broadcast, and IPv6 that does not leave the link.
var neverTranslated = []netip.Prefix{
	netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("ff00::/8"),
	netip.MustParsePrefix("fe80::/10"),
}

// Traffic decides where the pods of self go under their own address: to pods,
// nodes and VIPs, and where the user says so.
func Traffic(nodes map[string]*cluster.Node, services map[cluster.Key]*cluster.Service, self string, o Options) nat.Traffic {
	var s nat.Traffic
	me := nodes[self]
	if me == nil || o.NoMasquerade {
		return s
	}
	s.Pods = me.PodCIDRs
	s.Near = slices.Concat(neverTranslated, o.NonMasquerade)
	for _, n := range nodes {
		if n != nil {
			s.Near = append(s.Near, n.PodCIDRs...)
			s.Hosts = append(s.Hosts, n.Addresses...)
		}
	}
	for _, svc := range services {
		if svc != nil {
			s.Hosts = append(append(s.Hosts, svc.VIPs...), svc.ExternalIPs...)
		}
	}
	compare := func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	}
	slices.SortFunc(s.Near, compare)
	s.Near = slices.Compact(s.Near)
	slices.SortFunc(s.Hosts, netip.Addr.Compare)
	s.Hosts = slices.Compact(s.Hosts)
	return s
}

// rules keeps the pod network's table of packet rules. It belongs to the
// loop's goroutine, but for the listener's.
type rules struct {
	conn   *nft.Conn
	listen *nfnl.Listener
	dirty  atomic.Bool  // somebody else changed the table since it was written
	source *nat.Traffic // as it was last written; nil before that
	told   []string     // the problems that the last write found

	looked   time.Time // when other people's tables were last looked at
	droppers []string  // and what was found
}

// openRules opens the table in the namespace of the calling thread.
func openRules() (*rules, error) {
	conn, err := nft.Open()
	if err != nil {
		return nil, err
	}
	l, err := nfnl.Listen(unix.NFNLGRP_NFTABLES, conn.Port())
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &rules{conn: conn, listen: l}, nil
}

// watch notices changes of the table that are not ours, until ctx ends.
func (r *rules) watch(ctx context.Context, kick func()) error {
	defer context.AfterFunc(ctx, func() { _ = r.listen.Close() })() // it ends the wait below
	for {
		err := r.listen.Next(func(m nfnl.Message) error {
			// The name of the table is attribute 1 of all messages that matter.
			if nfnl.Text(nfnl.Find(m.Attrs, unix.NFTA_TABLE_NAME)) == nat.Table {
				r.dirty.Store(true)
			}
			return nil
		})
		switch {
		case ctx.Err() != nil || errors.Is(err, os.ErrClosed):
			return nil
		case errors.Is(err, nfnl.ErrOverrun):
			r.dirty.Store(true)
		case err != nil:
			return err
		}
		if r.dirty.Load() {
			kick()
		}
	}
}

// set writes masquerade and host ports where they are not what they should
// be. Before everything was delivered it changes no masquerade that is there:
// what is not known yet would be translated.
func (r *rules) set(ctx context.Context, want nat.Traffic, s *store.Store, synced bool, h *rtnl.Handle) (problems []string, err error) {
	foreign := r.dirty.Swap(false)
	defer func() {
		if err != nil {
			r.dirty.Store(true)
		}
	}()
	if r.source != nil && !foreign && r.source.Equal(want) {
		return r.told, nil
	}
	write := synced
	if !synced {
		have, err := r.conn.Read(nat.Table)
		if err != nil {
			return nil, err
		}
		write = !have.Exists
	}
	if write {
		if err := nat.SetTraffic(r.conn, want); err != nil {
			return nil, fmt.Errorf("masquerade: %w", err)
		}
		r.source = &want
	}
	err = s.Exclusive(ctx, func(records []store.Sandbox) error {
		var complete []store.Sandbox
		for _, sb := range records {
			if len(sb.Ports) == 0 {
				continue
			}
			l, err := h.Link(sb.Key().HostIf())
			if errors.Is(err, rtnl.ErrNoLink) {
				continue
			}
			if err != nil {
				return err
			}
			if l.Alias != "" { // else the plugin is at work on it
				complete = append(complete, sb)
			}
		}
		conflicts, err := nat.SetPorts(r.conn, complete)
		for _, c := range conflicts {
			problems = append(problems, c.Error()+"; pod "+c.Wants.Pod+" does not get it")
		}
		return err
	})
	if err != nil {
		return problems, fmt.Errorf("host ports: %w", err)
	}
	r.told = problems
	return problems, nil
}

// lookEvery is how often other people's tables are looked at: they matter to
// people, who do not read faster, and there may be many rules in them.
const lookEvery = 30 * time.Second

// others tells what other people's tables do to pods.
func (r *rules) others(now time.Time) ([]string, error) {
	if !r.looked.IsZero() && now.Sub(r.looked) < lookEvery {
		return r.droppers, nil
	}
	found, err := firewalls(r.conn)
	if err != nil {
		return r.droppers, err
	}
	r.looked, r.droppers = now, found
	return found, nil
}

func (r *rules) close() error {
	err := r.listen.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	return errors.Join(err, r.conn.Close())
}
