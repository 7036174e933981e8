package nft

import (
	"crypto/sha256"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/nfnl"
)

// A Table is everything that stands in one table of the inet family but the
// elements of its sets, which change far more often. The table belongs to
// whoever declares it: what is in it and not declared is removed.
type Table struct {
	Name   string
	Sets   []Set
	Chains []Chain
}

// A Set is a set, or a map when Data is given.
type Set struct {
	Name     string
	Key      []Type
	Data     []Type // what a map gives; Goto alone makes a map of verdicts
	Interval bool   // elements are ranges; the key has one field, see Network for why
	Dynamic  bool   // elements are added by rules, and go when their time is over
	Size     uint32 // how many elements it may hold; 0 for no limit
	Comment  string
}

// A Chain is a list of rules.
type Chain struct {
	Name  string
	Hook  *Hook // where packets come in; nil for a chain that others jump to
	Rules []Rule
}

// A Hook says which packets come to a chain, and when.
type Hook struct {
	Type     string // "nat" or "filter"
	Point    Point
	Priority int32 // lower comes first
}

// A Point is a place on a packet's way through the kernel.
type Point uint32

// The points of the inet family (uapi/linux/netfilter.h).
const (
	Prerouting  Point = unix.NF_INET_PRE_ROUTING
	Input       Point = unix.NF_INET_LOCAL_IN
	Forward     Point = unix.NF_INET_FORWARD
	Output      Point = unix.NF_INET_LOCAL_OUT
	Postrouting Point = unix.NF_INET_POST_ROUTING
)

// Priorities at which the kernel's own work stands, to place chains by
// (uapi/linux/netfilter_ipv4.h: enum nf_ip_hook_priorities).
const (
	PriorityRaw    = -300
	PriorityDNAT   = -100
	PriorityFilter = 0
	PrioritySNAT   = 100
)

// The bits of a set's declaration (uapi/linux/netfilter/nf_tables.h).
const (
	setInterval = 0x4
	setMap      = 0x8
	setTimeout  = 0x10
	setEval     = 0x20
)

// The records in the user data that nft keeps beside a set, an element and a
// rule (libnftnl/udata.h), and one of our own.
const (
	udataKeyOrder    = 0
	udataDataOrder   = 1
	udataKeyTypeof   = 3
	udataSetComment  = 7 // NFTNL_UDATA_SET_COMMENT
	udataComment     = 0 // of an element and of a rule
	udataRuleDigest  = 200
	byteOrderHost    = 1
	byteOrderNetwork = 2
)

// width returns the size of a key or a value in bytes.
func width(types []Type) int {
	if len(types) == 1 {
		return types[0].size
	}
	n := 0
	for _, t := range types {
		n += t.padded()
	}
	return n
}

// id returns nft's number for a type: six bits for each field of it.
func id(types []Type) uint32 {
	if len(types) == 1 {
		return types[0].id
	}
	var n uint32
	for _, t := range types {
		n = n<<6 | t.id
	}
	return n
}

func (s Set) isMap() bool     { return len(s.Data) > 0 }
func (s Set) isVerdict() bool { return len(s.Data) == 1 && s.Data[0].id == Goto.id }

func (s Set) flags() uint32 {
	var f uint32
	for _, bit := range []struct {
		set bool
		bit uint32
	}{
		{s.Interval, setInterval},
		{s.isMap(), setMap},
		{s.Dynamic, setTimeout | setEval},
	} {
		if bit.set {
			f |= bit.bit
		}
	}
	return f
}

// udata returns the notes that nft needs to print the set's elements.
func (s Set) udata() []byte {
	var b []byte
	record := func(typ byte, v []byte) { b = append(append(b, typ, byte(len(v))), v...) }
	order := func(typ byte, types []Type) {
		o := uint32(byteOrderNetwork)
		if len(types) == 1 && types[0].host {
			o = byteOrderHost
		}
		record(typ, native(o))
	}
	if s.Key[0].raw > 0 {
		// What nft 1.0.6 writes for «typeof @th,OFFSET,LENGTH»: an expression of
		// type payload (7) with, nested: description unknown (0), base (2, transport
		// is 3), offset and length in bits.
		word := func(typ byte, v uint32) []byte { return append([]byte{typ, 4}, native(v)...) }
		inner := append(word(0, 0), word(1, 0)...)
		inner = append(inner, word(2, 3)...)
		inner = append(inner, word(3, s.Key[0].raw)...)
		inner = append(inner, word(4, uint32(s.Key[0].size)*8)...)
		typeof := append(word(0, 7), 1, byte(len(inner)))
		order(udataKeyOrder, s.Key)
		record(udataKeyTypeof, append(typeof, inner...))
	} else {
		order(udataKeyOrder, s.Key)
	}
	if s.isMap() && !s.isVerdict() {
		order(udataDataOrder, s.Data)
	}
	if s.Comment != "" {
		record(udataSetComment, append([]byte(s.Comment), 0))
	}
	return b
}

