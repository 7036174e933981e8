package allocator

import (
	"math/big"
	"time"

	"github.com/clarion-lb/clarion/internal/ipfam"
)

// Usage counts the addresses of one pool in one family.
type Usage struct {
	Pool   string
	Family ipfam.Family
	// Total counts all addresses of the pool. Of these, Used are held by at
	// least one Service, Shared by more than one; Unusable are reserved or
	// skipped, and not used; Resting rest or are in quarantine, and are none of
	// the former. Free is what is left: what can be given now without being
	// asked for by address.
	Total, Unusable, Free *big.Int
	Used, Shared, Resting int
}

// Usage returns a line for each pool and each family that it has, in order of
// name and family. Its cost grows with the number of addresses that are held,
// rest or are reserved.
func (a *Allocator) Usage(now time.Time) []Usage { return nil }

// Stranded returns the addresses that are held and in no pool any more, with
// who holds them, in order.
func (a *Allocator) Stranded() []Stray { return nil }
