package nft

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/nfnl"
)

// A Conn changes and reads the tables of the network namespace in which it was
// opened. One goroutine at a time may use it.
type Conn struct {
	nl      *nfnl.Conn
	commits uint32 // transactions made, each of which is one generation
}

// ErrMissing says that this kernel cannot do nftables at all.
var ErrMissing = errors.New("this kernel has no nftables")

// Open opens a connection in the namespace of the calling thread. The error is
// ErrMissing when the kernel has no nftables.
func Open() (*Conn, error) {
	nl, err := nfnl.Open()
	if err != nil {
		return nil, missing(err)
	}
	c := &Conn{nl: nl}
	if _, err := c.Generation(); err != nil {
		return nil, errors.Join(missing(err), nl.Close())
	}
	return c, nil
}

// missing tells a kernel without nftables by what it answers: no such netlink
// family when netfilter is not there at all, and an invalid or unsupported
// message when only the nftables subsystem is missing.
func missing(err error) error {
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("%w (CONFIG_NETFILTER_NETLINK, module nfnetlink): %w", ErrMissing, err)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w (CONFIG_NF_TABLES, module nf_tables): %w", ErrMissing, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("nftables needs the capability NET_ADMIN: %w", err)
	}
	return err
}

// Close closes the connection. What is in the kernel stays.
func (c *Conn) Close() error { return c.nl.Close() }

// Room returns how large a batch may be, in bytes.
func (c *Conn) Room() int { return c.nl.Room() }

// Port names this connection in notifications.
func (c *Conn) Port() uint32 { return c.nl.Port() }