// encode appends the attributes of a set's declaration.
func (s Set) encode(e *nfnl.Encoder, table string, ref uint32) {
	e.Text(unix.NFTA_SET_TABLE, table)
	e.Text(unix.NFTA_SET_NAME, s.Name)
	e.Uint32(unix.NFTA_SET_FLAGS, s.flags())
	e.Uint32(unix.NFTA_SET_KEY_TYPE, id(s.Key))
	e.Uint32(unix.NFTA_SET_KEY_LEN, uint32(width(s.Key)))
	if s.isMap() {
		e.Uint32(unix.NFTA_SET_DATA_TYPE, id(s.Data))
		e.Uint32(unix.NFTA_SET_DATA_LEN, uint32(width(s.Data)))
	}
	desc := e.Nest(unix.NFTA_SET_DESC)
	if s.Size > 0 {
		e.Uint32(unix.NFTA_SET_DESC_SIZE, s.Size)
	}
	e.End(desc)
	e.Uint32(unix.NFTA_SET_ID, ref)
	e.Bytes(unix.NFTA_SET_USERDATA, s.udata())
}

// encode appends the attributes of a chain's declaration.
func (c Chain) encode(e *nfnl.Encoder, table string) {
	e.Text(unix.NFTA_CHAIN_TABLE, table)
	e.Text(unix.NFTA_CHAIN_NAME, c.Name)
	if c.Hook == nil {
		return
	}
	hook := e.Nest(unix.NFTA_CHAIN_HOOK)
	e.Uint32(unix.NFTA_HOOK_HOOKNUM, uint32(c.Hook.Point))
	e.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(c.Hook.Priority))
	e.End(hook)
	e.Uint32(unix.NFTA_CHAIN_POLICY, 1) // NF_ACCEPT
	e.Text(unix.NFTA_CHAIN_TYPE, c.Hook.Type)
}

// udata returns the notes beside a rule: its comment, which nft prints, and
// the digest of its expressions, by which the rule is known again. The kernel
// gives expressions back in a form of its own, so they cannot be compared;
// whoever replaces a rule by hand loses the digest.
func (r Rule) udata() []byte {
	var b []byte
	if r.Comment != "" {
		b = append(b, udataComment, byte(len(r.Comment)+1))
		b = append(append(b, r.Comment...), 0)
	}
	sum := sha256.Sum256(r.encode())
	b = append(b, udataRuleDigest, 8)
	return append(b, sum[:8]...)
}

// encodeElement appends one element of a set.
func (s Set) encodeElement(e *nfnl.Encoder, el Element) {
	item := e.Nest(unix.NFTA_LIST_ELEM)
	put := func(attr uint16, v string, types []Type) {
		n := e.Nest(attr)
		e.String(unix.NFTA_DATA_VALUE, v[:min(len(v), width(types))])
		e.End(n)
	}
	if el.Bound {
		e.Uint32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	put(unix.NFTA_SET_ELEM_KEY, el.Key, s.Key)
	switch {
	case el.Data == "":
	case s.isVerdict():
		writeVerdict(e, unix.NFTA_SET_ELEM_DATA, unix.NFT_GOTO, el.Data)
	default:
		put(unix.NFTA_SET_ELEM_DATA, el.Data, s.Data)
	}
	if el.Comment != "" {
		n := min(len(el.Comment), 120)
		b := append([]byte{udataComment, byte(n + 1)}, el.Comment[:n]...)
		e.Bytes(unix.NFTA_SET_ELEM_USERDATA, append(b, 0))
	}
	e.End(item)
}

// decodeElement reads one element as the kernel lists it.
func (s Set) decodeElement(b []byte) (Element, error) {
	var el Element
	err := nfnl.Walk(b, func(typ uint16, v []byte) error {
		switch typ {
		case unix.NFTA_SET_ELEM_KEY:
			el.Key = pad(nfnl.Find(v, unix.NFTA_DATA_VALUE))
		case unix.NFTA_SET_ELEM_FLAGS:
			el.Bound = nfnl.Uint32(v)&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_DATA:
			if s.isVerdict() {
				el.Data = nfnl.Text(nfnl.Find(v, unix.NFTA_DATA_VERDICT, unix.NFTA_VERDICT_CHAIN))
			} else {
				el.Data = pad(nfnl.Find(v, unix.NFTA_DATA_VALUE))
			}
		case unix.NFTA_SET_ELEM_USERDATA:
			el.Comment = nfnl.Text(record(v, udataComment))
		}
		return nil
	})
	return el, err
}

// pad brings a value of one field to the length that Val gives it.
func pad(v []byte) string {
	var zero [4]byte
	return string(append(v[:len(v):len(v)], zero[:(4-len(v)%4)%4]...))
}

// record returns one record of user data, or nil.
func record(b []byte, typ byte) []byte {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		if b[0] == typ {
			return b[2 : 2+int(b[1])]
		}
		b = b[2+int(b[1]):]
	}
	return nil
}
