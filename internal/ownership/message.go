package ownership

import (
	"net/netip"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// A Message is what agents say to each other; see Encode for the bytes.
type Message interface{ message() }

// Hello asks for a sign of life. Version is that of the sender's own set, so
// that a set which was missed is noticed.
type Hello struct {
	Boot, Version uint64
	Stamp         time.Duration // the sender's clock
}

// Ack answers a Hello with its stamp, which makes it a sign of life of the
// time at which the Hello was sent: an answer out of a full socket queue says
// nothing about now.
type Ack struct {
	Boot, Version uint64
	Echo          time.Duration
}

// Pull asks for what the receiver's set has become since version Have of boot
// Boot.
type Pull struct{ Boot, Have uint64 }

// Set is the sender's own word on what it owns, and its facts. With Count 0 it
// holds the changes from version Base to Version; otherwise it is part Index
// of Count of the whole set.
type Set struct {
	Boot, Base, Version uint64
	Index, Count        uint16
	Facts               Facts
	Claims              []Claim
}

// Facts are what peers must know of a node.
type Facts struct {
	Ready    bool // start-up is over
	Draining bool
	Segments []Presence
}

// A Presence is how a node is on a segment.
type Presence struct {
	Segment  netip.Prefix
	Up       bool
	Majority bool // it sees more than half of the segment
	MACs     []cluster.MAC
}

// A Claim is the statement to own a unit since some epoch. Epochs count the
// takeovers of a unit.
type Claim struct {
	Unit     Unit
	Epoch    uint32
	Released bool // in changes only: it is no longer owned
}

// Handover asks the receiver to take units that the sender owns.
type Handover struct{ Claims []Claim }

// Reply answers a Handover, for some of its units.
type Reply struct {
	Yes    bool
	Why    string // of a no
	Claims []Claim
}

// Verdict tells that a node became silent or is back; in clusters in which not
// everybody watches everybody.
type Verdict struct {
	Name   string
	Silent bool
}

func (Hello) message()    {}
func (Ack) message()      {}
func (Pull) message()     {}
func (Set) message()      {}
func (Handover) message() {}
func (Reply) message()    {}
func (Verdict) message()  {}
