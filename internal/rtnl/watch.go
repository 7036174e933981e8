package rtnl

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A Watch signals that links, addresses or default routes changed. What they
// are now is for a Reader to say: a signal carries nothing, so any number of
// them fold into one and a lost message costs nothing.
type Watch struct {
	socket  *nl.NetlinkSocket
	changed chan struct{}
}

// Subscribe starts to collect changes of the calling thread's network
// namespace. Changes made after it returns are signalled once Run runs.
func Subscribe() (*Watch, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("subscribe to changes of links: %w", err)
	}
	return &Watch{socket: s, changed: make(chan struct{}, 1)}, nil
}

// Changed is signalled after a change.
func (w *Watch) Changed() <-chan struct{} { return w.changed }

func (w *Watch) String() string { return "rtnl" }

// Run reads the kernel's messages until ctx ends and closes the socket then.
func (w *Watch) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, w.socket.Close)() // Closing it wakes the reader.
	for {
		messages, from, err := w.socket.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			w.signal() // Messages were lost, so anything may have changed.
			continue
		case err != nil:
			w.socket.Close()
			return fmt.Errorf("read changes of links: %w", err)
		case from.Pid != nl.PidKernel:
			continue // Another process may write to us; only the kernel knows.
		}
		for _, m := range messages {
			if matters(m.Header.Type, m.Data) {
				w.signal()
				break
			}
		}
	}
}

func (w *Watch) signal() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// matters says whether a message can change what Links returns. Routes that
// carry pods or that a routing daemon made are not of interest, and may be
// many.
func matters(kind uint16, data []byte) bool {
	if kind != unix.RTM_NEWROUTE && kind != unix.RTM_DELROUTE {
		return true
	}
	if len(data) < unix.SizeofRtMsg {
		return false
	}
	// struct rtmsg: family, dst_len, src_len, tos, table, protocol, …
	dstLen, protocol := data[1], data[5]
	return dstLen == 0 || protocol == unix.RTPROT_KERNEL || protocol == unix.RTPROT_RA
}
