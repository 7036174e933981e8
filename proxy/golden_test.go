package proxy

import (
	"net/netip"
	"testing"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

func TestTablesAreReadableByTheUser(t *testing.T) {
	l := newLab(t)
	l.set()
	base := golden(t, l.a, Table, "empty", "")
	for _, tt := range []struct {
		name    string
		service func() *cluster.Service
	}{
		{"cluster-ip", func() *cluster.Service { return service("svc", "a1", "b1") }},
		{"node-port", func() *cluster.Service { return nodePort(service("svc", "a1", "b1"), 30080) }},
		{"vip", func() *cluster.Service { return withVIP(service("svc", "a1", "b1"), "vip") }},
		{"external-ip", func() *cluster.Service {
			s := service("svc", "b1")
			s.ExternalIPs = both("ext")
			return s
		}},
		{"no-endpoint", func() *cluster.Service { return withVIP(service("svc"), "vip") }},
		{"internal-local", func() *cluster.Service {
			s := service("svc", "b1")
			s.InternalLocal = true
			return s
		}},
		{"external-local", func() *cluster.Service {
			s := withVIP(service("svc", "a1", "b1", "b2"), "vip")
			s.ExternalLocal = true
			return s
		}},
		{"source-ranges", func() *cluster.Service {
			s := withVIP(service("svc", "a1"), "vip")
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8:c::/48")}
			return s
		}},
		{"affinity", func() *cluster.Service {
			s := service("svc", "a1", "b1")
			s.Affinity = 3 * time.Hour
			return s
		}},
		{"sctp", func() *cluster.Service {
			s := service("svc", "a1")
			s.Ports = s.Ports[:1]
			s.Ports[0].Protocol, s.Ports[0].Name = cluster.SCTP, "sctp"
			return nodePort(s, 30080)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			l.set(tt.service())
			golden(t, l.a, Table, tt.name, base)
		})
	}
}
