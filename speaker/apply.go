package speaker

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// relink reads the links of this host and notes what follows when they are
// other than before.
func (l *loop) relink() error {
	links, err := l.cfg.Links()
	if err != nil {
		return fmt.Errorf("read the links of this host: %w", err)
	}
	l.relinkAt = time.Time{}
	if l.links != nil && slices.EqualFunc(l.links, links, rtnl.Link.Equal) {
		l.retry()
		return nil
	}
	before := rtnl.Publish(l.links)
	first := l.links == nil
	l.links, l.facts.Links = links, links
	if l.links == nil {
		l.links = []rtnl.Link{}
	}
	if now := rtnl.Publish(links); first || cluster.FormatLinks(before) != cluster.FormatLinks(now) {
		l.report.Links = append([]cluster.Link{}, now...)
	}
	for _, link := range links {
		l.stale[link.Name] = true
		if index, ok := l.opened[link.Name]; ok && index != link.Index {
			l.shut(link.Name) // Another link has taken the name.
		}
	}
	for name := range l.conns {
		if !slices.ContainsFunc(links, func(link rtnl.Link) bool { return link.Name == name }) {
			l.shut(name)
		}
	}
	l.retry()
	return nil
}

// retry does again what the kernel refused: to open a responder, or to join
// groups. The seats of a link are unable until its responder is open.
func (l *loop) retry() {
	for name := range l.failed {
		delete(l.failed, name)
		i := slices.IndexFunc(l.links, func(link rtnl.Link) bool { return link.Name == name })
		if i < 0 {
			continue
		}
		l.stale[name] = true
		if err := l.responder(l.links[i]); err == nil {
			l.kicks.all() // Its seats are able again.
		}
	}
}

// shut closes the responder of a link.
func (l *loop) shut(name string) {
	if err := l.conns[name].Close(); err != nil {
		l.cfg.Log.Error("cannot close the responder of a link", "link", name, "err", err)
	}
	delete(l.conns, name)
	delete(l.opened, name)
	l.publishConns()
}

// end stops answering on all links.
func (l *loop) end() {
	for name := range l.conns {
		l.shut(name)
	}
}

func (l *loop) publishConns() {
	open := map[string]Conn{}
	for name, c := range l.conns {
		open[name] = c
	}
	l.Speaker.open.Store(&open)
}

// hear translates the events of links into what the elector understands.
func (l *loop) hear(now time.Time) {
	for more := true; more; {
		select {
		case e := <-l.Speaker.events:
			l.events = append(l.events, e)
		default:
			more = false
		}
	}
	for _, e := range l.events {
		h := Heard{Kind: e.Kind, Link: e.Link, MAC: e.MAC, At: e.At}
		h.Node, h.Foreign = l.whose(e.MAC, now)
		if e.Kind == Alive {
			h.Unit.VIP = e.Addr
			l.facts.Heard = append(l.facts.Heard, h)
			continue
		}
		for _, u := range l.units[e.Addr] {
			if seat := l.seats[u]; seat.Link == e.Link {
				h.Unit = u
				l.facts.Heard = append(l.facts.Heard, h)
			}
		}
		if until, ok := l.asked[e.Link][e.Addr]; ok && now.Before(until) {
			h.Unit = Unit{VIP: e.Addr}
			l.facts.Heard = append(l.facts.Heard, h)
		}
	}
	l.events = l.events[:0]
}

// whose says which node a MAC belongs to, or that it certainly belongs to
// none. A node that joins is heard before the API tells of it, so as long as
// some node has not published its links a stranger has a grace.
func (l *loop) whose(mac cluster.MAC, now time.Time) (node string, foreign bool) {
	if node, ok := l.macs[mac]; ok {
		delete(l.strange, mac)
		return node, false
	}
	if !l.synced {
		return "", false
	}
	if !l.quiet {
		return "", true
	}
	since, ok := l.strange[mac]
	if !ok {
		if len(l.strange) >= maxStrangers {
			clear(l.strange)
		}
		l.strange[mac], since = now, now
	}
	return "", now.Sub(since) >= l.cfg.StrangerGrace
}

// maxStrangers bounds what a host that invents MACs can make us remember.
const maxStrangers = 1024

// elect lets the elector decide and does what it says.
func (l *loop) elect(now time.Time) time.Time {
	l.facts.Synced = l.synced
	out := l.cfg.Elector.Step(now, l.facts)
	l.facts = Facts{}
	l.lease.Set(out.Until)
	var calls []Order
	for _, o := range out.Orders {
		switch o.Do {
		case DoStop:
			l.mode(o.Unit, Watch)
		case DoListen:
			l.mode(o.Unit, Listen)
		case DoAnswer:
			l.mode(o.Unit, Answer)
		case DoProbe:
			l.mode(o.Unit, max(Listen, l.modes[o.Unit]))
			calls = append(calls, o)
		default:
			calls = append(calls, o)
		}
	}
	// Tables first: nobody is told to come here before he would be answered,
	// and no probe goes out while its answer could not be heard.
	l.apply(now)
	for _, o := range calls {
		l.call(o, now)
	}
	for _, u := range out.Changed {
		l.mark(u)
	}
	return out.Next
}

