// Package nft declares nftables rules as values and brings the kernel to them.
// It speaks netlink itself and runs no program.
//
// Only expressions that nft can both print and read are offered: a rule that
// loads a register in a way nft cannot express makes the user's own
// `nft list ruleset` abort (docs/decisions/0003-flat-nftables-maps.md).
//
// Read value.go (types and elements), rule.go (what a rule can say), table.go
// (what a table is), then batch.go and conn.go (how it gets into the kernel).
package nft

import (
	"encoding/binary"
	"net/netip"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
)

// A Type is the type of one field of a key or a value, as nft names it.
type Type struct {
	name string
	id   uint32 // nft's number for it (include/datatype.h of nftables)
	size int    // bytes
	host bool   // kept in the byte order of the machine
	raw  uint32 // bit offset in the transport header, for a field that has no name
}

// The types that Clarion's tables use.
var (
	Proto   = Type{name: "inet_proto", id: 12, size: 1}
	Port    = Type{name: "inet_service", id: 13, size: 2}
	ClassID = Type{name: "classid", id: 23, size: 4, host: true}
	Goto    = Type{name: "verdict", id: 0xffffff00, size: 0} // the value is the name of a chain
)

// Addr returns the type of an address of a family.
func Addr(f ipfam.Family) Type {
	return [...]Type{
		ipfam.V4: {name: "ipv4_addr", id: 7, size: 4},
		ipfam.V6: {name: "ipv6_addr", id: 8, size: 16},
	}[f]
}

// RawAddr returns the type of an address of a family that stands at an offset,
// in bytes, behind the transport header. nft writes it as @th,bits,length and
// knows it by an integer, so a set of it cannot be shared with other fields.
func RawAddr(f ipfam.Family, offset uint32) Type {
	return Type{name: "integer", id: 4, size: f.Bits() / 8, raw: offset * 8}
}

// padded returns how much room a type has in a concatenation: registers have
// four bytes.
func (t Type) padded() int { return (t.size + 3) &^ 3 }

// A Val is a key or a value in the making: fields, each padded to four bytes,
// as the kernel keeps a concatenation. A Val of one field is cut to the
// field's size when it is written.
type Val []byte

// Addr appends an address.
func (v Val) Addr(a netip.Addr) Val {
	if a.Is4() {
		b := a.As4()
		return append(v, b[:]...)
	}
	b := a.As16()
	return append(v, b[:]...)
}

// Proto appends a transport protocol.
func (v Val) Proto(p cluster.Protocol) Val { return append(v, byte(p), 0, 0, 0) }

// Port appends a port.
func (v Val) Port(p uint16) Val { return append(v, byte(p>>8), byte(p), 0, 0) }

// Number appends a number in the machine's byte order, as a ClassID is.
func (v Val) Number(m uint32) Val { return binary.NativeEndian.AppendUint32(v, m) }

// An Element is one entry of a set or a map. Its fields are strings so that
// they are immutable and comparable; Val makes them.
type Element struct {
	Key     string
	Bound   bool   // the first key behind an interval, in sets of one field; see Interval
	Data    string // what a map gives for the key; the chain's name where it gives a verdict
	Comment string // for people who list the table; at most 120 bytes
}

// Interval returns the elements of the interval from first to last, both
// included, of a set of one field. The kernel keeps such an interval as two
// elements: its first key, and a bound behind its last one.
func Interval(first, last netip.Addr) []Element {
	out := []Element{{Key: string(Val{}.Addr(first))}}
	if next := last.Next(); next.IsValid() {
		out = append(out, Element{Key: string(Val{}.Addr(next)), Bound: true})
	}
	return out
}

// KeyAddr returns the address that begins at a byte of a key or a value.
func KeyAddr(s string, at int, f ipfam.Family) netip.Addr {
	if f == ipfam.V4 {
		return netip.AddrFrom4([4]byte([]byte(s[at : at+4])))
	}
	return netip.AddrFrom16([16]byte([]byte(s[at : at+16])))
}

// KeyPort returns the port at a byte of a key or a value.
func KeyPort(s string, at int) uint16 { return uint16(s[at])<<8 | uint16(s[at+1]) }

// KeyNumber returns the number at a byte of a key or a value.
func KeyNumber(s string, at int) uint32 {
	return binary.NativeEndian.Uint32([]byte(s[at : at+4]))
}

// Raw appends what another Val has.
func (v Val) Raw(s string) Val { return append(v, s...) }
