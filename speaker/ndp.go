package speaker

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/ndp"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// ndpCodec speaks neighbour discovery (RFC 4861, RFC 4862, RFC 7527, RFC 9131).
type ndpCodec struct{}

// The IPv6 header and the ICMPv6 messages of interest.
const (
	ip6Len     = 40
	icmp6      = 58
	icmp6NSol  = 135
	icmp6NAdv  = 136
	hopLimit   = 255 // a router would have lowered it: the sender is a neighbour
	minimumLen = 24  // of both messages, without options
)

var (
	allNodes   = netip.MustParseAddr("ff02::1")
	allRouters = netip.MustParseAddr("ff02::2")
)

// solicitedNode returns the group that questions about a are sent to
// (RFC 4291 §2.7.1). Addresses with the same low 24 bits share it.
func solicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 11: 0x01, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// multicastMAC returns the Ethernet address of an IPv6 group (RFC 2464 §7).
func multicastMAC(group netip.Addr) cluster.MAC {
	b := group.As16()
	return cluster.MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// decode does the validity checks of RFC 4861 §7.1.1 and §7.1.2.
func (ndpCodec) decode(frame []byte) (Message, error) {
	ip := frame[etherLen:]
	if len(ip) < ip6Len+minimumLen {
		return Message{}, malformed("NDP: %d bytes are too few", len(ip))
	}
	length := int(binary.BigEndian.Uint16(ip[4:6]))
	switch {
	case ip[0]>>4 != 6 || ip[6] != icmp6:
		return Message{}, malformed("NDP: not ICMPv6 right behind an IPv6 header")
	case ip[7] != hopLimit:
		return Message{}, malformed("NDP: hop limit %d, so it was routed or forged", ip[7])
	case length < minimumLen || length > len(ip)-ip6Len:
		return Message{}, malformed("NDP: payload length %d of %d bytes", length, len(ip)-ip6Len)
	}
	src, dst := netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	icmp := ip[ip6Len : ip6Len+length]
	switch {
	case icmp[0] != icmp6NSol && icmp[0] != icmp6NAdv:
		return Message{}, malformed("NDP: type %d is neither solicitation nor advertisement", icmp[0])
	case icmp[1] != 0:
		return Message{}, malformed("NDP: code %d", icmp[1])
	case checksum6(src, dst, icmp) != 0:
		return Message{}, malformed("NDP: wrong checksum")
	}
	parsed, err := ndp.ParseMessage(icmp)
	if err != nil {
		return Message{}, malformed("NDP: %v", err)
	}
	m := Message{Source: cluster.MAC(frame[6:12])}
	m.MAC = m.Source
	switch body := parsed.(type) {
	case *ndp.NeighborSolicitation:
		told := option(body.Options, ndp.Source, &m.MAC)
		if src.IsUnspecified() && (told || dst != solicitedNode(body.TargetAddress)) {
			return Message{}, malformed("NDP: probe to %v, or with a source link-layer address", dst)
		}
		m.Asks, m.Asker = body.TargetAddress, src
		if told { // Receivers learn the source's MAC from it.
			m.Claims = src
		}
	case *ndp.NeighborAdvertisement:
		option(body.Options, ndp.Target, &m.MAC)
		if dst.IsMulticast() && body.Solicited {
			return Message{}, malformed("NDP: a solicited advertisement to %v", dst)
		}
		m.Claims, m.Solicited = body.TargetAddress, body.Solicited
	}
	return m, nil
}

// option finds a link-layer address and reports whether it is there.
func option(options []ndp.Option, direction ndp.Direction, mac *cluster.MAC) bool {
	for _, o := range options {
		if l, ok := o.(*ndp.LinkLayerAddress); ok && l.Direction == direction && len(l.Addr) == len(mac) {
			*mac = cluster.MAC(l.Addr)
			return true
		}
	}
	return false
}

// answer overrides, always: behind a takeover the asker may hold the old
// owner's MAC, and an answer without the Override flag would leave it there
// (RFC 4861 §7.2.5). The answer to a probe goes to all nodes, unsolicited,
// since the prober has no address yet (RFC 4862 §5.4.3, RFC 4861 §7.2.4). A
// question without its sender's MAC is the unicast probe of a cache entry
// (§7.3.3) and gets its answer to the Ethernet source.
func (ndpCodec) answer(us cluster.MAC, q Message) []byte {
	if q.Probe() {
		return advertisement(us, q.Asks, multicastMAC(allNodes), allNodes, flags{override: true})
	}
	return advertisement(us, q.Asks, q.MAC, q.Asker, flags{solicited: true, override: true})
}

// announce goes to all nodes, and for a new address also to all routers, which
// then may know it before the first packet comes in (RFC 9131 §5.1; without
// Override as it asks).
func (ndpCodec) announce(us cluster.MAC, vip netip.Addr, first bool) [][]byte {
	out := [][]byte{advertisement(us, vip, multicastMAC(allNodes), allNodes, flags{override: true})}
	if first {
		out = append(out, advertisement(us, vip, multicastMAC(allRouters), allRouters, flags{}))
	}
	return out
}

// probe carries a nonce, by which the sender of a looped frame knows its own
// (RFC 7527 §4.1).
func (ndpCodec) probe(us cluster.MAC, vip netip.Addr, to cluster.MAC) []byte {
	group := solicitedNode(vip)
	if to == (cluster.MAC{}) {
		to = multicastMAC(group)
	}
	ns := &ndp.NeighborSolicitation{TargetAddress: vip, Options: []ndp.Option{ndp.NewNonce()}}
	return ndpFrame(to, us, netip.IPv6Unspecified(), group, ns)
}

func (ndpCodec) ask(us cluster.MAC, neighbour, from netip.Addr, to cluster.MAC) []byte {
	ns := &ndp.NeighborSolicitation{TargetAddress: neighbour, Options: []ndp.Option{
		&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: net.HardwareAddr(us[:])},
	}}
	if to != (cluster.MAC{}) {
		return ndpFrame(to, us, from, neighbour, ns)
	}
	group := solicitedNode(neighbour)
	return ndpFrame(multicastMAC(group), us, from, group, ns)
}

