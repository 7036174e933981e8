package ownership

import "time"

// DefaultSilence is the shortest time without an answer after which a peer
// counts as silent; each pair of nodes adds a random share of silenceJitter,
// so that survivors do not all act at the same moment.
const DefaultSilence = 260 * time.Millisecond

const (
	silenceJitter = 100 * time.Millisecond
	helloEvery    = 100 * time.Millisecond
	knockEvery    = 50 * time.Millisecond

	// A loop is called at least every tickEvery.
	tickEvery = stallLimit / 3
	// A loop that was not called for longer than this has stalled. It must be
	// shorter than the silence, so that a node which peers may have given up
	// always knows that it may have been given up.
	stallLimit = 150 * time.Millisecond

	probeGap      = 30 * time.Millisecond  // between the rounds of a witness
	freshProbeGap = 100 * time.Millisecond // for an address that was never announced
	verifyGap     = 20 * time.Millisecond  // after a stall; three rounds and 70 ms in all
	verifyLimit   = 150 * time.Millisecond // for peers that do not answer; they may be asleep as well
	lateLimit     = 15 * time.Millisecond
	verifyTail    = 30 * time.Millisecond

	rankEvery   = 5 * time.Millisecond
	rankPerUnit = 4 * time.Microsecond
	rankStep    = 120 * time.Millisecond // longer than silenceJitter, so that the first in rank goes first
	garpYield   = 300 * time.Millisecond // another node announced it
	holdFirst   = 500 * time.Millisecond // the silent owner answers on the wire
	holdLast    = time.Second
	foreignHold = 10 * time.Second // RFC 5227 section 1.1, DEFEND_INTERVAL

	// Deafness must be noticed before the first unit is taken because of it: a
	// peer is silent 260 ms after the last HELLO that it answered, which it may
	// have answered 100 ms before this node went deaf, and 90 ms later its units
	// are taken.
	deafAfter  = 200 * time.Millisecond
	muteAfter  = 50 * time.Millisecond // of asking in vain, if nothing was heard before either
	gatewayOK  = 350 * time.Millisecond
	gatewayLag = 3500 * time.Millisecond // while it is asked once a second only
	lonelyFor  = 3 * time.Second

	majorityLost   = 250 * time.Millisecond // first ask the gateway
	majorityGained = time.Second

	contestAsk = 150 * time.Millisecond // gossip gets this long to settle it
	contestEnd = 400 * time.Millisecond
	defendGap  = 100 * time.Millisecond

	startListen = 300 * time.Millisecond
	startAlone  = time.Second
	startLimit  = 2 * time.Second
	tenseFor    = 10 * time.Second

	pullGap      = 30 * time.Millisecond
	handEvery    = 50 * time.Millisecond
	handPatience = 300 * time.Millisecond
	handRetry    = time.Second
	leaveLimit   = 5 * time.Second

	verdictFor  = time.Second
	resendAfter = 50 * time.Millisecond
)

const (
	sampleSize    = 8
	announceRate  = 1000 // VIPs per second
	announceBurst = 100
	probeRate     = 200 // addresses of unknown past per second
	probeBurst    = 50
	handChunk     = 40
	handTries     = 3  // of the one node to which a rebalance moves a unit
	watchAll      = 32 // up to so many peers everybody watches everybody
	watchers      = 8  // of each node, above that
	rotation      = 5  // other peers said hello to per round, above that
	deltaLog      = 64
)
