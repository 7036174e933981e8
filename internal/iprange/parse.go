package iprange

import (
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"strconv"
	"strings"

	"github.com/clarion-lb/clarion/internal/ipfam"
)

// Parse reads an address, a CIDR or a range "from-to". White space around the
// parts is ignored. It is stricter than package netip where two readers could
// understand two things: host bits in a CIDR, IPv4-mapped IPv6 addresses and
// zones are errors. Errors name the text and say what to write instead.
func Parse(text string) (Range, error) {
	text = strings.TrimSpace(text)
	if strings.Contains(text, "/") {
		return parseCIDR(text)
	}
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		a, err := ParseAddr(text)
		if errors.Is(err, errNoAddr) {
			err = fmt.Errorf("%q is not an IP address, CIDR or range", text)
		}
		return One(a), err
	}
	return parseEnds(strings.TrimSpace(from), strings.TrimSpace(to))
}

// errNoAddr is what ParseAddr says when it has nothing better to say.
var errNoAddr = errors.New("is not an IP address")

// ParseAddr reads one address of a host: no zone, no port, not IPv4-mapped.
// White space around it is ignored.
func ParseAddr(text string) (netip.Addr, error) {
	text = strings.TrimSpace(text)
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return netip.Addr{}, notAddr(text)
	case a.Zone() != "":
		return netip.Addr{}, fmt.Errorf("%q has a zone (%s): write %s", text, a.Zone(), a.WithZone(""))
	case a.Is4In6():
		return netip.Addr{}, fmt.Errorf("%q is an IPv4-mapped IPv6 address: write %s", text, a.Unmap())
	}
	return a, nil
}

// notAddr says why text is no address, as exactly as it can.
func notAddr(text string) error {
	if plain, found := withoutLeadingZeros(text); found {
		return fmt.Errorf("%q has a leading zero, which some programs read as octal: write %s", text, plain)
	}
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return fmt.Errorf("%q carries a port: write %s", text, ap.Addr())
	}
	return fmt.Errorf("%q %w", text, errNoAddr)
}

// withoutLeadingZeros returns the IPv4 address that text would be if leading
// zeros meant nothing, and false when it is none or has none.
func withoutLeadingZeros(text string) (netip.Addr, bool) {
	parts := strings.Split(text, ".")
	changed := false
	for i, p := range parts {
		short := strings.TrimLeft(p, "0")
		if short == "" && p != "" {
			short = "0"
		}
		changed = changed || short != p
		parts[i] = short
	}
	a, err := netip.ParseAddr(strings.Join(parts, "."))
	return a, err == nil && changed && a.Is4()
}

func parseCIDR(text string) (Range, error) {
	host, length, _ := strings.Cut(text, "/")
	host, length = strings.TrimSpace(host), strings.TrimSpace(length)
	if strings.Contains(host, "-") {
		return Range{}, fmt.Errorf("%q is half a range and half a CIDR: write either from-to or network/length", text)
	}
	a, err := ParseAddr(host)
	if err != nil {
		return Range{}, fmt.Errorf("%q is not a CIDR: %w", text, err)
	}
	bits, err := strconv.Atoi(length)
	if err != nil || bits < 0 || bits > a.BitLen() || strconv.Itoa(bits) != length {
		return Range{}, fmt.Errorf("%q is not a CIDR: after the slash stands the prefix length, 0 to %d for %v, not %q",
			text, a.BitLen(), ipfam.Of(a), length)
	}
	p := netip.PrefixFrom(a, bits)
	if p.Masked() != p {
		return Range{}, fmt.Errorf("%q has host bits set: write %v for the whole network or %v for this one address",
			text, p.Masked(), a)
	}
	return OfPrefix(p), nil
}

func parseEnds(from, to string) (Range, error) {
	text := from + "-" + to
	a, err := ParseAddr(from)
	if err != nil {
		return Range{}, fmt.Errorf("%q is not a range: %w", text, err)
	}
	b, err := ParseAddr(to)
	if err != nil {
		if end, ok := lastPart(a, to); ok {
			return Range{}, fmt.Errorf("%q is not a range: write both ends in full, %v-%v", text, a, end)
		}
		return Range{}, fmt.Errorf("%q is not a range: %w", text, err)
	}
	if ipfam.Of(a) != ipfam.Of(b) {
		return Range{}, fmt.Errorf("%q goes from %v to %v: both ends of a range are of one family", text, ipfam.Of(a), ipfam.Of(b))
	}
	if b.Less(a) {
		return Range{}, fmt.Errorf("%q ends before it begins: write %v-%v", text, b, a)
	}
	return Range{a, b}, nil
}

// lastPart returns a with its last part replaced, for those who write
// 192.0.2.200-250.
func lastPart(a netip.Addr, part string) (netip.Addr, bool) {
	s := a.String()
	end, err := netip.ParseAddr(s[:strings.LastIndexAny(s, ".:")+1] + part)
	return end, err == nil && a.Less(end)
}

// unusable lists what can never be the address of a Service. A range that
// touches one of them is a mistake of whoever wrote it.
var unusable = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "«this network» (RFC 791 section 3.2)"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback (RFC 1122 section 3.2.1.3)"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local (RFC 3927)"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast (RFC 5771)"},
	{netip.MustParsePrefix("255.255.255.255/32"), "the limited broadcast address (RFC 919)"},
	{netip.MustParsePrefix("::/128"), "the unspecified address (RFC 4291 section 2.5.2)"},
	{netip.MustParsePrefix("::1/128"), "loopback (RFC 4291 section 2.5.3)"},
	{netip.MustParsePrefix("::/96"), "IPv4-compatible and deprecated (RFC 4291 section 2.5.5.1)"},
	{netip.MustParsePrefix("::ffff:0:0/96"), "IPv4-mapped (RFC 4291 section 2.5.5.2)"},
	{netip.MustParsePrefix("fe80::/10"), "link-local (RFC 4291 section 2.5.6)"},
	{netip.MustParsePrefix("ff00::/8"), "multicast (RFC 4291 section 2.7)"},
}

// widest is, by family, the shortest prefix that one owner can have: the old
// class A, and more than any registry gives for IPv6.
var widest = map[ipfam.Family]int{ipfam.V4: 8, ipfam.V6: 16}

// Check returns an error when r holds addresses that can be no Service's:
// those with a special meaning, and more of them than anybody owns.
func Check(r Range) error {
	bits := widest[r.Family()]
	most := new(big.Int).Lsh(big.NewInt(1), uint(r.Family().Bits()-bits))
	if r.Size().Cmp(most) > 0 {
		return fmt.Errorf("%v holds more addresses than an %v /%d: list only the addresses that you own", r, r.Family(), bits)
	}
	for _, u := range unusable {
		both, ok := r.Intersect(OfPrefix(u.prefix))
		switch {
		case !ok:
		case both == r:
			return fmt.Errorf("%v is %s", r, u.what)
		default:
			return fmt.Errorf("%v holds %v, which is %s", r, both, u.what)
		}
	}
	return nil
}
