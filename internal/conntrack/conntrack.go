// Package conntrack deletes entries of the kernel's connection table by what
// they look like, so that a flow without a state of its own (UDP, SCTP) does
// not go on to an endpoint that is gone.
//
// The kernel does the selecting where it can and does it right (a DELETE with
// CTA_FILTER, for IPv4); elsewhere the table is listed and entries are deleted
// one by one.
package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/nfnl"
)

// Messages and attributes (uapi/linux/netfilter/nfnetlink_conntrack.h).
const (
	msgGet    = 1
	msgDelete = 2

	ctaOrig   = 1 // CTA_TUPLE_ORIG
	ctaReply  = 2 // CTA_TUPLE_REPLY
	ctaFilter = 25

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaProtoNum = 1
	ctaSrcPort  = 2
	ctaDstPort  = 3

	ctaFilterOrig  = 1
	ctaFilterReply = 2

	// What of a tuple has to match (nf_internals.h: CTA_FILTER_F_*).
	matchSrc     = 1 << 0
	matchDst     = 1 << 1
	matchProto   = 1 << 3
	matchSrcPort = 1 << 4
	matchDstPort = 1 << 5
)

// addrAttrs are the attributes of source and destination in each family.
func addrAttrs(f ipfam.Family) (src, dst uint16) {
	if f == ipfam.V4 {
		return 1, 2 // CTA_IP_V4_SRC, CTA_IP_V4_DST
	}
	return 3, 4 // CTA_IP_V6_SRC, CTA_IP_V6_DST
}

// A Flow says which connections are meant: those of a protocol that were begun
// to To and are answered by From, whoever began them. To and From are of one
// family. When both are equal, those are meant whose destination was not
// changed.
type Flow struct {
	Proto    cluster.Protocol
	To, From netip.AddrPort
}

// An Entry is one connection as the table has it.
type Entry struct {
	Flow
	Client netip.AddrPort // who began it
}

// A Conn deletes and lists the connections of the network namespace in which
// it was opened. One goroutine at a time may use it.
type Conn struct {
	nl *nfnl.Conn
	// single is set when this kernel cannot delete by a filter.
	single bool
}

// Open opens a connection in the namespace of the calling thread.
func Open() (*Conn, error) {
	nl, err := nfnl.Open()
	if err != nil {
		return nil, fmt.Errorf("conntrack: %w", err)
	}
	return &Conn{nl: nl}, nil
}

// Close closes the connection to the kernel.
func (c *Conn) Close() error { return c.nl.Close() }

func header(msg int, f ipfam.Family) nfnl.Header {
	return nfnl.Header{Type: nfnl.Make(unix.NFNL_SUBSYS_CTNETLINK, msg), Family: uint8(f.AF())}
}

// tuple appends one direction of a connection; what is not valid is left out.
func tuple(e *nfnl.Encoder, attr uint16, proto cluster.Protocol, src, dst netip.AddrPort) {
	t := e.Nest(attr)
	ip := e.Nest(ctaTupleIP)
	for _, a := range []struct {
		netip.AddrPort
		is int
	}{{src, 0}, {dst, 1}} {
		if a.IsValid() {
			s, d := addrAttrs(ipfam.Of(a.Addr()))
			e.Bytes([]uint16{s, d}[a.is], a.Addr().AsSlice())
		}
	}
	e.End(ip)
	p := e.Nest(ctaTupleProto)
	e.Uint8(ctaProtoNum, uint8(proto))
	if src.IsValid() {
		e.Uint16(ctaSrcPort, src.Port())
	}
	if dst.IsValid() {
		e.Uint16(ctaDstPort, dst.Port())
	}
	e.End(p)
	e.End(t)
}

// filter appends what the kernel is to compare: the protocol, and of To and
// From the bits given.
func filter(e *nfnl.Encoder, f Flow, to, from uint32) {
	tuple(e, ctaOrig, f.Proto, netip.AddrPort{}, f.To)
	tuple(e, ctaReply, f.Proto, f.From, netip.AddrPort{})
	n := e.Nest(ctaFilter)
	e.Bytes(ctaFilterOrig, binary.NativeEndian.AppendUint32(nil, matchProto|to))
	e.Bytes(ctaFilterReply, binary.NativeEndian.AppendUint32(nil, matchProto|from))
	e.End(n)
}

