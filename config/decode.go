package config

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A decoder reads the value of one key of the ConfigMap and collects all that
// is wrong with it. It walks the YAML tree itself, because a decoder into
// structs stops at the first mistake and cannot say where it stands.
type decoder struct {
	pool     string
	problems []*Problem
}

// wrong notes a problem.
func (d *decoder) wrong(path, format string, args ...any) {
	d.problems = append(d.problems, &Problem{Pool: d.pool, Path: path, Message: fmt.Sprintf(format, args...)})
}

// fields says how to read each key that a mapping may have.
type fields map[string]func(path string, n *yaml.Node)

// document returns the root of the only YAML document in text, nil when there
// is a problem.
func (d *decoder) document(path, text string) *yaml.Node {
	in := yaml.NewDecoder(strings.NewReader(text))
	var doc yaml.Node
	if err := in.Decode(&doc); errors.Is(err, io.EOF) {
		d.wrong(path, "is empty: write it or delete the key")
		return nil
	} else if err != nil {
		d.wrong(path, "is not YAML: %s (an IPv6 address that ends in «:» needs quotes)", strings.TrimPrefix(err.Error(), "yaml: "))
		return nil
	}
	if err := in.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		d.wrong(path, "has more than one YAML document: remove the line «---»")
		return nil
	}
	if len(doc.Content) != 1 {
		d.wrong(path, "is empty: write it or delete the key")
		return nil
	}
	return doc.Content[0]
}

// plain reports whether n is a node without the parts of YAML that make two
// readers see two things: anchors, aliases, tags.
func (d *decoder) plain(path string, n *yaml.Node) bool {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.wrong(path, "uses a YAML anchor or alias: write the value itself")
	case n.Style&yaml.TaggedStyle != 0:
		d.wrong(path, "carries the YAML tag %s: remove it", n.Tag)
	default:
		return true
	}
	return false
}

func (d *decoder) mapping(path string, n *yaml.Node, known []string, read fields) {
	if !d.plain(path, n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.wrong(path, "is %s, not a mapping with the keys %s", kind(n), strings.Join(known, ", "))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.wrong(path, "has %s where a key belongs", kind(key))
			continue
		}
		at := join2(path, key.Value)
		switch field, ok := read[key.Value]; {
		case !ok:
			d.wrong(at, "is not a key that exists here%s; there are %s", didYouMean(key.Value, known), strings.Join(known, ", "))
		case seen[key.Value]:
			d.wrong(at, "stands twice: remove one of the two")
		default:
			seen[key.Value] = true
			field(at, value)
		}
	}
}

// list reads a list of at least one item. An empty one is refused, because
// it can be meant as «all» and as «none».
func (d *decoder) list(path string, n *yaml.Node, item string, read func(path string, n *yaml.Node)) {
	switch {
	case !d.plain(path, n):
	case n.Kind != yaml.SequenceNode:
		d.wrong(path, "is %s, not a list: write %s", kind(n), listOf(n))
	case len(n.Content) == 0:
		d.wrong(path, "is an empty list: write at least one %s or remove the key", item)
	default:
		for i, c := range n.Content {
			read(fmt.Sprintf("%s[%d]", path, i), c)
		}
	}
}

// listOf shows how the value of n looks as a list.
func listOf(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode && n.Value != "" {
		return "[" + n.Value + "]"
	}
	return "[ITEM, ITEM]"
}

// scalar returns the text of a scalar as it is written, whatever type YAML
// sees in it.
func (d *decoder) scalar(path string, n *yaml.Node) (string, bool) {
	if !d.plain(path, n) {
		return "", false
	}
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
		d.wrong(path, "is %s, not a word", kind(n))
		return "", false
	}
	return n.Value, true
}

// text returns a string. What YAML takes for a number or a boolean needs
// quotes, because the API server would not take it for a label either.
func (d *decoder) text(path string, n *yaml.Node) (string, bool) {
	word, ok := d.scalar(path, n)
	if ok && n.ShortTag() != "!!str" {
		d.wrong(path, "%s is %s: write \"%s\"", word, kind(n), word)
		return "", false
	}
	return word, ok
}

func (d *decoder) boolean(path string, n *yaml.Node, to *bool) {
	word, ok := d.scalar(path, n)
	switch {
	case !ok:
	case word == "true" && n.ShortTag() == "!!bool":
		*to = true
	case word == "false" && n.ShortTag() == "!!bool":
		*to = false
	default:
		d.wrong(path, "%q is neither true nor false (without quotes)", word)
	}
}

func (d *decoder) integer(path string, n *yaml.Node, to *int) {
	word, ok := d.scalar(path, n)
	if !ok {
		return
	}
	v, err := strconv.ParseInt(word, 10, 32)
	if err != nil || n.ShortTag() != "!!int" {
		d.wrong(path, "%q is not a whole number from -2147483648 to 2147483647 (without quotes)", word)
		return
	}
	*to = int(v)
}

// kind names what n is, for people.
func kind(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.AliasNode:
		return "an alias"
	}
	switch n.ShortTag() {
	case "!!null":
		return "empty"
	case "!!bool":
		return "a boolean"
	case "!!int", "!!float":
		return "a number"
	case "!!timestamp":
		return "a date"
	}
	return "a word"
}

// join2 appends a key to a path, in brackets when it would not read as one
// step.
func join2(path, key string) string {
	if key == "" || strings.ContainsAny(key, ".[]\" \t\n") {
		return path + "[" + strconv.Quote(key) + "]"
	}
	return path + "." + key
}
