package nft

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/nfnl"
)

// A Batch collects changes that come into force together, or not at all. The
// zero value is an empty batch.
type Batch struct {
	e    nfnl.Encoder
	did  []op
	sets uint32
}

// An op tells of one message, for errors.
type op struct {
	do, what, table string
	n               int
}

func (o op) String() string {
	if o.n > 0 {
		return fmt.Sprintf("%s %d elements of %s of table %s", o.do, o.n, o.what, o.table)
	}
	return fmt.Sprintf("%s %s of table %s", o.do, o.what, o.table)
}

// Empty reports whether nothing would change.
func (b *Batch) Empty() bool { return len(b.did) == 0 }

// Len returns the size of the batch in bytes.
func (b *Batch) Len() int { return len(b.e.B) }

// Limits of one message. An attribute's length has 16 bits; at 500 elements
// the largest ones, with comments, stay below.
const (
	maxElements = 500
	maxMessage  = 60 << 10
)

func (b *Batch) message(msg int, flags uint16, did op, write func()) {
	start := nfnl.AppendHeader(&b.e, nfnl.Header{
		Type: nfnl.Make(unix.NFNL_SUBSYS_NFTABLES, msg), Flags: flags, Family: unix.NFPROTO_INET,
	})
	write()
	nfnl.CloseMessage(&b.e, start)
	b.did = append(b.did, did)
}

// AddTable makes an empty table, or leaves the one that is there.
func (b *Batch) AddTable(table string) { b.addTable(table, 0) }

// AddOwned makes a table that only this connection can change, and that goes
// when the connection closes. Not even `nft flush ruleset` takes it. It needs
// Linux 5.12, and fails with unix.EPERM while somebody else has the table.
func (b *Batch) AddOwned(table string) {
	const owner = 2 // NFT_TABLE_F_OWNER
	b.addTable(table, owner)
}

func (b *Batch) addTable(table string, flags uint32) {
	b.message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, op{do: "add", what: "the whole", table: table}, func() {
		b.e.Text(unix.NFTA_TABLE_NAME, table)
		b.e.Uint32(unix.NFTA_TABLE_FLAGS, flags)
	})
}

// DeleteTable removes a table with all that is in it. It must exist.
func (b *Batch) DeleteTable(table string) {
	b.message(unix.NFT_MSG_DELTABLE, 0, op{do: "delete", what: "the whole", table: table}, func() {
		b.e.Text(unix.NFTA_TABLE_NAME, table)
	})
}

// AddSet makes a set. If it is there and of the same types, its size becomes
// what s says (since Linux 6.4; older kernels leave the size as it is).
func (b *Batch) AddSet(table string, s Set) {
	b.sets++
	b.message(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, op{do: "add", what: "set " + s.Name, table: table}, func() {
		s.encode(&b.e, table, b.sets)
	})
}

// DeleteSet removes a set that no rule uses.
func (b *Batch) DeleteSet(table, name string) {
	b.message(unix.NFT_MSG_DELSET, 0, op{do: "delete", what: "set " + name, table: table}, func() {
		b.e.Text(unix.NFTA_SET_TABLE, table)
		b.e.Text(unix.NFTA_SET_NAME, name)
	})
}

// AddChain makes a chain with its rules, which go behind those that are there.
// Everything the rules name must exist before them.
func (b *Batch) AddChain(table string, c Chain) {
	b.addChain(table, c)
	b.addRules(table, c)
}

func (b *Batch) addChain(table string, c Chain) {
	b.message(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, op{do: "add", what: "chain " + c.Name, table: table}, func() {
		c.encode(&b.e, table)
	})
}

func (b *Batch) addRules(table string, c Chain) {
	for i, r := range c.Rules {
		what := fmt.Sprintf("rule %d of chain %s", i+1, c.Name)
		b.message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, op{do: "add", what: what, table: table}, func() {
			b.e.Text(unix.NFTA_RULE_TABLE, table)
			b.e.Text(unix.NFTA_RULE_CHAIN, c.Name)
			b.e.Bytes(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, r.encode())
			b.e.Bytes(unix.NFTA_RULE_USERDATA, r.udata())
		})
	}
}

// Rewrite gives a chain that is there the rules of c instead of those it has.
func (b *Batch) Rewrite(table string, c Chain) {
	b.flushChain(table, c.Name)
	b.addRules(table, c)
}

// flushChain removes all rules of a chain.
func (b *Batch) flushChain(table, chain string) {
	b.message(unix.NFT_MSG_DELRULE, 0, op{do: "delete", what: "the rules of chain " + chain, table: table}, func() {
		b.e.Text(unix.NFTA_RULE_TABLE, table)
		b.e.Text(unix.NFTA_RULE_CHAIN, chain)
	})
}

// DeleteChain removes a chain that nothing jumps to.
func (b *Batch) DeleteChain(table, chain string) {
	b.message(unix.NFT_MSG_DELCHAIN, 0, op{do: "delete", what: "chain " + chain, table: table}, func() {
		b.e.Text(unix.NFTA_CHAIN_TABLE, table)
		b.e.Text(unix.NFTA_CHAIN_NAME, chain)
	})
}

// Add adds elements to a set. An element that is there with the same value is
// left as it is; with another value, the whole batch is refused.
func (b *Batch) Add(table string, s Set, elements ...Element) {
	b.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, "add", table, s, elements)
}

// Delete removes elements from a set. Each must be there.
func (b *Batch) Delete(table string, s Set, elements ...Element) {
	b.elements(unix.NFT_MSG_DELSETELEM, 0, "delete", table, s, elements)
}

func (b *Batch) elements(msg int, flags uint16, do, table string, s Set, elements []Element) {
	for len(elements) > 0 {
		n := 0
		did := op{do: do, what: "set " + s.Name, table: table}
		start := nfnl.AppendHeader(&b.e, nfnl.Header{
			Type: nfnl.Make(unix.NFNL_SUBSYS_NFTABLES, msg), Flags: flags, Family: unix.NFPROTO_INET,
		})
		b.e.Text(unix.NFTA_SET_ELEM_LIST_TABLE, table)
		b.e.Text(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
		list := b.e.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		for n < len(elements) && n < maxElements && len(b.e.B)-start < maxMessage {
			s.encodeElement(&b.e, elements[n])
			n++
		}
		b.e.End(list)
		nfnl.CloseMessage(&b.e, start)
		did.n = n
		b.did = append(b.did, did)
		elements = elements[n:]
	}
}

// Append adds the changes of another batch behind those of b.
func (b *Batch) Append(other *Batch) {
	b.e.B = append(b.e.B, other.e.B...)
	b.did = append(b.did, other.did...)
	b.sets += other.sets
}
