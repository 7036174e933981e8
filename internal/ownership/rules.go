package ownership

// A rule is one of the protocol's rules that a test can switch off, to show
// that some history goes wrong without it. The agent runs all of them.
type rule uint64

const (
	ruleMajority rule = 1 << iota // a claim of who sees the majority wins
	ruleTie                       // equal claims are ordered by weight
	ruleKnock                     // HELLO goes on to the silent
	ruleWitness                   // the wire is asked before taking
	ruleStall                     // after a stall: mute, verify, answer
	ruleLease                     // answers end by themselves when the loop stalls
	ruleDeaf                      // who hears nothing takes nothing
	ruleContest                   // the wire settles what gossip cannot
	ruleRank                      // the first in rank goes first
	ruleHandover                  // make before break
	ruleListen                    // own nothing before having listened
	ruleBoot                      // a restart voids what was claimed
	ruleSteady                    // majority is lost and gained slowly
	ruleGrace                     // own stall is not the peers' silence
	ruleLoad                      // no node gets much more than its share
	ruleDefend                    // an owner that hears another's announcement repeats its own
	ruleReturn                    // who is back and does not tell what it did is announced against
	rulePull                      // versions that differ are pulled
	lastRule
)

func (m *Machine) on(r rule) bool { return m.cfg.off&r == 0 }