// Delete deletes all connections of a flow. That there is none is no error.
func (c *Conn) Delete(f Flow) error {
	// For IPv6, Linux compares the addresses of a filter the wrong way round and
	// would delete every connection but the right ones (measured on 6.18).
	if c.single || ipfam.Of(f.To.Addr()) == ipfam.V6 {
		return c.deleteSingly(f)
	}
	var e nfnl.Encoder
	// A kernel that does not know the filter would flush the whole table if there
	// were no tuple. With one it looks for that very tuple, finds it incomplete
	// and refuses, and nothing is lost (net/netfilter/nf_conntrack_netlink.c,
	// ctnetlink_del_conntrack).
	filter(&e, f, matchDst|matchDstPort, matchSrc|matchSrcPort)
	err := c.nl.Do(header(msgDelete, ipfam.Of(f.To.Addr())), e.B, nil)
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		c.single = true
		return c.deleteSingly(f)
	case err != nil && !errors.Is(err, unix.ENOENT):
		return fmt.Errorf("delete the %s connections to %s that %s answers: %w", f.Proto, f.To, f.From, err)
	}
	return nil
}

// deleteSingly lists the connections, shortened by their ports where the
// kernel can (since 5.8; others list all), and deletes those of the flow.
func (c *Conn) deleteSingly(f Flow) error {
	fam := ipfam.Of(f.To.Addr())
	var e nfnl.Encoder
	filter(&e, f, matchDstPort, matchSrcPort)
	var found []Entry
	if err := c.list(fam, e.B, func(e Entry) {
		if e.Flow == f {
			found = append(found, e)
		}
	}); err != nil {
		return err
	}
	return c.deleteEntries(found)
}

func (c *Conn) deleteEntries(found []Entry) error {
	var errs []error
	for _, entry := range found {
		var e nfnl.Encoder
		tuple(&e, ctaOrig, entry.Proto, entry.Client, entry.To)
		err := c.nl.Do(header(msgDelete, ipfam.Of(entry.To.Addr())), e.B, nil)
		if err != nil && !errors.Is(err, unix.ENOENT) { // it may have ended by itself
			errs = append(errs, fmt.Errorf("delete the %s connection from %s to %s: %w", entry.Proto, entry.Client, entry.To, err))
		}
	}
	return errors.Join(errs...)
}

// Each calls f for every connection of a family that has ports. Entries that
// change meanwhile may be missed.
func (c *Conn) Each(fam ipfam.Family, f func(Entry)) error { return c.list(fam, nil, f) }

func (c *Conn) list(fam ipfam.Family, attrs []byte, f func(Entry)) error {
	err := c.nl.Dump(header(msgGet, fam), attrs, func(m nfnl.Message) error {
		if e, ok := decode(m.Attrs, fam); ok {
			f(e)
		}
		return nil
	})
	if err != nil && !errors.Is(err, nfnl.ErrInterrupted) {
		return fmt.Errorf("list the %s connections: %w", fam, err)
	}
	return nil
}

// decode reads an entry; ok is false for one without ports.
func decode(attrs []byte, fam ipfam.Family) (e Entry, ok bool) {
	side := func(attr uint16) (src, dst netip.AddrPort, proto byte, ok bool) {
		s, d := addrAttrs(fam)
		sa, oka := netip.AddrFromSlice(nfnl.Find(attrs, attr, ctaTupleIP, s))
		da, okb := netip.AddrFromSlice(nfnl.Find(attrs, attr, ctaTupleIP, d))
		num := nfnl.Find(attrs, attr, ctaTupleProto, ctaProtoNum)
		sp := nfnl.Find(attrs, attr, ctaTupleProto, ctaSrcPort)
		dp := nfnl.Find(attrs, attr, ctaTupleProto, ctaDstPort)
		if !oka || !okb || len(num) != 1 || len(sp) != 2 || len(dp) != 2 {
			return src, dst, 0, false
		}
		return netip.AddrPortFrom(sa, binary.BigEndian.Uint16(sp)), netip.AddrPortFrom(da, binary.BigEndian.Uint16(dp)), num[0], true
	}
	client, to, proto, ok1 := side(ctaOrig)
	from, _, _, ok2 := side(ctaReply)
	return Entry{Flow: Flow{cluster.Protocol(proto), to, from}, Client: client}, ok1 && ok2
}

// few is up to how many flows are deleted one by one. Each deletion walks the
// kernel's whole table, so many are matched against one listing of it.
const few = 8

// DeleteAll deletes all connections of several flows.
func (c *Conn) DeleteAll(flows []Flow) error {
	var errs []error
	if len(flows) <= few {
		for _, f := range flows {
			errs = append(errs, c.Delete(f))
		}
		return errors.Join(errs...)
	}
	want := make(map[Flow]bool, len(flows))
	for _, f := range flows {
		want[f] = true
	}
	for _, fam := range []ipfam.Family{ipfam.V4, ipfam.V6} {
		var found []Entry
		if err := c.Each(fam, func(e Entry) {
			if want[e.Flow] {
				found = append(found, e)
			}
		}); err != nil {
			errs = append(errs, err)
		}
		errs = append(errs, c.deleteEntries(found))
	}
	return errors.Join(errs...)
}
