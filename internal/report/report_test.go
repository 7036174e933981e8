package report

import (
	"encoding/json"
	"maps"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

func TestOwnersReadsWhatAnnouncesWrote(t *testing.T) {
	v4, v6, other := netip.MustParseAddr("192.0.2.200"), netip.MustParseAddr("2001:db8:1::200"), netip.MustParseAddr("2001:db8:2::7")
	tests := []struct {
		name, message string
		want          map[netip.Addr]string
	}{
		{"both families on one node", Announces("node1", []string{v4.String(), v6.String()}), map[netip.Addr]string{v4: "node1", v6: "node1"}},
		{"two nodes, the second with a name of dots",
			Announces("a", []string{v4.String()}) + "; " + Announces("b.example.com", []string{v6.String(), other.String()}),
			map[netip.Addr]string{v4: "a", v6: "b.example.com", other: "b.example.com"}},
		{"a conflict names the owner too", "node n1 announces 192.0.2.200, but the host with the link address 02:00:00:00:00:01 uses it too", map[netip.Addr]string{v4: "n1"}},
		{"nobody", "no node can announce 192.0.2.200: n1: the node is not Ready", nil},
		{"not announced", "2001:db8:1::200 is not announced: the host 02:00:00:00:00:01 uses it", nil},
		{"nonsense", "node announces node x announces and and", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Owners(tt.message); !maps.Equal(got, tt.want) {
				t.Errorf("Owners(%q) = %v, want %v", tt.message, got, tt.want)
			}
		})
	}
}

func TestReportsComeBackFromJSON(t *testing.T) {
	unit := Unit{VIP: netip.MustParseAddr("2001:db8:1::200"), Segment: netip.MustParsePrefix("2001:db8:1::/64"), Owner: "n1", Mine: true,
		Since: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), Link: "eth0", Refused: map[string]string{"n1": "", "n2": "x"}, Rules: true}
	want := Status{Node: "n1", Units: []ServiceUnit{{"shop/web", unit}, {"shop/lost", Unit{VIP: netip.MustParseAddr("192.0.2.1")}}},
		Links: map[string]Counters{"eth0": {Received: 1, Malformed: 2, Answered: 3, Unsent: 4, Lost: 5}}}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Status
	if err := json.Unmarshal(text, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s came back as %+v (%v)", text, got, err)
	}
}

func FuzzOwners(f *testing.F) {
	f.Add("node a announces 192.0.2.1 and 2001:db8::1; node b announces ::")
	f.Add("no node can announce 192.0.2.1")
	f.Fuzz(func(t *testing.T, message string) {
		for a, node := range Owners(message) {
			if !a.IsValid() || node == "" {
				t.Errorf("%q gives %v → %q", message, a, node)
			}
			if got := Owners(Announces(node, []string{a.String()})); got[a] != node {
				t.Errorf("%q on %v does not come back: %v", node, a, got)
			}
		}
	})
}
