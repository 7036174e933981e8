package speaker

import (
	"net/netip"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A Mode is what a link does about an address. Each includes those below it.
type Mode uint8

// The modes of an address on a link.
const (
	Ignore Mode = iota
	Watch       // report frames about it that arrive anyway
	Listen      // also join its multicast group, so that questions arrive
	Answer      // also answer for it
)

// A Table tells the responder of a link all that it needs. It is immutable:
// the loop makes a new one and swaps it in.
type Table struct {
	MAC   cluster.MAC              // of this link: who has the addresses that are answered for
	Own   map[cluster.MAC]struct{} // of every link of this host: never answered, never reported
	Modes map[netip.Addr]Mode
}

// A Kind says how somebody else came to speak of an address.
type Kind uint8

// The kinds of an Event.
const (
	Probed    Kind = iota // asks whether the address is free
	Announced             // says unasked that it has the address
	Answered              // says so on a question
	Alive                 // sent a frame to this host alone, about whatever
)

func (k Kind) String() string { return [...]string{"probe", "announcement", "answer", "life"}[k] }

// An Event is a frame of another host about an address that the Table names,
// or a sign of life.
type Event struct {
	Link string
	Addr netip.Addr // for Alive: the other host's, which may be invalid
	MAC  cluster.MAC
	Kind Kind
	At   time.Time
}

// respond decides what a message brings about: the frame to send, or nil, and
// the events to tell.
func (t *Table) respond(m Message) (reply []byte, events []Event) {
	if t.own(m.MAC) || t.own(m.Source) {
		return nil, nil // Our own frame, from this link or from another on the same segment.
	}
	if mode := t.Modes[m.Asks]; mode != Ignore && m.Asks.IsValid() {
		if m.Probe() {
			events = append(events, Event{Addr: m.Asks, MAC: m.MAC, Kind: Probed})
		}
		if mode == Answer {
			reply = codecOf(m.Asks).answer(t.MAC, m)
		}
	}
	if m.Claims.IsValid() && t.Modes[m.Claims] != Ignore {
		kind := Announced
		if m.Solicited {
			kind = Answered
		}
		events = append(events, Event{Addr: m.Claims, MAC: m.MAC, Kind: kind})
	}
	return reply, events
}

func (t *Table) own(m cluster.MAC) bool {
	_, ok := t.Own[m]
	return ok
}

// groups returns the multicast groups that the table's addresses need.
// Addresses that share one need it once, and as long as the last of them.
func (t *Table) groups() map[netip.Addr]struct{} {
	want := map[netip.Addr]struct{}{}
	for a, mode := range t.Modes {
		if mode >= Listen && a.Is6() {
			want[solicitedNode(a)] = struct{}{}
		}
	}
	return want
}
