package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Sizes of the two headers in front of the attributes.
const (
	nlmsgHeader = 16 // struct nlmsghdr
	nfgenHeader = 4  // struct nfgenmsg
	headers     = nlmsgHeader + nfgenHeader
)

// answerTime bounds the wait for an answer. The kernel answers before a send
// returns, so it only ever ends a wait for what will not come.
const answerTime = 10 * time.Second

// ErrLost says that the kernel's answer did not reach us (the receive buffer
// was full, or memory was short): whether the change was made is unknown, so
// the caller must read back what is.
var ErrLost = errors.New("the kernel's answer was lost")

// ErrInterrupted says that the table changed during a dump, so what was read
// may be half old and half new.
var ErrInterrupted = errors.New("the table changed while it was read")

// A Type names a message: subsystem in the high byte, message in the low one.
type Type uint16

// Make returns the type of a message of a subsystem.
func Make(subsystem, message int) Type { return Type(subsystem<<8 | message) }

// A Header stands in front of the attributes of a message.
type Header struct {
	Type   Type
	Flags  uint16 // NLM_F_*; NLM_F_REQUEST is added
	Family uint8  // NFPROTO_*
	Res    uint16 // res_id of struct nfgenmsg; the subsystem in batch markers
}

// A Message is one that came from the kernel.
type Message struct {
	Type   Type
	Family uint8
	Port   uint32 // the netlink port of who caused it, in notifications
	Attrs  []byte // only valid until the next read
}

// AppendHeader appends the headers of a message to e and returns where it
// begins, for CloseMessage.
func AppendHeader(e *Encoder, h Header) (start int) {
	start = len(e.B)
	e.B = append(e.B, 0, 0, 0, 0) // length, set by CloseMessage
	e.B = binary.NativeEndian.AppendUint16(e.B, uint16(h.Type))
	e.B = binary.NativeEndian.AppendUint16(e.B, h.Flags|unix.NLM_F_REQUEST)
	e.B = append(e.B, 0, 0, 0, 0, 0, 0, 0, 0) // sequence, set when sent, and port
	e.B = append(e.B, h.Family, 0)            // NFNETLINK_V0
	e.B = binary.BigEndian.AppendUint16(e.B, h.Res)
	return start
}

// CloseMessage writes the length of the message that begins at start.
func CloseMessage(e *Encoder, start int) {
	binary.NativeEndian.PutUint32(e.B[start:], uint32(len(e.B)-start))
}

// A Conn is a netlink socket of the namespace in which it was opened. One
// goroutine at a time may use it.
type Conn struct {
	fd   int
	port uint32
	seq  uint32
	room int // how many bytes one send may have
	buf  []byte
}

// Open opens a socket in the network namespace of the calling thread.
func Open() (*Conn, error) {
	fd, port, err := socket(0)
	if err != nil {
		return nil, err
	}
	c := &Conn{fd: fd, port: port, buf: make([]byte, 64<<10)}
	tv := unix.NsecToTimeval(answerTime.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return nil, errors.Join(fmt.Errorf("set a deadline on the netlink socket: %w", err), c.Close())
	}
	// An error need not carry the message it is about; its sequence number says
	// which it was. A kernel that does not know the option echoes it, no harm done.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	raise(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, 256<<20)
	raise(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, 16<<20)
	got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the size of the netlink socket's buffer: %w", err), c.Close())
	}
	c.room = got/2 - headers // the kernel reports twice what was asked for (socket(7))
	return c, nil
}

func socket(flags int) (fd int, port uint32, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|flags, unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, 0, fmt.Errorf("open a netlink socket for netfilter: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, 0, errors.Join(fmt.Errorf("bind the netlink socket: %w", err), unix.Close(fd))
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return 0, 0, errors.Join(fmt.Errorf("read the netlink socket's port: %w", err), unix.Close(fd))
	}
	nl, ok := sa.(*unix.SockaddrNetlink)
	if !ok {
		return 0, 0, errors.Join(fmt.Errorf("the netlink socket has the address %T", sa), unix.Close(fd))
	}
	return fd, nl.Pid, nil
}

