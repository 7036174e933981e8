package app

import (
	"net/netip"
	"testing"
	"time"
)

func TestLongestGap(t *testing.T) {
	at := func(ms int, ok bool) result { return result{time.Unix(0, int64(ms)*1e6), ok} }
	tests := []struct {
		name    string
		results []result
		length  time.Duration
		failed  int
	}{
		{"no request", nil, 0, 0},
		{"all answered", []result{at(0, true), at(10, true), at(20, true)}, 0, 0},
		{"one lost", []result{at(0, true), at(10, false), at(20, true)}, 20 * time.Millisecond, 1},
		{"the longer of two", []result{at(0, true), at(10, false), at(20, true), at(30, false), at(40, false), at(50, true)}, 30 * time.Millisecond, 3},
		{"never again", []result{at(0, true), at(10, false), at(500, false)}, 500 * time.Millisecond, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := longest(netip.MustParseAddr("2001:db8:1::200"), tt.results)
			if got.Length != tt.length || got.Failed != tt.failed {
				t.Fatalf("got %+v", got)
			}
		})
	}
}
