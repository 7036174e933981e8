package proxy

import "github.com/clarion-lb/clarion/internal/nft"

// GuardTable is the name of a table that does nothing but be there. The kernel
// translates the addresses of established connections only while some chain
// of type nat exists at each hook. `nft flush ruleset` takes the chains of our
// table; until they are back, answers would leave with the endpoint's own
// address, and the client's reset would end a healthy connection. This table is
// owned by our connection to the kernel, so a flush leaves it alone, and it
// goes when the process goes.
const GuardTable = "clarion-guard"

func guardTable(b *nft.Batch) {
	b.AddOwned(GuardTable)
	for _, c := range []struct {
		name     string
		at       nft.Point
		priority int32
	}{
		{"prerouting", nft.Prerouting, nft.PriorityDNAT},
		{"output", nft.Output, nft.PriorityDNAT},
		{"input", nft.Input, nft.PrioritySNAT},
		{"postrouting", nft.Postrouting, nft.PrioritySNAT},
	} {
		b.AddChain(GuardTable, nft.Chain{
			Name: c.name, Hook: &nft.Hook{Type: "nat", Point: c.at, Priority: c.priority},
			// A chain alone does not keep connection tracking at work, a rule that asks
			// for it does (measured; nf_ct_netns_get is called by expressions).
			Rules: []nft.Rule{nft.Say(nft.StateInvalid(), nft.Return())},
		})
	}
}

// guard makes the guard if it is not there. The rules work without it, so that
// it cannot be made is told once and is no failure.
func (e *engine) guard() {
	if e.guarded {
		return
	}
	var b nft.Batch
	guardTable(&b)
	if err := e.conn.Commit(&b); err != nil {
		e.once("guard", func() {
			e.log.Warn("established connections are not guarded against `nft flush ruleset`; Linux 5.12 is needed, and no other proxy at work",
				"table", GuardTable, "err", err)
		})
		return
	}
	e.guarded = true
}
