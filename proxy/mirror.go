package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/nfnl"
	"github.com/clarion-lb/clarion/internal/nft"
)

// A mirror is what the kernel has: for each set, the elements by their name.
// It is read from the kernel at start and after anything went wrong, and
// follows each transaction that the kernel took.
type mirror map[string]map[string]string

// nameOf returns the name of an element in its set: its key, and a letter more
// for the bound of an interval, since its key may begin the next one.
func nameOf(el nft.Element) string {
	if el.Bound {
		return el.Key + "b"
	}
	return el.Key
}

// elementOf returns the element with a name.
func elementOf(s nft.Set, name, data string) nft.Element {
	el := nft.Element{Key: name, Data: data}
	if s.Interval && len(name)%2 == 1 {
		el.Key, el.Bound = name[:len(name)-1], true
	}
	return el
}

// readMirror reads all sets of a table but the dynamic ones, which the packets
// write.
func readMirror(c *nft.Conn, sets []nft.Set) (mirror, error) {
	m := make(mirror, len(sets))
	for _, s := range sets {
		if s.Dynamic {
			continue
		}
		if err := again(func() error {
			m[s.Name] = map[string]string{}
			return c.Elements(Table, s, func(el nft.Element) error {
				m[s.Name][nameOf(el)] = el.Data
				return nil
			})
		}); err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, err
		}
	}
	return m, nil
}

// again repeats a read that somebody's transaction interrupted.
func again(read func() error) error {
	const tries = 5
	var err error
	for range tries {
		if err = read(); !errors.Is(err, nfnl.ErrInterrupted) {
			return err
		}
	}
	return fmt.Errorf("after %d attempts: %w", tries, err)
}

// slots returns the endpoints that a front has in the kernel, in the order of
// their slots.
func (m mirror) slots(f Front, inner, affinity bool) []netip.AddrPort {
	fam, key := f.family(), f.key()
	at := uint32(0)
	if inner {
		at = innerSlots
	}
	var out []netip.AddrPort
	for ; ; at++ {
		k := slotKey(key, at)
		if affinity {
			id, ok := m[mapIDs(fam)][k]
			if !ok {
				return out
			}
			k = key + id
		}
		v, ok := m[mapEps(fam)][k]
		if !ok {
			return out
		}
		out = append(out, endpointOf(v, fam))
	}
}

// of calls each for every element that a front has in the kernel.
func (m mirror) of(f Front, each func(set, name, data string)) {
	fam, key := f.family(), f.key()
	class := m[mapClass(fam)][key]
	for _, set := range []string{mapClass(fam), mapAdmitted(fam), mapInner(fam), mapOuter(fam)} {
		if v, ok := m[set][key]; ok {
			each(set, key, v)
		}
	}
	for _, at := range []uint32{0, innerSlots} {
		for ; ; at++ {
			k := slotKey(key, at)
			ep, isEp := m[mapEps(fam)][k]
			id, isID := m[mapIDs(fam)][k]
			if isEp {
				each(mapEps(fam), k, ep)
			}
			if isID {
				each(mapIDs(fam), k, id)
				if ep, ok := m[mapEps(fam)][key+id]; ok {
					each(mapEps(fam), key+id, ep)
				}
			}
			if !isEp && !isID {
				break
			}
		}
	}
	if class == number(uint32(ClassRanged)) {
		// Few fronts have ranges, so they are not indexed.
		for set, elements := range m {
			if of, _, ok := rangesOf(set); !ok || of != fam {
				continue
			}
			for name := range elements {
				if strings.HasPrefix(name, key) {
					each(set, name, "")
				}
			}
		}
	}
}

// endpoints returns the endpoints to which a front can send connections now.
func (m mirror) endpoints(f Front) map[netip.AddrPort]bool {
	out := map[netip.AddrPort]bool{}
	fam := f.family()
	m.of(f, func(set, _, data string) {
		if set == mapEps(fam) {
			out[endpointOf(data, fam)] = true
		}
	})
	return out
}

// setsByName indexes a table's sets.
func setsByName(t nft.Table) map[string]nft.Set {
	out := make(map[string]nft.Set, len(t.Sets))
	for _, s := range t.Sets {
		out[s.Name] = s
	}
	return out
}
