package speaker

import (
	"errors"
	"net/netip"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
)

// A Message is what an ARP packet or a neighbour discovery message says, with
// the differences of the two taken out. One message may both ask for one
// address and claim another.
type Message struct {
	MAC    cluster.MAC // who sent it, as receivers will remember
	Source cluster.MAC // the Ethernet source; differs from MAC behind a proxy

	Asks  netip.Addr // whose MAC is wanted; invalid when nothing is asked
	Asker netip.Addr // who wants it; unspecified (0.0.0.0, ::) in a probe

	Claims    netip.Addr // the address that the sender says is its own; invalid for none
	Solicited bool       // the claim answers a question; an announcement does not
}

// Probe reports whether m asks if an address is free (RFC 5227 §1.1, RFC 4862
// §5.4).
func (m Message) Probe() bool { return m.Asks.IsValid() && m.Asker.IsUnspecified() }

// speaker returns the address of the host that sent m, if it said one.
func (m Message) speaker() netip.Addr {
	if m.Claims.IsValid() {
		return m.Claims
	}
	return m.Asker
}

// ErrMalformed is wrapped by every error of Decode.
var ErrMalformed = errors.New("malformed frame")

// A codec turns messages into frames of one family and back. us is always the
// MAC of the link that the frame leaves by.
type codec interface {
	// decode reads an Ethernet frame of the family.
	decode(frame []byte) (Message, error)
	// answer is the reply to a question or probe for an address we own.
	answer(us cluster.MAC, q Message) []byte
	// announce tells everybody. first adds what helps only a new address.
	announce(us cluster.MAC, vip netip.Addr, first bool) [][]byte
	// probe asks whether vip is free; to is all zero for everybody.
	probe(us cluster.MAC, vip netip.Addr, to cluster.MAC) []byte
	// ask asks for the MAC of a neighbour on behalf of our own address from.
	ask(us cluster.MAC, neighbour, from netip.Addr, to cluster.MAC) []byte
}

// codecs is indexed by family.
var codecs = [...]codec{ipfam.V4: arpCodec{}, ipfam.V6: ndpCodec{}}

func codecOf(a netip.Addr) codec { return codecs[ipfam.Of(a)] }

// The Ethernet header: destination, source, ethertype.
const (
	etherLen  = 14
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
)

var broadcast = cluster.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ether returns an Ethernet frame.
func ether(dst, src cluster.MAC, kind uint16, payload []byte) []byte {
	f := make([]byte, 0, etherLen+len(payload))
	f = append(f, dst[:]...)
	f = append(f, src[:]...)
	f = append(f, byte(kind>>8), byte(kind))
	return append(f, payload...)
}

// Decode reads an Ethernet frame that carries ARP or neighbour discovery. The
// error says what is wrong with it.
func Decode(frame []byte) (Message, error) {
	if len(frame) < etherLen {
		return Message{}, malformed("%d bytes are shorter than an Ethernet header", len(frame))
	}
	switch kind := uint16(frame[12])<<8 | uint16(frame[13]); kind {
	case etherARP:
		return sane(codecs[ipfam.V4].decode(frame))
	case etherIPv6:
		return sane(codecs[ipfam.V6].decode(frame))
	default:
		return Message{}, malformed("ethertype %#04x is neither ARP nor IPv6", kind)
	}
}

// sane refuses what neither family allows, so that nobody has to think of it
// later: questions about no address, claims of no host's, group MACs as hosts.
func sane(m Message, err error) (Message, error) {
	switch {
	case err != nil:
		return Message{}, err
	case m.MAC == (cluster.MAC{}) || m.MAC[0]&1 != 0:
		return Message{}, malformed("the sender's MAC %v is no host's", m.MAC)
	case m.Asks.IsValid() && (m.Asks.IsUnspecified() || m.Asks.IsMulticast()):
		return Message{}, malformed("it asks for %v, which is no host's address", m.Asks)
	case m.Asker.IsValid() && m.Asker.IsMulticast():
		return Message{}, malformed("it comes from %v, which is no host's address", m.Asker)
	case m.Claims.IsValid() && (m.Claims.IsUnspecified() || m.Claims.IsMulticast()):
		return Message{}, malformed("it claims %v, which is no host's address", m.Claims)
	}
	return m, nil
}
