package config

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/clarion-lb/clarion/internal/iprange"
	"github.com/clarion-lb/clarion/internal/selector"
)

func set(t testing.TB, words ...string) iprange.Set {
	t.Helper()
	var ranges []iprange.Range
	for _, w := range words {
		r, err := iprange.Parse(w)
		if err != nil {
			t.Fatal(err)
		}
		ranges = append(ranges, r)
	}
	return iprange.SetOf(ranges...)
}

func TestReferenceIsWhatIsRead(t *testing.T) {
	text, err := os.ReadFile("reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var manifest struct{ Data map[string]string }
	if err := yaml.Unmarshal(text, &manifest); err != nil {
		t.Fatal(err)
	}
	got, err := Parse(manifest.Data, Config{})
	if err != nil {
		t.Fatal(err)
	}
	want := []Pool{
		{Name: "default", AutoAssign: true, Addresses: set(t, "192.0.2.200-192.0.2.250", "2001:db8:1::/112")},
		{
			Name: "public", Addresses: set(t, "198.51.100.0/28", "2001:db8:2::10-2001:db8:2::1f"),
			AvoidBuggyIPs: true, Priority: 10, Namespaces: []string{"shop", "shop-test"},
			NamespaceSelector: &selector.Selector{MatchLabels: map[string]string{"team": "web"}},
			ServiceSelector: &selector.Selector{
				MatchLabels: map[string]string{"exposed": "true"},
				MatchExpressions: []selector.Requirement{
					{Key: "tier", Operator: selector.In, Values: []string{"front", "edge"}},
					{Key: "internal", Operator: selector.DoesNotExist},
				},
			},
			Announce: Announce{
				Interfaces:   []string{"eth0", "bond*"},
				NodeSelector: &selector.Selector{MatchLabels: map[string]string{"edge": "true"}},
			},
		},
		{Name: "rack7", AutoAssign: true, Addresses: set(t, "203.0.113.8", "203.0.113.16/28", "203.0.113.64/28", "2001:db8:7::/64")},
	}
	if !reflect.DeepEqual(got.Pools, want) {
		t.Errorf("got  %+v\nwant %+v", got.Pools, want)
	}
	if got.Settings != DefaultSettings() {
		t.Errorf("the settings that the reference calls defaults are %+v", got.Settings)
	}
	for _, keys := range [][]string{poolKeys, announceKeys, selectorKeys, requirementKeys, settingsKeys} {
		for _, k := range keys {
			if !strings.Contains(string(text), k+":") {
				t.Errorf("reference.yaml does not show %q", k)
			}
		}
	}
	again, err := Parse(got.Raw(), Config{})
	if err != nil || !reflect.DeepEqual(again, got) {
		t.Errorf("what is in force does not read back: %v\n%+v", err, again)
	}
}

func TestNoConfigMapIsNoPools(t *testing.T) {
	last, err := Parse(map[string]string{"default": "192.0.2.1, 2001:db8::1"}, Config{})
	if err != nil || len(last.Pools) != 1 {
		t.Fatal(last, err)
	}
	got, err := Parse(nil, last)
	if err != nil || len(got.Pools) != 0 || got.Settings != DefaultSettings() || len(got.Raw()) != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}

// Every value is refused with exactly these problems.
func TestEveryProblemIsToldWithItsPath(t *testing.T) {
	tests := []struct {
		name, key, value string
		want             []string // beginning of each problem, in order
	}{
		{"a typo in an address", "p", "192.0.2.1, 10.0.0.300, 2001:db8::1", []string{`p[1]: "10.0.0.300" is not an IP address, CIDR or range`}},
		{"two typos on two lines", "p", "192.0.2.x\n2001:db8::1\n2001:db8::g # gateway", []string{`p[0]: "192.0.2.x" is not`, `p[2]: "2001:db8::g" is not`}},
		{"an inverted range", "p", "2001:db8::9-2001:db8::1", []string{`p[0]: "2001:db8::9-2001:db8::1" ends before it begins: write 2001:db8::1-2001:db8::9`}},
		{"host bits", "p", "192.0.2.5/24, 2001:db8::1/64", []string{`p[0]: "192.0.2.5/24" has host bits set: write 192.0.2.0/24`, `p[1]: "2001:db8::1/64" has host bits set`}},
		{"the whole internet", "p", "0.0.0.0/0, ::/0", []string{`p[0]: 0.0.0.0/0 holds more addresses`, `p[1]: ::/0 holds more addresses`}},
		{"loopback and link-local", "p", "127.0.0.1, fe80::1", []string{`p[0]: 127.0.0.1 is loopback`, `p[1]: fe80::1 is link-local`}},
		{"an IPv4-mapped address", "p", "::ffff:192.0.2.1", []string{`p[0]: "::ffff:192.0.2.1" is an IPv4-mapped IPv6 address: write 192.0.2.1`}},
		{"blanks instead of commas", "p", "192.0.2.1 2001:db8::1", []string{`p[0]: "192.0.2.1 2001:db8::1" is not an IP address, CIDR or range; separate addresses by commas`}},
		{"nothing", "p", "", []string{`p: has no addresses`}},
		{"only a comment", "p", "# later\n,\n", []string{`p: has no addresses`}},
		{"the long form without its word", "p", "adresses: [192.0.2.1]\nautoAssign: false", []string{`p: is neither form: a list of addresses has no "adresses":, and in the long form one line begins with «addresses:», without blanks before it (did you mean "addresses"?)`}},
		{"the long form indented", "p", " addresses: [2001:db8::1]", []string{`p: is neither form`}},
		{"the long form in braces", "p", "{addresses: [2001:db8::1]}", []string{`p: is neither form: write the long form as YAML lines`}},

		{"a typo in a list of addresses", "public", "addresses: [192.0.2.1, 10.0.0.300, '2001:db8::']", []string{`public.addresses[1]: "10.0.0.300" is not an IP address, CIDR or range`}},
		{"several mistakes of all kinds", "p", "addresses: [192.0.2.1/24]\nautoassign: true\npriority: high\nnamespaces: shop\nannounce: {interface: [eth0]}", []string{
			`p.addresses[0]: "192.0.2.1/24" has host bits`,
			`p.autoassign: is not a key that exists here (did you mean "autoAssign"?)`,
			`p.priority: "high" is not a whole number`,
			`p.namespaces: is a word, not a list: write [shop]`,
			`p.announce.interface: is not a key that exists here (did you mean "interfaces"?); there are interfaces, nodeSelector`,
		}},
		{"a peer's spelling", "p", "addresses: [2001:db8::1]\navoid-buggy-ips: true", []string{`p.avoid-buggy-ips: is not a key that exists here (did you mean "avoidBuggyIPs"?)`}},
		{"a key twice", "p", "addresses: [2001:db8::1]\npriority: 1\npriority: 2", []string{`p.priority: stands twice`}},
		{"addresses twice", "p", "addresses: [2001:db8::1]\naddresses: [2001:db8::2]", []string{`p.addresses: stands twice`}},
		{"one address instead of a list", "p", "addresses: 2001:db8::/64", []string{`p.addresses: is not a list: write [2001:db8::/64]`}},
		{"no address", "p", "addresses: []", []string{`p.addresses: is an empty list: write at least one address or remove the key`}},
		{"an empty value", "p", "addresses:", []string{`p.addresses: is empty, not a list`}},
		{"an IPv6 address that YAML takes for a mapping", "p", "addresses: [2001:db8:: , 192.0.2.1]", []string{`p.addresses[0]: is a mapping, not an address: an IPv6 address that ends in «:» needs quotes`}},
		{"a list in a list", "p", "addresses: [[2001:db8::1]]", []string{`p.addresses[0]: is a list, not an address`}},
		{"yes instead of true", "p", "addresses: [2001:db8::1]\nautoAssign: yes", []string{`p.autoAssign: "yes" is neither true nor false`}},
		{"true in quotes", "p", "addresses: [2001:db8::1]\nautoAssign: \"true\"", []string{`p.autoAssign: "true" is neither true nor false (without quotes)`}},
		{"a fraction", "p", "addresses: [2001:db8::1]\npriority: 1.5", []string{`p.priority: "1.5" is not a whole number`}},
		{"a number that is too large", "p", "addresses: [2001:db8::1]\npriority: 3000000000", []string{`p.priority: "3000000000" is not a whole number`}},
		{"a pattern of namespaces", "p", "addresses: [2001:db8::1]\nnamespaces: [shop-*, Shop, 7]", []string{
			`p.namespaces[0]: "shop-*" is a pattern, and namespaces are named in full: use namespaceSelector`,
			`p.namespaces[1]: "Shop" is not the name of a namespace`,
			`p.namespaces[2]: 7 is a number: write "7"`,
		}},
		{"a boolean as a label", "p", "addresses: [2001:db8::1]\nserviceSelector: {matchLabels: {edge: true}}", []string{`p.serviceSelector.matchLabels.edge: true is a boolean: write "true"`}},
		{"a label without its matchLabels", "p", "addresses: [2001:db8::1]\nserviceSelector: {edge: \"true\"}", []string{`p.serviceSelector.edge: is not a key that exists here; there are matchLabels, matchExpressions`}},
		{"a label key with a dot", "p", "addresses: [2001:db8::1]\nserviceSelector: {matchLabels: {a.b/c d: x}}", []string{`p.serviceSelector.matchLabels["a.b/c d"]: "a.b/c d" is not a label key`}},
		{"wrong expressions", "p", "addresses: [2001:db8::1]\nnamespaceSelector: {matchExpressions: [{key: a, operator: in, values: [b]}, {key: a, operator: In}, {key: a, operator: Exists, values: [b]}, {operator: Exists}, {key: a}]}", []string{
			`p.namespaceSelector.matchExpressions[0].operator: "in" is no operator (did you mean "In"?)`,
			`p.namespaceSelector.matchExpressions[1]: has the operator In and no values`,
			`p.namespaceSelector.matchExpressions[2]: has the operator Exists and values`,
			`p.namespaceSelector.matchExpressions[3]: has no key`,
			`p.namespaceSelector.matchExpressions[4]: has no operator`,
		}},
		{"wrong interfaces", "p", "addresses: [2001:db8::1]\nannounce: {interfaces: ['eth[', 'a/b', averyveryverylongname]}", []string{
			`p.announce.interfaces[0]: "eth[" is not a pattern`,
			`p.announce.interfaces[1]: "a/b" is not the name of an interface`,
			`p.announce.interfaces[2]: "averyveryverylongname" is not the name`,
		}},
		{"no YAML", "p", "addresses: [2001:db8::1", []string{`p: is not YAML: line`}},
		{"two documents", "p", "addresses: [2001:db8::1]\n---\naddresses: [2001:db8::2]", []string{`p: has more than one YAML document`}},
		{"an anchor", "p", "addresses: [&a 2001:db8::1, *a]", []string{`p.addresses[0]: uses a YAML anchor`, `p.addresses[1]: uses a YAML anchor`}},
		{"a tag", "p", "addresses: [!!str 2001:db8::1]", []string{`p.addresses[0]: carries the YAML tag !!str`}},
		{"a bad name", "a b", "2001:db8::1", []string{`a b: "a b" is not the name of a pool`}},

		{"an unknown setting", "_settings", "resttime: 1s\nquarantine: 10", []string{`_settings.resttime: is not a key that exists here (did you mean "restTime"?)`, `_settings.quarantine: "10" is not a duration`}},
		{"a negative setting", "_settings", "restTime: -1s", []string{`_settings.restTime: "-1s" is not between 0s and 8760h`}},
		{"empty settings", "_settings", "# nothing yet", []string{`_settings: is empty`}},
		{"an unknown key for settings", "_setting", "restTime: 1s", []string{`_setting: keys that begin with «_» are reserved for settings, and the only one is "_settings" (did you mean "_settings"?)`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			const other = "198.51.100.1, 2001:db8:ffff::1"
			got, err := Parse(map[string]string{tt.key: tt.value, "other": other}, Config{})
			problems := Problems(err)
			if len(problems) != len(tt.want) {
				t.Fatalf("got %d problems, want %d: %v", len(problems), len(tt.want), err)
			}
			for i, p := range problems {
				if !strings.HasPrefix(p.Error(), tt.want[i]) {
					t.Errorf("got  %s\nwant %s…", p, tt.want[i])
				}
				if p.Pool != tt.key || p.Kept {
					t.Errorf("%s: Pool %q, Kept %v", p, p.Pool, p.Kept)
				}
			}
			if !strings.Contains(err.Error(), problems[len(problems)-1].Message) {
				t.Errorf("the error does not tell its last problem: %v", err)
			}
			if len(got.Pools) != 1 || got.Pools[0].Name != "other" {
				t.Errorf("the other pool is not taken: %+v", got.Pools)
			}

			// The same mistake as an edit keeps the last good form.
			good := "203.0.113.1, 2001:db8:eeee::1"
			if tt.key == settingsKey {
				good = "restTime: 7s"
			} else if tt.key == "_setting" || tt.key == "a b" {
				return
			}
			last, err := Parse(map[string]string{tt.key: good, "other": other}, Config{})
			if err != nil {
				t.Fatal(err)
			}
			kept, err := Parse(map[string]string{tt.key: tt.value, "other": other}, last)
			if !reflect.DeepEqual(kept, last) {
				t.Errorf("the last good form is not in force:\n%+v", kept)
			}
			for _, p := range Problems(err) {
				if !p.Kept {
					t.Errorf("%s: not said to be kept", p)
				}
			}
		})
	}
}

func TestFaceIsAnAddress(t *testing.T) {
	got, err := Parse(map[string]string{"p": "face::/64\nadd::1"}, Config{})
	if err != nil || !got.Pools[0].Addresses.Equal(set(t, "face::/64", "add::1")) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestLineEndsOfWindowsAreTaken(t *testing.T) {
	got, err := Parse(map[string]string{
		"p": "192.0.2.1\r\n2001:db8::1 # one\r\n", "q": "addresses:\r\n- 192.0.2.2\r\n- 2001:db8::2\r\npriority: 7\r\n",
	}, Config{})
	if err != nil || got.Pools[1].Priority != 7 || !got.Pools[1].Addresses.Equal(set(t, "192.0.2.2", "2001:db8::2")) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSettings(t *testing.T) {
	got, err := Parse(map[string]string{"_settings": "restTime: 1m30s"}, Config{})
	if want := (Settings{RestTime: 90 * time.Second, Quarantine: 10 * time.Minute}); err != nil || got.Settings != want {
		t.Errorf("%+v, %v", got.Settings, err)
	}
}

func TestParseAddresses(t *testing.T) {
	got, err := ParseAddresses(" 192.0.2.7,2001:db8::7 , 192.0.2.8,")
	if err != nil || len(got) != 3 || got[1].String() != "2001:db8::7" {
		t.Errorf("%v, %v", got, err)
	}
	for in, want := range map[string]string{
		"":                           "names no address",
		" , ":                        "names no address",
		"192.0.2.7, 192.0.2.007":     `"192.0.2.007" has a leading zero`,
		"2001:db8::7, 2001:DB8:0::7": "2001:db8::7 stands twice",
		"192.0.2.0/24, x":            `"192.0.2.0/24" is not an IP address; "x" is not an IP address`,
		"fe80::1%eth0":               "has a zone",
		"::ffff:192.0.2.1":           "IPv4-mapped",
	} {
		if got, err := ParseAddresses(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseAddresses(%q) = %v, %v; want %q", in, got, err, want)
		}
	}
}
