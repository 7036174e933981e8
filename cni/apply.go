package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/reconcile"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// wrongChecksums are the drivers whose hardware gets the checksum of a packet
// in a tunnel wrong when the outer port is not the one it was told of; the
// pods' connections then hang.
var wrongChecksums = []string{"vmxnet3"}

// A kernel makes what a node has equal what it should have. It remembers
// nothing: what there is, is read from the kernel each time.
type kernel struct {
	h *rtnl.Handle

	// keep makes it add and change only, and remove nothing: what is not known
	// yet is not absent.
	keep bool
}

// apply moves the kernel to a state and returns what could not be done. It
// goes on over errors.
func (k kernel) apply(want State) error {
	var errs []error
	wanted := map[string]bool{}
	for _, t := range want.Tunnels {
		wanted[t.Name] = true
		errs = append(errs, k.tunnel(t))
	}
	links, err := k.links() // with what was just made
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	errs = append(errs, k.addresses(want, links), k.entries(want, links), k.routes(want, links), k.rules(want))
	if !k.keep {
		for name := range links {
			if strings.HasPrefix(name, TunnelPrefix) && !wanted[name] {
				errs = append(errs, k.h.DelLink(name))
			}
		}
	}
	return errors.Join(errs...)
}

func (k kernel) links() (map[string]rtnl.Link, error) {
	all, err := k.h.Links()
	if err != nil {
		return nil, err
	}
	byName := make(map[string]rtnl.Link, len(all))
	for _, l := range all {
		byName[l.Name] = l
	}
	return byName, nil
}

// settle is reconcile.Sync with this kernel's word on removing.
func settle[K, V comparable](k kernel, have, want map[K]V, add, del func(V) error) error {
	return reconcile.Sync(have, want, reconcile.Ops[K, V]{
		Add: func(_ K, v V) error { return add(v) },
		Del: func(_ K, v V) error {
			if k.keep {
				return nil
			}
			return del(v)
		},
	})
}

// tunnel makes one tunnel device as it should be. A setting that cannot be
// changed means a new device; its entries and routes follow in the same run.
func (k kernel) tunnel(want rtnl.VXLAN) error {
	have, index, up, err := k.h.GetVXLAN(want.Name)
	if err != nil && !errors.Is(err, rtnl.ErrNoLink) {
		return err
	}
	mtu := have.MTU
	have.MTU = want.MTU
	switch {
	case err == nil && have == want:
		if mtu != want.MTU {
			if err := k.h.SetMTU(index, want.MTU); err != nil {
				return err
			}
		}
		if !up {
			if err := k.h.SetUp(index); err != nil {
				return err
			}
		}
		return k.loose(want.Name)
	case err == nil:
		if err := k.h.DelLink(want.Name); err != nil {
			return err
		}
	}
	if err := k.h.AddVXLAN(want); err != nil {
		return err
	}
	return errors.Join(k.loose(want.Name), k.checksums(want))
}

// loose keeps the kernel from checking strictly that answers would take the
// tunnel as well: while routes change, the way back may be the direct one.
func (k kernel) loose(tunnel string) error {
	return k.h.SetSysctl("net/ipv4/conf/"+tunnel+"/rp_filter", "2")
}

// checksums turns checksums in hardware off where they are known to be wrong.
func (k kernel) checksums(t rtnl.VXLAN) error {
	links, err := k.links()
	if err != nil {
		return err
	}
	for _, l := range links {
		carries := slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Addr() == t.Local })
		if carries && slices.Contains(wrongChecksums, k.h.Driver(l.Name)) {
			return k.h.TxChecksumOff(t.Name)
		}
	}
	return nil
}

func (k kernel) addresses(want State, links map[string]rtnl.Link) error {
	type key struct {
		dev string
		netip.Prefix
	}
	type value struct {
		key
		rtnl.Address
	}
	wanted, have := map[key]value{}, map[key]value{}
	for _, a := range want.Addresses {
		kk := key{a.Dev, a.Prefix}
		wanted[kk] = value{kk, a.Address}
	}
	for _, t := range want.Tunnels {
		for _, p := range links[t.Name].Addrs {
			kk := key{t.Name, p}
			// The kernel's listing says nothing of scope and lifetime; ours are
			// given in one step with the address, so what is there is right.
			have[kk] = value{kk, wanted[kk].Address}
		}
	}
	return settle(k, have, wanted,
		func(v value) error { return k.h.AddAddr(links[v.dev].Index, v.Address) },
		func(v value) error { return k.h.DelAddr(links[v.dev].Index, v.key.Prefix) })
}

func (k kernel) entries(want State, links map[string]rtnl.Link) error {
	wanted, have := map[rtnl.Neighbour]rtnl.Neighbour{}, map[rtnl.Neighbour]rtnl.Neighbour{}
	for _, e := range want.Entries {
		n := e.Neighbour
		n.Link = links[e.Dev].Index
		wanted[n.Key()] = n
	}
	for _, t := range want.Tunnels {
		l, ok := links[t.Name]
		if !ok {
			continue
		}
		found, err := k.h.Neighbours(l.Index)
		if err != nil {
			return err
		}
		for _, n := range found {
			have[n.Key()] = n
		}
	}
	return settle(k, have, wanted, k.h.SetNeighbour, k.h.DelNeighbour)
}

