package allocator

import (
	"net/netip"
	"slices"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
)

// An address is remembered for the last few names only, so that a shared
// address with changing Services does not grow a list for ever.
const mostNames = 16

// remember notes that key had addr, so that a Service of this name gets it
// back. It lasts until somebody else takes the address alone.
func (s *state) remember(key cluster.Key, addr netip.Addr) {
	s.before[key] = append(remove(s.before[key], addr), addr)
	names := append(remove(s.hadBy[addr], key), key)
	s.hadBy[addr] = names
	if len(names) > mostNames {
		s.forget(names[0], addr)
	}
}

func (s *state) forget(key cluster.Key, addr netip.Addr) {
	if s.before[key] = remove(s.before[key], addr); len(s.before[key]) == 0 {
		delete(s.before, key)
	}
	if s.hadBy[addr] = remove(s.hadBy[addr], key); len(s.hadBy[addr]) == 0 {
		delete(s.hadBy, addr)
	}
}

// forgetFor forgets what taking addr made void: what v had in that family,
// and, when v does not share, that others had addr.
func (s *state) forgetFor(v *service, addr netip.Addr) {
	for _, had := range slices.Clone(s.before[v.req.Key]) {
		if ipfam.Of(had) == ipfam.Of(addr) {
			s.forget(v.req.Key, had)
		}
	}
	if v.req.ShareKey == "" {
		for _, key := range slices.Clone(s.hadBy[addr]) {
			s.forget(key, addr)
		}
	}
}
