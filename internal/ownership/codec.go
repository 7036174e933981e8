package ownership

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// The bytes of a message are: the version of the format (1), the kind, and the
// fields in the order of the struct, big-endian. Segments stand once per
// message in a table; a claim is 24 bytes: address (16), index of the segment,
// flags, 2 bytes zero, epoch. A reader refuses a format version it does not
// know: a newer agent must speak the old version until all agents know the new.
const format = 1

const (
	kindHello byte = iota + 1
	kindAck
	kindPull
	kindSet
	kindHandover
	kindReply
	kindVerdict
)

const (
	claimBytes = 24
	// A message stays below the least MTU of IPv6 (RFC 8200 section 5) with
	// the headers, the encryption and the name that the transport adds.
	maxMessage  = 1100
	maxSegments = 24
	maxMACs     = 4
	maxWhy      = 200
)

const (
	flagUp       = 1 << 0
	flagMajority = 1 << 1
	flagReady    = 1 << 0
	flagDraining = 1 << 1
	flagReleased = 1 << 0
	flagYes      = 1 << 0
)

// Encode returns the bytes of a message. It panics on a Set, Handover or Reply
// with more than maxSegments segments or 255 claims: the machine makes none.
func Encode(msg Message) []byte {
	b := make([]byte, 2, 64)
	b[0] = format
	switch v := msg.(type) {
	case Hello:
		b[1] = kindHello
		b = put64(b, v.Boot, v.Version, uint64(v.Stamp))
	case Ack:
		b[1] = kindAck
		b = put64(b, v.Boot, v.Version, uint64(v.Echo))
	case Pull:
		b[1] = kindPull
		b = put64(b, v.Boot, v.Have)
	case Set:
		b[1] = kindSet
		b = put64(b, v.Boot, v.Base, v.Version)
		b = binary.BigEndian.AppendUint16(b, v.Index)
		b = binary.BigEndian.AppendUint16(b, v.Count)
		b = append(b, setBit(v.Facts.Ready, flagReady)|setBit(v.Facts.Draining, flagDraining))
		table := make([]netip.Prefix, 0, len(v.Facts.Segments))
		b = append(b, byte(len(v.Facts.Segments)))
		for _, s := range v.Facts.Segments {
			table = append(table, s.Segment)
			b = putPrefix(b, s.Segment)
			b = append(b, setBit(s.Up, flagUp)|setBit(s.Majority, flagMajority), byte(len(s.MACs)))
			for _, mac := range s.MACs {
				b = append(b, mac[:]...)
			}
		}
		b = putClaims(b, table, v.Claims)
	case Handover:
		b[1] = kindHandover
		b = putClaims(b, nil, v.Claims)
	case Reply:
		b[1] = kindReply
		b = append(b, setBit(v.Yes, flagYes), byte(len(v.Why)))
		b = append(b, v.Why...)
		b = putClaims(b, nil, v.Claims)
	case Verdict:
		b[1] = kindVerdict
		b = append(b, setBit(v.Silent, 1), byte(len(v.Name)))
		b = append(b, v.Name...)
	default:
		panic(fmt.Sprintf("ownership: message of unknown type %T", msg))
	}
	return b
}

func setBit(on bool, bit byte) byte {
	if on {
		return bit
	}
	return 0
}

