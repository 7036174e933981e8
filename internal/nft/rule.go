package nft

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/nfnl"
)

// Attributes that golang.org/x/sys/unix does not name
// (uapi/linux/netfilter/nf_tables.h).
const (
	ctOriginal  = 0 // IP_CT_DIR_ORIGINAL
	ctKeyDstIP  = 20
	ctKeyDstIP6 = 22

	firstRegister = 8 // NFT_REG32_00: registers of four bytes, as concatenations need them
	verdict       = unix.NFT_REG_VERDICT
)

// A Field is something a rule can read from a packet or about it.
type Field struct {
	typ    Type
	family *ipfam.Family // the packets that have the field; nil for all
	load   func(e *nfnl.Encoder, reg uint32)
}

// A Step is one part of a rule: a condition, or something that is done.
type Step struct {
	family *ipfam.Family
	proto  cluster.Protocol // the transport protocol it presupposes; 0 for any
	write  func(e *nfnl.Encoder)
}

// A Rule is what a chain does, in order: conditions, then statements.
type Rule struct {
	Comment string
	Steps   []Step
}

// Say makes a rule of steps.
func Say(steps ...Step) Rule { return Rule{Steps: steps} }

// expr appends one expression with its attributes.
func expr(e *nfnl.Encoder, name string, attrs func()) {
	item := e.Nest(unix.NFTA_LIST_ELEM)
	e.Text(unix.NFTA_EXPR_NAME, name)
	data := e.Nest(unix.NFTA_EXPR_DATA)
	attrs()
	e.End(data)
	e.End(item)
}

func value(e *nfnl.Encoder, attr uint16, v []byte) {
	n := e.Nest(attr)
	e.Bytes(unix.NFTA_DATA_VALUE, v)
	e.End(n)
}

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// Fields.

func payload(base, offset, size uint32) func(*nfnl.Encoder, uint32) {
	return func(e *nfnl.Encoder, reg uint32) {
		expr(e, "payload", func() {
			e.Uint32(unix.NFTA_PAYLOAD_DREG, reg)
			e.Uint32(unix.NFTA_PAYLOAD_BASE, base)
			e.Uint32(unix.NFTA_PAYLOAD_OFFSET, offset)
			e.Uint32(unix.NFTA_PAYLOAD_LEN, size)
		})
	}
}

func meta(key uint32) func(*nfnl.Encoder, uint32) {
	return func(e *nfnl.Encoder, reg uint32) {
		expr(e, "meta", func() {
			e.Uint32(unix.NFTA_META_KEY, key)
			e.Uint32(unix.NFTA_META_DREG, reg)
		})
	}
}

func ct(key uint32, original bool) func(*nfnl.Encoder, uint32) {
	return func(e *nfnl.Encoder, reg uint32) {
		expr(e, "ct", func() {
			e.Uint32(unix.NFTA_CT_DREG, reg)
			e.Uint32(unix.NFTA_CT_KEY, key)
			if original {
				e.Uint8(unix.NFTA_CT_DIRECTION, ctOriginal)
			}
		})
	}
}

// network describes where the addresses stand in the network header.
func network(f ipfam.Family) (saddr, daddr, size uint32) {
	if f == ipfam.V4 {
		return 12, 16, 4
	}
	return 8, 24, 16
}

// Saddr is the packet's source address.
func Saddr(f ipfam.Family) Field {
	at, _, size := network(f)
	return Field{typ: Addr(f), family: &f, load: payload(unix.NFT_PAYLOAD_NETWORK_HEADER, at, size)}
}

