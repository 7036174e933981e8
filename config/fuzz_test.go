package config

import (
	"reflect"
	"strings"
	"testing"
)

// seeds are values that once were, or could be, understood in two ways.
var seeds = []string{
	"192.0.2.200-192.0.2.250, 2001:db8:1::/112",
	"face::/64", "::", "2001:db8::\n2001:db8::1", "a: b", "{}", "[]", "\ufeff192.0.2.1", "192.0.2.1#", "#", "\x00",
	"addresses: [198.51.100.0/28]\nautoAssign: false\nannounce: {interfaces: [eth0, 'bond*']}",
	"addresses:\n- 2001:db8::/64\nnamespaceSelector: {matchExpressions: [{key: a, operator: NotIn, values: [b]}]}",
	"addresses: &a [*a]", "addresses: {<<: {}}", "? addresses\naddresses: []", "addresses: !!binary AA==", "addresses: \"\\u0000\"",
	"addresses: [2001:db8::, 1]", "addresses: [0x1, 1_0, 1e3, ~, 2001-01-01]", "addresses: []\n...\n--- x", "addresses:\n\t- a",
}

// check holds what must be true of any data: no problem means the pool is
// there, a problem means it is not; paths begin with the key; what is in force
// reads back; and a neighbour never notices.
func check(t *testing.T, key, value string) {
	const neighbour = "198.51.100.255"
	got, err := Parse(map[string]string{key: value, "zz": neighbour}, Config{})
	again, err2 := Parse(got.Raw(), Config{})
	if err2 != nil || !reflect.DeepEqual(again, got) {
		t.Fatalf("%q does not read back: %v", value, err2)
	}
	_, taken := got.Raw()[key]
	if taken != (err == nil) {
		t.Fatalf("%q: taken %v, error %v", value, taken, err)
	}
	overlaps := false
	for _, p := range Problems(err) {
		if p.Pool != key && p.Pool != "zz" || !strings.HasPrefix(p.Path, p.Pool) || p.Message == "" {
			t.Fatalf("%+v", p)
		}
		overlaps = overlaps || p.Pool == "zz"
	}
	if _, ok := got.Pool("zz"); ok == overlaps {
		t.Fatalf("%q touched its neighbour: %v", value, err)
	}
}

func FuzzShortForm(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if longForm.MatchString(value) {
			return // the long form has its own target
		}
		// The neighbour sorts behind, so the pool wins and the neighbour may lose
		// one address only by a true overlap.
		got, _ := Parse(map[string]string{"p": value}, Config{})
		if p, ok := got.Pool("p"); ok && p.Addresses.Contains(set(t, "198.51.100.255").Ranges()[0].From) {
			return
		}
		check(t, "p", value)
	})
}

func FuzzLongForm(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		value += "\naddresses: [2001:db8::1]"
		check(t, "p", value)
		check(t, settingsKey, value)
	})
}

func FuzzParseAddresses(f *testing.F) {
	for _, s := range append(seeds, "192.0.2.1,2001:db8::1", ",", "1.2.3.4,,1.2.3.4") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		addrs, err := ParseAddresses(value)
		if (err == nil) != (len(addrs) > 0) {
			t.Fatalf("%q: %v, %v", value, addrs, err)
		}
		var words []string
		for _, a := range addrs {
			if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
				t.Fatalf("%q gave %v", value, a)
			}
			words = append(words, a.String())
		}
		if again, err := ParseAddresses(strings.Join(words, ",")); err == nil && !reflect.DeepEqual(again, addrs) {
			t.Fatalf("%v reads back as %v", addrs, again)
		}
	})
}