// mode notes what is to be done about a unit.
func (l *loop) mode(u Unit, m Mode) {
	if _, ok := l.seats[u]; !ok {
		delete(l.modes, u)
		return
	}
	if l.modes[u] == m {
		return
	}
	l.modes[u] = m
	l.stale[l.seats[u].Link] = true
}

// apply gives the links whose units changed new tables.
func (l *loop) apply(now time.Time) {
	var own map[cluster.MAC]struct{}
	for name := range l.stale {
		i := slices.IndexFunc(l.links, func(link rtnl.Link) bool { return link.Name == name })
		if i < 0 || len(l.onLink[name]) == 0 && l.conns[name] == nil {
			continue
		}
		if own == nil {
			own = l.ownMACs()
		}
		if err := l.set(l.links[i], l.table(l.links[i], own, now)); err != nil {
			l.cfg.Log.Error("cannot speak on a link", "link", name, "err", err, "retry", retryPause)
			l.relinkAt = now.Add(retryPause)
		}
	}
	clear(l.stale)
}

// set puts a table in force on a link.
func (l *loop) set(link rtnl.Link, t *Table) error {
	if err := l.responder(link); err != nil {
		return err
	}
	if err := l.conns[link.Name].Set(t); err != nil {
		l.failed[link.Name] = "" // To be tried again; those whom we can hear are answered.
		return err
	}
	return nil
}

// responder opens the responder of a link unless it is open.
func (l *loop) responder(link rtnl.Link) error {
	if l.conns[link.Name] != nil {
		return nil
	}
	c, err := l.cfg.Open(Place{Index: link.Index, Name: link.Name, Events: l.offer, Lease: &l.lease})
	if err != nil {
		if l.failed[link.Name] == "" {
			l.kicks.all() // Its seats are no longer able.
		}
		l.failed[link.Name] = err.Error()
		return err
	}
	l.conns[link.Name], l.opened[link.Name] = c, link.Index
	l.publishConns()
	return nil
}

func (l *loop) ownMACs() map[cluster.MAC]struct{} {
	own := map[cluster.MAC]struct{}{}
	for _, link := range l.links {
		if link.Ethernet {
			own[link.MAC] = struct{}{}
		}
	}
	return own
}

// table says what a link does about each address.
func (l *loop) table(link rtnl.Link, own map[cluster.MAC]struct{}, now time.Time) *Table {
	t := &Table{MAC: link.MAC, Own: own, Modes: map[netip.Addr]Mode{}}
	for u := range l.onLink[link.Name] {
		t.Modes[u.VIP] = max(t.Modes[u.VIP], Watch, l.modes[u])
	}
	for a, until := range l.asked[link.Name] {
		if now.After(until) {
			delete(l.asked[link.Name], a)
		} else {
			t.Modes[a] = max(t.Modes[a], Watch)
		}
	}
	return t
}

// askMatters is how long the answer to a question is waited for.
const askMatters = 2 * time.Second

// call says something on the wire. A frame that cannot be sent is lost like
// any other; the schedule and the elector repeat.
func (l *loop) call(o Order, now time.Time) {
	if o.Do == DoDiscard {
		for name, c := range l.conns {
			if err := c.Discard(); err != nil {
				l.cfg.Log.Warn("cannot discard old frames", "link", name, "err", err)
			}
		}
		return
	}
	if o.Do == DoAsk {
		l.ask(o, now)
		return
	}
	seat := l.seats[o.Unit]
	if seat == nil || l.conns[seat.Link] == nil {
		return
	}
	call := Call{Verb: Probe, Addr: o.Unit.VIP, To: o.To, First: o.New}
	if o.Do == DoAnnounce {
		call.Verb = Announce
	}
	l.send(seat.Link, call)
}

// ask asks for another machine on every link of the segment.
func (l *loop) ask(o Order, now time.Time) {
	for _, link := range l.links {
		if link.Skip() != rtnl.Usable || !slices.Contains(link.OnLink, o.Unit.Segment) || l.conns[link.Name] == nil {
			continue
		}
		i := slices.IndexFunc(link.Addrs, func(p netip.Prefix) bool { return o.Unit.Segment.Contains(p.Addr()) })
		if i < 0 {
			continue
		}
		if l.asked[link.Name] == nil {
			l.asked[link.Name] = map[netip.Addr]time.Time{}
		}
		if _, known := l.asked[link.Name][o.Target]; !known {
			l.stale[link.Name] = true
		}
		l.asked[link.Name][o.Target] = now.Add(askMatters)
		l.apply(now)
		l.send(link.Name, Call{Verb: Ask, Addr: o.Target, To: o.To, From: link.Addrs[i].Addr()})
	}
}

func (l *loop) send(link string, c Call) {
	if err := l.conns[link].Send(c); err != nil && !errors.Is(err, ErrLinkDown) {
		l.cfg.Log.Warn("cannot send", "err", err)
	}
}
