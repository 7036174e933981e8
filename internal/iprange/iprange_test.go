package iprange

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/clarion-lb/clarion/internal/ipfam"
)

func parse(t *testing.T, words ...string) Set {
	t.Helper()
	var ranges []Range
	for _, w := range words {
		r, err := Parse(w)
		if err != nil {
			t.Fatal(err)
		}
		ranges = append(ranges, r)
	}
	return SetOf(ranges...)
}

func TestParse(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"one address", " 192.0.2.1 ", "192.0.2.1"},
		{"one IPv6 address", "2001:DB8::1", "2001:db8::1"},
		{"a CIDR", "192.0.2.0/24", "192.0.2.0/24"},
		{"an IPv6 CIDR", "2001:db8::/64", "2001:db8::/64"},
		{"a CIDR of one address", "192.0.2.1/32", "192.0.2.1"},
		{"a range with blanks", "192.0.2.5 - 192.0.2.9", "192.0.2.5-192.0.2.9"},
		{"an IPv6 range", "2001:db8::5-2001:db8::9", "2001:db8::5-2001:db8::9"},
		{"a range that is a CIDR", "2001:db8::-2001:db8::f", "2001:db8::/124"},
		{"a range of one address", "192.0.2.5-192.0.2.5", "192.0.2.5"},
		{"the highest addresses", "ffff::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff::/16"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(tt.in)
			if err != nil || got.String() != tt.want {
				t.Errorf("Parse(%q) = %v, %v; want %s", tt.in, got, err, tt.want)
			}
		})
	}
}

func TestParseSaysWhatIsWrongAndWhatToWrite(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"an octet above 255", "10.0.0.300", `"10.0.0.300" is not an IP address, CIDR or range`},
		{"not an IPv6 address", "2001:db8::g", `"2001:db8::g" is not an IP address, CIDR or range`},
		{"nothing", "", `"" is not an IP address, CIDR or range`},
		{"an inverted range", "192.0.2.250-192.0.2.200", `ends before it begins: write 192.0.2.200-192.0.2.250`},
		{"an inverted IPv6 range", "2001:db8::9-2001:db8::5", `write 2001:db8::5-2001:db8::9`},
		{"two families", "192.0.2.1-2001:db8::1", `goes from IPv4 to IPv6`},
		{"host bits", "192.0.2.5/24", `write 192.0.2.0/24 for the whole network or 192.0.2.5 for this one address`},
		{"IPv6 host bits", "2001:db8::5/64", `write 2001:db8::/64 for the whole network`},
		{"a leading zero", "192.0.02.1", `leading zero, which some programs read as octal: write 192.0.2.1`},
		{"a leading zero in a CIDR", "010.0.0.0/8", `write 10.0.0.0`},
		{"an IPv4-mapped address", "::ffff:192.0.2.1", `IPv4-mapped IPv6 address: write 192.0.2.1`},
		{"a zone", "fe80::1%eth0", `has a zone (eth0)`},
		{"a zone in a CIDR", "fe80::%eth0/64", `has a zone`},
		{"a port", "192.0.2.1:80", `carries a port: write 192.0.2.1`},
		{"an IPv6 port", "[2001:db8::1]:80", `carries a port: write 2001:db8::1`},
		{"a prefix length above the family's", "192.0.2.0/33", `prefix length, 0 to 32 for IPv4, not "33"`},
		{"an IPv6 prefix length", "2001:db8::/129", `0 to 128 for IPv6`},
		{"a netmask", "192.0.2.0/255.255.255.0", `prefix length`},
		{"no prefix length", "192.0.2.0/", `prefix length`},
		{"a signed prefix length", "192.0.2.0/+24", `prefix length`},
		{"half of each", "192.0.2.0-192.0.2.0/24", `half a range and half a CIDR`},
		{"a short end", "192.0.2.200-250", `write both ends in full, 192.0.2.200-192.0.2.250`},
		{"a short IPv6 end", "2001:db8::1-ff", `write both ends in full, 2001:db8::1-2001:db8::ff`},
		{"an open range", "192.0.2.1-", `"192.0.2.1-" is not a range`},
		{"two dashes", "192.0.2.1-192.0.2.2-192.0.2.3", `is not a range`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(tt.in)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Parse(%q) = %v, error %v; want %q in it", tt.in, got, err, tt.want)
			}
		})
	}
}

