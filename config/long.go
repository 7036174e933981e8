package config

import (
	"path"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// The keys of the mappings, in the order of reference.yaml.
var (
	poolKeys        = []string{"addresses", "autoAssign", "avoidBuggyIPs", "priority", "namespaces", "namespaceSelector", "serviceSelector", "announce"}
	announceKeys    = []string{"interfaces", "nodeSelector"}
	selectorKeys    = []string{"matchLabels", "matchExpressions"}
	requirementKeys = []string{"key", "operator", "values"}
	settingsKeys    = []string{"restTime", "quarantine"}
)

// long reads the long form.
func (d *decoder) long(p *Pool, text string) []entry {
	root := d.document(p.Name, text)
	if root == nil {
		return nil
	}
	var entries []entry
	d.mapping(p.Name, root, poolKeys, fields{
		"addresses": func(path string, n *yaml.Node) {
			if n.Kind == yaml.ScalarNode && n.Value != "" {
				d.wrong(path, "is not a list: write [%s]", n.Value)
				return
			}
			d.list(path, n, "address", func(path string, n *yaml.Node) {
				switch {
				case n.Kind == yaml.MappingNode && d.plain(path, n):
					d.wrong(path, "is a mapping, not an address: an IPv6 address that ends in «:» needs quotes")
				case n.Kind == yaml.SequenceNode && d.plain(path, n):
					d.wrong(path, "is a list, not an address")
				default:
					if word, ok := d.scalar(path, n); ok {
						entries = d.address(entries, path, word)
					}
				}
			})
		},
		"autoAssign":    func(path string, n *yaml.Node) { d.boolean(path, n, &p.AutoAssign) },
		"avoidBuggyIPs": func(path string, n *yaml.Node) { d.boolean(path, n, &p.AvoidBuggyIPs) },
		"priority":      func(path string, n *yaml.Node) { d.integer(path, n, &p.Priority) },
		"namespaces": func(path string, n *yaml.Node) {
			d.list(path, n, "namespace", func(path string, n *yaml.Node) { d.namespace(path, n, p) })
		},
		"namespaceSelector": func(path string, n *yaml.Node) { p.NamespaceSelector = d.selector(path, n) },
		"serviceSelector":   func(path string, n *yaml.Node) { p.ServiceSelector = d.selector(path, n) },
		"announce": func(path string, n *yaml.Node) {
			d.mapping(path, n, announceKeys, fields{
				"interfaces": func(path string, n *yaml.Node) {
					d.list(path, n, "interface", func(path string, n *yaml.Node) { d.glob(path, n, &p.Announce) })
				},
				"nodeSelector": func(path string, n *yaml.Node) { p.Announce.NodeSelector = d.selector(path, n) },
			})
		},
	})
	return entries
}

// settings reads «_settings».
func (d *decoder) settings(key, text string) Settings {
	s := DefaultSettings()
	if key != settingsKey {
		d.wrong(key, "keys that begin with «_» are reserved for settings, and the only one is %q%s", settingsKey, didYouMean(key, []string{settingsKey}))
		return s
	}
	if root := d.document(key, text); root != nil {
		d.mapping(key, root, settingsKeys, fields{
			"restTime":   func(path string, n *yaml.Node) { d.duration(path, n, &s.RestTime) },
			"quarantine": func(path string, n *yaml.Node) { d.duration(path, n, &s.Quarantine) },
		})
	}
	return s
}

// duration reads times such as 30s, 10m or 1h30m: at most a year, because a
// longer one is a typing error.
func (d *decoder) duration(path string, n *yaml.Node, to *time.Duration) {
	const year = 365 * 24 * time.Hour
	word, ok := d.scalar(path, n)
	if !ok {
		return
	}
	v, err := time.ParseDuration(word)
	switch {
	case err != nil:
		d.wrong(path, "%q is not a duration: write it with its unit, as in 30s, 10m or 24h", word)
	case v < 0 || v > year:
		d.wrong(path, "%q is not between 0s and %dh", word, int(year.Hours()))
	default:
		*to = v
	}
}

var dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func (d *decoder) namespace(path string, n *yaml.Node, p *Pool) {
	name, ok := d.text(path, n)
	switch {
	case !ok:
	case strings.ContainsAny(name, "*?["):
		d.wrong(path, "%q is a pattern, and namespaces are named in full: use namespaceSelector", name)
	case !dnsLabel.MatchString(name):
		d.wrong(path, "%q is not the name of a namespace: it is 1 to 63 small letters, digits or «-»", name)
	default:
		p.Namespaces = append(p.Namespaces, name)
	}
}

// The longest name that the kernel gives a link (IFNAMSIZ in linux/if.h, with
// its final zero).
const maxLinkName = 15

func (d *decoder) glob(at string, n *yaml.Node, a *Announce) {
	glob, ok := d.text(at, n)
	if !ok {
		return
	}
	_, err := path.Match(glob, "")
	isName := !strings.ContainsAny(glob, `*?[\`)
	switch {
	case err != nil:
		d.wrong(at, "%q is not a pattern: «*», «?» and [a-z] are understood, and a «[» needs its «]»", glob)
	case glob == "" || strings.ContainsAny(glob, "/ \t\n") || isName && len(glob) > maxLinkName:
		d.wrong(at, "%q is not the name of an interface: it is 1 to %d letters without blanks or slashes", glob, maxLinkName)
	default:
		a.Interfaces = append(a.Interfaces, glob)
	}
}
