package rtnl

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtoolValue is struct ethtool_value of linux/ethtool.h.
type ethtoolValue struct{ cmd, data uint32 }

// ethtoolRequest is struct ifreq of linux/if.h, with a pointer in its union.
type ethtoolRequest struct {
	name  [unix.IFNAMSIZ]byte
	value *ethtoolValue
	_     [24 - unsafe.Sizeof(uintptr(0))]byte
}

// ethtoolSet gives a switch of a link a value.
func ethtoolSet(fd int, name string, cmd, data uint32) error {
	req := ethtoolRequest{value: &ethtoolValue{cmd, data}}
	if copy(req.name[:unix.IFNAMSIZ-1], name) != len(name) {
		return fmt.Errorf("%q is too long for the name of a link", name)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return fmt.Errorf("ethtool command %#x on %s: %w", cmd, name, errno)
	}
	return nil
}
