package speaker

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// arpCodec speaks ARP (RFC 826, RFC 5227).
type arpCodec struct{}

func (arpCodec) decode(frame []byte) (Message, error) {
	var p arp.Packet
	if err := p.UnmarshalBinary(frame[etherLen:]); err != nil {
		return Message{}, malformed("ARP: %v", err)
	}
	if p.HardwareType != 1 || p.ProtocolType != 0x0800 || p.HardwareAddrLength != 6 || p.IPLength != 4 {
		return Message{}, malformed("ARP: hardware type %d, protocol %#04x, lengths %d and %d are not Ethernet and IPv4",
			p.HardwareType, p.ProtocolType, p.HardwareAddrLength, p.IPLength)
	}
	m := Message{MAC: cluster.MAC(p.SenderHardwareAddr), Source: cluster.MAC(frame[6:12])}
	// Every packet with a sender address claims it, a question too (RFC 5227
	// §2.4); the one without is the probe.
	if !p.SenderIP.IsUnspecified() {
		m.Claims = p.SenderIP
	}
	switch {
	case p.Operation == arp.OperationReply:
		m.Solicited = p.SenderIP != p.TargetIP
	case p.Operation != arp.OperationRequest:
		return Message{}, malformed("ARP: operation %d is neither request nor reply", p.Operation)
	case p.SenderIP != p.TargetIP:
		m.Asks, m.Asker = p.TargetIP, p.SenderIP
	}
	return m, nil
}

// answer is unicast, and its Ethernet source is the MAC that it tells.
func (arpCodec) answer(us cluster.MAC, q Message) []byte {
	return arpFrame(q.MAC, arp.OperationReply, us, q.Asks, q.MAC, q.Asker)
}

// announce sends both forms, since some stacks heed only one. Linux takes the
// request at any time, and the reply within locktime (1 s) of the last update
// only if its target MAC is the sender's (measured; net/ipv4/arp.c
// arp_is_garp).
func (arpCodec) announce(us cluster.MAC, vip netip.Addr, _ bool) [][]byte {
	return [][]byte{
		arpFrame(broadcast, arp.OperationRequest, us, vip, cluster.MAC{}, vip),
		arpFrame(broadcast, arp.OperationReply, us, vip, us, vip),
	}
}

func (arpCodec) probe(us cluster.MAC, vip netip.Addr, to cluster.MAC) []byte {
	return arpFrame(orBroadcast(to), arp.OperationRequest, us, netip.IPv4Unspecified(), cluster.MAC{}, vip)
}

func (arpCodec) ask(us cluster.MAC, neighbour, from netip.Addr, to cluster.MAC) []byte {
	return arpFrame(orBroadcast(to), arp.OperationRequest, us, from, cluster.MAC{}, neighbour)
}

func orBroadcast(to cluster.MAC) cluster.MAC {
	if to == (cluster.MAC{}) {
		return broadcast
	}
	return to
}

func arpFrame(dst cluster.MAC, op arp.Operation, sha cluster.MAC, spa netip.Addr, tha cluster.MAC, tpa netip.Addr) []byte {
	p, err := arp.NewPacket(op, net.HardwareAddr(sha[:]), spa, net.HardwareAddr(tha[:]), tpa)
	if err != nil {
		panic(fmt.Sprintf("ARP %v from %v to %v: %v", op, spa, tpa, err)) // The caller mixed families.
	}
	payload, err := p.MarshalBinary()
	if err != nil {
		panic(fmt.Sprintf("ARP %v: %v", p, err)) // The library says that it never fails.
	}
	return ether(dst, sha, etherARP, payload)
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}