// Network is the prefix of a length, in bits, of the packet's source address.
// The length is from 1 to the whole address.
//
// A set of such prefixes stands in for a concatenation with an interval, which
// the `nft monitor` of nft 1.0.6 does not survive: its second event of such a
// set is a segmentation fault.
func Network(f ipfam.Family, bits int) Field {
	whole := Saddr(f)
	if bits == f.Bits() {
		return whole
	}
	size := f.Bits() / 8
	mask := make([]byte, size)
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return Field{typ: whole.typ, family: &f, load: func(e *nfnl.Encoder, reg uint32) {
		whole.load(e, reg)
		expr(e, "bitwise", func() {
			e.Uint32(unix.NFTA_BITWISE_SREG, reg)
			e.Uint32(unix.NFTA_BITWISE_DREG, reg)
			e.Uint32(unix.NFTA_BITWISE_LEN, uint32(size))
			value(e, unix.NFTA_BITWISE_MASK, mask)
			value(e, unix.NFTA_BITWISE_XOR, make([]byte, size))
		})
	}}
}

// Daddr is the packet's destination address.
func Daddr(f ipfam.Family) Field {
	_, at, size := network(f)
	return Field{typ: Addr(f), family: &f, load: payload(unix.NFT_PAYLOAD_NETWORK_HEADER, at, size)}
}

// Original is the destination that the first packet of the connection had
// before it was changed.
func Original(f ipfam.Family) Field {
	key := uint32(ctKeyDstIP)
	if f == ipfam.V6 {
		key = ctKeyDstIP6
	}
	// nft leaves out the check of the family here: the key carries it.
	return Field{typ: Addr(f), load: ct(key, true)}
}

// OriginalPort is the destination port that the first packet of the connection
// had. The rule must say the protocol first, see ProtoIs.
func OriginalPort() Field { return Field{typ: Port, load: ct(unix.NFT_CT_PROTO_DST, true)} }

// L4Proto is the packet's transport protocol, behind all extension headers.
func L4Proto() Field { return Field{typ: Proto, load: meta(unix.NFT_META_L4PROTO)} }

// Dport is the destination port of any transport protocol that has ports.
func Dport() Field {
	return Field{typ: Port, load: payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2)}
}

// Priority is the packet's queueing priority. Rules keep what they found out in
// it from one lookup to the next: unlike the packet's mark it takes no part in
// routing, and unlike a register nft can print and read what uses it.
func Priority() Field { return Field{typ: ClassID, load: meta(unix.NFT_META_PRIORITY)} }

// Raw is an address that stands at an offset, in bytes, behind the transport
// header.
func Raw(f ipfam.Family, offset uint32) Field {
	t := RawAddr(f, offset)
	return Field{typ: t, load: payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, offset, uint32(t.size))}
}

// concat loads fields one behind the other and returns what follows the last.
func concat(e *nfnl.Encoder, reg uint32, fields []Field) (next uint32) {
	for _, f := range fields {
		f.load(e, reg)
		reg += uint32(f.typ.padded() / 4)
	}
	return reg
}

func familyOf(fields []Field) *ipfam.Family {
	for _, f := range fields {
		if f.family != nil {
			return f.family
		}
	}
	return nil
}

// Conditions.

func cmp(e *nfnl.Encoder, op uint32, v []byte) {
	expr(e, "cmp", func() {
		e.Uint32(unix.NFTA_CMP_SREG, firstRegister)
		e.Uint32(unix.NFTA_CMP_OP, op)
		value(e, unix.NFTA_CMP_DATA, v)
	})
}

func lookup(e *nfnl.Encoder, set string, dreg *uint32, invert bool) {
	expr(e, "lookup", func() {
		e.Text(unix.NFTA_LOOKUP_SET, set)
		e.Uint32(unix.NFTA_LOOKUP_SREG, firstRegister)
		if dreg != nil {
			e.Uint32(unix.NFTA_LOOKUP_DREG, *dreg)
		}
		if invert {
			e.Uint32(unix.NFTA_LOOKUP_FLAGS, unix.NFT_LOOKUP_F_INV)
		}
	})
}

// In holds when the fields are an element of the set.
func In(set string, fields ...Field) Step { return in(set, false, fields) }

// NotIn holds when the fields are no element of the set.
func NotIn(set string, fields ...Field) Step { return in(set, true, fields) }

