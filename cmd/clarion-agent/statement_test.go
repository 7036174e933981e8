package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/speaker"
)

func unit(vip, owner string, edit func(*speaker.UnitReport)) speaker.UnitReport {
	u := speaker.UnitReport{Unit: speaker.Unit{VIP: netip.MustParseAddr(vip)}}
	u.Owner = owner
	if owner == "node1" {
		u.Mine, u.Since = true, time.Unix(1000, 0)
	}
	if edit != nil {
		edit(&u)
	}
	return u
}

func TestStatement(t *testing.T) {
	foreign := cluster.MAC{2, 0, 0, 0, 0, 9}
	tests := []struct {
		name      string
		units     []speaker.UnitReport
		announced bool
		reason    string
		words     []string
	}{
		{"one node announces both families",
			[]speaker.UnitReport{unit("192.0.2.200", "node1", nil), unit("2001:db8:1::200", "node1", nil)}, true, reasonAnnounced,
			[]string{"node node1 announces 192.0.2.200 and 2001:db8:1::200"}},
		{"two nodes announce one each",
			[]speaker.UnitReport{unit("192.0.2.200", "node1", nil), unit("2001:db8:1::200", "node2", nil)}, true, reasonAnnounced,
			[]string{"node node1 announces 192.0.2.200; node node2 announces 2001:db8:1::200"}},
		{"nobody can",
			[]speaker.UnitReport{unit("192.0.2.200", "", func(u *speaker.UnitReport) {
				u.Refused = map[string]cluster.Refusal{"a": cluster.NotReady, "b": cluster.NotReady, "c": speaker.OffSegment, "d": cluster.NotReady, "e": cluster.NotReady}
			})}, false, reasonNoCandidate,
			[]string{"no node can announce 192.0.2.200", "a, b, d and 1 more: the node is not Ready", "c: the node has no link"}},
		{"a foreign host has it",
			[]speaker.UnitReport{unit("192.0.2.200", "node1", func(u *speaker.UnitReport) { u.Mine, u.Conflict = false, foreign })}, false, reasonConflict,
			[]string{"192.0.2.200 is not announced", "02:00:00:00:00:09"}},
		{"a foreign host came later",
			[]speaker.UnitReport{unit("2001:db8:1::200", "node1", func(u *speaker.UnitReport) { u.Conflict = foreign })}, false, reasonConflict,
			[]string{"node node1 announces 2001:db8:1::200, but", "02:00:00:00:00:09"}},
		{"one of two is in trouble",
			[]speaker.UnitReport{unit("192.0.2.200", "node1", nil), unit("2001:db8:1::200", "", func(u *speaker.UnitReport) {
				u.Refused = map[string]cluster.Refusal{"node1": speaker.OffSegment}
			})}, false, reasonPartly,
			[]string{"no node can announce 2001:db8:1::200", "node node1 announces 192.0.2.200"}},
		{"an elder Service has it",
			[]speaker.UnitReport{unit("192.0.2.200", "", func(u *speaker.UnitReport) { u.Withheld = "shop/elder" })}, false, reasonWithheld,
			[]string{"Service shop/elder had it before", "clarion.dev/share"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, ok := statement("node1", &speaker.ServiceReport{UID: "u", Teller: "node1", Units: tt.units})
			if !ok || s.UID != "u" || s.Announced != tt.announced || s.Reason != tt.reason {
				t.Fatalf("got %+v, %v", s, ok)
			}
			for _, w := range tt.words {
				if !strings.Contains(s.Message, w) {
					t.Errorf("%q is missing in %q", w, s.Message)
				}
			}
		})
	}
}

func TestNothingIsSaid(t *testing.T) {
	probing := unit("192.0.2.200", "node1", func(u *speaker.UnitReport) { u.Mine = false })
	for name, r := range map[string]*speaker.ServiceReport{
		"of a Service that is gone":           nil,
		"between two owners":                  {Teller: "node1", Units: []speaker.UnitReport{unit("192.0.2.200", "", nil)}},
		"that another node has to say":        {Teller: "node2", Units: []speaker.UnitReport{unit("192.0.2.200", "node2", nil)}},
		"while the address is being probed":   {Teller: "node1", Units: []speaker.UnitReport{probing}},
		"about a Service without any address": {Teller: "node1"},
	} {
		if s, ok := statement("node1", r); ok {
			t.Errorf("%s: said %+v", name, s)
		}
	}
}
