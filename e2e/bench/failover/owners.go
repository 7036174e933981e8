package failover

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/e2e/lab"
)

// askEvery is between two questions of the witness.
const askEvery = 20 * time.Millisecond

// A witness is one more machine on the segment, without an address of its own, that asks all the time who has the VIPs and
// notes who answers. It is not the client: an answer to its questions must not teach the client anything.
type witness struct {
	lan  *lab.Host
	fd   int
	link int
	mac  net.HardwareAddr
	vips []netip.Addr
	said []answer
}

type answer struct {
	at  time.Time
	vip netip.Addr
	mac [6]byte
}

// The witness's link, its port on the switch, and the address it asks from.
const (
	witnessLink = "witness"
	witnessPort = "v-witness"
)

var (
	witness4 = netip.MustParseAddr("192.0.2.99")
	witness6 = netip.MustParseAddr("fe80::99")
)

func newWitness(ctx context.Context, l *lab.Lab, bridge string, vips []netip.Addr) (*witness, error) {
	w := &witness{lan: l.Switch(), vips: vips}
	for _, args := range [][]string{
		{"link", "add", witnessLink, "type", "veth", "peer", "name", witnessPort},
		{"link", "set", witnessPort, "master", bridge, "up"},
		{"link", "set", witnessLink, "up"},
	} {
		if _, err := w.lan.Output(ctx, append([]string{"ip"}, args...)...); err != nil {
			return nil, fmt.Errorf("plug in the witness: %w", err)
		}
	}
	err := w.lan.Do(func() error {
		ifi, err := net.InterfaceByName(witnessLink)
		if err != nil {
			return err
		}
		w.link, w.mac = ifi.Index, ifi.HardwareAddr
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(swap(unix.ETH_P_ALL)))
		if err != nil {
			return err
		}
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: swap(unix.ETH_P_ALL), Ifindex: w.link})
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen as the witness: %w", err), w.close(ctx))
	}
	return w, nil
}

func (w *witness) close(ctx context.Context) error {
	if w.fd > 0 {
		if err := unix.Close(w.fd); err != nil {
			return err
		}
	}
	_, err := w.lan.Output(ctx, "ip", "link", "del", witnessLink)
	return err
}

func swap(v uint16) uint16 { return v<<8 | v>>8 }

// run asks until ctx ends.
func (w *witness) run(ctx context.Context) error {
	w.said = nil
	tick := time.NewTicker(askEvery / 10)
	defer tick.Stop()
	var next time.Time
	for ctx.Err() == nil {
		if now := time.Now(); !now.Before(next) {
			next = now.Add(askEvery)
			for _, vip := range w.vips {
				frame, err := w.question(vip)
				if err != nil {
					return err
				}
				if err := unix.Sendto(w.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: w.link}); err != nil {
					return fmt.Errorf("ask as the witness: %w", err)
				}
			}
		}
		w.read()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	return nil
}

func (w *witness) read() {
	buf := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil {
			return // nothing waits
		}
		if a, ok := w.decode(buf[:n]); ok {
			a.at = time.Now()
			w.said = append(w.said, a)
		}
	}
}

// question is an ARP request (RFC 826) or a neighbour solicitation (RFC 4861 section 4.3) to everybody.
func (w *witness) question(vip netip.Addr) ([]byte, error) {
	if vip.Is4() {
		f := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, w.mac...)
		f = append(f, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1)
		f = append(append(f, w.mac...), witness4.AsSlice()...)
		return append(append(f, 0, 0, 0, 0, 0, 0), vip.AsSlice()...), nil
	}
	group, err := ndp.SolicitedNodeMulticast(vip)
	if err != nil {
		return nil, err
	}
	message, err := ndp.MarshalMessageChecksum(&ndp.NeighborSolicitation{TargetAddress: vip,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: w.mac}}}, witness6, group)
	if err != nil {
		return nil, err
	}
	g := group.As16()
	f := append([]byte{0x33, 0x33, g[12], g[13], g[14], g[15]}, w.mac...)
	f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(len(message)))
	f = append(append(append(f, 58, 255), witness6.AsSlice()...), g[:]...)
	return append(f, message...), nil
}

// decode reads an ARP reply or a neighbour advertisement that was sent to the witness.
func (w *witness) decode(f []byte) (answer, bool) {
	if len(f) < 42 || string(f[:6]) != string(w.mac) {
		return answer{}, false
	}
	var a answer
	switch binary.BigEndian.Uint16(f[12:]) {
	case 0x0806:
		if binary.BigEndian.Uint16(f[20:]) != 2 {
			return answer{}, false
		}
		a.vip = netip.AddrFrom4([4]byte(f[28:32]))
		a.mac = [6]byte(f[22:28])
		return a, true
	case 0x86dd:
		if len(f) < 78 || f[20] != 58 || f[54] != 136 {
			return answer{}, false
		}
		a.vip = netip.AddrFrom16([16]byte(f[62:78]))
		a.mac = [6]byte(f[6:12])
		return a, true
	}
	return answer{}, false
}

// twoOwners returns for how long more than one machine answered for a VIP, the longest over the VIPs: the time between
// answers of different machines that are not further apart than two questions.
func twoOwners(said []answer, vips []netip.Addr) time.Duration {
	var worst time.Duration
	for _, vip := range vips {
		last := map[[6]byte]time.Time{}
		var begin, end time.Time
		for _, a := range said {
			if a.vip != vip {
				continue
			}
			last[a.mac] = a.at
			for mac, at := range last {
				if mac != a.mac && a.at.Sub(at) < askEvery/2 { // both answered one question
					if a.at.Sub(end) > 2*askEvery {
						begin = a.at
					}
					end = a.at
					worst = max(worst, end.Sub(begin)+askEvery)
				}
			}
		}
	}
	return worst
}