func in(set string, invert bool, fields []Field) Step {
	return Step{family: familyOf(fields), write: func(e *nfnl.Encoder) {
		concat(e, firstRegister, fields)
		lookup(e, set, nil, invert)
	}}
}

// ProtoIs holds for packets of a transport protocol.
func ProtoIs(p cluster.Protocol) Step {
	return Step{write: func(e *nfnl.Encoder) {
		meta(unix.NFT_META_L4PROTO)(e, firstRegister)
		cmp(e, unix.NFT_CMP_EQ, []byte{byte(p)})
	}}
}

// The types of ICMPv6 messages that rules speak of (RFC 4861, RFC 4443).
const (
	EchoRequest6      = 128
	NeighbourSolicit6 = 135
	Redirect6         = 137
)

// The types of ICMP messages that rules speak of (RFC 792).
const (
	Redirect4    = 5
	EchoRequest4 = 8
)

// icmp is the protocol number of each family's ICMP.
func icmp(f ipfam.Family) cluster.Protocol {
	return [...]cluster.Protocol{ipfam.V4: unix.IPPROTO_ICMP, ipfam.V6: unix.IPPROTO_ICMPV6}[f]
}

// ICMP holds for ICMP messages of a type, of the family's ICMP.
func ICMP(f ipfam.Family, typ uint8) Step {
	return Step{family: &f, proto: icmp(f), write: func(e *nfnl.Encoder) {
		payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1)(e, firstRegister)
		cmp(e, unix.NFT_CMP_EQ, []byte{typ})
	}}
}

// EchoRequest holds for the pings of a family.
func EchoRequest(f ipfam.Family) Step {
	return ICMP(f, [...]uint8{ipfam.V4: EchoRequest4, ipfam.V6: EchoRequest6}[f])
}

// flags holds when one of the bits is set in what load gives.
func flags(load func(*nfnl.Encoder, uint32), bits uint32) Step {
	return Step{write: func(e *nfnl.Encoder) {
		load(e, firstRegister)
		expr(e, "bitwise", func() {
			e.Uint32(unix.NFTA_BITWISE_SREG, firstRegister)
			e.Uint32(unix.NFTA_BITWISE_DREG, firstRegister)
			e.Uint32(unix.NFTA_BITWISE_LEN, 4)
			value(e, unix.NFTA_BITWISE_MASK, native(bits))
			value(e, unix.NFTA_BITWISE_XOR, native(0))
		})
		cmp(e, unix.NFT_CMP_NEQ, native(0))
	}}
}

// The states and statuses of a connection that rules speak of
// (include/net/netfilter/nf_conntrack.h: NF_CT_STATE_BIT; uapi: IPS_*).
const (
	stateInvalid = 1
	statusDNAT   = 1 << 5
)

// StateInvalid holds for packets that conntrack could not give to a connection.
func StateInvalid() Step { return flags(ct(unix.NFT_CT_STATE, false), stateInvalid) }

// WasDNAT holds for the packets of a connection whose destination was changed.
func WasDNAT() Step { return flags(ct(unix.NFT_CT_STATUS, false), statusDNAT) }

// FromThisHost holds when the source address is one of the host's own.
func FromThisHost() Step { return fib(unix.NFTA_FIB_F_SADDR) }

// ToThisHost holds when the destination address is one of the host's own.
func ToThisHost() Step { return fib(unix.NFTA_FIB_F_DADDR) }

func fib(which uint32) Step {
	return Step{write: func(e *nfnl.Encoder) {
		expr(e, "fib", func() {
			e.Uint32(unix.NFTA_FIB_DREG, firstRegister)
			e.Uint32(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE)
			e.Uint32(unix.NFTA_FIB_FLAGS, which)
		})
		cmp(e, unix.NFT_CMP_EQ, native(unix.RTN_LOCAL))
	}}
}

// Statements.

func setPriority(e *nfnl.Encoder) {
	expr(e, "meta", func() {
		e.Uint32(unix.NFTA_META_KEY, unix.NFT_META_PRIORITY)
		e.Uint32(unix.NFTA_META_SREG, firstRegister)
	})
}

