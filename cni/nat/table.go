package nat

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/nfnl"
	"github.com/clarion-lb/clarion/internal/nft"
)

// SetTraffic makes the table treat packets as t says and touches no host port.
func SetTraffic(c *nft.Conn, t Traffic) error {
	want, err := t.want()
	if err != nil {
		return err
	}
	return set(c, want)
}

// SetPorts makes the host ports of the records, and no others, lead to their
// pods. Where two want one port the one in conflicts has none of it. The
// caller has the lock of the records, so that nobody brings in older ones.
func SetPorts(c *nft.Conn, records []store.Sandbox) (conflicts []*Conflict, err error) {
	want, conflicts := portElements(records)
	return conflicts, set(c, want)
}

// Remove removes the table.
func Remove(c *nft.Conn) error { return c.Remove(Table) }

// set brings the table's layout in order and some of its sets to what they
// should have, in one transaction.
func set(c *nft.Conn, want elements) error {
	have, err := c.Read(Table)
	if err != nil {
		return err
	}
	var b nft.Batch
	if err := layout().Ensure(&b, have); err != nil {
		if !errors.Is(err, nft.ErrIncompatible) {
			return err
		}
		// Of an older release, with other types: only replacing it helps. What the
		// other half of Clarion has in it comes back with its next run.
		if err := c.Remove(Table); err != nil {
			return fmt.Errorf("replace the table of an older release: %w", err)
		}
		have, b = nft.Present{}, nft.Batch{}
		if err := layout().Ensure(&b, have); err != nil {
			return err
		}
	}
	if err := change(c, &b, have, loopbackSet, nft.Interval(netip.AddrFrom4([4]byte{127}), netip.AddrFrom4([4]byte{127, 255, 255, 255}))); err != nil {
		return err
	}
	if els, ok := want[tunnelSet.Name]; ok {
		if err := change(c, &b, have, tunnelSet, els); err != nil {
			return err
		}
	}
	for _, f := range families {
		for _, s := range sets(f) {
			if els, ok := want[s.Name]; ok {
				if err := change(c, &b, have, s, els); err != nil {
					return err
				}
			}
		}
	}
	layout().Surplus(&b, have)
	if b.Empty() {
		return nil
	}
	return c.Commit(&b)
}

// change appends to b what makes one set have the wanted elements. A set of
// intervals is written anew as a whole when something in it differs: the
// kernel wants both ends of an interval in one piece.
func change(c *nft.Conn, b *nft.Batch, have nft.Present, s nft.Set, want []nft.Element) error {
	type place struct {
		key   string
		bound bool
	}
	wanted := make(map[place]nft.Element, len(want))
	for _, el := range want {
		wanted[place{el.Key, el.Bound}] = el
	}
	var stale, missing []nft.Element
	found := map[place]nft.Element{}
	if _, exists := have.Sets[s.Name]; exists {
		if err := read(c, s, func(el nft.Element) { found[place{el.Key, el.Bound}] = el }); err != nil {
			return err
		}
	}
	for at, el := range found {
		if w, ok := wanted[at]; !ok || w.Data != el.Data {
			stale = append(stale, el)
		}
	}
	for at, el := range wanted {
		if f, ok := found[at]; !ok || f.Data != el.Data {
			missing = append(missing, el)
		}
	}
	if s.Interval && len(stale)+len(missing) > 0 {
		stale, missing = slices.Collect(maps.Values(found)), want
		slices.SortFunc(stale, func(a, b nft.Element) int { return strings.Compare(a.Key, b.Key) })
	}
	if len(stale) > 0 {
		b.Delete(Table, s, stale...)
	}
	if len(missing) > 0 {
		b.Add(Table, s, missing...)
	}
	return nil
}

// read lists a set, again when somebody changed it meanwhile.
func read(c *nft.Conn, s nft.Set, each func(nft.Element)) error {
	var err error
	for range 5 {
		var got []nft.Element
		err = c.Elements(Table, s, func(el nft.Element) error { got = append(got, el); return nil })
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err == nil {
			for _, el := range got {
				each(el)
			}
			return nil
		}
		if !errors.Is(err, nfnl.ErrInterrupted) {
			return err
		}
	}
	return err
}
