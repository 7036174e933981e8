package speaker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A SocketFunc opens a socket, as unix.Socket does; nil stands for that. Tests
// give one that opens it in another network namespace.
type SocketFunc func(domain, typ, protocol int) (int, error)

// OpenPacket returns the Opener for real links.
//
// A Conn of it is one responder with two AF_PACKET sockets, one for each
// ethertype. A socket for every ethertype would make the kernel copy each
// outgoing packet of the link for us, and would show VLAN-tagged frames as if
// they were untagged. A packet socket, not a raw ICMPv6 one: unicast
// solicitations for an address that is on no interface never reach the latter
// (measured; the client's cache entry fails).
func OpenPacket(log *slog.Logger, socket SocketFunc) Opener {
	if socket == nil {
		socket = unix.Socket
	}
	return func(p Place) (Conn, error) {
		c := &packetConn{Place: p, log: log.With("link", p.Name), joined: newGroups(socket, p.Index)}
		c.table.Store(&Table{})
		if err := c.open(socket); err != nil {
			return nil, errors.Join(err, c.closeAll())
		}
		c.done = make(chan struct{})
		go c.serve()
		return c, nil
	}
}

// Check says whether this process may speak on links at all. It is for the
// start of a program: a missing capability is an error of the installation.
func Check() error {
	fd, err := packetSocket(unix.Socket)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func packetSocket(socket SocketFunc) (int, error) {
	// Protocol 0 receives nothing until bind, when the filter is in place.
	fd, err := socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.EPERM):
		return -1, fmt.Errorf("open a packet socket (AF_PACKET): %w: the speaker needs CAP_NET_RAW; "+
			"add NET_RAW to the container's securityContext.capabilities.add", err)
	case errors.Is(err, unix.EAFNOSUPPORT):
		return -1, fmt.Errorf("open a packet socket (AF_PACKET): %w: the kernel lacks CONFIG_PACKET", err)
	case err != nil:
		return -1, fmt.Errorf("open a packet socket (AF_PACKET): %w", err)
	}
	return fd, nil
}

// packetConn implements Conn on the kernel's packet sockets.
type packetConn struct {
	Place
	log *slog.Logger

	sockets [2]int // ARP and IPv6, non-blocking; -1 when not open
	wake    int    // eventfd that ends serve
	table   atomic.Pointer[Table]
	joined  *groups
	done    chan struct{}

	received, malformed, answered, unsent, withheld, lost atomic.Uint64
	heard                                                 atomic.Pointer[time.Time]
}

// filters keep out what is not ours before it is copied: frames that we sent
// or that are for another host or VLAN (the kernel marks the latter two alike),
// and IPv6 that is no valid neighbour discovery.
var filters = [2][]bpf.Instruction{
	{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: unix.PACKET_MULTICAST, SkipTrue: 1},
		bpf.RetConstant{Val: maxFrame},
		bpf.RetConstant{Val: 0},
	},
	{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: unix.PACKET_MULTICAST, SkipTrue: 8},
		bpf.LoadAbsolute{Off: etherLen + 6, Size: 1}, // next header
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: icmp6, SkipFalse: 6},
		bpf.LoadAbsolute{Off: etherLen + 7, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: hopLimit, SkipFalse: 4},
		bpf.LoadAbsolute{Off: etherLen + ip6Len, Size: 1}, // ICMPv6 type
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: icmp6NSol, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: icmp6NAdv, SkipFalse: 1},
		bpf.RetConstant{Val: maxFrame},
		bpf.RetConstant{Val: 0},
	},
}

// maxFrame is more than any solicitation or advertisement needs; bytes behind
// it are cut off, and a message that says to be longer is malformed.
const maxFrame = 2048

// aliveEvery is the least time between two events of the kind Alive.
const aliveEvery = 50 * time.Millisecond

var ethertypes = [2]uint16{etherARP, etherIPv6}

func (c *packetConn) open(socket SocketFunc) error {
	c.sockets, c.wake = [2]int{-1, -1}, -1
	var err error
	if c.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("open an eventfd: %w", err)
	}
	for i, kind := range ethertypes {
		fd, err := packetSocket(socket)
		if err != nil {
			return err
		}
		c.sockets[i] = fd
		if err := attach(fd, filters[i]); err != nil {
			return fmt.Errorf("filter frames on %s: %w", c.Name, err)
		}
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(kind), Ifindex: c.Index}); err != nil {
			return fmt.Errorf("bind a packet socket to link %s (index %d): %w", c.Name, c.Index, err)
		}
	}
	return nil
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

func attach(fd int, program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return err
	}
	code := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		code[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
}

