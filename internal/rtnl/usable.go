package rtnl

import (
	"fmt"
	"slices"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A Skip says why a link carries no VIPs; it is empty for one that can. The
// values are sentences' ends, for people.
type Skip string

// The reasons that do not need a name filled in.
const (
	Usable         Skip = ""
	IsLoopback     Skip = "it is the loopback"
	NotEthernet    Skip = "it has no Ethernet address"
	IsNoARP        Skip = "it does not resolve neighbours (NOARP)"
	IsPointToPoint Skip = "it is a point-to-point link"
	IsDown         Skip = "it is set down"
	NoCarrier      Skip = "it has no carrier"
	NoPrefix       Skip = "it has no address in a prefix that neighbours share"
)

// Skip says why VIPs cannot be announced on the link. A bond slave or bridge
// port is skipped in favour of its master: answering on both gives clients two
// MACs. A cable to a pod falls out because its addresses are single hosts.
func (l Link) Skip() Skip {
	switch {
	case l.Loopback:
		return IsLoopback
	case !l.Ethernet || l.MAC == cluster.MAC{}:
		return NotEthernet
	case l.NoARP:
		return IsNoARP
	case l.PointToPoint:
		return IsPointToPoint
	case l.Master != "":
		return Skip(fmt.Sprintf("it is part of %s, which speaks for it", l.Master))
	case !l.Up:
		return IsDown
	case !l.Carrier:
		return NoCarrier
	case len(l.OnLink) == 0:
		return NoPrefix
	}
	return Usable
}

// Publish returns what a node tells the cluster of its links: those that can
// carry VIPs with their prefixes and gateways, and those that are only down
// at the moment with their MAC alone. The MAC stays listed because frames that
// were sent just before may still be heard, and a listed MAC is never taken
// for a foreign host.
func Publish(links []Link) []cluster.Link {
	var out []cluster.Link
	for _, l := range links {
		switch l.Skip() {
		case Usable:
			out = append(out, cluster.Link{Name: l.Name, MAC: l.MAC, Prefixes: slices.Clone(l.OnLink), Gateways: slices.Clone(l.Gateways)})
		case IsDown, NoCarrier:
			if len(l.OnLink) > 0 {
				out = append(out, cluster.Link{Name: l.Name, MAC: l.MAC})
			}
		}
	}
	return out
}
