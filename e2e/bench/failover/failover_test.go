package failover

import (
	"net/netip"
	"testing"
	"time"
)

func TestGapCountsFromTheFault(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(100, 0).Add(time.Duration(ms) * time.Millisecond) }
	r := &requests{}
	for ms := 0; ms <= 1000; ms += 5 {
		r.sent = append(r.sent, at(ms))
		early, fault := ms > 100 && ms < 300, ms > 500 && ms < 900
		r.ok = append(r.ok, !early && !fault)
	}
	gap, lost := r.gap(at(500))
	if gap != 395*time.Millisecond || lost != 79 {
		t.Errorf("gap %v, lost %d", gap, lost)
	}
	if !r.answered(at(950)) || r.answered(at(1000)) {
		t.Error("answered is wrong about the end")
	}
}

func TestTwoOwnersAreThoseThatAnswerOneQuestion(t *testing.T) {
	vip := netip.MustParseAddr("2001:db8:1::200")
	a, b := [6]byte{2, 1}, [6]byte{2, 2}
	at := func(ms int) time.Time { return time.Unix(100, 0).Add(time.Duration(ms) * time.Millisecond) }
	said := func(both bool) (out []answer) {
		for ms := 0; ms < 400; ms += 20 {
			if ms < 200 || both && ms < 300 {
				out = append(out, answer{at(ms), vip, a})
			}
			if ms >= 200 {
				out = append(out, answer{at(ms + 1), vip, b})
			}
		}
		return out
	}
	if d := twoOwners(said(false), []netip.Addr{vip}); d != 0 {
		t.Errorf("a clean change counts as %v of two owners", d)
	}
	if d := twoOwners(said(true), []netip.Addr{vip}); d != 100*time.Millisecond {
		t.Errorf("five questions answered by both count as %v", d)
	}
}
