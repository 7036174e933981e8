package ownership

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

func someMessages() []Message {
	v4 := Unit{netip.MustParseAddr("192.0.2.200"), net4}
	v6 := Unit{netip.MustParseAddr("2001:db8:1::c8"), net6}
	far := Unit{netip.MustParseAddr("198.51.100.7"), net4b} // in no segment of the facts
	facts := Facts{Ready: true, Segments: []Presence{
		{Segment: net4, Up: true, Majority: true, MACs: []cluster.MAC{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}},
		{Segment: net6, MACs: nil},
	}}
	return []Message{
		Hello{1, 2, 3 * time.Second},
		Ack{1 << 63, 2, 0},
		Pull{7, 8},
		Set{Boot: 1, Base: 2, Version: 3, Facts: facts, Claims: []Claim{{Unit: v4, Epoch: 9}, {Unit: v6, Epoch: 1 << 31}, {Unit: far, Released: true}}},
		Set{Boot: 1, Version: 3, Index: 1, Count: 2, Facts: Facts{Draining: true}},
		Handover{[]Claim{{Unit: v6, Epoch: 4}}},
		Reply{Yes: true, Claims: []Claim{{Unit: v4, Epoch: 5}}},
		Reply{Why: whyUnable, Claims: []Claim{{Unit: v4}}},
		Verdict{"node1", true},
	}
}

func TestMessagesSurviveTheCodec(t *testing.T) {
	for _, msg := range someMessages() {
		got, err := Decode(Encode(msg))
		if err != nil {
			t.Fatalf("%#v: %v", msg, err)
		}
		if !reflect.DeepEqual(got, msg) {
			t.Errorf("got  %#v\nwant %#v", got, msg)
		}
	}
}

func TestAClaimIs24Bytes(t *testing.T) {
	one := Handover{[]Claim{{Unit: Unit{netip.MustParseAddr("192.0.2.200"), net4}}}}
	two := Handover{append(one.Claims, one.Claims...)}
	if d := len(Encode(two)) - len(Encode(one)); d != claimBytes {
		t.Fatalf("%d bytes", d)
	}
}

// Whatever a node's links are, a set stays below the limit.
func TestSetsStaySmall(t *testing.T) {
	for segments := range maxSegments - 8 {
		var f Facts
		for i := range segments {
			f.Segments = append(f.Segments, Presence{Segment: netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i)}), 64), MACs: make([]cluster.MAC, maxMACs)})
		}
		s := Set{Facts: f}
		for range claimsPerSet(f) {
			s.Claims = append(s.Claims, Claim{Unit: Unit{netip.MustParseAddr("192.0.2.200"), net4}})
		}
		if n := len(Encode(s)); n > maxMessage {
			t.Errorf("%d segments, %d claims: %d bytes", segments, len(s.Claims), n)
		}
	}
}

func TestBadMessagesAreRefused(t *testing.T) {
	set := Encode(someMessages()[3])
	change := func(b []byte, at int, v byte) []byte {
		b = bytes.Clone(b)
		b[at] = v
		return b
	}
	tests := []struct {
		name string
		b    []byte
		want string
	}{
		{"nothing", nil, "too short"},
		{"a newer format", change(set, 0, 2), "unknown format"},
		{"an unknown kind", change(set, 1, 99), "unknown kind 99"},
		{"cut off", set[:len(set)-1], "3 claims in"},
		{"too long", append(bytes.Clone(set), 0), "1 bytes too many"},
		{"part 5 of 1", change(change(set, 27, 5), 29, 1), "part 5 of 1"},
		{"too many segments", change(set, 31, 200), "200 segments"},
		{"a segment with host bits", change(set, 37, 7), "is not a segment"},
		{"a prefix that is too long", change(set, 33, 33), "is not a segment"},
		{"an address of 5 bytes", change(set, 32, 5), "5 bytes"},
		{"a claim in no segment", change(set, len(set)-8, 9), "segment 9 of 3"},
		{"a claim of the other family", change(set, len(set)-8, 1), "claim of 198.51.100.7 in 2001:db8:1::/64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			msg, err := Decode(tt.b)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%#v, %v", msg, err)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	for _, msg := range someMessages() {
		f.Add(Encode(msg))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		msg, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Decode(Encode(msg))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(msg) {
			t.Fatalf("%#v becomes %#v, %v", msg, again, err)
		}
	})
}

// A machine stands whatever authenticated nonsense a peer sends.
func FuzzReceived(f *testing.F) {
	for i, msg := range someMessages() {
		f.Add(uint64(i), Encode(msg))
	}
	f.Fuzz(func(t *testing.T, seed uint64, b []byte) {
		msg, err := Decode(b)
		if err != nil {
			return
		}
		w := newWorld(t, setup{seed: seed%16 + 1, nodes: 3, vips: 4, gateway: true, quiet: true})
		for _, h := range w.nodes {
			h.boot()
		}
		w.run(2 * time.Second)
		for range 3 {
			w.nodes[0].step(Received{"node2", msg})
			w.run(w.now + 300*time.Millisecond)
		}
	})
}
