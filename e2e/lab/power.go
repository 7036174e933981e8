package lab

import (
	"context"
	"fmt"
)

// CableOut takes the host's cables out of the switch, as outside tools do when they set the port v-NODE down: nothing
// gets through, and the host sees its carrier go. Programs on the host go on.
func (h *Host) CableOut(ctx context.Context) error { return h.ports(ctx, "down") }

// CableIn plugs the cables in again.
func (h *Host) CableIn(ctx context.Context) error { return h.ports(ctx, "up") }

// Isolate cuts the host from all other isolated hosts, while those that are not isolated still reach it: a partition
// without loss of carrier. Undo it with on = false.
func (h *Host) Isolate(ctx context.Context, on bool) error {
	state := "off"
	if on {
		state = "on"
	}
	for _, l := range h.Links {
		if _, err := h.lab.Switch().Output(ctx, "bridge", "link", "set", "dev", l.Port, "isolated", state); err != nil {
			return fmt.Errorf("isolate %s: %w", h.Name, err)
		}
	}
	return nil
}

// Crash is the loss of power: the cables go dead first, so that nobody hears a last word, then everything that runs on
// the host is gone at once. Boot brings it back.
func (h *Host) Crash(ctx context.Context) error {
	if err := h.CableOut(ctx); err != nil {
		return fmt.Errorf("crash %s: %w", h.Name, err)
	}
	init, err := h.Init()
	if err != nil {
		return fmt.Errorf("crash %s, which runs nothing: %w", h.Name, err)
	}
	if err := init.Kill(); err != nil {
		return fmt.Errorf("crash %s: %w", h.Name, err)
	}
	return nil
}

func (h *Host) ports(ctx context.Context, state string) error {
	for _, l := range h.Links {
		if _, err := h.lab.Switch().Output(ctx, "ip", "link", "set", l.Port, state); err != nil {
			return fmt.Errorf("set the cable of %s %s: %w", h.Name, state, err)
		}
	}
	return nil
}