// raise makes a buffer as large as it may be. Outside the first user namespace
// only the unprivileged option works and the kernel cuts it to its limit, so
// the size that came out counts and an error does not.
func raise(fd, force, plain, size int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, size)
	}
}

// Close closes the socket.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// Port returns the socket's netlink port, by which notifications name who
// caused them.
func (c *Conn) Port() uint32 { return c.port }

// Room returns how many bytes one transaction may have.
func (c *Conn) Room() int { return c.room }

// A Refused says that the kernel did not take one message of a transaction.
type Refused struct {
	Index int // which message, counted from 0; -1 for the transaction as such
	Errno unix.Errno
}

func (r *Refused) Error() string { return r.Errno.Error() }
func (r *Refused) Unwrap() error { return r.Errno }

// Batch sends msgs, closed messages one behind the other, as one transaction of
// a subsystem: all of them are in force, or none. A *Refused says which
// message the kernel did not take and why; ErrLost, that nobody knows.
func (c *Conn) Batch(subsystem uint16, msgs []byte) error {
	if len(msgs) == 0 {
		return nil
	}
	if len(msgs) > c.room {
		return fmt.Errorf("a transaction of %d bytes is larger than the socket's buffer of %d: %w", len(msgs), c.room, unix.EMSGSIZE)
	}
	e := Encoder{B: make([]byte, 0, len(msgs)+2*headers)}
	CloseMessage(&e, AppendHeader(&e, Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Res: subsystem}))
	e.B = append(e.B, msgs...)
	CloseMessage(&e, AppendHeader(&e, Header{Type: unix.NFNL_MSG_BATCH_END, Res: subsystem}))

	first := c.seq + 1
	var last int
	n := uint32(0)
	for at := 0; at < len(e.B); at += int(binary.NativeEndian.Uint32(e.B[at:])) {
		n++
		binary.NativeEndian.PutUint32(e.B[at+8:], c.seq+n)
		if at < len(e.B)-headers {
			last = at
		}
	}
	c.seq += n
	// Only the last message is acknowledged: errors come unasked, and an answer
	// for each message would only fill the receive buffer.
	flags := binary.NativeEndian.Uint16(e.B[last+6:])
	binary.NativeEndian.PutUint16(e.B[last+6:], flags|unix.NLM_F_ACK)

	if err := c.send(e.B); err != nil {
		return err
	}
	// The kernel works through a transaction before send returns, so all its
	// answers are here already and nobody ever waits.
	var refused *Refused
	acked, lost := false, false
	for {
		got, err := c.recv(unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			switch {
			case refused != nil:
				return refused
			case acked && !lost:
				return nil
			}
			return ErrLost
		case errors.Is(err, unix.ENOBUFS):
			lost = true
			continue
		case err != nil:
			return fmt.Errorf("read the kernel's answer: %w", err)
		}
		if err := messages(got, func(h nlmsg) error {
			if h.typ != unix.NLMSG_ERROR || h.seq < first {
				return nil
			}
			errno, err := h.errno()
			switch {
			case err != nil:
				return err
			case errno == 0:
				acked = acked || h.seq == c.seq-1
			case refused == nil:
				refused = &Refused{Index: int(h.seq-first) - 1, Errno: errno}
			}
			return nil
		}); err != nil {
			return err
		}
	}
}

// Do sends one request and waits for its acknowledgement. What the kernel
// answers besides goes to each, which may be nil.
func (c *Conn) Do(h Header, attrs []byte, each func(Message) error) error {
	h.Flags |= unix.NLM_F_ACK
	return c.exchange(h, attrs, each)
}

// Dump sends a request for a list and calls each for every entry. It returns
// ErrInterrupted when the list changed meanwhile.
func (c *Conn) Dump(h Header, attrs []byte, each func(Message) error) error {
	h.Flags |= unix.NLM_F_DUMP
	return c.exchange(h, attrs, each)
}

