package rtnl

import (
	"fmt"
	"math"

	"github.com/vishvananda/netlink"
)

// Limit makes what leaves through a link wait so that it is no faster than a
// rate, in bits per second, after a burst, in bits (tbf(8)). A burst of 0, or
// of 2³¹-1 and above, which is how runtimes spell «none said», means one of
// 10 ms. A packet may always pass: no burst is smaller than that.
func (h *Handle) Limit(link int, rate, burst uint64, mtu int) error {
	const (
		bits     = 8
		wait     = 0.05 // seconds that a packet may wait before it is dropped
		smallest = 0.01 // seconds of the rate
		header   = 14
	)
	if burst >= math.MaxInt32 {
		burst = 0
	}
	perSecond := max(rate/bits, 1) // bytes
	size := max(burst/bits, uint64(float64(perSecond)*smallest), uint64(mtu+header))
	size = min(size, math.MaxInt32)
	q := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       perSecond,
		Limit:      uint32(min(float64(perSecond)*wait+float64(size), math.MaxInt32)),
		// The kernel wants the time that a burst takes, in its own ticks.
		Buffer: uint32(min(float64(size)/float64(perSecond)*netlink.TickInUsec()*1e6, math.MaxUint32)),
	}
	if err := h.handle.QdiscReplace(q); err != nil {
		return fmt.Errorf("limit link %d to %d bit/s (needs the kernel's CONFIG_NET_SCH_TBF): %w", link, rate, err)
	}
	return nil
}
