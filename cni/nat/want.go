package nat

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"go4.org/netipx"

	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/nft"
)

// Traffic says where pods go under their own address, and where under the
// node's, and what carries tunnels. The zero Traffic masquerades nothing.
type Traffic struct {
	Pods    []netip.Prefix // the pods of this node
	Near    []netip.Prefix // where they go under their own address
	Hosts   []netip.Addr   // likewise: nodes and VIPs
	Tunnels []uint16       // UDP ports
}

// Equal reports whether both say the same, in the same order.
func (t Traffic) Equal(u Traffic) bool {
	return slices.Equal(t.Pods, u.Pods) && slices.Equal(t.Near, u.Near) && slices.Equal(t.Hosts, u.Hosts) && slices.Equal(t.Tunnels, u.Tunnels)
}

// elements is the content of the table: by the name of a set, what is in it.
type elements map[string][]nft.Element

// want returns what the sets of t should have.
func (t Traffic) want() (elements, error) {
	out := elements{tunnelSet.Name: nil}
	for _, port := range t.Tunnels {
		out[tunnelSet.Name] = append(out[tunnelSet.Name], nft.Element{Key: string(nft.Val{}.Port(port))})
	}
	for _, f := range families {
		out[name(pods, f)], out[name(near, f)], out[name(hosts, f)] = nil, nil, nil
	}
	for what, prefixes := range map[string][]netip.Prefix{pods: t.Pods, near: t.Near} {
		for _, f := range families {
			var b netipx.IPSetBuilder // intervals of a set must not overlap
			for _, p := range prefixes {
				if ipfam.Of(p.Addr()) == f {
					b.AddPrefix(p)
				}
			}
			set, err := b.IPSet()
			if err != nil {
				return nil, fmt.Errorf("the prefixes of %s: %w", what, err)
			}
			for _, r := range set.Ranges() {
				out[name(what, f)] = append(out[name(what, f)], nft.Interval(r.From(), r.To())...)
			}
		}
	}
	for _, a := range t.Hosts {
		set := name(hosts, ipfam.Of(a))
		out[set] = append(out[set], nft.Element{Key: string(nft.Val{}.Addr(a))})
	}
	return out, nil
}

// A Conflict says that two pods want one port of the node.
type Conflict struct {
	Port       store.PortMapping
	Has, Wants store.Sandbox
}

func (c *Conflict) Error() string {
	on := "every address of the node"
	if c.Port.HostIP.IsValid() {
		on = c.Port.HostIP.String()
	}
	return fmt.Sprintf("host port %d/%s on %s belongs to pod %s already", c.Port.HostPort, c.Port.Protocol, on, cmp.Or(c.Has.Pod, c.Has.Key().String()))
}

// front is where packets for a host port go.
type front struct {
	host     netip.Addr // the zero Addr for every address
	protocol cluster.Protocol
	port     uint16
	family   ipfam.Family
}

// Conflicting returns why a pod cannot have its host ports beside those of
// others, nil when it can.
func Conflicting(others []store.Sandbox, wants store.Sandbox) *Conflict {
	_, conflicts := portElements(append(slices.Clone(others), wants))
	for _, c := range conflicts {
		if c.Wants.Key() != wants.Key() {
			c.Has, c.Wants = c.Wants, c.Has // who was there first has it
		}
		if c.Wants.Key() == wants.Key() {
			return c
		}
	}
	return nil
}

// portElements returns what the sets of host ports should have. Of two pods
// that want one port the first by name has it; the other is told of in
// conflicts.
func portElements(records []store.Sandbox) (out elements, conflicts []*Conflict) {
	out = elements{}
	for _, f := range families {
		for _, what := range []string{ports, anyPorts, hairpins} {
			out[name(what, f)] = nil
		}
	}
	taken := map[front]store.Sandbox{}
	records = slices.SortedFunc(slices.Values(records), func(a, b store.Sandbox) int { return cmp.Compare(a.Key().String(), b.Key().String()) })
	for _, sb := range records {
		hairpin := map[netip.Addr]bool{}
		for _, p := range sb.Ports {
			for _, pod := range sb.Addresses {
				f := ipfam.Of(pod)
				if p.HostIP.IsValid() && ipfam.Of(p.HostIP) != f {
					continue
				}
				k := front{p.HostIP, p.Protocol, p.HostPort, f}
				if has, ok := taken[k]; ok {
					if has.Key() != sb.Key() {
						conflicts = append(conflicts, &Conflict{Port: p, Has: has, Wants: sb})
					}
					continue // the same pod may say the same twice
				}
				taken[k] = sb
				set, key := name(anyPorts, f), nft.Val{}
				if p.HostIP.IsValid() {
					set, key = name(ports, f), key.Addr(p.HostIP)
				}
				out[set] = append(out[set], nft.Element{
					Key:     string(key.Proto(p.Protocol).Port(p.HostPort)),
					Data:    string(nft.Val{}.Addr(pod).Port(p.ContainerPort)),
					Comment: sb.Pod,
				})
				if !hairpin[pod] {
					hairpin[pod] = true
					out[name(hairpins, f)] = append(out[name(hairpins, f)], nft.Element{Key: string(nft.Val{}.Addr(pod).Addr(pod))})
				}
			}
		}
	}
	return out, conflicts
}
