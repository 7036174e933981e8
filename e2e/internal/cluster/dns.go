package cluster

import (
	"context"
	_ "embed"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/clarion-lb/clarion/e2e/internal/plan"
	"github.com/clarion-lb/clarion/e2e/internal/step"
	"github.com/clarion-lb/clarion/e2e/lab"
)

//go:embed coredns.yaml
var coreDNS string

func (c *Cluster) applyDNS(ctx context.Context) error {
	if err := c.Apply(ctx, coreDNS); err != nil {
		return fmt.Errorf("install CoreDNS: %w", err)
	}
	return nil
}

// waitDNS waits until every node gets the API server's address from the cluster's name server through its Service. So
// pods run, are reached from other nodes, and Services work.
func (c *Cluster) waitDNS(ctx context.Context, s *step.Step) error {
	want := plan.ServiceCIDRs[0].Addr().Next()
	for _, n := range c.Nodes() {
		s.Now("asking from %s", n.Name)
		err := step.Until(ctx, 2*time.Minute, func(ctx context.Context) (bool, string, error) {
			got, err := lookup(ctx, n, plan.DNSAddress, "kubernetes.default.svc.cluster.local.")
			if err != nil {
				return false, err.Error(), nil
			}
			return got == want, fmt.Sprintf("the answer was %s, not %s", got, want), nil
		})
		if err != nil {
			pods, _ := c.Kubectl(ctx, "get", "pods", "-A", "-o", "wide") // for the message only
			events, _ := c.Kubectl(ctx, "get", "events", "-A")
			return fmt.Errorf("from %s: %w\n%s\n%s\n%s", n.Name, err, pods, events, c.tail(n.Name+"-kubelet"))
		}
	}
	return nil
}

// lookup asks the name server for the first A record of the name, over UDP from the host.
func lookup(ctx context.Context, from *lab.Host, server netip.Addr, name string) (netip.Addr, error) {
	question, err := dnsmessage.NewName(name)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("ask for %s: %w", name, err)
	}
	query := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 1, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: question, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	packet, err := query.Pack()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("ask for %s: %w", name, err)
	}
	answer, err := exchange(ctx, from, netip.AddrPortFrom(server, 53), packet)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("ask %s for %s: %w", server, name, err)
	}
	var reply dnsmessage.Message
	if err := reply.Unpack(answer); err != nil {
		return netip.Addr{}, fmt.Errorf("read the answer of %s: %w", server, err)
	}
	for _, r := range reply.Answers {
		if a, ok := r.Body.(*dnsmessage.AResource); ok {
			return netip.AddrFrom4(a.A), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s answers %s without an address for %s", server, reply.RCode, name)
}

func exchange(ctx context.Context, from *lab.Host, server netip.AddrPort, packet []byte) ([]byte, error) {
	conn, err := from.Dial(ctx, "udp", server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return ask(conn, packet)
}

func ask(conn net.Conn, packet []byte) ([]byte, error) {
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(packet); err != nil {
		return nil, err
	}
	const largest = 512
	answer := make([]byte, largest)
	n, err := conn.Read(answer)
	return answer[:n], err
}
