package ownership

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Each rule of the protocol is there because something goes wrong without it.
// The cases say what: the same histories that are right with the rule go wrong
// when it is switched off.
var ruleCases = []struct {
	name  string
	off   rule
	setup setup
	wrong func(j *judge) string
}{
	{"majority: a healed minority wins nothing", ruleMajority, alone("isolatelong", 5, 6, 0.01, false), movedFromOthers},
	{"steady: nor does it by seeing everybody again at once", ruleSteady, alone("isolatelong", 5, 6, 0.01, false), movedFromOthers},
	{"tie: both sides of a partition take from a dead owner", ruleTie, alone("orphans", 5, 6, 0, false), doubled},
	{"knock: without it nobody notices a heal", ruleKnock, alone("isolate", 3, 6, 0, true), doubled},
	{"witness: gossip lies", ruleWitness, alone("gossiponly", 3, 6, 0, true), doubled},
	{"stall: who slept does not go on as if nothing had happened", ruleStall, alone("sigstop", 3, 6, 0, true), gapped},
	{"lease: nor answers what queued up meanwhile", ruleLease, alone("sigstop", 3, 6, 0, true), func(j *judge) string {
		return some(j.late, "old questions were answered by who is no longer the owner")
	}},
	{"deaf: who hears nobody takes nothing", ruleDeaf, alone("deaf", 3, 6, 0, true), func(j *judge) string {
		return some(j.blind, "units were taken by a node that heard nobody")
	}},
	{"contest: only the wire settles it when a port is closed", ruleContest, closed(alone("partition", 3, 6, 0, true)), func(j *judge) string {
		return longer(j.double, maxDoubleClosed, j.worst[0])
	}},
	{"rank: the fastest does not take all", ruleRank, late(alone("longpoweroff", 5, 60, 0, true)), crowded},
	{"load: weight alone is uneven", ruleLoad, late(alone("longpoweroff", 5, 60, 0, true)), crowded},
	{"handover: a planned move has no gap", ruleHandover, alone("drain", 3, 6, 0.01, true), func(j *judge) string {
		return longer(j.gap, 10*time.Millisecond, j.worst[1])
	}},
	{"listen: a restarted agent asks nothing that others can tell it", ruleListen, alone("kill", 3, 30, 0, true), func(j *judge) string {
		return some(j.needless/20, "times twenty questions about units whose owner was well")
	}},
	{"boot: a restarted agent's old claims are void", ruleBoot, alone("kill", 3, 6, 0, true), func(j *judge) string {
		return longer(j.gap, 550*time.Millisecond, j.worst[1])
	}},
	{"grace: own sleep is not the others' silence", ruleGrace, alone("sigstop", 3, 6, 0, true), func(j *judge) string {
		return some(j.alarms, "living peers were called silent")
	}},
	{"defend: the winner has the last word", ruleDefend, alone("partition", 5, 6, 0.05, true), func(j *judge) string {
		return longer(j.loss, 900*time.Millisecond, j.worst[2])
	}},
	{"return: the last word after a long absence, too", ruleReturn, forgetful(alone("partition", 3, 12, 0, false)), func(j *judge) string {
		return j.settled()
	}},
	{"pull: what was missed is asked for", rulePull, alone("isolate", 3, 6, 0.05, true), doubled},
}

func alone(fault string, nodes, vips int, loss float64, gateway bool) setup {
	return setup{nodes: nodes, vips: vips, loss: loss, gateway: gateway, faults: strings.Split(fault, ","), count: 3, pinFault: 1}
}

func late(s setup) setup      { s.late = true; return s }
func forgetful(s setup) setup { s.log = 1; return s }
func closed(s setup) setup    { s.closed = true; return s }
func doubled(j *judge) string { return longer(j.double, maxDouble, j.worst[0]) }
func gapped(j *judge) string  { return longer(j.gap, maxGap, j.worst[1]) }

func movedFromOthers(j *judge) string {
	n := 0
	for node, moves := range j.movedAway {
		if node != j.w.setup.pinFault-1 {
			n += moves
		}
	}
	return some(n, "units of healthy nodes moved")
}

func crowded(j *judge) string {
	if f := j.fullest(); f > 1.34 {
		return fmt.Sprintf("the fullest node has %.2f times the mean", f)
	}
	return ""
}

func some(n int, what string) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n, " ", what)
}

func longer(d, limit time.Duration, what string) string {
	if d <= limit {
		return ""
	}
	return what
}

func TestEveryRuleIsNeeded(t *testing.T) {
	for _, tt := range ruleCases {
		t.Run(tt.name, func(t *testing.T) {
			history := func(seed uint64, off rule) (string, *world) {
				s := tt.setup
				s.seed, s.off = seed, off
				w := newWorld(t, s)
				play(w)
				return tt.wrong(&w.judge), w
			}
			n := uint64(max(*histories/40, 5))
			for seed := *base; seed < *base+n; seed++ {
				if wrong, w := history(seed, 0); wrong != "" {
					t.Errorf("with all rules, %v: %s", w.setup, wrong)
				}
			}
			for seed := *base; seed < *base+10*n; seed++ {
				if wrong, _ := history(seed, tt.off); wrong != "" {
					t.Logf("without the rule, seed %d: %s", seed, wrong)
					return
				}
			}
			t.Errorf("nothing goes wrong without the rule in %d histories: it can go", 10*n)
		})
	}
}

// The bits and the cases must cover each other.
func TestEveryRuleHasACase(t *testing.T) {
	var covered rule
	for _, tt := range ruleCases {
		if covered&tt.off != 0 {
			t.Errorf("%s: its rule has two cases", tt.name)
		}
		covered |= tt.off
	}
	if covered != lastRule-1 {
		t.Errorf("rules without a case: %b", (lastRule-1)&^covered)
	}
}
