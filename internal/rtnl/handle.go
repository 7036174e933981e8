package rtnl

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A Handle changes one network namespace. It is not safe for concurrent use.
// All its deletes treat absence as success, all its sets treat presence so.
type Handle struct {
	Reader

	ns netns.NsHandle // -1 for the namespace of the thread that opened it
}

// Errors that callers tell apart.
var (
	ErrNoLink = errors.New("no such link")
	ErrNoNS   = errors.New("the network namespace is gone")
	ErrNotNS  = errors.New("not a network namespace")
	ErrExists = errors.New("it exists already")
)

// OpenHandle opens a handle on the network namespace of the calling thread.
func OpenHandle() (*Handle, error) {
	r, err := Open()
	if err != nil {
		return nil, err
	}
	return &Handle{*r, netns.None()}, nil
}

// OpenAt opens a handle on the namespace that a path such as
// /run/netns/NAME leads to. Errors: ErrNoNS, ErrNotNS.
func OpenAt(path string) (*Handle, error) {
	ns, err := netns.GetFromPath(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return nil, fmt.Errorf("%s: %w", path, ErrNoNS)
	case err != nil:
		return nil, fmt.Errorf("open the network namespace %s: %w", path, err)
	}
	kind, err := unix.IoctlRetInt(int(ns), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		// A file of any other kind answers ENOTTY. An unmounted name in
		// /run/netns is left behind as a plain file.
		return nil, errors.Join(fmt.Errorf("%s: %w", path, ErrNotNS), ns.Close())
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("enter the network namespace %s: %w", path, err), ns.Close())
	}
	return &Handle{Reader{h}, ns}, nil
}

// Close frees the handle.
func (h *Handle) Close() error {
	h.handle.Close()
	if h.ns.IsOpen() {
		return h.ns.Close()
	}
	return nil
}

// IsHere reports whether the handle changes the namespace of the calling
// thread.
func (h *Handle) IsHere() (bool, error) {
	if !h.ns.IsOpen() {
		return true, nil
	}
	here, err := netns.Get()
	if err != nil {
		return false, fmt.Errorf("open the present network namespace: %w", err)
	}
	return here.Equal(h.ns), here.Close()
}

// Do calls f on a thread that is in the handle's namespace, where
// /proc/sys/net shows its values. f must not leave goroutines behind.
func (h *Handle) Do(f func() error) error {
	if !h.ns.IsOpen() {
		return f()
	}
	runtime.LockOSThread()
	back, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the present network namespace: %w", err)
	}
	defer back.Close()
	if err := netns.Set(h.ns); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter a network namespace: %w", err)
	}
	defer func() {
		if err := netns.Set(back); err != nil {
			// The thread stays locked, so it ends with this goroutine and nobody
			// else ever runs on it. Going on here would act in the wrong place.
			panic(fmt.Sprintf("rtnl: leave a network namespace: %v", err))
		}
		runtime.UnlockOSThread()
	}()
	return f()
}

// An Interface is a link by itself: OnLink is what its addresses say, and
// Gateways is empty.
type Interface struct {
	Link

	Alias string // the text that `ip link` shows below it
	Peer  int    // of a cable: the index of its far end, in whichever namespace that is
}

// Link returns one link with its addresses; ErrNoLink when there is none of
// that name.
func (h *Handle) Link(name string) (Interface, error) {
	raw, err := h.raw(name)
	if err != nil {
		return Interface{}, err
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return h.handle.AddrList(raw, netlink.FAMILY_ALL) })
	if err != nil {
		return Interface{}, fmt.Errorf("list the addresses of %s: %w", name, err)
	}
	return Interface{assemble([]netlink.Link{raw}, addrs, nil)[0], raw.Attrs().Alias, raw.Attrs().ParentIndex}, nil
}

func (h *Handle) raw(name string) (netlink.Link, error) {
	raw, err := h.handle.LinkByName(name)
	if notFound(err) {
		return nil, fmt.Errorf("%s: %w", name, ErrNoLink)
	}
	if err != nil {
		return nil, fmt.Errorf("look up link %s: %w", name, err)
	}
	return raw, nil
}

func notFound(err error) bool {
	_, missing := errors.AsType[netlink.LinkNotFoundError](err)
	return missing || errors.Is(err, unix.ENODEV)
}

