package ownership

import (
	"net/netip"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// An Event is something that a Machine is told.
type Event interface{ event() }

// Tick says that time has passed.
type Tick struct{}

// Links are all links of this node that can carry VIPs, by segment. Each event
// replaces the one before. A segment that is missing is one that the node is
// not on.
type Links map[netip.Prefix]Link

// A Link is how this node is on a segment.
type Link struct {
	Name    string // segments on one link share what is heard on it
	Up      bool   // it has carrier and is administratively up
	MACs    []cluster.MAC
	Gateway netip.Addr // a router in the segment to ask for life; zero when there is none
}

// Nodes are the other nodes of the cluster as the API server or the stored
// view has them. Each event replaces the one before; a node that is missing
// does not exist any more.
type Nodes map[string]Peer

// A Peer is another node.
type Peer struct {
	Addr  netip.Addr // where its agent listens
	Links map[netip.Prefix][]cluster.MAC
}

// Wants says which units should be owned by somebody; nil takes one away. Only
// what is named changes.
type Wants map[Unit]*Want

// A Want is the cluster's view of one unit. It is not changed once given.
type Want struct {
	// Key orders the candidates; units with one key normally have one owner.
	// It is the UID of the Service, or the key under which Services share.
	Key        string
	Candidates []string // nodes that may own it by what the API server says
	Standing   Standing // of this node
	Why        cluster.Refusal
	Rules      bool // the packet rules for the VIP are in this node's kernel
	Fresh      bool // the address was never announced before, so look for other users of it longer
}

// A Standing is what a node may do with a unit.
type Standing uint8

const (
	Able      Standing = iota // may take and keep it
	Reluctant                 // hands it over as soon as another node can take it, keeps it until then
	// Unable hands it over if another node can take it, and lets go of it after
	// 5 s in any case; but not while there is no candidate at all, because then
	// the API server's view is more likely to be wrong than every node unfit.
	Unable
)

// Received is a message from a peer.
type Received struct {
	From    string
	Message Message
}

// A Frame is an ARP or NDP frame about a VIP that another machine sent.
type Frame struct {
	Unit Unit
	MAC  cluster.MAC // its sender
	Kind FrameKind
	// Stranger says that the MAC certainly belongs to no node of the cluster. A
	// MAC that no peer is known to have may otherwise be that of a new one.
	Stranger bool
}

// A FrameKind is what a frame means.
type FrameKind uint8

const (
	Probing    FrameKind = iota // ARP probe (RFC 5227 section 1.1) or NS from :: (RFC 4862 section 5.4)
	Announcing                  // gratuitous ARP or unsolicited NA
	Answering                   // a reply to us
)

// Heard says that another machine's frame arrived over a segment, which shows
// that this node is not deaf there. From is who sent it, if it is known: the
// answer to an Ask names the gateway or the peer. Who reports frames may leave
// out repeats within 50 ms.
type Heard struct {
	Segment netip.Prefix
	From    netip.Addr
}

// Drain starts or ends the giving away of all units. With Leave the agent is
// about to end: after 5 s it lets go of what nobody took; Drained is reported.
type Drain struct{ On, Leave bool }

// Rebalance hands units over until they are spread as if they all were new.
type Rebalance struct{}

func (Tick) event()      {}
func (Links) event()     {}
func (Nodes) event()     {}
func (Wants) event()     {}
func (Received) event()  {}
func (Frame) event()     {}
func (Heard) event()     {}
func (Drain) event()     {}
func (Rebalance) event() {}
