package cni

import (
	"fmt"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// A Sysctl is a value below /proc/sys that Clarion sets on the host. These are
// all of them, beside those of its own devices (rp_filter of the tunnels;
// accept_ra and disable_ipv6 of the pods' cables).
type Sysctl struct{ Key, Value, Why string }

const (
	forward4   = "net/ipv4/ip_forward"
	forward6   = "net/ipv6/conf/all/forwarding"
	rpFilter   = "net/ipv4/conf/%s/rp_filter"
	acceptRA   = "net/ipv6/conf/%s/accept_ra"
	strict     = "1"
	whyForward = "packets of pods pass through the node"
	whyRA      = "a node that forwards ignores router advertisements unless this is 2, and would lose the default route that it got from one"
)

// Hygiene decides what of a host must be set so that pods of some families
// have a network, and says what is in the way and not ours to change. read
// returns a value below /proc/sys, "" for one that does not exist.
func Hygiene(read func(key string) string, links []rtnl.Link, cidrs []netip.Prefix) (set []Sysctl, problems []string) {
	for _, c := range cidrs {
		switch ipfam.Of(c.Addr()) {
		case ipfam.V4:
			if read(forward4) == "0" {
				set = append(set, Sysctl{forward4, "1", whyForward})
			}
			problems = append(problems, strictFilters(read, links)...)
		case ipfam.V6:
			if read(forward6) == "0" {
				// The order matters: forwarding takes the routes away at once. A node
				// that forwarded before us has chosen to ignore advertisements.
				set = append(set, heed(read, links)...)
				set = append(set, Sysctl{forward6, "1", whyForward})
			}
		}
	}
	return set, problems
}

// heed makes the links that take router advertisements go on to take them,
// and those that come later.
func heed(read func(string) string, links []rtnl.Link) (set []Sysctl) {
	names := []string{"default"}
	for _, l := range links {
		if !l.Loopback && !ours(l.Name) {
			names = append(names, l.Name)
		}
	}
	for _, name := range names {
		if key := fmt.Sprintf(acceptRA, name); read(key) == "1" {
			set = append(set, Sysctl{key, "2", whyRA})
		}
	}
	return set
}

// ours reports whether a link is one that Clarion makes.
func ours(link string) bool {
	return strings.HasPrefix(link, store.HostIfPrefix) || strings.HasPrefix(link, TunnelPrefix)
}

// strictFilters tells of source checks that drop good packets. With one
// network there is one way back and a strict check is harmless.
func strictFilters(read func(string) string, links []rtnl.Link) []string {
	var on []string
	for _, l := range uplinks(links) {
		if slices.ContainsFunc(l.OnLink, func(p netip.Prefix) bool { return p.Addr().Is4() }) {
			on = append(on, l.Name)
		}
	}
	if len(on) < 2 {
		return nil
	}
	all := read(fmt.Sprintf(rpFilter, "all"))
	for _, name := range on {
		// The kernel takes the larger of the two; 2 is loose and wins.
		if all != "2" && (all == strict || read(fmt.Sprintf(rpFilter, name)) == strict) && read(fmt.Sprintf(rpFilter, name)) != "2" {
			return []string{fmt.Sprintf("rp_filter is strict on %s and this node has %d networks (%s): packets whose answer would take another link are dropped; run: sysctl -w net.ipv4.conf.all.rp_filter=2",
				name, len(on), strings.Join(on, ", "))}
		}
	}
	return nil
}

// readSysctl reads below /proc/sys in the namespace of h.
func readSysctl(h *rtnl.Handle) func(string) string {
	return func(key string) (value string) {
		err := h.Do(func() error {
			data, err := os.ReadFile(path.Join("/proc/sys", key))
			value = strings.TrimSpace(string(data))
			return err
		})
		if err != nil {
			return "" // the kernel has no such value: a family that is not built in
		}
		return value
	}
}
