package speaker

import (
	"net/netip"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/rtnl"
)

// An Elector decides which units this node answers for, and when it announces
// them. It is a state machine that the speaker's loop drives from one
// goroutine: it has no clock, no sockets, and no other goroutine touches its
// state. Rendezvous is one.
type Elector interface {
	// Step folds in what happened since the last call and says what to do.
	Step(now time.Time, in Facts) Outcome
	// Ready is signalled when the elector wants to be called although the
	// speaker has nothing new; nil if that never happens. An elector that talks
	// to other nodes hands their messages over behind it.
	Ready() <-chan struct{}
	// Standing says how a unit stands, for reports.
	Standing(Unit) Standing
}

// Facts are what an Elector learns from the speaker. The first Step carries
// everything, later ones what changed.
type Facts struct {
	Seats map[Unit]*Seat // the new value of each unit that changed; nil for one that is gone
	Heard []Heard

	Links  []rtnl.Link              // all links of this host when one changed, else nil
	Nodes  map[string]*cluster.Node // all nodes when one changed, else nil; not to be kept or written
	Synced bool                     // Nodes is complete, so an address that none lists is foreign
}

// A Seat is a unit as seen from this node. It is immutable.
type Seat struct {
	Plan
	// Link is where this node would answer, and MAC its address; empty when the
	// node has no working link in the segment.
	Link string
	MAC  cluster.MAC
	// Able says that this node can answer right now: Link is there, and the
	// rules for the VIP are in the kernel.
	Able bool
	// Refused says why this node is no candidate; empty when it is one.
	Refused cluster.Refusal
	// New says that no node is known to have announced the VIP, ever.
	New bool
}

// A Heard is a frame of another host about a unit, or about an address that
// was asked for. For the latter, and for signs of life, Unit has the address
// in place of the VIP.
type Heard struct {
	Unit Unit
	Link string // on which it was heard
	Kind Kind
	MAC  cluster.MAC
	Node string // whose MAC it is; empty when no node has published it
	// Foreign says that it certainly belongs to no node: all nodes are known and
	// none lists it. A MAC with neither Node nor Foreign may be a peer's.
	Foreign bool
	At      time.Time
}

// An Outcome is what a Step brings about.
type Outcome struct {
	Orders  []Order   // to be done now, in order
	Next    time.Time // Step wants to be called then at the latest; zero for never
	Changed []Unit    // whose Standing changed
	// Until is the end of a lease on every answer: the responders are silent
	// after it, so that a process that was stopped does not answer questions
	// that queued up meanwhile. Zero for no lease.
	Until time.Time
}

// A Do is what an Order asks for.
type Do uint8

// What an Elector can order. DoStop says nothing on the wire, because a
// farewell frame of a late owner would steal the traffic of the next.
const (
	DoStop     Do = iota // neither answer nor listen, only watch
	DoListen             // join the multicast groups, so that others' probes are heard; do not answer
	DoProbe              // ask once whether the VIP is free. Order.To says whom, zero asks everybody
	DoAnswer             // answer from now on
	DoAnnounce           // tell everybody, once
	DoAsk                // ask for Order.Target in Unit.Segment, on behalf of an own address
	DoDiscard            // throw away the frames that wait to be read, on all links
)

func (d Do) String() string {
	return [...]string{"stop", "listen", "probe", "answer", "announce", "ask", "discard"}[d]
}

// An Order tells the speaker what to do about a unit.
type Order struct {
	Do     Do
	Unit   Unit
	To     cluster.MAC // for DoProbe and DoAsk; zero asks everybody
	New    bool        // for DoAnnounce: nobody is known to have announced the VIP before
	Target netip.Addr  // for DoAsk
}

// A Standing is how a unit stands, as far as this node knows.
type Standing struct {
	Owner    string      // the node that answers, or should; empty for nobody
	Mine     bool        // this node answers now
	Since    time.Time   // when this node began to answer; zero otherwise
	Probing  bool        // this node is finding out whether the address is free
	Conflict cluster.MAC // the foreign host that uses the address, if one was heard of late
}
