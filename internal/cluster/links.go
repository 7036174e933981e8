package cluster

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
)

// AnnotationLinks is the annotation of a Node in which its agent publishes the
// links on which it can announce, with their MAC addresses.
const AnnotationLinks = "clarion.dev/links"

// ConditionAnnounced is the type of the condition on a Service that says who
// announces its addresses, since when, or why nobody does.
const ConditionAnnounced = "clarion.dev/Announced"

// linkJSON is a Link as the annotation clarion.dev/links carries it.
type linkJSON struct {
	Name     string   `json:"name"`
	MAC      string   `json:"mac"`
	Prefixes []string `json:"prefixes,omitempty"`
	Gateways []string `json:"gateways,omitempty"`
}

// FormatLinks writes links as the value of the annotation clarion.dev/links:
//
//	[{"name":"eth0","mac":"02:00:00:00:00:01","prefixes":["192.0.2.0/24"],"gateways":["192.0.2.1"]}]
func FormatLinks(links []Link) string {
	out := make([]linkJSON, len(links))
	for i, l := range links {
		out[i] = linkJSON{Name: l.Name, MAC: l.MAC.String()}
		for _, p := range l.Prefixes {
			out[i].Prefixes = append(out[i].Prefixes, p.String())
		}
		for _, g := range l.Gateways {
			out[i].Gateways = append(out[i].Gateways, g.String())
		}
	}
	text, err := json.Marshal(out)
	if err != nil {
		panic(fmt.Sprintf("links %v cannot be encoded: %v", links, err)) // strings always can
	}
	return string(text)
}

// ParseLinks reads what FormatLinks wrote. The error names the entry that is
// wrong; the links before and after it are not returned.
func ParseLinks(text string) ([]Link, error) {
	var in []linkJSON
	if err := json.Unmarshal([]byte(text), &in); err != nil {
		return nil, fmt.Errorf("not a JSON list of links: %w", err)
	}
	out := make([]Link, 0, len(in))
	for i, l := range in {
		mac, err := net.ParseMAC(l.MAC)
		if err != nil || len(mac) != 6 {
			return nil, fmt.Errorf("[%d].mac: %q is not a 48-bit MAC address", i, l.MAC)
		}
		link := Link{Name: l.Name, MAC: MAC(mac)}
		for j, text := range l.Prefixes {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				return nil, fmt.Errorf("[%d].prefixes[%d]: %q is not a CIDR", i, j, text)
			}
			link.Prefixes = append(link.Prefixes, p.Masked())
		}
		for j, text := range l.Gateways {
			g, err := netip.ParseAddr(text)
			if err != nil || g.Zone() != "" {
				return nil, fmt.Errorf("[%d].gateways[%d]: %q is not an address", i, j, text)
			}
			link.Gateways = append(link.Gateways, g)
		}
		out = append(out, link)
	}
	return out, nil
}

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }
