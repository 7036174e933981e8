package ownership

import (
	"net/netip"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// An Action is something that a Machine wants done. Actions are done in order
// and do not block: a send that fails is a message lost.
type Action interface{ action() }

// Send gives a message to a peer's agent, alive or not.
type Send struct {
	To      string
	Message Message
}

// Answer starts or stops answering for a unit. A stop takes effect before the
// next frame is answered, and ends listening too.
type Answer struct {
	Unit Unit
	On   bool
}

// Listen makes frames about a unit arrive without answering them: an IPv6
// probe is heard only by who has joined the group of its target (RFC 4862
// section 5.4.2).
type Listen struct{ Unit Unit }

// Announce tells the segment once that this node has the VIP: ARP request and
// reply, or unsolicited NA.
type Announce struct{ Unit Unit }

// Probe asks who has the VIP without saying that we want it: an ARP probe or a
// NS from ::, to one MAC or, when To is zero, to everybody.
type Probe struct {
	Unit Unit
	To   cluster.MAC
}

// Ask asks for the address of another machine from this node's own address.
// The answer comes back as Heard, and the kernel learns from it too: an entry
// that is being resolved for a dead peer is retried only once a second.
type Ask struct {
	Segment netip.Prefix
	Target  netip.Addr
	To      cluster.MAC // zero for everybody
}

// Discard throws away the frames that wait in the responder's sockets: they
// are older than what is known by now.
type Discard struct{}

// A Report is something that people or other parts want to know.
type Report struct {
	What  What
	Unit  Unit          // zero when it concerns no unit
	Peer  string        // the other node, if one is concerned
	MAC   cluster.MAC   // the other machine
	Cause Cause         // of Took
	After time.Duration // Took: since the owner's last sign of life. Stalled: for how long. Drained: units left without owner
	Left  int           // Drained: units that nobody took
	Why   string        // Refused: the peer's reason
}

// What is the kind of a report.
type What string

const (
	Took       What = "took"      // this node answers for the unit now
	Released   What = "released"  // it no longer does; Peer has it, if anybody
	Conflict   What = "conflict"  // MAC is no node of the cluster and uses the address
	Contested  What = "contested" // Peer answers too and does not talk to us
	HeldByWire What = "held"      // Peer is silent but answers on the wire: its gossip port is closed?
	PeerSilent What = "silent"    // no answer from Peer
	PeerBack   What = "back"      // Peer answers again
	Stalled    What = "stalled"   // this process did not run for After
	Refused    What = "refused"   // Peer would not take a unit that should leave
	NoHeir     What = "no-heir"   // nobody can take a unit that should leave
	Drained    What = "drained"   // the leave is over
	IsDeaf     What = "deaf"      // nothing is heard on the segment
	Majority   What = "majority"  // gained (Left 1) or lost (Left 0) on the segment
)

// A Cause says why a unit was taken.
type Cause string

const (
	Fresh    Cause = "new"      // nobody was known to have it
	Silence  Cause = "silence"  // its owner is silent
	GivenUp  Cause = "given-up" // its owner let go of it or restarted
	HandedOn Cause = "handover" // its owner asked
	Verified Cause = "verified" // still ours after a stall
)

func (Send) action()     {}
func (Answer) action()   {}
func (Listen) action()   {}
func (Announce) action() {}
func (Probe) action()    {}
func (Ask) action()      {}
func (Discard) action()  {}
func (Report) action()   {}
