package text

import (
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	var b strings.Builder
	p := NewPage(&b, false)
	p.Head("POOLS")
	p.Table([]string{"NAME", "NOTE", "SIZE"}, [][]string{{"a", "", "1"}, {"größer als", "", "65536"}})
	p.Head("END")
	want := "POOLS\n  NAME        SIZE\n  a           1\n  größer als  65536\n\nEND\n"
	if b.String() != want || p.Err() != nil {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestColorIsForTerminalsOnly(t *testing.T) {
	var b strings.Builder
	p := NewPage(&b, true)
	p.Bad("x")
	if b.String() != "\x1b[31mx\x1b[0m\n" {
		t.Errorf("got %q", b.String())
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestPageReportsTheWriter(t *testing.T) {
	p := NewPage(full{}, false)
	p.Line("a")
	p.Line("b")
	if p.Err() == nil || p.Err().Error() != "disk full" {
		t.Errorf("got %v", p.Err())
	}
}

func TestBar(t *testing.T) {
	huge := new(big.Int).Lsh(big.NewInt(1), 112)
	tests := []struct {
		used, total *big.Int
		want        string
	}{
		{big.NewInt(0), big.NewInt(51), "[..........]"},
		{big.NewInt(1), huge, "[#.........]"},
		{big.NewInt(50), big.NewInt(51), "[#########.]"},
		{big.NewInt(51), big.NewInt(51), "[##########]"},
		{big.NewInt(5), big.NewInt(10), "[#####.....]"},
		{big.NewInt(0), big.NewInt(0), "[..........]"},
	}
	for _, tt := range tests {
		if got := Bar(tt.used, tt.total); got != tt.want {
			t.Errorf("Bar(%v, %v) = %s, want %s", tt.used, tt.total, got, tt.want)
		}
	}
}

func TestCount(t *testing.T) {
	power := func(bits uint, add int64) *big.Int {
		n := new(big.Int).Lsh(big.NewInt(1), bits)
		return n.Add(n, big.NewInt(add))
	}
	tests := map[string]*big.Int{"0": big.NewInt(0), "51": big.NewInt(51), "65536": power(16, 0), "2^24": power(24, 0), "2^112": power(112, 0),
		"~2^112": power(112, -1), "~2^64": power(64, 7)}
	for want, n := range tests {
		if got := Count(n); got != want {
			t.Errorf("Count(%v) = %s, want %s", n, got, want)
		}
	}
}

func TestAge(t *testing.T) {
	const day = 24 * time.Hour
	tests := map[string]time.Duration{"0s": -time.Minute, "119s": 119 * time.Second, "2m": 2 * time.Minute, "59m": time.Hour - 1,
		"1h": time.Hour, "5h10m": 5*time.Hour + 10*time.Minute, "3d4h": 3*day + 4*time.Hour, "9d": 9 * day, "214d": 214*day + 5*time.Hour}
	for want, d := range tests {
		if got := Age(d); got != want {
			t.Errorf("Age(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestPlural(t *testing.T) {
	for _, tt := range []struct {
		n           int
		thing, want string
	}{{1, "node", "1 node"}, {0, "node", "0 nodes"}, {2, "address", "2 addresses"}} {
		if got := Plural(tt.n, tt.thing); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}
