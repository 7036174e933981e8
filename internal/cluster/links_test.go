package cluster

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestLinksSurviveTheAnnotation(t *testing.T) {
	want := []Link{
		{Name: "eth0", MAC: MAC{2, 0, 0, 0, 0, 1}, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:1::/64")},
			Gateways: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1")}},
		{Name: "bond0", MAC: MAC{2, 0, 0, 0, 0, 2}},
	}
	got, err := ParseLinks(FormatLinks(want))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestParseLinksNamesTheMistake(t *testing.T) {
	for text, want := range map[string]string{
		`{`:                        "not a JSON list",
		`[{"name":"a","mac":"x"}]`: `[0].mac: "x"`,
		`[{"mac":"02:00:00:00:00:01","prefixes":["2001:db8::/64","192.0.2.0/33"]}]`: `[0].prefixes[1]: "192.0.2.0/33"`,
		`[{"name":"a","mac":"02:00:00:00:00:01","gateways":["fe80::1%eth0"]}]`:      `[0].gateways[0]: "fe80::1%eth0"`,
	} {
		if _, err := ParseLinks(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: err = %v, want %s", text, err, want)
		}
	}
}

func FuzzParseLinks(f *testing.F) {
	f.Add(`[{"name":"eth0","mac":"02:00:00:00:00:01","prefixes":["192.0.2.0/24"]}]`)
	f.Add(`[{"mac":"02:00:00:00:00:01:02:03"}]`)
	f.Fuzz(func(t *testing.T, text string) {
		links, err := ParseLinks(text)
		if err != nil {
			return
		}
		again, err := ParseLinks(FormatLinks(links))
		if err != nil || !reflect.DeepEqual(again, links) {
			t.Fatalf("%q: %v became %v, %v", text, links, again, err)
		}
	})
}
