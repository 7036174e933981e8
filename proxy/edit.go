package proxy

import (
	"cmp"
	"slices"

	"github.com/clarion-lb/clarion/internal/nft"
)

// A kernel takes batches. *nft.Conn is the real one.
type kernel interface {
	Commit(*nft.Batch) error
	Room() int
}

// An edit is a change of one element.
type edit struct {
	name    string // as the mirror knows it
	data    string
	comment string
	do      verb
}

type verb uint8

const (
	add     verb = iota
	replace      // the element is there with another value: it goes and comes in one transaction
	remove
)

// The order in which the edits of one change come into force. After any
// beginning of the sequence the table is right: what is led to stands before
// what leads there, and a class has no more slots than are filled.
const (
	stageShared   = iota // addresses and ports that Services share
	stageSlots           // endpoints by slot or id
	stageIDs             // ids by slot
	stageRanges          // who may connect
	stageSplit           // classes inside and outside
	stageAdmitted        // class after the check of sources
	stageClass           // the front itself
	stageGone            // endpoints by id, which affinity would still lead to
	stages
)

func stageOf(set string) int {
	for _, f := range families {
		switch set {
		case mapEps(f):
			return stageSlots
		case mapIDs(f):
			return stageIDs
		case mapInner(f), mapOuter(f):
			return stageSplit
		case mapAdmitted(f):
			return stageAdmitted
		case mapClass(f):
			return stageClass
		}
	}
	if _, _, ok := rangesOf(set); ok {
		return stageRanges
	}
	return stageShared
}

// edits collects the changes of many fronts, stage by stage and set by set, so
// that they fill few messages.
type edits struct {
	stage [stages]map[string][]edit
	n     int
}

func (e *edits) put(set string, x edit) {
	at := stageOf(set)
	if at == stageSlots && x.do == remove {
		at = stageGone
	}
	if e.stage[at] == nil {
		e.stage[at] = map[string][]edit{}
	}
	e.stage[at][set] = append(e.stage[at][set], x)
	e.n++
}

// atOnce is how many elements one chunk of edits has: as many as a message
// takes, so that a replacement's two messages never come into two transactions.
const atOnce = 500

// write brings edits into the kernel and the mirror. lead, if not empty, goes
// first, into the same transaction as the first edits. It stops at the first
// error; then the mirror is still what the kernel has, unless the error is
// nfnl.ErrLost. With whole, everything is one transaction, and is refused when
// that is larger than the kernel takes.
func (e *edits) write(k kernel, m mirror, sets map[string]nft.Set, lead nft.Batch, whole bool) error {
	b := lead
	type chunkDone struct {
		set  string
		list []edit
	}
	var done []chunkDone
	flush := func() error {
		if b.Empty() {
			return nil
		}
		if err := k.Commit(&b); err != nil {
			return err
		}
		for _, d := range done {
			m.apply(d.set, d.list)
		}
		b, done = nft.Batch{}, done[:0]
		return nil
	}
	limit := k.Room()
	for _, bySet := range e.stage {
		for name, list := range bySet {
			s, ok := sets[name]
			if !ok {
				panic("proxy: no set " + name)
			}
			if s.Interval {
				// An interval may not overlap one that is there, and its bounds come from
				// low to high.
				slices.SortFunc(list, func(a, b edit) int {
					return cmp.Or(-cmp.Compare(a.do, b.do), cmp.Compare(a.name, b.name))
				})
			}
			for len(list) > 0 {
				n := min(len(list), atOnce)
				var chunk nft.Batch
				var gone, come []nft.Element
				for _, x := range list[:n] {
					if x.do != add {
						gone = append(gone, elementOf(s, x.name, ""))
					}
					if x.do != remove {
						el := elementOf(s, x.name, x.data)
						el.Comment = x.comment
						come = append(come, el)
					}
				}
				chunk.Delete(Table, s, gone...)
				chunk.Add(Table, s, come...)
				if !whole && b.Len()+chunk.Len() > limit {
					if err := flush(); err != nil {
						return err
					}
				}
				b.Append(&chunk)
				done = append(done, chunkDone{name, list[:n]})
				list = list[n:]
			}
		}
	}
	return flush()
}

func (m mirror) apply(set string, list []edit) {
	if m[set] == nil {
		m[set] = map[string]string{}
	}
	for _, x := range list {
		if x.do == remove {
			delete(m[set], x.name)
		} else {
			m[set][x.name] = x.data
		}
	}
}

// grow returns the sets that would be more than three quarters full, in the
// size that they need then.
func (e *edits) grow(m mirror, sets map[string]nft.Set) []nft.Set {
	more := map[string]int{}
	for _, bySet := range e.stage {
		for name, list := range bySet {
			for _, x := range list {
				if x.do == add {
					more[name]++
				}
			}
		}
	}
	var out []nft.Set
	for name, n := range more {
		s := sets[name]
		if s.Size == 0 || uint64(len(m[name])+n) <= uint64(s.Size)*3/4 {
			continue
		}
		for uint64(len(m[name])+n) > uint64(s.Size)/2 {
			s.Size *= 2
		}
		out = append(out, s)
	}
	return out
}
