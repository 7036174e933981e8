package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/nstest"
)

// listen makes a host answer on an address with a name and the address that it
// saw the question come from: "pod-a 192.0.2.1".
func listen(t testing.TB, h *nstest.Host, network string, at netip.AddrPort, name string) {
	t.Helper()
	reply := func(from net.Addr) []byte {
		ap, err := netip.ParseAddrPort(from.String())
		if err != nil {
			return []byte(err.Error())
		}
		return fmt.Appendf(nil, "%s %s", name, ap.Addr().Unmap())
	}
	var err error
	if network == "udp" {
		var s net.PacketConn
		h.Do(func() { s, err = net.ListenPacket("udp", at.String()) })
		if err != nil {
			t.Fatalf("%s listens on %s: %v", name, at, err)
		}
		t.Cleanup(func() { s.Close() })
		go func() {
			b := make([]byte, 64)
			for {
				_, from, err := s.ReadFrom(b)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					_, _ = s.WriteTo(reply(from), from) // one that is lost is seen by who asks
				}
			}
		}()
		return
	}
	var s net.Listener
	h.Do(func() { s, err = net.Listen("tcp", at.String()) })
	if err != nil {
		t.Fatalf("%s listens on %s: %v", name, at, err)
	}
	t.Cleanup(func() { s.Close() })
	go func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write(reply(c.RemoteAddr()))
			_ = c.Close()
		}
	}()
}

// patience is how long a question waits for its answer: long against any stall
// of a busy machine. brief is for the questions to which silence is right.
const (
	patience = 3 * time.Second
	brief    = 400 * time.Millisecond
)

// ask sends a question from a host and returns the answer. The outcome is told
// in one word where there is none: refused, unreachable, silence.
func ask(h *nstest.Host, network string, to netip.AddrPort) (answer string, err error) {
	return askFor(h, network, to, patience)
}

func askFor(h *nstest.Host, network string, to netip.AddrPort, patience time.Duration) (answer string, err error) {
	var c net.Conn
	h.Do(func() {
		d := net.Dialer{Timeout: patience}
		c, err = d.Dial(network, to.String())
	})
	if err != nil {
		return outcome(err), err
	}
	defer c.Close()
	if network == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return outcome(err), err
		}
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	b := make([]byte, 64)
	n, err := c.Read(b)
	if err != nil && !(errors.Is(err, io.EOF) && n > 0) {
		return outcome(err), err
	}
	return string(b[:n]), nil
}

func outcome(err error) string {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EPERM):
		// A rule that rejects or drops what the host itself sends makes the send fail.
		return "refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "unreachable"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "silence"
	}
	return strings.ReplaceAll(err.Error(), " ", "-")
}

// strayTCP sends a TCP segment that belongs to no connection.
func strayTCP(t *testing.T, h *nstest.Host, from, to netip.Addr) {
	t.Helper()
	h.Do(func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		p := make([]byte, 40)
		p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_TCP
		binary.BigEndian.PutUint16(p[2:], 40)
		copy(p[12:], from.AsSlice())
		copy(p[16:], to.AsSlice())
		binary.BigEndian.PutUint16(p[20:], 8080)
		binary.BigEndian.PutUint16(p[22:], 33333)
		p[32], p[33] = 5<<4, 0x14 // a reset with an acknowledgement: it cannot begin anything
		if err := unix.Sendto(fd, p, 0, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
			t.Fatal(err)
		}
	})
}

// tcpFrom counts the TCP segments that a host receives from an address.
func tcpFrom(t *testing.T, h *nstest.Host, from netip.Addr) func() int {
	t.Helper()
	var fd int
	h.Do(func() {
		var err error
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { unix.Close(fd) })
	n := 0
	return func() int {
		b := make([]byte, 1500)
		for {
			got, _, err := unix.Recvfrom(fd, b, 0)
			if err != nil {
				return n
			}
			if got >= 20 && netip.AddrFrom4([4]byte(b[12:16])) == from {
				n++
			}
		}
	}
}