// SetPriority sets the packet's priority.
func SetPriority(m uint32) Step {
	return Step{write: func(e *nfnl.Encoder) {
		expr(e, "immediate", func() {
			e.Uint32(unix.NFTA_IMMEDIATE_DREG, firstRegister)
			value(e, unix.NFTA_IMMEDIATE_DATA, native(m))
		})
		setPriority(e)
	}}
}

// SetPriorityRandom sets the packet's priority to a number drawn evenly from
// [offset, offset+n). n is at least 1.
func SetPriorityRandom(n, offset uint32) Step {
	return Step{write: func(e *nfnl.Encoder) {
		expr(e, "numgen", func() {
			e.Uint32(unix.NFTA_NG_DREG, firstRegister)
			e.Uint32(unix.NFTA_NG_MODULUS, n)
			e.Uint32(unix.NFTA_NG_TYPE, unix.NFT_NG_RANDOM)
			e.Uint32(unix.NFTA_NG_OFFSET, offset)
		})
		setPriority(e)
	}}
}

// SetPriorityFrom sets the packet's priority to what the map gives for the fields. When
// it has no such element the rule ends here and the priority
// stays.
func SetPriorityFrom(m string, fields ...Field) Step {
	return Step{family: familyOf(fields), write: func(e *nfnl.Encoder) {
		concat(e, firstRegister, fields)
		to := uint32(firstRegister)
		lookup(e, m, &to, false)
		setPriority(e)
	}}
}

// Dispatch goes to the chain that the map gives for the packet's priority,
// if any.
func Dispatch(m string) Step {
	return Step{write: func(e *nfnl.Encoder) {
		meta(unix.NFT_META_PRIORITY)(e, firstRegister)
		to := uint32(verdict)
		lookup(e, m, &to, false)
	}}
}

// DNAT sends the connection to the address and port that the map gives for the
// fields. When it has no such element the rule ends here.
func DNAT(f ipfam.Family, m string, fields ...Field) Step {
	return Step{family: &f, write: func(e *nfnl.Encoder) {
		concat(e, firstRegister, fields)
		to := uint32(firstRegister)
		lookup(e, m, &to, false)
		expr(e, "nat", func() {
			e.Uint32(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT)
			e.Uint32(unix.NFTA_NAT_FAMILY, uint32(f.AF()))
			e.Uint32(unix.NFTA_NAT_REG_ADDR_MIN, firstRegister)
			e.Uint32(unix.NFTA_NAT_REG_PROTO_MIN, firstRegister+uint32(Addr(f).padded()/4))
		})
	}}
}

// Masquerade gives the connection this host's address as its source, and a
// port drawn at random: ports counted up collide when many connections begin
// at once on several CPUs.
func Masquerade() Step {
	const fullyRandom = 1 << 4 // NF_NAT_RANGE_PROTO_RANDOM_FULLY
	return Step{write: func(e *nfnl.Encoder) {
		expr(e, "masq", func() { e.Uint32(unix.NFTA_MASQ_FLAGS, fullyRandom) })
	}}
}

// RedirectHere sends the packet to this host itself.
func RedirectHere() Step {
	return Step{write: func(e *nfnl.Encoder) { expr(e, "redir", func() {}) }}
}

// Reset refuses a TCP connection with a reset, which the kernel does not limit
// in rate as it does ICMP errors. The rule needs no other check of protocol.
func Reset() Step {
	return Step{proto: cluster.TCP, write: func(e *nfnl.Encoder) {
		expr(e, "reject", func() {
			e.Uint32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_TCP_RST)
			e.Uint8(unix.NFTA_REJECT_ICMP_CODE, 0)
		})
	}}
}

// Reject answers with the ICMP error «port unreachable» of the packet's family.
func Reject() Step {
	return Step{write: func(e *nfnl.Encoder) {
		expr(e, "reject", func() {
			e.Uint32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_ICMPX_UNREACH)
			e.Uint8(unix.NFTA_REJECT_ICMP_CODE, unix.NFT_REJECT_ICMPX_PORT_UNREACH)
		})
	}}
}

