package member

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A Peer is another node, as far as messages are concerned.
type Peer struct {
	Name    string
	Addr    netip.AddrPort
	Alive   bool // memberlist says so: it is reached somehow
	Answers bool // it answers UDP packets in time
	// Problem says why it does not, and what to do about it; empty when all is
	// well. It fits into a condition.
	Problem string
}

// Peers returns all nodes that SetNodes has named, by name. The caller knows
// who answers: answers reports whether a node has answered a message of this
// one of late.
func (m *Members) Peers(answers func(name string) bool) []Peer {
	alive := m.alive()
	m.mu.Lock()
	defer m.mu.Unlock()
	peers := make([]Peer, 0, len(m.nodes))
	for name, at := range m.nodes {
		p := Peer{Name: name, Addr: at, Alive: alive[name], Answers: answers(name)}
		p.Problem = problem(p, m.fails[name])
		peers = append(peers, p)
	}
	slices.SortFunc(peers, func(a, b Peer) int { return strings.Compare(a.Name, b.Name) })
	return peers
}

// problem tells the ways apart in which messages fail to arrive. memberlist
// takes a node for alive when it is reached over TCP alone, which is how a
// firewall that forgets UDP hides.
func problem(p Peer, joining error) string {
	port := p.Addr.Port()
	switch {
	case p.Answers && p.Alive:
		return ""
	case p.Answers:
		return fmt.Sprintf("TCP port %d of %s (%v) is closed, UDP works: allow TCP %d between the nodes (%s)", port, p.Name, p.Addr.Addr(), port, reason(joining))
	case p.Alive:
		return fmt.Sprintf("UDP port %d between this node and %s (%v) is closed in one direction at least, TCP works: allow UDP %d between the nodes, both ways", port, p.Name, p.Addr.Addr(), port)
	case refused(joining):
		return fmt.Sprintf("no agent listens on port %d of %s (%v): is the agent's Pod running there?", port, p.Name, p.Addr.Addr())
	case undecipherable(joining):
		return fmt.Sprintf("the agent on %s (%v) uses another key or belongs to another cluster: compare the Secret there (%s)", p.Name, p.Addr.Addr(), reason(joining))
	default:
		return fmt.Sprintf("no answer from %s (%v) on UDP or TCP port %d: the node is down, or a firewall between the nodes drops both (%s)", p.Name, p.Addr.Addr(), port, reason(joining))
	}
}

func reason(err error) string {
	if err == nil {
		return "not tried yet"
	}
	// memberlist writes a list over several lines, with the ports of this very
	// attempt in it; what went wrong stands at the end.
	text := strings.TrimSpace(err.Error())
	return strings.TrimPrefix(text[strings.LastIndex(text, ": ")+1:], " ")
}

// undecipherable reports whether err is what a peer with another key or label
// looks like: the connection is accepted, then closed without an answer.
func undecipherable(err error) bool {
	if err == nil {
		return false
	}
	s := err.Error()
	return strings.Contains(s, "EOF") || strings.Contains(s, "connection reset") || strings.Contains(s, "decrypt") || strings.Contains(s, "label")
}
