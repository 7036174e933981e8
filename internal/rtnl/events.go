package rtnl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Events signals every change of links, addresses and rules, the loss of a
// neighbour on a link that is followed, and those changes of routes that can
// break what we made: the loss of one of ours, and the kernel's own. Like a
// Watch it carries nothing.
type Events struct {
	socket   *nl.NetlinkSocket
	changed  chan struct{}
	followed atomic.Pointer[[]int]
}

// SubscribeEvents starts to collect the changes of the calling thread's
// network namespace.
func SubscribeEvents() (*Events, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_NEIGH)
	if err != nil {
		return nil, fmt.Errorf("subscribe to changes of routes: %w", err)
	}
	return &Events{socket: s, changed: make(chan struct{}, 1)}, nil
}

// Follow names the links whose neighbours matter, by index, instead of those
// it was told before.
func (e *Events) Follow(links ...int) { e.followed.Store(&links) }

// Changed is signalled after a change.
func (e *Events) Changed() <-chan struct{} { return e.changed }

func (e *Events) String() string { return "rtnl events" }

// Run reads the kernel's messages until ctx ends and closes the socket then.
func (e *Events) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, e.socket.Close)() // closing it wakes the reader
	for {
		messages, from, err := e.socket.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			e.signal() // messages were lost, so anything may have changed
			continue
		case err != nil:
			e.socket.Close()
			return fmt.Errorf("read changes of routes: %w", err)
		case from.Pid != nl.PidKernel:
			continue // another process may write to us; only the kernel knows
		}
		for _, m := range messages {
			var followed []int
			if f := e.followed.Load(); f != nil {
				followed = *f
			}
			if breaks(m.Header.Type, m.Data, followed) {
				e.signal()
				break
			}
		}
	}
}

func (e *Events) signal() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// breaks says whether a message can mean that something of ours is missing or
// that a path has changed. The kernel announces each neighbour that it learns
// and forgets, and a routing daemon may make many routes: neither concerns us.
func breaks(kind uint16, data []byte, followed []int) bool {
	switch kind {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if len(data) < unix.SizeofRtMsg {
			return false
		}
		// struct rtmsg: family, dst_len, src_len, tos, table, protocol, …
		dstLen, protocol := data[1], data[5]
		return kind == unix.RTM_DELROUTE && protocol == Protocol || dstLen == 0 ||
			protocol == unix.RTPROT_KERNEL || protocol == unix.RTPROT_RA
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		// struct ndmsg: family, 3 bytes of padding, ifindex (4), …
		return kind == unix.RTM_DELNEIGH && len(data) >= 8 &&
			slices.Contains(followed, int(binary.NativeEndian.Uint32(data[4:])))
	}
	return true
}