func put64(b []byte, vs ...uint64) []byte {
	for _, v := range vs {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

func putPrefix(b []byte, p netip.Prefix) []byte {
	a := p.Addr().AsSlice()
	b = append(b, byte(len(a)), byte(p.Bits()))
	return append(b, a...)
}

// putClaims writes the segments that table lacks, then the claims.
func putClaims(b []byte, table []netip.Prefix, claims []Claim) []byte {
	known := len(table)
	for _, c := range claims {
		if !slices.Contains(table, c.Unit.Segment) {
			table = append(table, c.Unit.Segment)
		}
	}
	if len(table) > maxSegments || len(claims) > 255 {
		panic(fmt.Sprintf("ownership: message with %d segments and %d claims", len(table), len(claims)))
	}
	b = append(b, byte(len(table)-known))
	for _, s := range table[known:] {
		b = putPrefix(b, s)
	}
	b = append(b, byte(len(claims)))
	for _, c := range claims {
		a := c.Unit.VIP.As16()
		b = append(b, a[:]...)
		b = append(b, byte(slices.Index(table, c.Unit.Segment)), setBit(c.Released, flagReleased), 0, 0)
		b = binary.BigEndian.AppendUint32(b, c.Epoch)
	}
	return b
}

// ErrFormat is what Decode says of a message in a newer format.
var ErrFormat = errors.New("message in an unknown format")

// Decode reads what Encode wrote. The error says what is wrong with which
// field; no message is partly read.
func Decode(b []byte) (Message, error) {
	if len(b) < 2 {
		return nil, fmt.Errorf("message of %d bytes is too short", len(b))
	}
	if b[0] != format {
		return nil, fmt.Errorf("%w: version %d, this agent knows %d", ErrFormat, b[0], format)
	}
	r := reader{b: b[2:]}
	var msg Message
	switch b[1] {
	case kindHello:
		msg = Hello{r.u64(), r.u64(), time.Duration(r.u64())}
	case kindAck:
		msg = Ack{r.u64(), r.u64(), time.Duration(r.u64())}
	case kindPull:
		msg = Pull{r.u64(), r.u64()}
	case kindSet:
		s := Set{Boot: r.u64(), Base: r.u64(), Version: r.u64(), Index: r.u16(), Count: r.u16()}
		if s.Count > 0 && s.Index >= s.Count {
			r.fail("part %d of %d", s.Index, s.Count)
		}
		f := r.u8()
		s.Facts.Ready, s.Facts.Draining = f&flagReady != 0, f&flagDraining != 0
		var table []netip.Prefix
		for range r.count("segments", maxSegments) {
			p := Presence{Segment: r.prefix()}
			f := r.u8()
			p.Up, p.Majority = f&flagUp != 0, f&flagMajority != 0
			for range r.count("MACs", maxMACs) {
				p.MACs = append(p.MACs, cluster.MAC(r.take(6)))
			}
			table = append(table, p.Segment)
			s.Facts.Segments = append(s.Facts.Segments, p)
		}
		s.Claims = r.claims(table)
		msg = s
	case kindHandover:
		msg = Handover{r.claims(nil)}
	case kindReply:
		v := Reply{Yes: r.u8()&flagYes != 0}
		v.Why = string(r.take(r.count("bytes of reason", maxWhy)))
		v.Claims = r.claims(nil)
		msg = v
	case kindVerdict:
		v := Verdict{Silent: r.u8() != 0}
		v.Name = string(r.take(r.count("bytes of name", 253)))
		msg = v
	default:
		return nil, fmt.Errorf("message of unknown kind %d", b[1])
	}
	if len(r.b) > 0 && r.err == nil {
		r.fail("%d bytes too many", len(r.b))
	}
	if r.err != nil {
		return nil, fmt.Errorf("message of kind %d: %w", b[1], r.err)
	}
	return msg, nil
}

// A reader takes fields off b until something is wrong; after that every field
// is zero and err stays.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
	r.b = nil
}

var zeros [256]byte

func (r *reader) take(n int) []byte {
	if len(r.b) < n {
		r.fail("ends %d bytes early", n-len(r.b))
		return zeros[:n]
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) u8() byte    { return r.take(1)[0] }
func (r *reader) u16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

func (r *reader) count(of string, limit int) int {
	n := int(r.u8())
	if n > limit {
		r.fail("%d %s, at most %d are allowed", n, of, limit)
		return 0
	}
	return n
}

func (r *reader) prefix() netip.Prefix {
	n, bits := int(r.u8()), int(r.u8())
	if n != 4 && n != 16 {
		r.fail("segment with an address of %d bytes", n)
		return netip.Prefix{}
	}
	a, _ := netip.AddrFromSlice(r.take(n))
	p := netip.PrefixFrom(a, bits)
	if r.err == nil && (!p.IsValid() || p != p.Masked() || a.Is4In6()) {
		r.fail("%v/%d is not a segment", a, bits)
	}
	return p
}

func (r *reader) claims(table []netip.Prefix) []Claim {
	for range r.count("segments", maxSegments) {
		table = append(table, r.prefix())
	}
	n := r.count("claims", 255)
	if len(r.b) < n*claimBytes {
		r.fail("%d claims in %d bytes", n, len(r.b))
		return nil
	}
	var cs []Claim
	for range n {
		a := netip.AddrFrom16([16]byte(r.take(16))).Unmap()
		i, f := int(r.u8()), r.u8()
		r.take(2)
		c := Claim{Unit: Unit{VIP: a}, Released: f&flagReleased != 0, Epoch: r.u32()}
		if i >= len(table) {
			r.fail("claim in segment %d of %d", i, len(table))
			return nil
		}
		if c.Unit.Segment = table[i]; c.Unit.Segment.Addr().Is4() != a.Is4() {
			r.fail("claim of %v in %v", a, c.Unit.Segment)
			return nil
		}
		cs = append(cs, c)
	}
	return cs
}

// claimsPerSet returns how many claims fit beside the facts.
func claimsPerSet(f Facts) int {
	room := maxMessage - 2 - 3*8 - 2*2 - 4
	for _, s := range f.Segments {
		room -= 4 + 16 + 6*len(s.MACs)
	}
	// A release may name a segment that the node has left.
	return max(1, (room-2*18)/claimBytes)
}
