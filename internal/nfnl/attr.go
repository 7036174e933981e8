// Package nfnl speaks netlink to the kernel's netfilter subsystems (nftables
// and conntrack): attributes, and a socket with requests, dumps, transactions
// and notifications.
//
// Read attr.go (bytes, no I/O), then conn.go (the socket), then listen.go
// (what the kernel says unasked).
package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The flags that share a netlink attribute's type field (uapi/linux/netlink.h).
const (
	nested   = 1 << 15
	typeMask = 1<<14 - 1
)

// An Encoder appends netlink attributes to B. Numbers are written big-endian,
// as every netfilter attribute wants them (uapi/linux/netfilter/nfnetlink.h).
// The zero value is ready.
type Encoder struct{ B []byte }

// Bytes appends an attribute with a raw payload.
func (e *Encoder) Bytes(typ uint16, v []byte) {
	e.head(typ, len(v))
	e.B = append(e.B, v...)
	e.pad()
}

// Text appends an attribute with a string and the NUL that ends it.
func (e *Encoder) Text(typ uint16, v string) {
	e.head(typ, len(v)+1)
	e.B = append(append(e.B, v...), 0)
	e.pad()
}

// String appends an attribute whose payload is the bytes of v, without a NUL.
func (e *Encoder) String(typ uint16, v string) {
	e.head(typ, len(v))
	e.B = append(e.B, v...)
	e.pad()
}

// Uint8 appends a one-byte attribute.
func (e *Encoder) Uint8(typ uint16, v uint8) {
	e.head(typ, 1)
	e.B = append(e.B, v)
	e.pad()
}

// Uint16 appends a big-endian number.
func (e *Encoder) Uint16(typ uint16, v uint16) {
	e.head(typ, 2)
	e.B = binary.BigEndian.AppendUint16(e.B, v)
	e.pad()
}

// Uint32 appends a big-endian number.
func (e *Encoder) Uint32(typ uint16, v uint32) {
	e.head(typ, 4)
	e.B = binary.BigEndian.AppendUint32(e.B, v)
}

// Uint64 appends a big-endian number.
func (e *Encoder) Uint64(typ uint16, v uint64) {
	e.head(typ, 8)
	e.B = binary.BigEndian.AppendUint64(e.B, v)
}

// Nest begins an attribute that holds attributes. What End gets back closes it.
func (e *Encoder) Nest(typ uint16) (start int) {
	start = len(e.B)
	e.head(typ|nested, 0)
	return start
}

// End closes the attribute that Nest began.
func (e *Encoder) End(start int) {
	n := len(e.B) - start
	if n > 0xffff {
		// The length field has 16 bits. The kernel would read a wrong length as
		// another message, so the caller must split before it comes to this.
		panic(fmt.Sprintf("nfnl: attribute of %d bytes", n))
	}
	binary.NativeEndian.PutUint16(e.B[start:], uint16(n))
}

func (e *Encoder) head(typ uint16, n int) {
	if n += 4; n > 0xffff {
		panic(fmt.Sprintf("nfnl: attribute %d of %d bytes", typ, n))
	}
	e.B = binary.NativeEndian.AppendUint16(e.B, uint16(n))
	e.B = binary.NativeEndian.AppendUint16(e.B, typ)
}

func (e *Encoder) pad() {
	for len(e.B)%4 != 0 {
		e.B = append(e.B, 0)
	}
}

// ErrMalformed is returned for bytes that are no list of attributes.
var ErrMalformed = errors.New("malformed netlink attributes")

// Walk calls f for each attribute in b, in order, until f fails. The payload
// is only valid during the call.
func Walk(b []byte, f func(typ uint16, v []byte) error) error {
	for len(b) > 0 {
		if len(b) < 4 {
			return fmt.Errorf("%w: %d bytes left", ErrMalformed, len(b))
		}
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return fmt.Errorf("%w: length %d of %d", ErrMalformed, n, len(b))
		}
		if err := f(binary.NativeEndian.Uint16(b[2:])&typeMask, b[4:n]); err != nil {
			return err
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

// Find returns the payload of the first attribute at the path of types, or nil
// when there is none.
func Find(b []byte, path ...uint16) []byte {
	for _, want := range path {
		var found []byte
		// A malformed rest ends the search; what was found before it is good.
		_ = Walk(b, func(typ uint16, v []byte) error {
			if typ == want && found == nil {
				found = v
			}
			return nil
		})
		if found == nil {
			return nil
		}
		b = found
	}
	return b
}

// Text returns the string in an attribute's payload, without its NUL.
func Text(v []byte) string {
	if n := len(v); n > 0 && v[n-1] == 0 {
		v = v[:n-1]
	}
	return string(v)
}

// Uint32 returns the number in an attribute's payload, or 0 when it is no
// number of four bytes.
func Uint32(v []byte) uint32 {
	if len(v) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(v)
}
