package nft

import (
	"fmt"

	"github.com/clarion-lb/clarion/internal/nfnl"
)

// Around runs f, which commits much by c, while the watch does not listen: for
// each listener the kernel writes a message about each element, which doubles
// what a large transaction costs. The ruleset's generation tells afterwards
// whether anybody else changed anything meanwhile; then the error is
// nfnl.ErrInterrupted, and what is in the kernel must be read.
func (w *Watch) Around(c *Conn, f func() error) error {
	if err := w.l.Leave(groupNftables); err != nil {
		return err
	}
	before, err := c.Generation()
	if err != nil {
		return err
	}
	mine := c.commits
	failed := f()
	if err := w.l.Join(groupNftables); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	after, err := c.Generation()
	if err != nil {
		return err
	}
	if after-before != c.commits-mine {
		return fmt.Errorf("somebody else changed nftables during a large write: %w", nfnl.ErrInterrupted)
	}
	return nil
}
