package inspect

import (
	"maps"
	"strings"
	"testing"
)

func TestParsePools(t *testing.T) {
	both := map[string]string{"default": "192.0.2.0/24, 2001:db8::/64"}
	tests := []struct {
		name, text string
		want       map[string]string
		err        string
	}{
		{"only data", "default: 192.0.2.0/24, 2001:db8::/64\n", both, ""},
		{"only data, as JSON", `{"default": "192.0.2.0/24, 2001:db8::/64"}`, both, ""},
		{"a manifest", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: clarion-pools, namespace: clarion-system}\ndata:\n  default: 192.0.2.0/24, 2001:db8::/64\n", both, ""},
		{"a manifest without namespace among others", "# mine\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: clarion-pools}\ndata: {default: \"192.0.2.0/24, 2001:db8::/64\"}\n", both, ""},
		{"a manifest without data", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: clarion-pools}\n", map[string]string{}, ""},
		{"the long form", "public: |\n  addresses: [2001:db8::/64]\n  priority: 3\n", map[string]string{"public": "addresses: [2001:db8::/64]\npriority: 3\n"}, ""},
		{"an address that YAML could take for a mapping", "a: face::/64\n", map[string]string{"a": "face::/64"}, ""},

		{"the long form without «|»", "public:\n  addresses: [2001:db8::/64]\n", nil, "«public: |»"},
		{"a list", "default: [192.0.2.1]\n", nil, "«default: |»"},
		{"a number", "default: 7\n", nil, "put it in quotes"},
		{"no value", "default:\n", nil, "default has no value"},
		{"empty", "# nothing\n", nil, "it is empty"},
		{"another object", "apiVersion: v1\nkind: Secret\nmetadata: {name: clarion-pools}\n", nil, "but Secret clarion-pools"},
		{"another name", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: pools}\n", nil, "but ConfigMap pools"},
		{"another namespace", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: clarion-pools, namespace: default}\n", nil, "in the namespace default"},
		{"binaryData", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: clarion-pools}\nbinaryData: {a: eA==}\n", nil, "binaryData is not read"},
		{"data that is a list", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: clarion-pools}\ndata: [a]\n", nil, "data is not a mapping"},
		{"twice", "a: 192.0.2.1\n---\nb: 2001:db8::1\n", nil, "twice"},
		{"a key that stands twice", "a: 192.0.2.1\na: 192.0.2.2\n", nil, `key "a" already`},
		{"no YAML", "a: [\n", nil, "neither the manifest"},
		{"only text", "192.0.2.1\n", nil, "neither the manifest"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParsePools([]byte(tt.text), "clarion-system")
			switch {
			case tt.err == "" && (err != nil || !maps.Equal(got, tt.want)):
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("got %q, %v; want an error with %q", got, err, tt.err)
			}
		})
	}
}

func FuzzParsePools(f *testing.F) {
	f.Add("default: 192.0.2.0/24\n")
	f.Add("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: clarion-pools}\ndata: {a: \"2001:db8::1\"}\n---\n# x\n")
	f.Add("---\n---\n")
	f.Add("a: &x b\nc: *x\n")
	f.Fuzz(func(t *testing.T, text string) {
		data, err := ParsePools([]byte(text), "clarion-system")
		if (err == nil) != (data != nil) {
			t.Errorf("%q gives %v and %v", text, data, err)
		}
	})
}