func TestCheckRefusesWhatIsNoServices(t *testing.T) {
	tests := []struct{ in, want string }{
		{"192.0.2.0/24", ""},
		{"10.0.0.0/8", ""},
		{"2001:db8::/32", ""},
		{"fd00::/16", ""},
		{"240.0.0.0/8", ""},
		{"0.0.0.0/0", "more addresses than an IPv4 /8"},
		{"::/0", "more addresses than an IPv6 /16"},
		{"10.0.0.0-11.0.0.0", "more addresses"},
		{"0.0.0.0", "this network"},
		{"127.0.0.1", "loopback"},
		{"126.255.255.255-127.0.0.3", "126.255.255.255-127.0.0.3 holds 127.0.0.0/30, which is loopback"},
		{"169.254.1.1", "link-local"},
		{"224.0.0.251", "multicast"},
		{"255.255.255.255", "broadcast"},
		{"::", "unspecified"},
		{"::1", "loopback"},
		{"::c000:201", "IPv4-compatible"},
		{"fe80::/64", "link-local"},
		{"ff02::1", "multicast"},
	}
	for _, tt := range tests {
		r, err := Parse(tt.in)
		if err != nil {
			t.Fatal(err)
		}
		err = Check(r)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("Check(%s) = %v, want %q", tt.in, err, tt.want)
		}
	}
}

func TestSetIsCanonical(t *testing.T) {
	want := "192.0.2.0/25, 2001:db8::1-2001:db8::3"
	for _, words := range [][]string{
		{"192.0.2.0/25", "2001:db8::1-2001:db8::3"},
		{"2001:db8::3", "2001:db8::1", "192.0.2.64/26", "2001:db8::2", "192.0.2.0-192.0.2.70"},
	} {
		if got := parse(t, words...); got.String() != want {
			t.Errorf("%v became %v", words, got)
		}
	}
	everything := parse(t, "0.0.0.0/0", "::/0")
	if got := everything.String(); got != "0.0.0.0/0, ::/0" {
		t.Errorf("the two families were joined: %s", got)
	}
}

// The universe of the property test: 16 addresses at the end of IPv4 and 16 at
// the start of IPv6, so that ranges touch the ends and neighbours across the
// families are tried.
func universe() []netip.Addr {
	var all []netip.Addr
	a, b := netip.MustParseAddr("255.255.255.240"), netip.MustParseAddr("::")
	for range 16 {
		all = append(all, a, b)
		a, b = a.Next(), b.Next()
	}
	return all
}

func randomSet(r *rand.Rand, all []netip.Addr) (Set, map[netip.Addr]bool) {
	var ranges []Range
	model := map[netip.Addr]bool{}
	for range r.IntN(5) {
		a, b := all[r.IntN(len(all))], all[r.IntN(len(all))]
		if a.BitLen() != b.BitLen() {
			continue
		}
		if b.Less(a) {
			a, b = b, a
		}
		ranges = append(ranges, Range{a, b})
		for _, x := range all {
			if (Range{a, b}).Contains(x) {
				model[x] = true
			}
		}
	}
	return SetOf(ranges...), model
}

func TestSetsBehaveLikeListsOfAddresses(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	all := universe()
	for range 20_000 {
		s, ms := randomSet(r, all)
		o, mo := randomSet(r, all)
		both, without := s.Intersect(o), s.Without(o)
		for _, a := range all {
			if s.Contains(a) != ms[a] || both.Contains(a) != (ms[a] && mo[a]) || without.Contains(a) != (ms[a] && !mo[a]) {
				t.Fatalf("%v in s=%v o=%v: both=%v without=%v", a, s, o, both, without)
			}
			if s.Of(ipfam.Of(a)).Contains(a) != ms[a] {
				t.Fatalf("Of(%v) of %v has not %v", ipfam.Of(a), s, a)
			}
		}
		if s.Size().Int64() != int64(len(ms)) {
			t.Fatalf("%v has size %v, not %d", s, s.Size(), len(ms))
		}
		if !SetOf(without.Ranges()...).Equal(without) || !SetOf(both.Ranges()...).Equal(both) {
			t.Fatalf("not canonical: %v, %v", without, both)
		}
		for _, part := range s.Ranges() {
			if again, err := Parse(part.String()); err != nil || again != part {
				t.Fatalf("%v reads back as %v, %v", part, again, err)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "192.0.2.0/24", "2001:db8::1-2001:db8::9", "fe80::1%eth-0", "1-2", "/", "-", "010.0.0.1/8"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			if err.Error() == "" {
				t.Fatal("an error without words")
			}
			return
		}
		if !r.From.IsValid() || r.From.Zone() != "" || r.From.BitLen() != r.To.BitLen() || r.To.Less(r.From) {
			t.Fatalf("%q became %v", s, r)
		}
		if again, err := Parse(r.String()); err != nil || again != r {
			t.Fatalf("%q became %v, which reads back as %v, %v", s, r, again, err)
		}
		_ = Check(r)
	})
}
