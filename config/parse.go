package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/clarion-lb/clarion/internal/iprange"
)

// settingsKey is the one key beginning with «_» that means something. The
// others are reserved for what may come.
const settingsKey = "_settings"

// The API server takes such keys for a ConfigMap; from a file anything can come.
var goodKey = regexp.MustCompile(`^[-._a-zA-Z0-9]{1,253}$`)

// A value is the long form if one of its lines begins like this, and only
// then: trying YAML would take the IPv6 address face::/64 for a mapping. The
// admission policy decides by the same expression.
var longForm = regexp.MustCompile(`(?m)^addresses[ \t]*:`)

// Parse reads the data of the ConfigMap. Each key is a pool, keys that begin
// with «_» are settings. last is what was in force until now: a key with a
// mistake keeps the form it has there, and is absent when it has none. A key
// that is gone from data is gone from the result.
//
// An address can be in one pool only. When two pools claim it, the one that is
// in force already wins over the one that was edited, and of two edited ones
// the first by name. The loser is treated like any other pool with a mistake.
//
// The error is nil or a *multierror.Error of *Problem with everything that is
// wrong; see Problems. The Config is usable in both cases.
func Parse(data map[string]string, last Config) (Config, error) {
	var problems []*Problem
	next := Config{Settings: DefaultSettings(), raw: map[string]string{}}
	var candidates []candidate
	for _, key := range slices.Sorted(maps.Keys(data)) {
		text := data[key]
		d := &decoder{pool: key}
		old, inForce := last.raw[key]
		switch {
		case strings.HasPrefix(key, "_"):
			settings := d.settings(key, text)
			if len(d.problems) > 0 && inForce {
				settings, text = last.Settings, old
			}
			if key == settingsKey && (len(d.problems) == 0 || inForce) {
				next.Settings, next.raw[key] = settings, text
			}
		default:
			c := candidate{raw: text}
			if c.pool, c.entries = d.parse(key, text); len(d.problems) == 0 {
				c.edited = !inForce || text != old
				candidates = append(candidates, c)
			} else if pool, ok := last.Pool(key); ok {
				candidates = append(candidates, candidate{pool: pool, raw: old})
			}
		}
		for _, p := range d.problems {
			p.Kept = inForce
		}
		problems = append(problems, d.problems...)
	}
	candidates, overlaps := separate(candidates, last)
	problems = append(problems, overlaps...)
	for _, c := range candidates {
		next.Pools = append(next.Pools, c.pool)
		next.raw[c.pool.Name] = c.raw
	}
	return next, join(problems)
}

// An entry is one item of a list of addresses, with where it stands.
type entry struct {
	path string
	set  iprange.Range
}

// parse reads the value of one pool.
func (d *decoder) parse(name, text string) (Pool, []entry) {
	if !goodKey.MatchString(name) {
		d.wrong(name, "%q is not the name of a pool: it is 1 to 253 letters, digits, «-», «_» or «.»", name)
		return Pool{}, nil
	}
	pool := Pool{Name: name, AutoAssign: true}
	var entries []entry
	if longForm.MatchString(text) {
		entries = d.long(&pool, text)
	} else {
		entries = d.short(name, text)
	}
	var ranges []iprange.Range
	for _, e := range entries {
		ranges = append(ranges, e.set)
	}
	pool.Addresses = iprange.SetOf(ranges...)
	return pool, entries
}

// A word at the start of a line with a colon and a blank behind it is a key of
// the long form: no address looks like that.
var yamlKey = regexp.MustCompile(`(?m)^\s*["']?([A-Za-z][-_A-Za-z0-9]*)["']?[ \t]*:(?:\s|$)`)

// short reads the short form: addresses, CIDRs and ranges, separated by commas
// or line ends. From a «#» to the end of its line is a comment.
func (d *decoder) short(name, text string) []entry {
	if key := yamlKey.FindStringSubmatch(text); key != nil {
		d.wrong(name, "is neither form: a list of addresses has no %q:, and in the long form one line begins with «addresses:», without blanks before it%s",
			key[1], didYouMean(key[1], poolKeys))
		return nil
	}
	if strings.HasPrefix(strings.TrimSpace(text), "{") {
		d.wrong(name, "is neither form: write the long form as YAML lines, the first of them «addresses: [...]», not in braces")
		return nil
	}
	var entries []entry
	items := 0
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		for word := range strings.SplitSeq(line, ",") {
			if word = strings.TrimSpace(word); word == "" {
				continue
			}
			entries = d.address(entries, fmt.Sprintf("%s[%d]", name, items), word)
			items++
		}
	}
	if items == 0 {
		d.wrong(name, "has no addresses: list addresses, CIDRs or ranges as in 192.0.2.200-192.0.2.250, or delete the key to remove the pool")
	}
	return entries
}

// address reads one item of a list of addresses and appends it.
func (d *decoder) address(entries []entry, path, word string) []entry {
	r, err := iprange.Parse(word)
	if err == nil {
		err = iprange.Check(r)
	}
	if err != nil {
		hint := ""
		if strings.ContainsAny(word, " \t;") && !strings.Contains(word, "-") {
			hint = "; separate addresses by commas"
		}
		d.wrong(path, "%s%s", err, hint)
		return entries
	}
	return append(entries, entry{path, r})
}
