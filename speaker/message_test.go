package speaker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/clarion-lb/clarion/internal/cluster"
)

var (
	us     = cluster.MAC{2, 0, 0, 0, 0, 1}
	them   = cluster.MAC{2, 0, 0, 0, 0, 2}
	askers = map[netip.Addr]netip.Addr{addr("192.0.2.200"): addr("192.0.2.100"), addr("2001:db8:1::200"): addr("2001:db8:1::100")}
)

// A table that answers for the VIPs of both families and watches two others.
func answering() *Table {
	return &Table{MAC: us, Own: map[cluster.MAC]struct{}{us: {}, {2, 0, 0, 0, 7, 1}: {}}, Modes: map[netip.Addr]Mode{
		addr("192.0.2.200"): Answer, addr("2001:db8:1::200"): Answer, addr("192.0.2.201"): Watch, addr("2001:db8:1::201"): Listen,
	}}
}

func TestRespond(t *testing.T) {
	for vip, asker := range askers {
		c := codecOf(vip)
		question := c.ask(them, vip, asker, cluster.MAC{})
		answerTo := func(frame []byte) Message {
			m, err := Decode(frame)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		other := vip.Next()
		for _, tt := range []struct {
			name   string
			frame  []byte
			reply  []byte
			events []Event
		}{
			{name: "a question is answered by unicast", frame: question, reply: c.answer(us, answerTo(question))},
			{name: "a unicast question too", frame: c.ask(them, vip, asker, us), reply: c.answer(us, answerTo(question))},
			{name: "a probe is answered and told", frame: c.probe(them, vip, cluster.MAC{}),
				reply: c.answer(us, answerTo(c.probe(them, vip, cluster.MAC{}))), events: []Event{{Addr: vip, MAC: them, Kind: Probed}}},
			{name: "an announcement of ours by another is told", frame: c.announce(them, vip, false)[0], events: []Event{{Addr: vip, MAC: them, Kind: Announced}}},
			{name: "a solicited answer is told as such", frame: c.answer(them, Message{MAC: us, Asks: vip, Asker: asker}), events: []Event{{Addr: vip, MAC: them, Kind: Answered}}},
			{name: "a question for a watched address is not ours", frame: c.ask(them, other, asker, cluster.MAC{})},
			{name: "a probe for a watched address is told", frame: c.probe(them, other, cluster.MAC{}), events: []Event{{Addr: other, MAC: them, Kind: Probed}}},
			{name: "a question from the VIP claims it", frame: c.ask(them, asker, vip, cluster.MAC{}), events: []Event{{Addr: vip, MAC: them, Kind: Announced}}},
			{name: "an address that nobody named is ignored", frame: c.ask(them, asker, other.Next(), cluster.MAC{})},
			{name: "our own question is not answered", frame: c.ask(us, vip, asker, cluster.MAC{})},
			{name: "nor one of our other link", frame: c.ask(cluster.MAC{2, 0, 0, 0, 7, 1}, vip, asker, cluster.MAC{})},
			{name: "nor our probe that came back", frame: c.probe(us, vip, cluster.MAC{})},
		} {
			t.Run(vip.String()+"/"+tt.name, func(t *testing.T) {
				m, err := Decode(tt.frame)
				if err != nil {
					t.Fatal(err)
				}
				reply, events := answering().respond(m)
				if !bytes.Equal(reply, tt.reply) {
					t.Errorf("reply\n%x, want\n%x", reply, tt.reply)
				}
				if !slices.Equal(events, tt.events) {
					t.Errorf("events %v, want %v", events, tt.events)
				}
			})
		}
	}
}

// The bytes on the wire, field by field, against the RFCs rather than against
// our own decoder.
func TestFramesAreWhatTheRFCsSay(t *testing.T) {
	const allHosts, zero, usMAC, themMAC = "ffffffffffff", "000000000000", "020000000001", "020000000002"
	const vip4, asker4 = "c00002c8", "c0000264"
	arpHead := "0001" + "0800" + "06" + "04"
	v4, v6 := addr("192.0.2.200"), addr("2001:db8:1::200")
	question := Message{MAC: them, Asks: v4, Asker: addr("192.0.2.100")}
	a, n := arpCodec{}, ndpCodec{}
	for name, tt := range map[string]struct{ got, want string }{
		"ARP answer":               {hexOf(a.answer(us, question)), themMAC + usMAC + "0806" + arpHead + "0002" + usMAC + vip4 + themMAC + asker4},
		"ARP announcement":         {hexOf(a.announce(us, v4, true)[0]), allHosts + usMAC + "0806" + arpHead + "0001" + usMAC + vip4 + zero + vip4},
		"ARP announcement, reply":  {hexOf(a.announce(us, v4, true)[1]), allHosts + usMAC + "0806" + arpHead + "0002" + usMAC + vip4 + usMAC + vip4},
		"ARP probe":                {hexOf(a.probe(us, v4, cluster.MAC{})), allHosts + usMAC + "0806" + arpHead + "0001" + usMAC + "00000000" + zero + vip4},
		"ARP probe to one":         {hexOf(a.probe(us, v4, them))[:24], themMAC + usMAC},
		"ARP answer to a probe":    {hexOf(a.answer(us, Message{MAC: them, Asks: v4, Asker: netip.IPv4Unspecified()})), themMAC + usMAC + "0806" + arpHead + "0002" + usMAC + vip4 + themMAC + "00000000"},
		"NA, Ethernet":             {hexOf(n.answer(us, Message{MAC: them, Asks: v6, Asker: addr("2001:db8:1::100")}))[:28], themMAC + usMAC + "86dd"},
		"NA, hop limit and source": {hexOf(n.answer(us, Message{MAC: them, Asks: v6, Asker: addr("2001:db8:1::100")}))[40:76], "3aff" + "20010db8000100000000000000000200"},
		"NA, solicited, override":  {icmpOf(n.answer(us, Message{MAC: them, Asks: v6, Asker: addr("2001:db8:1::100")})), "8800....60000000" + "20010db8000100000000000000000200" + "0201" + usMAC},
		"NA to a probe":            {icmpOf(n.answer(us, Message{MAC: them, Asks: v6, Asker: netip.IPv6Unspecified()})), "8800....20000000" + "20010db8000100000000000000000200" + "0201" + usMAC},
		"NA to a probe, Ethernet":  {hexOf(n.answer(us, Message{MAC: them, Asks: v6, Asker: netip.IPv6Unspecified()}))[:24], "333300000001" + usMAC},
		"NA announcement":          {icmpOf(n.announce(us, v6, true)[0]), "8800....20000000" + "20010db8000100000000000000000200" + "0201" + usMAC},
		"NA to routers":            {icmpOf(n.announce(us, v6, true)[1]), "8800....00000000" + "20010db8000100000000000000000200" + "0201" + usMAC},
		"DAD probe, Ethernet":      {hexOf(n.probe(us, v6, cluster.MAC{}))[:24], "3333ff000200" + usMAC},
		"DAD probe, addresses":     {hexOf(n.probe(us, v6, cluster.MAC{}))[44:108], strings.Repeat("0", 32) + "ff0200000000000000000001ff000200"},
		"DAD probe, nonce":         {icmpOf(n.probe(us, v6, cluster.MAC{}))[:52], "8700....00000000" + "20010db8000100000000000000000200" + "0e01"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s:\n%s, want\n%s", name, tt.got, tt.want)
		}
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, x := range b {
		s.WriteByte(digits[x>>4])
		s.WriteByte(digits[x&15])
	}
	return s.String()
}

// icmpOf returns the ICMPv6 message of a frame with its checksum blotted out.
func icmpOf(frame []byte) string {
	s := hexOf(frame[etherLen+ip6Len:])
	return s[:4] + "...." + s[8:]
}

// solicitation returns a frame after change and with its checksum set right.
func solicitation(change func(ip []byte)) []byte {
	f := ndpCodec{}.ask(them, addr("2001:db8:1::200"), addr("2001:db8:1::100"), cluster.MAC{})
	ip := f[etherLen:]
	change(ip)
	if len(ip) >= ip6Len+minimumLen {
		icmp := ip[ip6Len:]
		icmp[2], icmp[3] = 0, 0
		sum := checksum6(netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40])), icmp)
		binary.BigEndian.PutUint16(icmp[2:], sum)
	}
	return f
}

