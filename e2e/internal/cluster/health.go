package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/clarion-lb/clarion/e2e/lab"
)

// unhealthy says why the lab that exists cannot be taken for the one that is wanted, or nil if it can.
func (c *Cluster) unhealthy(ctx context.Context) error {
	have, phase, err := lab.Read(c.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("it is not that of this directory")
	}
	if err != nil {
		return err
	}
	if have.Settings != c.Settings {
		return fmt.Errorf("it has other settings (%s)", have.Settings)
	}
	if phase != lab.Up {
		return fmt.Errorf("it never came up (%s)", phase)
	}
	for _, name := range c.hostsWithPrograms() {
		if _, err := c.Book().Get(name); err != nil {
			return fmt.Errorf("host %s is dead", name)
		}
	}
	for _, h := range c.Settings.Hosts() {
		for _, l := range h.Links {
			if state := c.cableState(ctx, l); state != "in" {
				return fmt.Errorf("the cable at %s is %s", l.Port, state)
			}
		}
	}
	if _, err := os.Stat(c.Bin("kubectl")); err != nil {
		return fmt.Errorf("its programs are gone: %w", err)
	}
	if _, err := c.Kubectl(ctx, "--request-timeout=5s", "get", "--raw", "/readyz"); err != nil {
		return errors.New("its API server is not ready")
	}
	nodes, err := c.nodes(ctx)
	if err != nil {
		return err
	}
	ready := 0
	for _, n := range nodes {
		if why, ok := n.ready(); ok {
			ready++
		} else if c.wantsReady() {
			return fmt.Errorf("node %s is not Ready: %s", n.Metadata.Name, why)
		}
	}
	if ready != c.Settings.Nodes && c.wantsReady() {
		return fmt.Errorf("%d of %d nodes are there", ready, c.Settings.Nodes)
	}
	return nil
}

// wantsReady is false for a lab in which nobody brings a pod network.
func (c *Cluster) wantsReady() bool {
	return c.Settings.Profile.HasUpstreamNetwork() || c.Settings.InstallsClarion()
}

func (c *Cluster) hostsWithPrograms() []string {
	names := []string{c.controlPlane().Name}
	for _, n := range c.Nodes() {
		names = append(names, n.Name)
	}
	return names
}
