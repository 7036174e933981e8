package nat

import (
	"errors"
	"net/netip"

	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/conntrack"
	"github.com/clarion-lb/clarion/internal/ipfam"
)

// Cut deletes the connections without a state of their own (UDP, SCTP) that
// go by a host port to somebody who does not have it: to a pod that is gone,
// or to the node itself from the time when nobody had the port. Their senders
// would never notice. touched are the ports that changed hands; local says
// which addresses are the node's.
func Cut(c *conntrack.Conn, records []store.Sandbox, touched []store.PortMapping, local func(netip.Addr) bool) error {
	type port struct {
		cluster.Protocol
		number uint16
	}
	changed := map[port]bool{}
	for _, p := range touched {
		if p.Protocol != cluster.TCP {
			changed[port{p.Protocol, p.HostPort}] = true
		}
	}
	if len(changed) == 0 {
		return nil
	}
	var flows []conntrack.Flow
	var errs []error
	seen := map[conntrack.Flow]bool{}
	for _, f := range families {
		errs = append(errs, c.Each(f, func(e conntrack.Entry) {
			if !changed[port{e.Proto, e.To.Port()}] || !local(e.To.Addr()) || seen[e.Flow] {
				return
			}
			seen[e.Flow] = true
			if to, ok := owner(records, e.Proto, e.To); !ok || to != e.From {
				flows = append(flows, e.Flow)
			}
		}))
	}
	return errors.Join(append(errs, c.DeleteAll(flows))...)
}

// owner returns where packets to an address and port of the node go by the
// records. A port on that very address comes before one on every address.
func owner(records []store.Sandbox, proto cluster.Protocol, to netip.AddrPort) (pod netip.AddrPort, ok bool) {
	for _, host := range []netip.Addr{to.Addr(), {}} {
		for _, sb := range records {
			for _, p := range sb.Ports {
				if p.HostIP != host || p.Protocol != proto || p.HostPort != to.Port() {
					continue
				}
				for _, a := range sb.Addresses {
					if ipfam.Of(a) == ipfam.Of(to.Addr()) {
						return netip.AddrPortFrom(a, p.ContainerPort), true
					}
				}
			}
		}
	}
	return netip.AddrPort{}, false
}
