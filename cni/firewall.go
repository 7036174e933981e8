package cni

import (
	"fmt"
	"slices"
	"strings"

	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/nft"
)

// firewalls tells of what drops the packets of pods on their way through this
// node. A table of ours cannot accept what another one drops, so all there is
// to do is to say what helps.
func firewalls(c *nft.Conn) ([]string, error) {
	found, err := c.ForwardDroppers(store.HostIfPrefix)
	if err != nil {
		return nil, err
	}
	var problems []string
	for _, d := range found {
		problems = append(problems, firewallAdvice(d))
	}
	slices.Sort(problems)
	return problems, nil
}

func firewallAdvice(d nft.Dropper) string {
	links := store.HostIfPrefix + "+"
	said := fmt.Sprintf("the chain %s of the table %s %s drops what is forwarded and not accepted by its rules, so packets of pods may be lost; ", d.Chain, d.Family, d.Table)
	iptables := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[d.Family]
	if iptables != "" && d.Table == "filter" && strings.EqualFold(d.Chain, "forward") {
		// Docker, ufw and most hand-made firewalls.
		return said + fmt.Sprintf("run: %s -I FORWARD -i %s -j ACCEPT && %s -I FORWARD -o %s -j ACCEPT, and make it last as your distribution does (Docker: chain DOCKER-USER; ufw: DEFAULT_FORWARD_POLICY=\"ACCEPT\" in /etc/default/ufw)",
			iptables, links, iptables, links)
	}
	return said + fmt.Sprintf("run: nft insert rule %s %s %s iifname %q accept && nft insert rule %s %s %s oifname %q accept, and make it last",
		d.Family, d.Table, d.Chain, store.HostIfPrefix+"*", d.Family, d.Table, d.Chain, store.HostIfPrefix+"*")
}
