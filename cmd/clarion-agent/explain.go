package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	answer "github.com/clarion-lb/clarion/internal/report"
	"github.com/clarion-lb/clarion/speaker"
)

// An explainer answers, over HTTP, what this agent does and why.
type explainer struct {
	node    string
	ready   func() error
	rules   func(vip netip.Addr) bool // are in the kernel
	speaker interface {
		Explain(ctx context.Context, key cluster.Key) ([]speaker.UnitReport, error)
		Stats() map[string]speaker.Stats
	}

	mu       sync.Mutex
	services map[cluster.Key]*speaker.ServiceReport // as last reported; guarded by mu
}

// note remembers what the speaker reports, so that a status costs it nothing.
func (e *explainer) note(r speaker.Report) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.services == nil {
		e.services = map[cluster.Key]*speaker.ServiceReport{}
	}
	for key, s := range r.Services {
		if s == nil {
			delete(e.services, key)
		} else {
			e.services[key] = s
		}
	}
}

// over serves the explainer's paths and leaves all others to next.
func (e *explainer) over(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", next)
	mux.HandleFunc("GET "+answer.StatusPath, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, e.status()) })
	mux.HandleFunc("GET "+answer.ExplainPath, func(w http.ResponseWriter, r *http.Request) {
		key := r.URL.Query().Get("service")
		if namespace, name, ok := strings.Cut(key, "/"); !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
			http.Error(w, fmt.Sprintf("the parameter service is %q; it must be NAMESPACE/NAME", key), http.StatusBadRequest)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), explainLimit)
		defer cancel()
		units, err := e.speaker.Explain(ctx, cluster.Key(key))
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		out := answer.Explanation{Node: e.node, Service: key, Units: []answer.Unit{}}
		for _, u := range units {
			out.Units = append(out.Units, e.unit(u))
		}
		writeJSON(w, out)
	})
	return mux
}

// explainLimit bounds how long a question waits for the speaker's loop.
const explainLimit = 2 * time.Second

// status tells of the units that concern this node.
func (e *explainer) status() answer.Status {
	out := answer.Status{Node: e.node, Units: []answer.ServiceUnit{}, Links: map[string]answer.Counters{}}
	if err := e.ready(); err != nil {
		out.NotReady = err.Error()
	}
	for link, s := range e.speaker.Stats() {
		out.Links[link] = answer.Counters{Received: s.Received, Malformed: s.Malformed, Answered: s.Answered, Unsent: s.Unsent, Lost: s.Lost}
	}
	e.mu.Lock()
	services := maps.Clone(e.services) // the reports themselves are never changed
	e.mu.Unlock()
	for key, s := range services {
		for _, u := range s.Units {
			if u.Mine || u.Owner == e.node || u.Conflict != (cluster.MAC{}) || u.Self != cluster.Eligible {
				out.Units = append(out.Units, answer.ServiceUnit{Service: string(key), Unit: e.unit(u)})
			}
		}
	}
	slices.SortFunc(out.Units, func(a, b answer.ServiceUnit) int {
		return cmp.Or(a.VIP.Compare(b.VIP), a.Segment.Compare(b.Segment), cmp.Compare(a.Service, b.Service))
	})
	return out
}

func (e *explainer) unit(u speaker.UnitReport) answer.Unit {
	out := answer.Unit{
		VIP: u.VIP, Segment: u.Segment, Owner: u.Owner, Mine: u.Mine, Since: u.Since.UTC(), Probing: u.Probing, Link: u.Link,
		Withheld: string(u.Withheld), Self: string(u.Self), Rules: e.rules(u.VIP),
	}
	if u.Since.IsZero() {
		out.Since = time.Time{}
	}
	if u.Conflict != (cluster.MAC{}) {
		out.Conflict = u.Conflict.String()
	}
	if len(u.Refused) > 0 {
		out.Refused = map[string]string{}
		for node, why := range u.Refused {
			out.Refused[node] = string(why)
		}
	}
	return out
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return // who asked has hung up
	}
}
