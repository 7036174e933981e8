package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/go-multierror"
)

// A Problem is one thing that is wrong in the ConfigMap. It concerns exactly
// one key; all other keys are in force as they are written.
type Problem struct {
	Pool    string // the key of the ConfigMap: a pool's name or «_settings»
	Path    string // where, as in «public.addresses[1]»; begins with Pool
	Message string // what is wrong and what to do, without the path
	Kept    bool   // the last good form of the key stays in force; false when there is none
}

// Error returns the path and the message.
func (p *Problem) Error() string { return p.Path + ": " + p.Message }

// Problems returns every problem that err, as Parse returned it, holds: by
// key, then in the order in which they stand in its text. It is nil for nil
// and for an error of anybody else.
func Problems(err error) []*Problem {
	var all *multierror.Error
	if !errors.As(err, &all) {
		return nil
	}
	var out []*Problem
	for _, e := range all.Errors {
		if p := (*Problem)(nil); errors.As(e, &p) {
			out = append(out, p)
		}
	}
	return out
}

// join makes one error of problems, or none.
func join(problems []*Problem) error {
	slices.SortStableFunc(problems, func(a, b *Problem) int { return cmp.Compare(a.Pool, b.Pool) })
	all := &multierror.Error{ErrorFormat: format}
	for _, p := range problems {
		all.Errors = append(all.Errors, p)
	}
	return all.ErrorOrNil()
}

// format writes one problem on one line and several below a heading.
func format(errs []error) string {
	if len(errs) == 1 {
		return errs[0].Error()
	}
	lines := []string{fmt.Sprintf("%d problems:", len(errs))}
	for _, err := range errs {
		lines = append(lines, "  "+err.Error())
	}
	return strings.Join(lines, "\n")
}