// DelLink removes a link.
func (h *Handle) DelLink(name string) error {
	raw, err := h.raw(name)
	if errors.Is(err, ErrNoLink) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := h.handle.LinkDel(raw); err != nil && !notFound(err) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

// SetUp sets a link up.
func (h *Handle) SetUp(index int) error {
	if err := h.handle.LinkSetUp(at(index)); err != nil {
		return fmt.Errorf("set link %d up: %w", index, err)
	}
	return nil
}

// SetMTU sets the MTU of a link, bytes.
func (h *Handle) SetMTU(index, mtu int) error {
	if err := h.handle.LinkSetMTU(at(index), mtu); err != nil {
		return fmt.Errorf("set the MTU of link %d to %d: %w", index, mtu, err)
	}
	return nil
}

// SetAlias sets the text that `ip link` shows below a link.
func (h *Handle) SetAlias(index int, text string) error {
	if err := h.handle.LinkSetAlias(at(index), text); err != nil {
		return fmt.Errorf("set the alias of link %d: %w", index, err)
	}
	return nil
}

// NoAutoAddr keeps the kernel from giving a link an IPv6 link-local address
// of its own making. It must be called before the link is set up.
func (h *Handle) NoAutoAddr(index int) error {
	const none = 1 // IN6_ADDR_GEN_MODE_NONE
	if err := h.handle.LinkSetIP6AddrGenMode(at(index), none); err != nil {
		return fmt.Errorf("set the address generation mode of link %d: %w", index, err)
	}
	return nil
}

// An Address is what AddAddr gives a link. IPv6 addresses are given without
// duplicate address detection: all that pass through here are unique by
// construction.
type Address struct {
	netip.Prefix

	// Scope: netlink's RT_SCOPE_*. The zero value is global. The kernel
	// ignores it for IPv6.
	Scope uint8
	// Quiet makes the kernel use the address as a source only where a route
	// or a socket names it (IPv6: preferred lifetime 0, RFC 4862 section 5.5.4).
	Quiet bool
}

// AddAddr gives a link an address.
func (h *Handle) AddAddr(index int, a Address) error {
	na := &netlink.Addr{IPNet: ipNet(a.Prefix), Scope: int(a.Scope)}
	if a.Addr().Is6() {
		na.Flags = unix.IFA_F_NODAD
		if a.Quiet {
			na.ValidLft = 1<<32 - 1 // for ever
		}
	}
	if err := h.handle.AddrReplace(at(index), na); err != nil {
		return fmt.Errorf("give link %d the address %s: %w", index, a.Prefix, err)
	}
	return nil
}

// DelAddr takes an address from a link.
func (h *Handle) DelAddr(index int, p netip.Prefix) error {
	err := h.handle.AddrDel(at(index), &netlink.Addr{IPNet: ipNet(p)})
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !notFound(err) {
		return fmt.Errorf("take the address %s from link %d: %w", p, index, err)
	}
	return nil
}

// at names a link by its index in calls that look at nothing else.
func at(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func ip(a netip.Addr) net.IP {
	if !a.IsValid() {
		return nil
	}
	return a.AsSlice()
}

// sysctlRoots are where /proc/sys may be written: at its place, and, in a
// container whose runtime makes that read-only, where the host's is mounted.
// Both show the values of the namespace of whoever looks.
func sysctlRoots() []string { return []string{"/proc/sys/", "/host/proc/sys/"} }

// SetSysctl writes a value below /proc/sys, such as
// "net/ipv6/conf/eth0/accept_ra", in the handle's namespace. What is right
// already is not written.
func (h *Handle) SetSysctl(key, value string) error {
	return h.Do(func() error {
		if have, err := os.ReadFile(sysctlRoots()[0] + key); err == nil && string(have) == value+"\n" {
			return nil
		}
		var err error
		for _, root := range sysctlRoots() {
			if err = os.WriteFile(root+key, []byte(value), 0); err == nil {
				return nil
			}
			if !errors.Is(err, unix.EROFS) && !errors.Is(err, fs.ErrNotExist) {
				break
			}
		}
		return fmt.Errorf("set %s to %s: %w", key, value, err)
	})
}

// The scopes of an Address that are in use (rtnetlink(7)).
const (
	ScopeHost = unix.RT_SCOPE_HOST
	ScopeLink = unix.RT_SCOPE_LINK
)
