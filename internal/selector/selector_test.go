package selector

import (
	"strings"
	"testing"
)

func TestMatches(t *testing.T) {
	labels := map[string]string{"app": "web", "tier": ""}
	expr := func(key string, op Operator, values ...string) *Selector {
		return &Selector{MatchExpressions: []Requirement{{key, op, values}}}
	}
	tests := []struct {
		name string
		s    *Selector
		want bool
	}{
		{"no selector matches everything", nil, true},
		{"the empty selector matches everything", &Selector{}, true},
		{"a label with that value", &Selector{MatchLabels: map[string]string{"app": "web"}}, true},
		{"a label with another value", &Selector{MatchLabels: map[string]string{"app": "db"}}, false},
		{"an empty value is not an absent label", &Selector{MatchLabels: map[string]string{"zone": ""}}, false},
		{"all terms must match", &Selector{MatchLabels: map[string]string{"app": "web"}, MatchExpressions: []Requirement{{"app", DoesNotExist, nil}}}, false},
		{"In", expr("app", In, "db", "web"), true},
		{"In without that value", expr("app", In, "db"), false},
		{"In does not match an absent label", expr("zone", In, ""), false},
		{"NotIn", expr("app", NotIn, "db"), true},
		{"NotIn with that value", expr("app", NotIn, "web"), false},
		{"NotIn matches an absent label", expr("zone", NotIn, "a"), true},
		{"Exists, also with an empty value", expr("tier", Exists), true},
		{"Exists without the label", expr("zone", Exists), false},
		{"DoesNotExist", expr("zone", DoesNotExist), true},
		{"DoesNotExist with the label", expr("tier", DoesNotExist), false},
		{"an unknown operator matches nothing", expr("app", "Gt", "1"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.s.Matches(labels); got != tt.want {
				t.Errorf("%v matches %v: %v", tt.s, labels, got)
			}
		})
	}
}

func TestEqualSelectorsHaveEqualStrings(t *testing.T) {
	a := &Selector{
		MatchLabels:      map[string]string{"b": "2", "a": "1"},
		MatchExpressions: []Requirement{{"d", In, []string{"y", "x"}}, {"c", Exists, nil}, {"e", DoesNotExist, nil}},
	}
	b := &Selector{
		MatchLabels:      map[string]string{"a": "1", "b": "2"},
		MatchExpressions: []Requirement{{"e", DoesNotExist, nil}, {"c", Exists, nil}, {"d", In, []string{"x", "y"}}},
	}
	const want = "a=1,b=2,!e,c,d in (x,y)"
	if a.String() != want || b.String() != want {
		t.Errorf("%q and %q, want %q", a, b, want)
	}
}

func TestCheck(t *testing.T) {
	long := strings.Repeat("a", 64)
	for key, good := range map[string]bool{
		"app": true, "a.b_c-d": true, "example.com/app": true, "node-role.kubernetes.io/control-plane": true,
		"": false, "-a": false, "a b": false, "/a": false, "a/": false, "Example.com/a": false, "a/b/c": false, long: false,
	} {
		if err := CheckKey(key); (err == nil) != good {
			t.Errorf("CheckKey(%q) = %v", key, err)
		}
	}
	for value, good := range map[string]bool{"": true, "true": true, "a_b.c": true, "a b": false, "-": false, long: false} {
		if err := CheckValue(value); (err == nil) != good {
			t.Errorf("CheckValue(%q) = %v", value, err)
		}
	}
}
