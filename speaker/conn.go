package speaker

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A Conn speaks ARP and neighbour discovery on one link. Answering goes on
// beside the caller; the methods but Stats are for one goroutine.
type Conn interface {
	// Set puts a table in force: from its return on, answers are as it says,
	// and the groups that its addresses need are joined. An error tells which
	// group could not be joined; the table is in force nevertheless.
	Set(*Table) error
	// Send sends frames that the speaker starts by itself.
	Send(Call) error
	// Discard throws away the frames that wait to be read.
	Discard() error
	Stats() Stats // may be called by everybody, at any time
	Close() error
}

// ErrLinkDown is what Send returns on a link that is down or gone at the
// moment. The frame is lost; the loop hears of the link by another way.
var ErrLinkDown = errors.New("the link is down")

// A Verb says what a Call does.
type Verb uint8

// The verbs of a Call.
const (
	Probe    Verb = iota // ask whether Addr is free; touches nobody's cache
	Announce             // tell everybody that Addr is here
	Ask                  // ask who has Addr, for our own address From
)

// A Call is something to say on a link unasked.
type Call struct {
	Verb  Verb
	Addr  netip.Addr
	To    cluster.MAC // for Probe and Ask: whom; zero for everybody
	From  netip.Addr  // for Ask: an address of this link
	First bool        // for Announce: the address is new, so routers are told too (RFC 9131)
}

// frames returns the Ethernet frames of a call.
func (c Call) frames(us cluster.MAC) [][]byte {
	codec := codecOf(c.Addr)
	switch c.Verb {
	case Probe:
		return [][]byte{codec.probe(us, c.Addr, c.To)}
	case Announce:
		return codec.announce(us, c.Addr, c.First)
	default:
		return [][]byte{codec.ask(us, c.Addr, c.From, c.To)}
	}
}

// Stats counts what a Conn saw since it was opened.
type Stats struct {
	Received  uint64 // ARP and NDP frames that passed the kernel's filter
	Malformed uint64
	Answered  uint64
	Unsent    uint64    // answers that the kernel refused to send
	Withheld  uint64    // answers not given because the lease had ended: this process had not run for a while
	Lost      uint64    // events that the loop was too slow to take
	Heard     time.Time // when a frame of another host last arrived for this one alone
}

// A Place is what a Conn needs to know of its surroundings.
type Place struct {
	Index int // of the link
	Name  string
	// Events is called for each event from the goroutine that answers, so it
	// must not block. It says whether it took the event.
	Events func(Event) bool
	Lease  *Lease
}

// An Opener opens a Conn on a link.
type Opener func(Place) (Conn, error)

// A Lease is a time after which no responder answers, shared by all of them.
// The zero Lease never ends.
type Lease struct{ until atomic.Pointer[time.Time] }

// Set moves the end; zero means never.
func (l *Lease) Set(until time.Time) { l.until.Store(&until) }

// Valid reports whether answers may be given at the time now.
func (l *Lease) Valid(now time.Time) bool {
	until := l.until.Load()
	return until == nil || until.IsZero() || !now.After(*until)
}
