package config

import (
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/clarion-lb/clarion/internal/selector"
)

// selector reads a label selector with the keys of metav1.LabelSelector.
func (d *decoder) selector(path string, n *yaml.Node) *selector.Selector {
	s := &selector.Selector{}
	d.mapping(path, n, selectorKeys, fields{
		"matchLabels": func(path string, n *yaml.Node) { s.MatchLabels = d.labels(path, n) },
		"matchExpressions": func(path string, n *yaml.Node) {
			d.list(path, n, "expression", func(path string, n *yaml.Node) {
				s.MatchExpressions = append(s.MatchExpressions, d.requirement(path, n))
			})
		},
	})
	return s
}

func (d *decoder) labels(path string, n *yaml.Node) map[string]string {
	if !d.plain(path, n) {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		d.wrong(path, "is %s, not a mapping of labels: write {KEY: \"VALUE\"}", kind(n))
		return nil
	}
	labels := map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, ok := d.scalar(path, n.Content[i])
		if !ok {
			continue
		}
		at := join2(path, key)
		if _, twice := labels[key]; twice {
			d.wrong(at, "stands twice: remove one of the two")
		}
		if err := selector.CheckKey(key); err != nil {
			d.wrong(at, "%v", err)
		}
		labels[key] = d.value(at, n.Content[i+1])
	}
	return labels
}

// value reads the value of a label.
func (d *decoder) value(path string, n *yaml.Node) string {
	word, ok := d.text(path, n)
	if err := selector.CheckValue(word); ok && err != nil {
		d.wrong(path, "%v", err)
	}
	return word
}

func (d *decoder) requirement(path string, n *yaml.Node) selector.Requirement {
	var r selector.Requirement
	before := len(d.problems)
	hasKey, hasOperator := false, false
	d.mapping(path, n, requirementKeys, fields{
		"key": func(path string, n *yaml.Node) {
			var ok bool
			hasKey = true
			if r.Key, ok = d.text(path, n); !ok {
				return
			}
			if err := selector.CheckKey(r.Key); err != nil {
				d.wrong(path, "%v", err)
			}
		},
		"operator": func(path string, n *yaml.Node) {
			hasOperator = true
			r.Operator = d.operator(path, n)
		},
		"values": func(path string, n *yaml.Node) {
			if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
				return // what Kubernetes writes for Exists; In and NotIn are checked below
			}
			d.list(path, n, "value", func(path string, n *yaml.Node) { r.Values = append(r.Values, d.value(path, n)) })
		},
	})
	if len(d.problems) > before {
		return r
	}
	wantsValues := r.Operator == selector.In || r.Operator == selector.NotIn
	switch {
	case !hasKey:
		d.wrong(path, "has no key: name the label")
	case !hasOperator:
		d.wrong(path, "has no operator: write one of %s", operators())
	case wantsValues && len(r.Values) == 0:
		d.wrong(path, "has the operator %s and no values: list at least one", r.Operator)
	case !wantsValues && len(r.Values) > 0:
		d.wrong(path, "has the operator %s and values: remove the values or use In", r.Operator)
	}
	return r
}

func (d *decoder) operator(path string, n *yaml.Node) selector.Operator {
	word, ok := d.text(path, n)
	if !ok {
		return ""
	}
	var names []string
	for _, o := range selector.Operators() {
		if string(o) == word {
			return o
		}
		names = append(names, string(o))
	}
	d.wrong(path, "%q is no operator%s; there are %s", word, didYouMean(word, names), operators())
	return ""
}

func operators() string {
	var names []string
	for _, o := range selector.Operators() {
		names = append(names, string(o))
	}
	return strings.Join(names, ", ")
}
