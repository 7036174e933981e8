package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	answer "github.com/clarion-lb/clarion/internal/report"
	"github.com/clarion-lb/clarion/speaker"
)

type fakeSpeaker struct {
	units []speaker.UnitReport
	err   error
	asked cluster.Key
}

func (f *fakeSpeaker) Explain(_ context.Context, key cluster.Key) ([]speaker.UnitReport, error) {
	f.asked = key
	return f.units, f.err
}

func (f *fakeSpeaker) Stats() map[string]speaker.Stats {
	return map[string]speaker.Stats{"eth0": {Received: 5, Answered: 3}}
}

func unitReport(vip, segment, owner string, mine bool) speaker.UnitReport {
	u := speaker.UnitReport{Unit: speaker.Unit{VIP: netip.MustParseAddr(vip), Segment: netip.MustParsePrefix(segment)}}
	u.Owner, u.Mine = owner, mine
	if mine {
		u.Since = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	}
	return u
}

func ask(t *testing.T, e *explainer, path string, into any) int {
	t.Helper()
	w := httptest.NewRecorder()
	e.over(http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	if w.Code == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatalf("%s answers %q: %v", path, w.Body, err)
		}
	} else if text, ok := into.(*string); ok {
		*text = w.Body.String()
	}
	return w.Code
}

func TestStatusTellsWhatConcernsThisNode(t *testing.T) {
	e := &explainer{node: "node1", ready: func() error { return errors.New("nothing is known yet") },
		rules: func(vip netip.Addr) bool { return vip.Is4() }, speaker: &fakeSpeaker{}}
	mine4, mine6 := unitReport("192.0.2.200", "192.0.2.0/24", "node1", true), unitReport("2001:db8:1::200", "2001:db8:1::/64", "node1", true)
	others := unitReport("192.0.2.201", "192.0.2.0/24", "node2", false)
	contested := unitReport("2001:db8:1::201", "2001:db8:1::/64", "", false)
	contested.Conflict = cluster.MAC{2, 0, 0, 0, 0, 9}
	e.note(speaker.Report{Services: map[cluster.Key]*speaker.ServiceReport{
		"shop/web":   {Units: []speaker.UnitReport{mine6, mine4}},
		"shop/other": {Units: []speaker.UnitReport{others}},
		"shop/odd":   {Units: []speaker.UnitReport{contested}},
		"shop/gone":  {Units: []speaker.UnitReport{mine4}},
	}})
	e.note(speaker.Report{Services: map[cluster.Key]*speaker.ServiceReport{"shop/gone": nil}})

	var got answer.Status
	if code := ask(t, e, answer.StatusPath, &got); code != http.StatusOK {
		t.Fatalf("answers %d", code)
	}
	var vips []string
	for _, u := range got.Units {
		vips = append(vips, u.Service+" "+u.VIP.String())
	}
	if want := "shop/web 192.0.2.200, shop/web 2001:db8:1::200, shop/odd 2001:db8:1::201"; strings.Join(vips, ", ") != want {
		t.Errorf("tells of %v, want %s", vips, want)
	}
	if !got.Units[0].Rules || got.Units[1].Rules || got.Units[2].Conflict != "02:00:00:00:00:09" || got.Units[0].Since.IsZero() {
		t.Errorf("details are lost: %+v", got.Units)
	}
	if got.Node != "node1" || got.NotReady != "nothing is known yet" || got.Links["eth0"].Answered != 3 {
		t.Errorf("got %+v", got)
	}
}

func TestExplainTellsOfOneService(t *testing.T) {
	u := unitReport("2001:db8:1::200", "2001:db8:1::/64", "node2", false)
	u.Refused = map[string]cluster.Refusal{"node1": speaker.OffSegment, "node2": cluster.Eligible}
	f := &fakeSpeaker{units: []speaker.UnitReport{u}}
	e := &explainer{node: "node1", rules: func(netip.Addr) bool { return true }, speaker: f}
	var got answer.Explanation
	if code := ask(t, e, answer.ExplainPath+"?service=shop/web", &got); code != http.StatusOK || f.asked != "shop/web" {
		t.Fatalf("answers %d and asked for %q", code, f.asked)
	}
	if len(got.Units) != 1 || got.Units[0].Owner != "node2" || got.Units[0].Refused["node1"] != string(speaker.OffSegment) || !got.Units[0].Since.IsZero() {
		t.Errorf("got %+v", got)
	}
	f.units = nil
	if code := ask(t, e, answer.ExplainPath+"?service=shop/none", &got); code != http.StatusOK || got.Units == nil || len(got.Units) != 0 {
		t.Errorf("a Service that nobody knows: %d %+v", code, got)
	}
}

func TestExplainRefusesWhatIsNoService(t *testing.T) {
	e := &explainer{speaker: &fakeSpeaker{err: context.DeadlineExceeded}, rules: func(netip.Addr) bool { return false }}
	for _, query := range []string{"", "?service=", "?service=web", "?service=/web", "?service=shop/", "?service=a/b/c"} {
		var text string
		if code := ask(t, e, answer.ExplainPath+query, &text); code != http.StatusBadRequest || !strings.Contains(text, "NAMESPACE/NAME") {
			t.Errorf("%q: %d %q", query, code, text)
		}
	}
	var text string
	if code := ask(t, e, answer.ExplainPath+"?service=shop/web", &text); code != http.StatusServiceUnavailable || !strings.Contains(text, "deadline") {
		t.Errorf("a speaker that hangs: %d %q", code, text)
	}
}

// The condition is read back by tools that may not ask the agents.
func TestTheConditionNamesTheOwner(t *testing.T) {
	r := &speaker.ServiceReport{UID: "u", Teller: "node1", Units: []speaker.UnitReport{
		unitReport("192.0.2.200", "192.0.2.0/24", "node1", true), unitReport("2001:db8:1::200", "2001:db8:1::/64", "node2", false)}}
	s, ok := statement("node1", r)
	owners := answer.Owners(s.Message)
	if !ok || owners[netip.MustParseAddr("192.0.2.200")] != "node1" || owners[netip.MustParseAddr("2001:db8:1::200")] != "node2" {
		t.Errorf("%q names %v", s.Message, owners)
	}
}
