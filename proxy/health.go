package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
)

// health answers load balancers and the kubelet: whether the rules are right,
// and per Service of policy Local, on its healthCheckNodePort, how many ready
// endpoints this node has.
type health struct {
	listen func(network, address string) (net.Listener, error)
	log    *slog.Logger

	mu      sync.Mutex
	last    time.Time // when the rules were last known to be right; guarded by mu, like all below
	failing error
	since   time.Time
	checks  map[cluster.Key]check
	servers map[netip.AddrPort]*checkServer
}

// A check is what one health check node port tells.
type check struct {
	port  uint16
	local int
}

type checkServer struct {
	http    *http.Server
	service cluster.Key
}

func newHealth(listen func(network, address string) (net.Listener, error), log *slog.Logger) *health {
	return &health{listen: listen, log: log, checks: map[cluster.Key]check{}, servers: map[netip.AddrPort]*checkServer{}}
}

// applied notes the outcome of an attempt to bring the kernel to its rules.
func (h *health) applied(err error, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil && h.failing == nil {
		h.since = now
	}
	if err == nil {
		h.last = now
	}
	h.failing = err
}

// stuck is how long the rules may be wrong before the proxy says that it is
// not healthy: a retry or two is no news for a load balancer.
const stuck = 5 * time.Second

func (h *health) err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.failing != nil && time.Since(h.since) > stuck:
		return fmt.Errorf("the rules are wrong since %s: %w", h.since.Format(time.RFC3339), h.failing)
	case h.last.IsZero():
		return errors.New("the rules have not been written yet")
	}
	return nil
}

// set opens and closes the ports that the changed Services ask for, and
// notes how many endpoints they have here.
func (h *health) set(services map[cluster.Key]*record, changed map[cluster.Key]*cluster.Service, v View) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key := range changed {
		delete(h.checks, key)
		if r := services[key]; r != nil && r.service.HealthPort != 0 && r.service.ExternalLocal {
			h.checks[key] = check{r.service.HealthPort, localReady(r.service, v.Node)}
		}
	}
	want := map[netip.AddrPort]cluster.Key{}
	for key, c := range h.checks {
		for _, a := range v.NodePorts {
			want[netip.AddrPortFrom(a, c.port)] = key
		}
	}
	for at, s := range h.servers {
		if want[at] != s.service {
			// Whoever is being answered right now asks again in a moment.
			_ = s.http.Close()
			delete(h.servers, at)
		}
	}
	for at, key := range want {
		if h.servers[at] != nil {
			continue
		}
		l, err := h.listen("tcp", at.String())
		if err != nil {
			h.log.Error("a health check node port cannot be opened; load balancers take this node for unhealthy",
				"service", key, "address", at, "err", err)
			continue
		}
		s := &http.Server{Handler: h.handler(key), ReadHeaderTimeout: 5 * time.Second}
		h.servers[at] = &checkServer{s, key}
		go s.Serve(l) //nolint:errcheck // it always ends with ErrServerClosed, by Close
	}
}

// localReady counts the pods on this node that are ready to serve: the
// addresses of the family that has more of them, since a pod has one of each.
func localReady(s *cluster.Service, node string) int {
	ready := map[netip.Addr]bool{}
	var count [2]int
	for _, p := range s.Ports {
		for _, e := range p.Endpoints {
			if a := e.Addr.Addr(); e.Ready && e.Node == node && !ready[a] {
				ready[a] = true
				count[ipfam.Of(a)]++
			}
		}
	}
	return max(count[ipfam.V4], count[ipfam.V6])
}

func (h *health) handler(key cluster.Key) http.Handler {
	namespace, name, _ := strings.Cut(string(key), "/")
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		healthy := h.err() == nil
		h.mu.Lock()
		n := h.checks[key].local
		h.mu.Unlock()
		var body struct {
			Service struct {
				Namespace string `json:"namespace"`
				Name      string `json:"name"`
			} `json:"service"`
			LocalEndpoints      int  `json:"localEndpoints"`
			ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
		}
		body.Service.Namespace, body.Service.Name = namespace, name
		body.LocalEndpoints, body.ServiceProxyHealthy = n, healthy
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(n))
		if n == 0 || !healthy {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(body) // a client that went away needs no answer
	})
}

func (h *health) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for at, s := range h.servers {
		_ = s.http.Close()
		delete(h.servers, at)
	}
}

// Healthz answers as kube-proxy does on :10256: /healthz and /livez with 200
// while the rules are right, else with 503, and the time of the last success.
func (p *Proxy) Healthz() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" && r.URL.Path != "/livez" {
			http.NotFound(w, r)
			return
		}
		p.health.mu.Lock()
		last := p.health.last
		p.health.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if p.Healthy() != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(map[string]string{ // as above
			"lastUpdated": last.String(), "currentTime": time.Now().String(),
		})
	})
}

// Mode answers as kube-proxy does on :10249/proxyMode, by the word that it has
// for rules in nftables.
func Mode() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/proxyMode" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = fmt.Fprint(w, "nftables") // as above
	})
}