func TestMalformedFramesAreToldApart(t *testing.T) {
	arp := func(i int, b byte) []byte {
		f := arpCodec{}.ask(them, addr("192.0.2.200"), addr("192.0.2.100"), cluster.MAC{})
		f[etherLen+i] = b
		return f
	}
	multicast := addr("ff02::1").As16()
	for want, frame := range map[string][]byte{
		"shorter than an Ethernet header":        make([]byte, 13),
		"neither ARP nor IPv6":                   append(make([]byte, 12), 0x08, 0x00),
		"unexpected EOF":                         arp(0, 0)[:etherLen+20],
		"are not Ethernet and IPv4":              arp(2, 0x86),
		"neither request nor reply":              arp(7, 9),
		"is no host's":                           arp(8, 3),
		"too few":                                solicitation(func([]byte) {})[:etherLen+50],
		"not ICMPv6 right behind":                solicitation(func(ip []byte) { ip[6] = 0 }),
		"hop limit 254":                          solicitation(func(ip []byte) { ip[7] = 254 }),
		"payload length 5000":                    solicitation(func(ip []byte) { binary.BigEndian.PutUint16(ip[4:], 5000) }),
		"code 1":                                 solicitation(func(ip []byte) { ip[ip6Len+1] = 1 }),
		"wrong checksum":                         append(solicitation(func([]byte) {})[:etherLen+ip6Len+30], 9, 9),
		"failed to unmarshal":                    solicitation(func(ip []byte) { ip[ip6Len+25] = 0 }),
		"neither solicitation nor advertisement": solicitation(func(ip []byte) { ip[ip6Len] = 133 }),
		"it asks for ff02::1":                    solicitation(func(ip []byte) { copy(ip[ip6Len+8:], multicast[:]) }),
		"with a source link-layer address":       solicitation(func(ip []byte) { clear(ip[8:24]) }),
	} {
		m, err := Decode(frame)
		if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %+v, %v", want, m, err)
		}
	}
	if m, err := Decode(solicitation(func([]byte) {})); err != nil || m.Asks != addr("2001:db8:1::200") {
		t.Errorf("the frame that all of these came from: %+v, %v", m, err)
	}
}