// Generation returns the number of the ruleset. It changes with every
// transaction of anybody in the namespace.
func (c *Conn) Generation() (gen uint32, err error) {
	err = c.nl.Do(header(unix.NFT_MSG_GETGEN, unix.NFPROTO_UNSPEC), nil, func(m nfnl.Message) error {
		gen = nfnl.Uint32(nfnl.Find(m.Attrs, unix.NFTA_GEN_ID))
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read the generation of the ruleset: %w", err)
	}
	return gen, nil
}

func header(msg int, family uint8) nfnl.Header {
	return nfnl.Header{Type: nfnl.Make(unix.NFNL_SUBSYS_NFTABLES, msg), Family: family}
}

// Commit makes the changes of a batch. An error says which of them the kernel
// refused; then none was made. With nfnl.ErrLost it is unknown whether they
// were made.
func (c *Conn) Commit(b *Batch) error {
	if b.Empty() {
		return nil
	}
	err := c.nl.Batch(unix.NFNL_SUBSYS_NFTABLES, b.e.B)
	if err == nil {
		c.commits++
		return nil
	}
	var r *nfnl.Refused
	if errors.As(err, &r) && r.Index >= 0 && r.Index < len(b.did) {
		return fmt.Errorf("%s: %w", b.did[r.Index], explain(r.Errno))
	}
	return fmt.Errorf("change nftables (%d messages): %w", len(b.did), err)
}

// explain adds what an errno means where nftables gives it a meaning of its own.
func explain(errno unix.Errno) error {
	switch errno {
	case unix.ENFILE:
		return fmt.Errorf("the set is full: %w", errno)
	case unix.EEXIST:
		return fmt.Errorf("it is there with another value: %w", errno)
	case unix.EAFNOSUPPORT, unix.EOPNOTSUPP:
		return fmt.Errorf("%w for this (CONFIG_NF_TABLES_INET, NFT_NAT, NFT_MASQ, NFT_REDIR, NFT_REJECT, NFT_FIB, NFT_NUMGEN): %w", ErrMissing, errno)
	}
	return errno
}

// Elements calls each for every element of a set. It returns
// nfnl.ErrInterrupted when the set changed meanwhile, and an error that is
// unix.ENOENT when there is no such set.
func (c *Conn) Elements(table string, s Set, each func(Element) error) error {
	var e nfnl.Encoder
	e.Text(unix.NFTA_SET_ELEM_LIST_TABLE, table)
	e.Text(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
	err := c.nl.Dump(header(unix.NFT_MSG_GETSETELEM, unix.NFPROTO_INET), e.B, func(m nfnl.Message) error {
		return nfnl.Walk(nfnl.Find(m.Attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS), func(_ uint16, v []byte) error {
			el, err := s.decodeElement(v)
			if err != nil {
				return err
			}
			return each(el)
		})
	})
	if err != nil {
		return fmt.Errorf("list the elements of set %s of table %s: %w", s.Name, table, err)
	}
	return nil
}

// Present is what the kernel has of a table.
type Present struct {
	Exists bool
	Sets   map[string]Set // types are told by number only; see same
	Chains map[string]Chain
	digest map[string][]string // per chain, the digests of its rules in order
}

// Read returns what there is of a table, without the elements of its sets.
func (c *Conn) Read(table string) (Present, error) {
	p := Present{Sets: map[string]Set{}, Chains: map[string]Chain{}, digest: map[string][]string{}}
	var e nfnl.Encoder
	e.Text(unix.NFTA_TABLE_NAME, table) // attribute 1 of all three requests
	switch err := c.nl.Do(header(unix.NFT_MSG_GETTABLE, unix.NFPROTO_INET), e.B, nil); {
	case errors.Is(err, unix.ENOENT):
		return p, nil
	case err != nil:
		return p, fmt.Errorf("look for table %s: %w", table, err)
	}
	p.Exists = true
	for _, list := range []struct {
		what string
		msg  int
		each func(attrs []byte)
	}{
		{"sets", unix.NFT_MSG_GETSET, func(a []byte) {
			s := Set{
				Name:     nfnl.Text(nfnl.Find(a, unix.NFTA_SET_NAME)),
				Key:      typesOf(nfnl.Find(a, unix.NFTA_SET_KEY_TYPE), nfnl.Find(a, unix.NFTA_SET_KEY_LEN)),
				Data:     typesOf(nfnl.Find(a, unix.NFTA_SET_DATA_TYPE), nfnl.Find(a, unix.NFTA_SET_DATA_LEN)),
				Size:     nfnl.Uint32(nfnl.Find(a, unix.NFTA_SET_DESC, unix.NFTA_SET_DESC_SIZE)),
				Interval: nfnl.Uint32(nfnl.Find(a, unix.NFTA_SET_FLAGS))&setInterval != 0,
				Dynamic:  nfnl.Uint32(nfnl.Find(a, unix.NFTA_SET_FLAGS))&setEval != 0,
			}
			p.Sets[s.Name] = s
		}},
		{"chains", unix.NFT_MSG_GETCHAIN, func(a []byte) {
			ch := Chain{Name: nfnl.Text(nfnl.Find(a, unix.NFTA_CHAIN_NAME))}
			if h := nfnl.Find(a, unix.NFTA_CHAIN_HOOK); h != nil {
				ch.Hook = &Hook{
					Type:     nfnl.Text(nfnl.Find(a, unix.NFTA_CHAIN_TYPE)),
					Point:    Point(nfnl.Uint32(nfnl.Find(h, unix.NFTA_HOOK_HOOKNUM))),
					Priority: int32(nfnl.Uint32(nfnl.Find(h, unix.NFTA_HOOK_PRIORITY))),
				}
			}
			p.Chains[ch.Name] = ch
		}},
		{"rules", unix.NFT_MSG_GETRULE, func(a []byte) {
			chain := nfnl.Text(nfnl.Find(a, unix.NFTA_RULE_CHAIN))
			p.digest[chain] = append(p.digest[chain], string(nfnl.Find(a, unix.NFTA_RULE_USERDATA)))
		}},
	} {
		err := c.nl.Dump(header(list.msg, unix.NFPROTO_INET), e.B, func(m nfnl.Message) error {
			// The dump of chains knows no filter by table.
			if nfnl.Text(nfnl.Find(m.Attrs, unix.NFTA_TABLE_NAME)) == table {
				list.each(m.Attrs)
			}
			return nil
		})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return p, fmt.Errorf("list the %s of table %s: %w", list.what, table, err)
		}
	}
	return p, nil
}

// typesOf keeps the number and the size of a type, all that the kernel knows.
func typesOf(num, size []byte) []Type {
	if num == nil {
		return nil
	}
	return []Type{{id: nfnl.Uint32(num), size: int(nfnl.Uint32(size))}}
}

// ErrIncompatible says that a table of another layout is in the way: it can
// only be replaced as a whole.
var ErrIncompatible = errors.New("the table in the kernel has another layout")

// Ensure appends to b what makes have the table that want declares, without
// touching what is right. Elements stay as they are. Sets grow to the size that
// want declares but never shrink.
func (want Table) Ensure(b *Batch, have Present) error {
	if !have.Exists {
		b.AddTable(want.Name)
	}
	for _, s := range want.Sets {
		old, ok := have.Sets[s.Name]
		switch {
		case !ok || old.Size < s.Size && old.Size > 0:
			b.AddSet(want.Name, s)
		}
		if ok && !same(old, s) {
			return fmt.Errorf("set %s: %w", s.Name, ErrIncompatible)
		}
	}
	var stale []Chain
	for _, ch := range want.Chains {
		old, ok := have.Chains[ch.Name]
		if ok && !sameHook(old.Hook, ch.Hook) {
			return fmt.Errorf("chain %s: %w", ch.Name, ErrIncompatible)
		}
		if !ok {
			b.addChain(want.Name, ch)
		}
		if !slices.EqualFunc(have.digest[ch.Name], ch.Rules, func(d string, r Rule) bool { return d == string(r.udata()) }) {
			if len(have.digest[ch.Name]) > 0 {
				b.flushChain(want.Name, ch.Name)
			}
			stale = append(stale, ch)
		}
	}
	for _, ch := range stale { // all chains exist now, so rules may jump to each
		b.addRules(want.Name, ch)
	}
	return nil
}

// Surplus appends to b, behind what Ensure appended, what removes the chains
// and sets that want does not declare. No element of a declared map may lead
// to such a chain any more.
func (want Table) Surplus(b *Batch, have Present) {
	var chains []string
	for name := range have.Chains {
		if !slices.ContainsFunc(want.Chains, func(c Chain) bool { return c.Name == name }) {
			chains = append(chains, name)
		}
	}
	slices.Sort(chains)
	for _, name := range chains { // all of them first: they may use each other and the sets
		b.flushChain(want.Name, name)
	}
	for name := range have.Sets {
		// A set without a name of its own goes with the rule that it is part of.
		if !strings.HasPrefix(name, "__") && !slices.ContainsFunc(want.Sets, func(s Set) bool { return s.Name == name }) {
			b.DeleteSet(want.Name, name)
		}
	}
	for _, name := range chains {
		b.DeleteChain(want.Name, name)
	}
}

func same(have, want Set) bool {
	eq := func(have, want []Type) bool {
		return len(have) == 0 && len(want) == 0 ||
			len(have) > 0 && len(want) > 0 && id(have) == id(want) && width(have) == width(want)
	}
	return eq(have.Key, want.Key) && (want.isVerdict() || eq(have.Data, want.Data)) &&
		have.Interval == want.Interval && have.Dynamic == want.Dynamic
}

func sameHook(a, b *Hook) bool { return a == b || a != nil && b != nil && *a == *b }

// Remove removes a table if it is there.
func (c *Conn) Remove(table string) error {
	var b Batch
	b.AddTable(table) // so that deleting it cannot fail for want of it
	b.DeleteTable(table)
	return c.Commit(&b)
}