// Count counts the packets that come this far.
func Count() Step {
	return Step{write: func(e *nfnl.Encoder) { expr(e, "counter", func() {}) }}
}

func verdictStep(code int32, chain string) Step {
	return Step{write: func(e *nfnl.Encoder) {
		expr(e, "immediate", func() {
			e.Uint32(unix.NFTA_IMMEDIATE_DREG, verdict)
			writeVerdict(e, unix.NFTA_IMMEDIATE_DATA, code, chain)
		})
	}}
}

func writeVerdict(e *nfnl.Encoder, attr uint16, code int32, chain string) {
	data := e.Nest(attr)
	v := e.Nest(unix.NFTA_DATA_VERDICT)
	e.Uint32(unix.NFTA_VERDICT_CODE, uint32(code))
	if chain != "" {
		e.Text(unix.NFTA_VERDICT_CHAIN, chain)
	}
	e.End(v)
	e.End(data)
}

// Drop drops the packet.
func Drop() Step { return verdictStep(0, "") } // NF_DROP

// Accept ends this base chain for the packet.
func Accept() Step { return verdictStep(1, "") } // NF_ACCEPT

// Return goes back to the chain that jumped here.
func Return() Step { return verdictStep(unix.NFT_RETURN, "") }

// Jump runs another chain and comes back.
func Jump(chain string) Step { return verdictStep(unix.NFT_JUMP, chain) }

// GoTo runs another chain and does not come back here.
func GoTo(chain string) Step { return verdictStep(unix.NFT_GOTO, chain) }

// learn changes a dynamic map from the packet path.
func learn(op uint32, m string, timeout time.Duration, v Field, key []Field) Step {
	return Step{family: familyOf(key), write: func(e *nfnl.Encoder) {
		next := concat(e, firstRegister, key)
		v.load(e, next)
		expr(e, "dynset", func() {
			e.Text(unix.NFTA_DYNSET_SET_NAME, m)
			e.Uint32(unix.NFTA_DYNSET_OP, op)
			e.Uint32(unix.NFTA_DYNSET_SREG_KEY, firstRegister)
			e.Uint32(unix.NFTA_DYNSET_SREG_DATA, next)
			if timeout > 0 {
				e.Uint64(unix.NFTA_DYNSET_TIMEOUT, uint64(timeout.Milliseconds()))
			}
		})
	}}
}

const dynsetDelete = 2 // NFT_DYNSET_OP_DELETE

// Remember adds key and value to a dynamic map for a time. When the map is
// full, the rule ends here.
func Remember(m string, timeout time.Duration, v Field, key ...Field) Step {
	return learn(unix.NFT_DYNSET_OP_ADD, m, timeout, v, key)
}

// Refresh begins the time of a remembered key anew.
func Refresh(m string, timeout time.Duration, v Field, key ...Field) Step {
	return learn(unix.NFT_DYNSET_OP_UPDATE, m, timeout, v, key)
}

// Forget removes a remembered key.
func Forget(m string, v Field, key ...Field) Step {
	return learn(dynsetDelete, m, 0, v, key)
}

// encode returns the rule's expressions as the kernel wants them. Checks of
// family and protocol that steps presuppose are added once, where nft would
// write them.
func (r Rule) encode() []byte {
	var e nfnl.Encoder
	var family *ipfam.Family
	var proto cluster.Protocol
	for _, s := range r.Steps {
		if s.family != nil && (family == nil || *family != *s.family) {
			family = s.family
			meta(unix.NFT_META_NFPROTO)(&e, firstRegister)
			cmp(&e, unix.NFT_CMP_EQ, []byte{byte(family.AF())})
		}
		if s.proto != 0 && s.proto != proto {
			proto = s.proto
			ProtoIs(proto).write(&e)
		}
		s.write(&e)
	}
	return e.B
}