func (k kernel) routes(want State, links map[string]rtnl.Link) error {
	ours, err := k.h.Routes()
	if err != nil {
		return err
	}
	wanted, have := map[rtnl.RouteKey]rtnl.Route{}, map[rtnl.RouteKey]rtnl.Route{}
	onLink := map[rtnl.RouteKey]rtnl.Route{}
	for _, r := range want.Routes {
		rr := r.Route
		rr.Link = links[r.Dev].Index
		wanted[rr.Key()] = rr
		if !rr.Via.IsValid() {
			onLink[rr.Key()] = rr
		}
	}
	names := map[int]string{}
	for name, l := range links {
		names[l.Index] = name
	}
	for _, r := range ours {
		mine := r.Table == 0 || r.Table == RouteTable
		if mine && !strings.HasPrefix(names[r.Link], store.HostIfPrefix) { // those belong to pods
			have[r.Key()] = r
		}
	}
	// First the routes to next hops, then those by them.
	err = settle(kernel{h: k.h, keep: true}, have, onLink, k.h.SetRoute, k.h.DelRoute)
	for key, r := range onLink {
		have[key] = r // or told in err
	}
	k.keep = k.keep || err != nil
	return errors.Join(err, settle(k, have, wanted, k.h.SetRoute, k.h.DelRoute))
}

func (k kernel) rules(want State) error {
	found, err := k.h.Rules(RouteTable)
	if err != nil {
		return err
	}
	wanted, have := map[rtnl.Rule]rtnl.Rule{}, map[rtnl.Rule]rtnl.Rule{}
	for _, r := range want.Rules {
		wanted[r] = r
	}
	for _, r := range found {
		have[r] = r
	}
	return settle(k, have, wanted, k.h.AddRule, k.h.DelRule)
}

// pods repairs what belongs to single pods: the host's side of their cables,
// the routes to them, and the MTU of both ends. everyMTU looks at the far
// ends' MTU although the near ends' is right. It returns, beside errors, what
// it could not do and trying again will not help.
func (k kernel) pods(records []store.Sandbox, mtu int, everyMTU bool) (problems []string, err error) {
	links, err := k.links()
	if err != nil {
		return nil, err
	}
	routes, err := k.h.Routes()
	if err != nil {
		return nil, err
	}
	have := make(map[rtnl.RouteKey]rtnl.Route, len(routes))
	for _, r := range routes {
		have[r.Key()] = r
	}
	var errs []error
	for _, sb := range records {
		l, ok := links[sb.Key().HostIf()]
		if !ok {
			continue // the pod is on its way in or out
		}
		err := k.pod(sb, l, have)
		if err == nil && mtu != 0 && (l.MTU != mtu || everyMTU) {
			err = k.podMTU(sb, l, mtu)
			if errors.Is(err, rtnl.ErrNoNS) || errors.Is(err, rtnl.ErrNotNS) || errors.Is(err, fs.ErrPermission) {
				problems = append(problems, fmt.Sprintf("pod %s keeps the MTU %d although %d is right now: its network namespace cannot be entered (%v); the agent needs /run/netns of the host and the capability SYS_ADMIN, or restart the pod", sb.Pod, l.MTU, mtu, err))
				err = nil
			}
		}
		if err != nil && !k.vanished(l.Name) {
			errs = append(errs, fmt.Errorf("pod %s: %w", sb.Key(), err))
		}
	}
	return problems, errors.Join(errs...)
}

func (k kernel) vanished(link string) bool {
	_, err := k.h.Link(link)
	return errors.Is(err, rtnl.ErrNoLink)
}

func (k kernel) pod(sb store.Sandbox, l rtnl.Link, have map[rtnl.RouteKey]rtnl.Route) error {
	near, err := k.h.Link(l.Name)
	if err != nil || near.Alias == "" {
		return err // the plugin is still at work on it
	}
	if !l.Up {
		if err := k.h.SetUp(l.Index); err != nil {
			return err
		}
	}
	for _, a := range sb.Addresses {
		gw := store.Gateway(ipfam.Of(a))
		if !slices.Contains(l.Addrs, gw.Prefix) {
			if err := k.h.AddAddr(l.Index, gw); err != nil {
				return err
			}
		}
		want := store.HostRoute(a, l.Index)
		if have[want.Key()] != want {
			if err := k.h.SetRoute(want); err != nil {
				return err
			}
		}
	}
	return nil
}

// podMTU gives both ends of a pod's cable an MTU. The end that receives must
// never be the smaller one: it would drop what the other may send.
func (k kernel) podMTU(sb store.Sandbox, l rtnl.Link, mtu int) (err error) {
	pod, err := rtnl.OpenAt(sb.Netns)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pod.Close()) }()
	near, err := k.h.Link(l.Name)
	if err != nil {
		return err
	}
	far, err := pod.Link(sb.IfName)
	if err != nil || far.Index != near.Peer {
		return errors.Join(err, fmt.Errorf("%s is not the far end of %s: %w", sb.IfName, l.Name, rtnl.ErrNoNS))
	}
	farFirst := mtu < near.MTU
	if farFirst && far.MTU != mtu {
		if err := pod.SetMTU(far.Index, mtu); err != nil {
			return err
		}
	}
	if near.MTU != mtu {
		if err := k.h.SetMTU(near.Index, mtu); err != nil {
			return err
		}
	}
	if !farFirst && far.MTU != mtu {
		return pod.SetMTU(far.Index, mtu)
	}
	return nil
}

// off removes everything that Clarion has put into the kernel of this node,
// the pods' cables among it: the empty state.
func (k kernel) off() error {
	err := k.apply(State{})
	links, lerr := k.links()
	if lerr != nil {
		return errors.Join(err, lerr)
	}
	for _, name := range slices.Sorted(maps.Keys(links)) {
		if strings.HasPrefix(name, store.HostIfPrefix) {
			err = errors.Join(err, k.h.DelLink(name))
		}
	}
	return err
}
