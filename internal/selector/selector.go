// Package selector matches labels without the Kubernetes libraries: a selector
// is a plain value with the meaning of metav1.LabelSelector.
package selector

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Selector matches a set of labels when every one of its requirements does.
// The zero value matches everything, and so does a nil *Selector: no selector
// is no restriction. (For Kubernetes itself a nil selector matches nothing;
// whoever copies one over decides that before.)
type Selector struct {
	MatchLabels      map[string]string
	MatchExpressions []Requirement
}

// A Requirement is one expression over one label key.
type Requirement struct {
	Key      string
	Operator Operator
	Values   []string // at least one for In and NotIn, none for the others
}

// An Operator relates a label to the values of a requirement.
type Operator string

// The operators, as metav1.LabelSelectorOperator defines them. NotIn also
// matches when the label is absent.
const (
	In           Operator = "In"
	NotIn        Operator = "NotIn"
	Exists       Operator = "Exists"
	DoesNotExist Operator = "DoesNotExist"
)

// Operators lists all operators, in the order in which messages name them.
func Operators() []Operator { return []Operator{In, NotIn, Exists, DoesNotExist} }

// Matches reports whether labels fulfil every requirement of s.
func (s *Selector) Matches(labels map[string]string) bool {
	if s == nil {
		return true
	}
	for k, want := range s.MatchLabels {
		if got, ok := labels[k]; !ok || got != want {
			return false
		}
	}
	return !slices.ContainsFunc(s.MatchExpressions, func(r Requirement) bool { return !r.Matches(labels) })
}

// Matches reports whether labels fulfil r. An operator that does not exist
// matches nothing.
func (r Requirement) Matches(labels map[string]string) bool {
	value, has := labels[r.Key]
	switch r.Operator {
	case In:
		return has && slices.Contains(r.Values, value)
	case NotIn:
		return !has || !slices.Contains(r.Values, value)
	case Exists:
		return has
	case DoesNotExist:
		return !has
	}
	return false
}

// String returns s in the notation of kubectl's --selector, in a fixed order,
// so that equal selectors have equal strings. No restriction is "".
func (s *Selector) String() string {
	if s == nil {
		return ""
	}
	var terms []string
	if len(s.MatchLabels) > 0 {
		terms = append(terms, Canonical(s.MatchLabels))
	}
	var expressions []string
	for _, r := range s.MatchExpressions {
		expressions = append(expressions, r.String())
	}
	slices.Sort(expressions)
	return strings.Join(append(terms, slices.Compact(expressions)...), ",")
}

func (r Requirement) String() string {
	switch r.Operator {
	case Exists:
		return r.Key
	case DoesNotExist:
		return "!" + r.Key
	}
	values := slices.Sorted(slices.Values(r.Values))
	return fmt.Sprintf("%s %s (%s)", r.Key, strings.ToLower(string(r.Operator)), strings.Join(slices.Compact(values), ","))
}

// Canonical returns labels as "key=value" terms sorted by key and separated by
// commas. It serves to compare the pod selectors of two Services.
func Canonical(labels map[string]string) string {
	terms := make([]string, 0, len(labels))
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		terms = append(terms, k+"="+labels[k])
	}
	return strings.Join(terms, ",")
}
