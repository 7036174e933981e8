package nft

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/nfnl"
)

// A Watch hears of changes that others make to a table.
type Watch struct {
	l     *nfnl.Listener
	table string
}

const groupNftables = 7 // NFNLGRP_NFTABLES

// Watch returns a watch on a table, in the network namespace of the calling
// thread. What c itself does is not heard.
func (c *Conn) Watch(table string) (*Watch, error) {
	l, err := nfnl.Listen(groupNftables, c.Port())
	if err != nil {
		return nil, fmt.Errorf("watch table %s: %w", table, err)
	}
	return &Watch{l: l, table: table}, nil
}

// Run calls changed whenever somebody may have changed the table, until Close.
func (w *Watch) Run(changed func()) error {
	for {
		mine := false
		err := w.l.Next(func(m nfnl.Message) error {
			// The first attribute of all of nftables' objects names the table.
			if m.Type != nfnl.Make(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWGEN) &&
				nfnl.Text(nfnl.Find(m.Attrs, unix.NFTA_TABLE_NAME)) == w.table {
				mine = true
			}
			return nil
		})
		switch {
		case errors.Is(err, os.ErrClosed):
			return nil
		case errors.Is(err, nfnl.ErrOverrun):
			mine = true
		case err != nil:
			return fmt.Errorf("watch table %s: %w", w.table, err)
		}
		if mine {
			changed()
		}
	}
}

// Close ends Run.
func (w *Watch) Close() error { return w.l.Close() }
