package cluster

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"text/tabwriter"

	"github.com/clarion-lb/clarion/e2e/internal/netns"
	"github.com/clarion-lb/clarion/e2e/internal/plan"
	"github.com/clarion-lb/clarion/e2e/internal/proc"
	"github.com/clarion-lb/clarion/e2e/lab"
)

// Status writes what there is: hosts with addresses, cables and processes, then nodes and pods as kubectl shows them.
func (c *Cluster) Status(ctx context.Context, out io.Writer) error {
	have, phase, err := lab.Read(c.Dir)
	if err != nil {
		names, listErr := netns.List(plan.Prefix)
		if listErr == nil && len(names) > 0 {
			return fmt.Errorf("%w, but there are network namespaces of one (%s): «make lab-down» removes them",
				err, strings.Join(names, " "))
		}
		return fmt.Errorf("%w («make lab-up» starts one)", err)
	}
	c.Lab = have
	fmt.Fprintf(out, "lab in %s: %s (%s)\n\n", c.Dir, phase, c.Settings)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "HOST\tNAMESPACE\tIPV4\tIPV6\tMAC\tPORT\tCABLE\tINIT\tPROCESSES")
	for _, h := range c.Settings.Hosts() {
		c.hostRow(ctx, table, h)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	for _, args := range [][]string{{"get", "nodes", "-o", "wide"}, {"get", "pods", "-A", "-o", "wide"}, {"get", "services", "-A"}} {
		text, err := c.Kubectl(ctx, append([]string{"--request-timeout=5s"}, args...)...)
		fmt.Fprintf(out, "\n$ kubectl %s\n%s", strings.Join(args, " "), text)
		if err != nil {
			fmt.Fprintln(out, err)
		}
	}
	return nil
}

func (c *Cluster) hostRow(ctx context.Context, out io.Writer, h plan.Host) {
	initPID, count := "-", 0
	if id, err := c.Book().Get(h.Name); err == nil {
		initPID = fmt.Sprint(id.PID)
	}
	if found, err := proc.InNetns(netns.Path(h.Netns())); err == nil {
		count = len(found)
	}
	if len(h.Links) == 0 {
		fmt.Fprintf(out, "%s\t%s\t-\t-\t-\t-\t-\t%s\t%d\n", h.Name, h.Netns(), initPID, count)
	}
	for i, l := range h.Links {
		if i > 0 {
			fmt.Fprintf(out, "\t\t%s\t%s\t%s\t%s\t%s\t\t\n", l.V4, l.V6, l.MAC, l.Port, c.cableState(ctx, l))
			continue
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\n", h.Name, h.Netns(), l.V4, l.V6, l.MAC, l.Port,
			c.cableState(ctx, l), initPID, count)
	}
}

func (c *Cluster) cableState(ctx context.Context, l plan.Link) string {
	out, err := proc.Output(exec.CommandContext(ctx, "ip", "-n", c.Switch().Netns(), "-brief", "link", "show", l.Port))
	fields := strings.Fields(out)
	if err != nil || len(fields) < 2 {
		return "missing"
	}
	if fields[1] == "UP" {
		return "in"
	}
	return "out"
}