type flags struct{ solicited, override bool }

// advertisement comes from the VIP, as Linux sends it for an address of its
// own (net/ipv6/ndisc.c, ndisc_send_na). A link-local source is as good for
// kernels, but some tools take such an answer for that of another link (ndisc6
// does: measured).
func advertisement(us cluster.MAC, vip netip.Addr, to cluster.MAC, dst netip.Addr, f flags) []byte {
	return ndpFrame(to, us, vip, dst, &ndp.NeighborAdvertisement{
		Solicited: f.solicited, Override: f.override, TargetAddress: vip,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: net.HardwareAddr(us[:])}},
	})
}

func ndpFrame(dstMAC, srcMAC cluster.MAC, src, dst netip.Addr, m ndp.Message) []byte {
	body, err := ndp.MarshalMessageChecksum(m, src, dst)
	if err != nil {
		panic(fmt.Sprintf("NDP %v from %v to %v: %v", m, src, dst, err)) // The caller mixed families.
	}
	ip := make([]byte, ip6Len, ip6Len+len(body))
	ip[0] = 6 << 4
	binary.BigEndian.PutUint16(ip[4:6], uint16(len(body)))
	ip[6], ip[7] = icmp6, hopLimit
	s, d := src.As16(), dst.As16()
	copy(ip[8:24], s[:])
	copy(ip[24:40], d[:])
	return ether(dstMAC, srcMAC, etherIPv6, append(ip, body...))
}

// checksum6 sums an ICMPv6 message with its pseudo header (RFC 8200 §8.1). It
// is 0 for a message whose checksum is right.
func checksum6(src, dst netip.Addr, icmp []byte) uint16 {
	sum := uint32(len(icmp)) + icmp6
	add := func(b []byte) {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
		if len(b)%2 == 1 {
			sum += uint32(b[len(b)-1]) << 8
		}
	}
	s, d := src.As16(), dst.As16()
	add(s[:])
	add(d[:])
	add(icmp)
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
