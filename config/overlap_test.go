package config

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

func TestOverlappingPools(t *testing.T) {
	type data = map[string]string
	tests := []struct {
		name       string
		last, edit data
		want       data // what is in force
		problems   []string
	}{
		{
			name:     "of two new pools the first by name gets the addresses",
			edit:     data{"b": "192.0.2.1-192.0.2.9, 2001:db8::1", "a": "192.0.2.9-192.0.2.20, 2001:db8::/64"},
			want:     data{"a": "192.0.2.9-192.0.2.20, 2001:db8::/64"},
			problems: []string{`b[0]: 192.0.2.1-192.0.2.9 overlaps the pool "a": 192.0.2.9 is in both, and an address can be in one pool only`, `b[1]: 2001:db8::1 overlaps the pool "a": 2001:db8::1 is in both`},
		},
		{
			name:     "the pool in force wins over a new one of a lower name",
			last:     data{"b": "192.0.2.0/28, 2001:db8::/64"},
			edit:     data{"b": "192.0.2.0/28, 2001:db8::/64", "a": "addresses: ['2001:db8::7-2001:db8:1::']"},
			want:     data{"b": "192.0.2.0/28, 2001:db8::/64"},
			problems: []string{`a.addresses[0]: 2001:db8::7-2001:db8:1:: overlaps the pool "b": 2001:db8::7-2001:db8::ffff:ffff:ffff:ffff is in both`},
		},
		{
			name: "the pool in force wins over an edited one, which keeps its last good form",
			last: data{"a": "2001:db8::1", "b": "2001:db8::2"},
			edit: data{"a": "2001:db8::1-2001:db8::2", "b": "2001:db8::2"},
			want: data{"a": "2001:db8::1", "b": "2001:db8::2"}, problems: []string{`a[0]: 2001:db8::1-2001:db8::2 overlaps the pool "b"`},
		},
		{
			name: "two pools exchange their addresses in one edit",
			last: data{"a": "192.0.2.1, 2001:db8::1", "b": "192.0.2.2, 2001:db8::2"},
			edit: data{"a": "192.0.2.2, 2001:db8::2", "b": "192.0.2.1, 2001:db8::1"},
			want: data{"a": "192.0.2.2, 2001:db8::2", "b": "192.0.2.1, 2001:db8::1"},
		},
		{
			name: "a pool is renamed",
			last: data{"a": "2001:db8::/64"},
			edit: data{"b": "2001:db8::/64"},
			want: data{"b": "2001:db8::/64"},
		},
		{
			name: "who takes over from a pool with a mistake comes too early",
			last: data{"a": "2001:db8::1", "b": "2001:db8::2-2001:db8::3"},
			edit: data{"a": "2001:db8::1-2001:db8::2", "b": "2001:db8::3-2001:db8::x"},
			want: data{"a": "2001:db8::1", "b": "2001:db8::2-2001:db8::3"},
			problems: []string{
				`a[0]: 2001:db8::1-2001:db8::2 overlaps the pool "b": 2001:db8::2 is in both`,
				`b[0]: "2001:db8::3-2001:db8::x" is not a range`,
			},
		},
		{
			name: "a loser's old form pushes out the next one",
			last: data{"a": "2001:db8::1", "b": "2001:db8::2"},
			edit: data{"a": "2001:db8::3", "b": "2001:db8::3-2001:db8::4", "c": "2001:db8::2"},
			want: data{"a": "2001:db8::3", "b": "2001:db8::2"},
			problems: []string{
				`b[0]: 2001:db8::3-2001:db8::4 overlaps the pool "a"`,
				`c[0]: 2001:db8::2 overlaps the pool "b": 2001:db8::2 is in both`,
			},
		},
		{
			name: "a pool may name an address twice",
			edit: data{"a": "2001:db8::/64, 2001:db8::1, 192.0.2.1, 192.0.2.0/30"},
			want: data{"a": "2001:db8::/64, 2001:db8::1, 192.0.2.1, 192.0.2.0/30"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			last, err := Parse(tt.last, Config{})
			if err != nil {
				t.Fatal(err)
			}
			got, err := Parse(tt.edit, last)
			if !reflect.DeepEqual(got.Raw(), tt.want) {
				t.Errorf("in force: %v, want %v", got.Raw(), tt.want)
			}
			problems := Problems(err)
			if len(problems) != len(tt.problems) {
				t.Fatalf("got %v, want %d problems", err, len(tt.problems))
			}
			for i, p := range problems {
				if _, had := tt.last[p.Pool]; !strings.HasPrefix(p.Error(), tt.problems[i]) || p.Kept != had {
					t.Errorf("got %s (kept %v), want %s…", p, p.Kept, tt.problems[i])
				}
			}
		})
	}
}

// Random edits with random mistakes: what is in force is always a set of
// disjoint pools that reads back, every key that is not as written has a
// problem, and no other key has one.
func TestWhatIsInForceIsAlwaysGood(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	words := func() string {
		var w []string
		for range 1 + r.IntN(3) {
			switch a, b := r.IntN(30), r.IntN(30); r.IntN(12) {
			case 0:
				w = append(w, "oops")
			case 1, 2, 3, 4:
				w = append(w, fmt.Sprintf("2001:db8::%x-2001:db8::%x", a, b))
			default:
				w = append(w, fmt.Sprintf("192.0.2.%d-192.0.2.%d", min(a, b), max(a, b)))
			}
		}
		return strings.Join(w, ",")
	}
	data, last := map[string]string{}, Config{}
	lost := 0
	for step := range 3000 {
		for range 1 + r.IntN(3) {
			name := string(rune('a' + r.IntN(5)))
			if r.IntN(6) == 0 {
				delete(data, name)
			} else {
				data[name] = words()
			}
		}
		next, err := Parse(data, last)
		if again, err := Parse(data, last); !reflect.DeepEqual(again, next) {
			t.Fatalf("step %d: a second run differs: %v", step, err)
		}
		if again, err := Parse(next.Raw(), Config{}); err != nil || !reflect.DeepEqual(again, next) {
			t.Fatalf("step %d: %v does not read back: %v", step, next.Raw(), err)
		}
		troubled := map[string]bool{}
		for _, p := range Problems(err) {
			troubled[p.Pool] = true
			if _, kept := next.Raw()[p.Pool]; kept != p.Kept {
				t.Fatalf("step %d: %s: kept %v, said %v", step, p, kept, p.Kept)
			}
		}
		for key, text := range data {
			inForce, ok := next.Raw()[key]
			if (!ok || inForce != text) != troubled[key] && inForce != text {
				t.Fatalf("step %d: %s is %q, in force is %q, problem: %v", step, key, text, inForce, troubled[key])
			}
			if before, had := last.Raw()[key]; troubled[key] && ok && (!had || inForce != before) {
				t.Fatalf("step %d: %s has a problem and changed from %q to %q", step, key, before, inForce)
			}
		}
		for i, p := range next.Pools {
			if _, ok := data[p.Name]; !ok {
				t.Fatalf("step %d: the pool %s is gone from the data and in force", step, p.Name)
			}
			for _, q := range next.Pools[i+1:] {
				if both := p.Addresses.Intersect(q.Addresses); !both.Empty() {
					t.Fatalf("step %d: %s and %s have %v", step, p.Name, q.Name, both)
				}
			}
		}
		lost += len(troubled)
		last = next
	}
	if lost == 0 {
		t.Fatal("no mistake was made")
	}
}
