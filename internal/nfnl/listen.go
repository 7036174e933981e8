package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrOverrun says that notifications were lost because they came faster than
// they were read: anything may have changed.
var ErrOverrun = errors.New("notifications were lost")

// A Listener hears what the kernel says unasked.
type Listener struct {
	f   *os.File
	fd  int
	buf []byte
}

// Listen joins a multicast group (NFNLGRP_*) in the network namespace of the
// calling thread. What the sockets with the given ports cause is not heard.
func Listen(group int, except ...uint32) (*Listener, error) {
	fd, _, err := socket(unix.SOCK_NONBLOCK)
	if err != nil {
		return nil, err
	}
	l := &Listener{f: os.NewFile(uintptr(fd), "netlink"), fd: fd, buf: make([]byte, 64<<10)}
	if err := deaf(fd, except); err != nil {
		return nil, errors.Join(fmt.Errorf("filter notifications: %w", err), l.Close())
	}
	raise(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, 4<<20)
	if err := l.Join(group); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Join joins a multicast group. It must not be called after Close.
func (l *Listener) Join(group int) error {
	return l.membership("join", unix.NETLINK_ADD_MEMBERSHIP, group)
}

// Leave leaves a multicast group. It must not be called after Close.
func (l *Listener) Leave(group int) error {
	return l.membership("leave", unix.NETLINK_DROP_MEMBERSHIP, group)
}

func (l *Listener) membership(what string, option, group int) error {
	if err := unix.SetsockoptInt(l.fd, unix.SOL_NETLINK, option, group); err != nil {
		return fmt.Errorf("%s netfilter's multicast group %d: %w", what, group, err)
	}
	return nil
}

// deaf makes the kernel drop, before they are queued, the notifications that
// the given ports caused. Our own large transactions would overrun the buffer
// otherwise, and nobody wants to hear of them.
func deaf(fd int, ports []uint32) error {
	if len(ports) == 0 {
		return nil
	}
	const portAt = 12 // struct nlmsghdr
	prog := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: portAt}}
	for i, p := range ports {
		// BPF loads big-endian, netlink writes in the machine's order.
		p = binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, p))
		prog = append(prog, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(len(ports) - i), K: p})
	}
	prog = append(prog,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0})
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
}

// Next waits for the next notifications and calls f for each. It returns
// ErrOverrun when some were lost, and os.ErrClosed after Close.
func (l *Listener) Next(f func(Message) error) error {
	n, err := l.f.Read(l.buf)
	switch {
	case errors.Is(err, unix.ENOBUFS):
		return ErrOverrun
	case err != nil:
		return fmt.Errorf("read notifications: %w", err)
	}
	return messages(l.buf[:n], func(m nlmsg) error {
		if m.typ < unix.NLMSG_MIN_TYPE {
			return nil
		}
		msg, err := m.message()
		if err != nil {
			return err
		}
		return f(msg)
	})
}

// Close ends a Next that waits.
func (l *Listener) Close() error { return l.f.Close() }