func (c *Conn) exchange(h Header, attrs []byte, each func(Message) error) error {
	var e Encoder
	start := AppendHeader(&e, h)
	e.B = append(e.B, attrs...)
	CloseMessage(&e, start)
	c.seq++
	binary.NativeEndian.PutUint32(e.B[8:], c.seq)
	if err := c.send(e.B); err != nil {
		return err
	}
	var failed error
	interrupted, done := false, false
	for !done {
		got, err := c.recv(0)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			return ErrLost
		case errors.Is(err, unix.EAGAIN):
			return fmt.Errorf("no answer from the kernel in %v: %w", answerTime, os.ErrDeadlineExceeded)
		case err != nil:
			return fmt.Errorf("read the kernel's answer: %w", err)
		}
		if err := messages(got, func(m nlmsg) error {
			if m.seq != c.seq || done {
				return nil // the tail of an earlier exchange that was given up
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.typ {
			case unix.NLMSG_ERROR, unix.NLMSG_DONE:
				done = true
				if len(m.body) < 4 && m.typ == unix.NLMSG_DONE {
					return nil
				}
				errno, err := m.errno()
				if err == nil && errno != 0 {
					err = errno
				}
				return err
			case unix.NLMSG_NOOP:
				return nil
			}
			msg, err := m.message()
			if err != nil {
				return err
			}
			if each != nil && failed == nil {
				// The rest is still read, so that the next exchange does not find it.
				failed = each(msg)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if failed == nil && interrupted {
		return ErrInterrupted
	}
	return failed
}

func (c *Conn) send(b []byte) error {
	for {
		switch err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); {
		case errors.Is(err, unix.EINTR):
			continue // nothing was taken: netlink waits for memory before it looks at the message
		case err != nil:
			return fmt.Errorf("send %d bytes to the kernel: %w", len(b), err)
		}
		return nil
	}
}

// recv returns one datagram. The buffer grows to fit: a dump's datagrams have
// up to 32 KiB, but an error carries the whole message it is about.
func (c *Conn) recv(flags int) ([]byte, error) {
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buf, flags|unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		case n > len(c.buf):
			// The header of a cut datagram is whole, and an error's code stands
			// right behind it, so that what was cut is never needed.
			n = len(c.buf)
		}
		return c.buf[:n], nil
	}
}

// An nlmsg is one netlink message as it came.
type nlmsg struct {
	typ, flags uint16
	seq, port  uint32
	body       []byte
}

// messages calls f for each message in a datagram. One that was cut short by
// the reader's buffer is given with what there is of it.
func messages(b []byte, f func(nlmsg) error) error {
	for len(b) > 0 {
		if len(b) < nlmsgHeader {
			return fmt.Errorf("%w: a message of %d bytes", ErrMalformed, len(b))
		}
		n := int(binary.NativeEndian.Uint32(b))
		if n < nlmsgHeader {
			return fmt.Errorf("%w: a message that says it has %d bytes", ErrMalformed, n)
		}
		if err := f(nlmsg{
			typ: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]),
			seq: binary.NativeEndian.Uint32(b[8:]), port: binary.NativeEndian.Uint32(b[12:]),
			body: b[nlmsgHeader:min(n, len(b))],
		}); err != nil {
			return err
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

func (m nlmsg) errno() (unix.Errno, error) {
	if len(m.body) < 4 {
		return 0, fmt.Errorf("%w: an error message of %d bytes", ErrMalformed, len(m.body))
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(m.body))), nil
}

func (m nlmsg) message() (Message, error) {
	if len(m.body) < nfgenHeader {
		return Message{}, fmt.Errorf("%w: a netfilter message of %d bytes", ErrMalformed, len(m.body))
	}
	return Message{Type: Type(m.typ), Family: m.body[0], Port: m.port, Attrs: m.body[nfgenHeader:]}, nil
}
