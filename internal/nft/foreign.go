package nft

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/nfnl"
)

// A Dropper is a chain of anybody's through which forwarded packets pass and
// that drops what its rules do not accept.
type Dropper struct {
	Family, Table, Chain string // as nft names them
}

// families by number, as nft names them (uapi/linux/netfilter.h).
var foreignFamilies = map[uint8]string{
	unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6",
}

// ForwardDroppers returns the chains of all tables at the forward hook whose
// policy is to drop and none of whose rules mentions a text, such as the
// beginning of a link's name. What iptables has through its nftables backend
// is among them; what the older backend has cannot be seen this way.
func (c *Conn) ForwardDroppers(mention string) ([]Dropper, error) {
	const drop = 0 // NF_DROP
	found := map[Dropper]uint8{}
	err := c.nl.Dump(header(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC), nil, func(m nfnl.Message) error {
		hook := nfnl.Find(m.Attrs, unix.NFTA_CHAIN_HOOK)
		family, known := foreignFamilies[m.Family]
		if hook == nil || !known || Point(nfnl.Uint32(nfnl.Find(hook, unix.NFTA_HOOK_HOOKNUM))) != Forward ||
			nfnl.Uint32(nfnl.Find(m.Attrs, unix.NFTA_CHAIN_POLICY)) != drop {
			return nil
		}
		found[Dropper{family, nfnl.Text(nfnl.Find(m.Attrs, unix.NFTA_CHAIN_TABLE)), nfnl.Text(nfnl.Find(m.Attrs, unix.NFTA_CHAIN_NAME))}] = m.Family
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the chains of all tables: %w", err)
	}
	var out []Dropper
	for d, family := range found {
		var e nfnl.Encoder
		e.Text(unix.NFTA_RULE_TABLE, d.Table)
		spared := false
		err := c.nl.Dump(header(unix.NFT_MSG_GETRULE, family), e.B, func(m nfnl.Message) error {
			spared = spared || nfnl.Text(nfnl.Find(m.Attrs, unix.NFTA_RULE_TABLE)) == d.Table && bytes.Contains(m.Attrs, []byte(mention))
			return nil
		})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("list the rules of table %s: %w", d.Table, err)
		}
		if !spared {
			out = append(out, d)
		}
	}
	return out, nil
}
