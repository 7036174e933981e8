package rtnl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
)

// A VXLAN is a tunnel device that sends frames to where its forwarding
// entries say, and learns nothing (RFC 7348). It is comparable.
type VXLAN struct {
	Name  string
	VNI   uint32
	Port  uint16 // UDP
	MAC   cluster.MAC
	Local netip.Addr // source of the outer packets; its family is the tunnel's
	MTU   int        // bytes
}

// AddVXLAN makes a tunnel device and sets it up. The MAC is given at creation,
// so that udev leaves it alone. The outer UDP checksum is on: IPv6 needs it,
// kernels before 5.7 translate packets without one wrongly, and the kernel
// computes it from the inner one at no cost (local checksum offload).
func (h *Handle) AddVXLAN(v VXLAN) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = v.Name, v.MTU, net.HardwareAddr(v.MAC[:])
	link := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: int(v.VNI), Port: int(v.Port), SrcAddr: ip(v.Local), UDPCSum: true}
	if err := h.handle.LinkAdd(link); err != nil {
		if errors.Is(err, unix.EEXIST) {
			// Also said when another device has the same VNI and port.
			err = fmt.Errorf("another VXLAN device uses VNI %d on UDP port %d, or the name is taken: %w", v.VNI, v.Port, ErrExists)
		}
		return fmt.Errorf("make the VXLAN device %s: %w", v.Name, err)
	}
	raw, err := h.raw(v.Name)
	if err != nil {
		return err
	}
	if err := h.NoAutoAddr(raw.Attrs().Index); err != nil {
		return err
	}
	return h.SetUp(raw.Attrs().Index)
}

// GetVXLAN reads a tunnel device back, with its index. It returns ErrNoLink
// when there is none, and a VXLAN of which nothing but the name is filled in
// when a link of another kind or of other settings has the name.
func (h *Handle) GetVXLAN(name string) (v VXLAN, index int, up bool, err error) {
	raw, err := h.raw(name)
	if err != nil {
		return v, 0, false, err
	}
	v.Name = name
	a := raw.Attrs()
	x, ok := raw.(*netlink.Vxlan)
	if !ok || x.Learning || x.FlowBased || !x.UDPCSum || len(a.HardwareAddr) != len(v.MAC) {
		return v, a.Index, false, nil
	}
	v.VNI, v.Port, v.MAC, v.MTU = uint32(x.VxlanId), uint16(x.Port), cluster.MAC(a.HardwareAddr), a.MTU
	v.Local, _ = addr(x.SrcAddr)
	return v, a.Index, a.RawFlags&unix.IFF_UP != 0, nil
}

// A Neighbour is an entry that the kernel neither ages nor asks for: that of a
// peer in a neighbour table, or in the forwarding table of a VXLAN device,
// where Addr is the peer's address outside the tunnel. It is comparable.
type Neighbour struct {
	Link    int // index
	Forward bool
	Addr    netip.Addr
	MAC     cluster.MAC
}

func (n Neighbour) String() string {
	kind := "neighbour"
	if n.Forward {
		kind = "forwarding entry"
	}
	return fmt.Sprintf("%s %s %s dev %d", kind, n.Addr, net.HardwareAddr(n.MAC[:]), n.Link)
}

// Key names the place that n takes: a neighbour table has one MAC per address,
// a forwarding table one address per MAC.
func (n Neighbour) Key() Neighbour {
	if n.Forward {
		n.Addr = netip.Addr{}
	} else {
		n.MAC = cluster.MAC{}
	}
	return n
}

func (n Neighbour) netlink() *netlink.Neigh {
	raw := &netlink.Neigh{LinkIndex: n.Link, Family: ipfam.Of(n.Addr).AF(), State: unix.NUD_PERMANENT, IP: ip(n.Addr), HardwareAddr: net.HardwareAddr(n.MAC[:])}
	if n.Forward {
		raw.Family, raw.Flags = unix.AF_BRIDGE, unix.NTF_SELF
	}
	return raw
}

// SetNeighbour adds an entry or replaces the one with the same key.
func (h *Handle) SetNeighbour(n Neighbour) error {
	if err := h.handle.NeighSet(n.netlink()); err != nil {
		return fmt.Errorf("set %s: %w", n, err)
	}
	return nil
}

// DelNeighbour removes an entry.
func (h *Handle) DelNeighbour(n Neighbour) error {
	err := h.handle.NeighDel(n.netlink())
	if err != nil && !errors.Is(err, unix.ENOENT) && !notFound(err) {
		return fmt.Errorf("delete %s: %w", n, err)
	}
	return nil
}

// Neighbours returns the permanent entries on a link.
func (h *Handle) Neighbours(link int) ([]Neighbour, error) {
	var out []Neighbour
	for _, family := range []int{unix.AF_INET, unix.AF_INET6, unix.AF_BRIDGE} {
		raw, err := dump(func() ([]netlink.Neigh, error) { return h.handle.NeighList(link, family) })
		if err != nil {
			return nil, fmt.Errorf("list the neighbours on link %d: %w", link, err)
		}
		for _, n := range raw {
			a, ok := addr(n.IP)
			if ok && n.State&unix.NUD_PERMANENT != 0 && len(n.HardwareAddr) == len(cluster.MAC{}) {
				out = append(out, Neighbour{Link: link, Forward: family == unix.AF_BRIDGE, Addr: a, MAC: cluster.MAC(n.HardwareAddr)})
			}
		}
	}
	return out, nil
}

// TxChecksumOff makes the kernel compute the checksums of what leaves through
// a link, for hardware that gets those inside a tunnel wrong.
func (h *Handle) TxChecksumOff(name string) error {
	return h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return ethtoolSet(fd, name, unix.ETHTOOL_STXCSUM, 0)
	})
}

// Driver returns the name of the driver of a link, and "" when it does not
// say.
func (h *Handle) Driver(name string) string {
	var driver string
	err := h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
		if err != nil {
			return err
		}
		driver = unix.ByteSliceToString(info.Driver[:])
		return nil
	})
	if err != nil {
		return "" // most virtual links have no such call
	}
	return driver
}