// Both decoders take anything. What they accept and we answer is understood by
// the same decoder, and it is about what was asked.
func FuzzDecode(f *testing.F) {
	for vip, asker := range askers {
		c := codecOf(vip)
		f.Add(c.ask(them, vip, asker, cluster.MAC{}))
		f.Add(c.probe(them, vip, cluster.MAC{}))
		f.Add(c.announce(them, vip, true)[0])
		f.Add(c.answer(them, Message{MAC: us, Asks: vip, Asker: asker}))
	}
	f.Add(solicitation(func(ip []byte) { ip[ip6Len+25] = 0 }))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) > etherLen+ip6Len+4 && frame[12] == 0x86 && frame[13] == 0xdd {
			fixChecksum(frame) // Else hardly any input would come further.
		}
		m, err := Decode(frame)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		table := answering()
		if m.Asks.IsValid() {
			table.Modes[m.Asks] = Answer
		}
		reply, _ := table.respond(m)
		if reply == nil {
			return
		}
		answer, err := Decode(reply)
		if err != nil || answer.Claims != m.Asks || answer.MAC != us || answer.Source != us || answer.Asks.IsValid() {
			t.Fatalf("%+v was answered by %+v, %v", m, answer, err)
		}
	})
}

func fixChecksum(frame []byte) {
	ip := frame[etherLen:]
	length := int(binary.BigEndian.Uint16(ip[4:6]))
	if length < 4 || length > len(ip)-ip6Len {
		return
	}
	icmp := ip[ip6Len : ip6Len+length]
	icmp[2], icmp[3] = 0, 0
	binary.BigEndian.PutUint16(icmp[2:], checksum6(netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40])), icmp))
}

func TestGroupsAreSharedByLow24Bits(t *testing.T) {
	table := &Table{Modes: map[netip.Addr]Mode{
		addr("2001:db8:1::200"): Answer, addr("2001:db8:2::200"): Listen, addr("2001:db8:1::201"): Watch, addr("192.0.2.200"): Answer,
	}}
	want := map[netip.Addr]struct{}{addr("ff02::1:ff00:200"): {}}
	if got := table.groups(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	delete(table.Modes, addr("2001:db8:1::200"))
	if got := table.groups(); !reflect.DeepEqual(got, want) {
		t.Errorf("after one of two left: got %v, want %v", got, want)
	}
}
