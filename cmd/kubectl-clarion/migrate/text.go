package migrate

import (
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/text"
)

// mostRows keeps the list of Services to a part of a screen.
const mostRows = 12

// mostSharing is how many steps are shown that give a Service a share key.
const mostSharing = 3

// Write puts the plan on a page. applied says that what could be done was done.
func (p Plan) Write(page *text.Page, all, applied bool) {
	if len(p.Notes) > 0 {
		page.Head("NOT CARRIED OVER AS IT WAS")
		for _, bad := range []bool{true, false} {
			for _, n := range p.Notes {
				switch {
				case n.Bad != bad:
				case n.Bad:
					page.Bad("  %s: %s", n.About, n.Text)
				default:
					page.Line("  %s: %s", n.About, n.Text)
				}
			}
		}
	}
	page.Head("POOLS")
	for line := range strings.Lines(p.Manifest()) {
		page.Line("  %s", strings.TrimRight(line, "\n"))
	}
	page.Head("SERVICES")
	var rows [][]string
	shown := p.lostFirst()
	if !all && len(shown) > mostRows {
		shown = shown[:mostRows]
	}
	for _, s := range shown {
		rows = append(rows, []string{string(s.Service), s.addresses(), s.pools(), s.verdict()})
	}
	if len(rows) == 0 {
		page.Line("  none")
	}
	page.Table([]string{"SERVICE", "ADDRESSES", "POOL", "KEEPS THEM"}, rows)
	if n := len(p.Services) - len(rows); n > 0 {
		page.Line("  and %d more: --all shows them", n)
	}
	page.Head("STEPS")
	sharing := 0
	for i, s := range p.Steps {
		if s.Kind == ShareAddresses {
			if sharing++; sharing > mostSharing && !all {
				if p.Steps[i+1].Kind != ShareAddresses { // another kind always follows
					page.Line("  and %d more such annotations: --all shows them", sharing-mostSharing)
				}
				continue
			}
		}
		page.Line("  %d. [%s] %s: %s", i+1, s.Progress, s.Object, s.What)
		page.Line("     %s", s.Why)
		if s.Command != "" {
			page.Line("     $ %s", s.Command)
		}
	}
	page.Head("IN SHORT")
	page.Line("  %s", p.short(applied))
}

// Manifest is the ConfigMap clarion-pools as YAML.
func (p Plan) Manifest() string {
	out, err := yaml.Marshal(struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Metadata   map[string]string `json:"metadata"`
		Data       map[string]string `json:"data"`
	}{"v1", "ConfigMap", map[string]string{"name": p.manifest().Name, "namespace": p.Namespace}, p.Pools})
	if err != nil {
		panic(fmt.Sprintf("the pools %v cannot be encoded: %v", p.Pools, err)) // texts always can
	}
	return string(out)
}

// lostFirst puts the Services first that do not keep their addresses.
func (p Plan) lostFirst() []Service {
	out := slices.Clone(p.Services)
	slices.SortStableFunc(out, func(a, b Service) int {
		switch {
		case a.Keeps == b.Keeps:
			return 0
		case b.Keeps:
			return -1
		}
		return 1
	})
	return out
}

func (s Service) addresses() string {
	if len(s.Addresses) == 0 {
		return "none"
	}
	var words []string
	for _, a := range s.Addresses {
		words = append(words, a.String())
	}
	return strings.Join(words, ", ")
}

func (s Service) pools() string {
	var names []string
	for _, p := range s.Pools {
		if p == "" {
			p = "none"
		}
		if !slices.Contains(names, p) {
			names = append(names, p)
		}
	}
	return strings.Join(names, ", ")
}

func (s Service) verdict() string {
	switch {
	case !s.Keeps:
		return "no: " + s.Why
	case len(s.Addresses) == 0:
		return s.Why
	case s.Share != "":
		return "yes, with the share key " + s.Share
	}
	return "yes"
}

// short says in a sentence or two where the take-over stands.
func (p Plan) short(applied bool) string {
	lost := 0
	for _, s := range p.Services {
		if !s.Keeps {
			lost++
		}
	}
	words := fmt.Sprintf("all of %s keep their addresses", text.Plural(len(p.Services), "Service"))
	switch {
	case len(p.Services) == 0:
		words = "there is no Service to take over"
	case lost > 0:
		words = fmt.Sprintf("%d of %s would not keep their addresses", lost, text.Plural(len(p.Services), "Service"))
	case len(p.Services) == 1:
		words = "the Service keeps its addresses"
	}
	next := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Progress != Done })
	switch {
	case next < 0:
		return words + "; every step is done"
	case p.Steps[next].Progress == Ready && !applied:
		return words + fmt.Sprintf("; nothing was changed: --apply does the steps that are ready, from step %d on", next+1)
	}
	return words + fmt.Sprintf("; next is step %d, by hand; then run this again", next+1)
}