// Set joins before it answers, and leaves groups last.
func (c *packetConn) Set(t *Table) error {
	err := c.joined.join(t.groups())
	c.table.Store(t)
	if err != nil {
		return fmt.Errorf("on link %s: %w", c.Name, err)
	}
	return c.joined.leave(t.groups())
}

func (c *packetConn) Send(call Call) error {
	for _, f := range call.frames(c.table.Load().MAC) {
		err := c.send(f)
		if errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
			err = errors.Join(ErrLinkDown, err)
		}
		if err != nil {
			return fmt.Errorf("send about %v on link %s: %w", call.Addr, c.Name, err)
		}
	}
	return nil
}

// send may be called from the responder and the speaker at once: a send on a
// packet socket is one system call.
func (c *packetConn) send(frame []byte) error {
	kind := binary.BigEndian.Uint16(frame[12:14])
	return unix.Sendto(c.sockets[0], frame, 0, &unix.SockaddrLinklayer{Protocol: htons(kind), Ifindex: c.Index})
}

func (c *packetConn) Stats() Stats {
	s := Stats{Received: c.received.Load(), Malformed: c.malformed.Load(), Answered: c.answered.Load(), Unsent: c.unsent.Load(), Withheld: c.withheld.Load(), Lost: c.lost.Load()}
	if at := c.heard.Load(); at != nil {
		s.Heard = *at
	}
	return s
}

// Close stops answering and returns when it has stopped.
func (c *packetConn) Close() error {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	if _, err := unix.Write(c.wake, one[:]); err != nil {
		return fmt.Errorf("stop the responder on link %s: %w", c.Name, err)
	}
	<-c.done
	return c.closeAll()
}

func (c *packetConn) closeAll() error {
	errs := []error{c.joined.close()}
	for _, fd := range append(c.sockets[:], c.wake) {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

// Discard reads beside the responder: each frame goes to one of the two.
func (c *packetConn) Discard() error {
	var b [1]byte
	for _, fd := range c.sockets {
		for {
			_, _, err := unix.Recvfrom(fd, b[:], 0)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENETDOWN) {
				return fmt.Errorf("discard frames on link %s: %w", c.Name, err)
			}
		}
	}
	return nil
}

// serve answers until Close. It has an operating system thread for itself, so
// that no other work of the program delays an answer.
func (c *packetConn) serve() {
	runtime.LockOSThread()
	defer close(c.done)
	fds := []unix.PollFd{{Fd: int32(c.sockets[0]), Events: unix.POLLIN}, {Fd: int32(c.sockets[1]), Events: unix.POLLIN}, {Fd: int32(c.wake), Events: unix.POLLIN}}
	buf := make([]byte, maxFrame)
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			panic(fmt.Sprintf("poll on link %s: %v", c.Name, err)) // Only a bad argument is left.
		}
		if fds[2].Revents != 0 {
			return
		}
		for i := range c.sockets {
			if fds[i].Revents != 0 {
				if err := c.drain(c.sockets[i], buf); err != nil {
					c.log.Error("cannot read frames any more; answers on this link stop", "err", err)
					fds[i].Fd = -1
				}
			}
		}
	}
}

// drain handles all frames that wait in a socket.
func (c *packetConn) drain(fd int, buf []byte) error {
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN):
			continue // A link that goes down says so once; the socket works again when it is back.
		case err != nil:
			return err
		}
		c.handle(buf[:n], from)
	}
}

func (c *packetConn) handle(frame []byte, from unix.Sockaddr) {
	c.received.Add(1)
	m, err := Decode(frame)
	if err != nil {
		c.malformed.Add(1)
		c.log.Debug("ignored a frame", "err", err)
		return
	}
	table, now := c.table.Load(), time.Now()
	reply, events := table.respond(m)
	if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_HOST && !table.own(m.Source) {
		// A frame for this host alone proves that it is heard and hears. One
		// event tells that for all that come close together.
		if last := c.heard.Load(); last == nil || now.Sub(*last) >= aliveEvery {
			events = append(events, Event{Addr: m.speaker(), MAC: m.MAC, Kind: Alive})
		}
		c.heard.Store(&now)
	}
	if reply != nil && !c.Lease.Valid(now) {
		reply = nil
		c.withheld.Add(1)
	}
	if reply != nil {
		if err := c.send(reply); err != nil {
			c.unsent.Add(1)
			c.log.Debug("cannot send an answer", "addr", m.Asks, "to", m.MAC, "err", err)
		} else {
			c.answered.Add(1)
		}
	}
	for _, e := range events {
		e.Link, e.At = c.Name, now
		if !c.Events(e) {
			c.lost.Add(1)
		}
	}
}
