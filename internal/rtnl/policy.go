package rtnl

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/ipfam"
)

// A Rule sends packets with a source to a table of its own (ip-rule(8)). It is
// comparable.
type Rule struct {
	Priority int
	From     netip.Prefix
	Table    int
}

func (r Rule) String() string {
	return fmt.Sprintf("%d: from %s lookup %d", r.Priority, r.From, r.Table)
}

func (r Rule) netlink() *netlink.Rule {
	n := netlink.NewRule()
	n.Priority, n.Table, n.Src, n.Family, n.Protocol = r.Priority, r.Table, ipNet(r.From), ipfam.Of(r.From.Addr()).AF(), Protocol
	return n
}

// AddRule adds a rule.
func (h *Handle) AddRule(r Rule) error {
	if err := h.handle.RuleAdd(r.netlink()); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add rule %s: %w", r, err)
	}
	return nil
}

// DelRule removes a rule.
func (h *Handle) DelRule(r Rule) error {
	if err := h.handle.RuleDel(r.netlink()); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete rule %s: %w", r, err)
	}
	return nil
}

// Rules returns the rules of our protocol number that lead to a table.
func (h *Handle) Rules(table int) ([]Rule, error) {
	var out []Rule
	for _, f := range []ipfam.Family{ipfam.V4, ipfam.V6} {
		raw, err := dump(func() ([]netlink.Rule, error) { return h.handle.RuleList(f.AF()) })
		if errors.Is(err, unix.EOPNOTSUPP) {
			continue // the kernel is built without rules, or without the family
		}
		if err != nil {
			return nil, fmt.Errorf("list %s rules: %w", f, err)
		}
		for _, n := range raw {
			if from, ok := prefix(n.Src); ok && n.Protocol == Protocol && n.Table == table {
				out = append(out, Rule{n.Priority, from, n.Table})
			}
		}
	}
	return out, nil
}
