package nft

import (
	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/nfnl"
)

// NotFromLoopback holds for packets that came in by another link than lo.
func NotFromLoopback() Step {
	// LOOPBACK_IFINDEX (include/net/flow.h): lo has the index 1 everywhere. nft
	// prints it as iif != "lo".
	const lo = 1
	return Step{write: func(e *nfnl.Encoder) {
		meta(unix.NFT_META_IIF)(e, firstRegister)
		cmp(e, unix.NFT_CMP_NEQ, native(lo))
	}}
}

// NoAnswer holds for packets that do not belong to a connection which has been
// answered: ct state new, invalid or untracked
// (include/uapi/linux/netfilter/nf_conntrack_common.h: NF_CT_STATE_BIT).
func NoAnswer() Step {
	const invalid, begins, untracked = 1, 8, 64
	return flags(ct(unix.NFT_CT_STATE, false), invalid|begins|untracked)
}

// Untracked keeps the packet out of the connection table. It belongs into a
// chain at PriorityRaw: connection tracking comes at -200.
func Untracked() Step {
	return Step{write: func(e *nfnl.Encoder) { expr(e, "notrack", func() {}) }}
}
