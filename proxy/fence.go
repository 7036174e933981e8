package proxy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/nfnl"
	"github.com/clarion-lb/clarion/internal/nft"
)

// FenceTable is the name of the table that a Fence owns.
const FenceTable = "clarion-vips"

// A Fence keeps the kernel's own hands off the VIPs that this node answers for
// and that sit on no interface:
//
//   - ping to them is answered by the node itself;
//   - the kernel's copy of an IPv6 neighbour solicitation sent to one of them is
//     dropped, else a node that forwards would forward it (RFC 4861 §7.2.4: a
//     probe of reachability goes to the address itself). The speaker has seen
//     it before: its packet socket is asked before netfilter;
//   - redirects about them are not sent: they would teach the router to go
//     around the owner (RFC 4861 §8, RFC 792).
//
// It knows nothing of Services, so it also works beside another proxy. What it
// did outlives the process; Set finds it again. One goroutine at a time.
type Fence struct {
	conn *nft.Conn
}

// NewFence returns a fence in the network namespace of the calling thread. It
// changes nothing yet. The error is nft.ErrMissing when the kernel has no
// nftables, and says so in words for the user.
func NewFence() (*Fence, error) {
	conn, err := nft.Open()
	if err != nil {
		return nil, err // its text begins with what the user must know
	}
	return &Fence{conn: conn}, nil
}

// Close leaves the fence standing and closes the connection to the kernel.
func (f *Fence) Close() error { return f.conn.Close() }

// Off removes all that any fence has made.
func (f *Fence) Off() error {
	if err := f.conn.Remove(FenceTable); err != nil {
		return fmt.Errorf("remove the fence of VIPs: %w", err)
	}
	return nil
}

// Set makes vips the addresses that this node answers for: the whole set, not
// a change to it. It reads what is and writes what differs, in one transaction;
// what is right is not touched. After an error it may be called again.
func (f *Fence) Set(vips []netip.Addr) error {
	if err := f.set(vips); err != nil {
		return fmt.Errorf("fence %d VIPs: %w", len(vips), err)
	}
	return nil
}

func (f *Fence) set(vips []netip.Addr) error {
	table := fenceTable()
	have, err := f.conn.Read(FenceTable)
	if err != nil {
		return err
	}
	var b nft.Batch
	switch err := table.Ensure(&b, have); {
	case errors.Is(err, nft.ErrIncompatible):
		// Another version's table, or somebody's of the same name. It goes and
		// comes in one transaction, so no packet sees the gap.
		b = nft.Batch{}
		b.DeleteTable(FenceTable)
		have = nft.Present{}
		if err := table.Ensure(&b, have); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	for _, s := range table.Sets {
		want := map[string]bool{}
		for _, a := range vips {
			if fenceSet(ipfam.Of(a)) == s.Name || redirectSet(ipfam.Of(a)) == s.Name {
				want[string(nft.Val{}.Addr(a.Unmap()))] = true
			}
		}
		is := map[string]bool{}
		if _, ok := have.Sets[s.Name]; ok {
			err := f.conn.Elements(FenceTable, s, func(el nft.Element) error {
				is[el.Key] = true
				return nil
			})
			// A set that changed while it was read is somebody's doing; the caller
			// comes again.
			if err != nil && !errors.Is(err, nfnl.ErrInterrupted) {
				return err
			}
		}
		b.Add(FenceTable, s, missingFrom(is, want)...)
		b.Delete(FenceTable, s, missingFrom(want, is)...)
	}
	if err := f.conn.Commit(&b); err != nil {
		return err
	}
	return nil
}

// missingFrom returns an element for each key of b that a does not have, in
// order.
func missingFrom(a, b map[string]bool) []nft.Element {
	var out []nft.Element
	for _, k := range slices.Sorted(maps.Keys(b)) {
		if !a[k] {
			out = append(out, nft.Element{Key: k})
		}
	}
	return out
}

func digit(f ipfam.Family) string { return [...]string{ipfam.V4: "4", ipfam.V6: "6"}[f] }

func fenceSet(f ipfam.Family) string    { return "vips" + digit(f) }
func redirectSet(f ipfam.Family) string { return "redirects" + digit(f) }

// redirectAt is where a redirect names the destination it speaks about, in
// bytes behind the ICMP header's begin: in the packet it quotes for ICMP
// (RFC 792), in a field of its own for ICMPv6 (RFC 4861 §4.5).
func redirectAt(f ipfam.Family) uint32 { return [...]uint32{ipfam.V4: 8 + 16, ipfam.V6: 24}[f] }

func fenceTable() nft.Table {
	t := nft.Table{Name: FenceTable}
	early := nft.Chain{Name: "early", Hook: &nft.Hook{Type: "filter", Point: nft.Prerouting, Priority: nft.PriorityRaw}}
	ping := nft.Chain{Name: "ping", Hook: &nft.Hook{Type: "nat", Point: nft.Prerouting, Priority: nft.PriorityDNAT}}
	own := nft.Chain{Name: "ping-self", Hook: &nft.Hook{Type: "nat", Point: nft.Output, Priority: nft.PriorityDNAT}}
	out := nft.Chain{Name: "out", Hook: &nft.Hook{Type: "filter", Point: nft.Output, Priority: nft.PriorityFilter}}
	for _, fam := range []ipfam.Family{ipfam.V4, ipfam.V6} {
		t.Sets = append(t.Sets,
			nft.Set{Name: fenceSet(fam), Key: []nft.Type{nft.Addr(fam)}},
			nft.Set{Name: redirectSet(fam), Key: []nft.Type{nft.RawAddr(fam, redirectAt(fam))}})
		toVIP := nft.In(fenceSet(fam), nft.Daddr(fam))
		answer := nft.Say(toVIP, nft.EchoRequest(fam), nft.RedirectHere())
		ping.Rules = append(ping.Rules, answer)
		own.Rules = append(own.Rules, answer)
		out.Rules = append(out.Rules, nft.Say(
			nft.ICMP(fam, [...]uint8{ipfam.V4: nft.Redirect4, ipfam.V6: nft.Redirect6}[fam]),
			nft.In(redirectSet(fam), nft.Raw(fam, redirectAt(fam))),
			nft.Drop()))
	}
	early.Rules = []nft.Rule{nft.Say(
		nft.In(fenceSet(ipfam.V6), nft.Daddr(ipfam.V6)), nft.ICMP(ipfam.V6, nft.NeighbourSolicit6), nft.Drop())}
	t.Chains = []nft.Chain{early, ping, own, out}
	return t
}
