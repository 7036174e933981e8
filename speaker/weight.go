package speaker

import (
	"cmp"
	"hash/fnv"
	"io"
	"slices"
)

// Weight is the rendezvous weight of a node for a key: the heaviest candidate
// is the first choice. Every node computes the same weights, and a node that
// comes or goes moves only what it gains or held.
func Weight(key, node string) uint64 {
	h := fnv.New64a()
	// The separator is no character of a node name, so no two pairs are equal.
	// Writing to a hash never fails.
	_, _ = io.WriteString(h, key)
	_, _ = h.Write([]byte{'#'})
	_, _ = io.WriteString(h, node)
	// FNV alone leaves the top bits of similar names alike; this is the
	// finalizer of MurmurHash3, which spreads every input bit over all others.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// SortByWeight sorts nodes so that the first is the first choice for key.
// Equal weights are decided by name.
func SortByWeight(key string, nodes []string) {
	slices.SortFunc(nodes, func(a, b string) int {
		return cmp.Or(cmp.Compare(Weight(key, b), Weight(key, a)), cmp.Compare(a, b))
	})
}
