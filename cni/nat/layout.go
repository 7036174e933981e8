// Package nat keeps the pod network's own table of packet rules: masquerade
// for what leaves the cluster, and host ports. The agent and the plugin share
// it, so that a pod with a host port starts while the agent is down.
//
// Read layout.go (the rules, which never change), want.go (the elements, which
// say everything: pure), then table.go (into the kernel).
package nat

import (
	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/ipfam"
	"github.com/clarion-lb/clarion/internal/nft"
)

// Table is the name of the table, of the inet family.
const Table = "clarion-cni"

var families = [...]ipfam.Family{ipfam.V4, ipfam.V6}

// name of a set or map of one family, as in "pods4".
func name(what string, f ipfam.Family) string {
	return what + [...]string{ipfam.V4: "4", ipfam.V6: "6"}[f]
}

// The sets and maps, each per family.
const (
	pods     = "pods"     // the pods of this node
	near     = "near"     // prefixes to which pods go under their own address
	hosts    = "hosts"    // single addresses of that kind: nodes and VIPs
	loopback = "loopback" // 127.0.0.0/8
	ports    = "ports"    // host ports on one address of the node
	anyPorts = "anyports" // host ports on every address of the node
	hairpins = "hairpins" // (pod, pod) of the pods that have host ports
)

func sets(f ipfam.Family) map[string]nft.Set {
	a := nft.Addr(f)
	to := []nft.Type{a, nft.Port}
	return map[string]nft.Set{
		pods:     {Name: name(pods, f), Key: []nft.Type{a}, Interval: true, Comment: "the pods of this node"},
		near:     {Name: name(near, f), Key: []nft.Type{a}, Interval: true, Comment: "where pods are seen under their own addresses"},
		hosts:    {Name: name(hosts, f), Key: []nft.Type{a}, Comment: "nodes and VIPs: likewise"},
		ports:    {Name: name(ports, f), Key: []nft.Type{a, nft.Proto, nft.Port}, Data: to, Comment: "host ports on one address"},
		anyPorts: {Name: name(anyPorts, f), Key: []nft.Type{nft.Proto, nft.Port}, Data: to, Comment: "host ports on every address of the node"},
		hairpins: {Name: name(hairpins, f), Key: []nft.Type{a, a}, Comment: "pods that reach themselves by their host port"},
	}
}

// order is the order in which the sets are declared.
var order = [...]string{pods, near, hosts, ports, anyPorts, hairpins}

var loopbackSet = nft.Set{Name: name(loopback, ipfam.V4), Key: []nft.Type{nft.Addr(ipfam.V4)}, Interval: true}

var tunnelSet = nft.Set{Name: "tunnels", Key: []nft.Type{nft.Port}, Comment: "UDP ports of the tunnels between nodes"}

// layout is the whole table but the elements. What every packet meets begins
// with the state of its connection, so that those of established ones, nearly
// all, cost no lookup.
func layout() nft.Table {
	t := nft.Table{Name: Table, Sets: []nft.Set{loopbackSet, tunnelSet}}
	for _, f := range families {
		declared := sets(f)
		for _, what := range order {
			t.Sets = append(t.Sets, declared[what])
		}
	}
	chain := func(name, typ string, at nft.Point, priority int32, rules ...nft.Rule) {
		t.Chains = append(t.Chains, nft.Chain{Name: name, Hook: &nft.Hook{Type: typ, Point: at, Priority: priority}, Rules: rules})
	}
	// Each connection in a tunnel would make an entry for the packets around it,
	// too: their source port follows from what is inside.
	outer := []nft.Step{nft.ProtoIs(cluster.UDP), nft.In(tunnelSet.Name, nft.Dport())}
	chain("tunnels-in", "filter", nft.Prerouting, nft.PriorityRaw, nft.Say(append(outer[:2:2], nft.ToThisHost(), nft.Untracked())...))
	chain("tunnels-out", "filter", nft.Output, nft.PriorityRaw, nft.Say(append(outer[:2:2], nft.Untracked())...))
	// A pod that has a port on 127.0.0.1 makes its own cable accept packets for
	// that network (route_localnet). Answers are meant; nobody else may begin.
	chain("guard", "filter", nft.Prerouting, nft.PriorityDNAT-50,
		nft.Rule{Comment: "the loopback is for the host itself", Steps: []nft.Step{
			nft.NoAnswer(), nft.NotFromLoopback(), nft.In(loopbackSet.Name, nft.Daddr(ipfam.V4)), nft.Drop()}})
	// Behind the proxy's chain at the same hook: a Service goes first.
	chain("to-host-ports", "nat", nft.Prerouting, nft.PriorityDNAT+10, hostPorts()...)
	chain("own-to-host-ports", "nat", nft.Output, nft.PriorityDNAT+10, hostPorts()...)
	// Behind the proxy's chain, which may have translated the source already.
	chain("source", "nat", nft.Postrouting, nft.PrioritySNAT+10, sources()...)
	chain("leaks", "filter", nft.Postrouting, nft.PrioritySNAT+50, leaks()...)
	return t
}

func hostPorts() (rules []nft.Rule) {
	for _, f := range families {
		rules = append(rules,
			nft.Say(nft.DNAT(f, name(ports, f), nft.Daddr(f), nft.L4Proto(), nft.Dport())),
			nft.Say(nft.ToThisHost(), nft.DNAT(f, name(anyPorts, f), nft.L4Proto(), nft.Dport())))
	}
	return rules
}

func sources() (rules []nft.Rule) {
	rules = append(rules, nft.Rule{Comment: "from 127.0.0.1 to a host port",
		Steps: []nft.Step{nft.WasDNAT(), nft.In(loopbackSet.Name, nft.Saddr(ipfam.V4)), nft.Masquerade()}})
	for _, f := range families {
		rules = append(rules, nft.Rule{Comment: "a pod that reaches itself by its host port",
			Steps: []nft.Step{nft.WasDNAT(), nft.In(name(hairpins, f), nft.Saddr(f), nft.Daddr(f)), nft.Masquerade()}})
		rules = append(rules, nft.Rule{Comment: "from pods to the world", Steps: append(leaving(f), nft.Masquerade())})
	}
	return rules
}

// leaks stops packets that should have been translated and were not, because
// they belong to no connection: the world cannot answer them, and the answer
// it tries would hit somebody else.
func leaks() (rules []nft.Rule) {
	for _, f := range families {
		rules = append(rules, nft.Rule{Comment: "not translated, as it belongs to no connection", Steps: append(append([]nft.Step{nft.StateInvalid()}, leaving(f)...), nft.Drop())})
	}
	return rules
}

// leaving holds for packets of pods that leave the cluster.
func leaving(f ipfam.Family) []nft.Step {
	return []nft.Step{
		nft.In(name(pods, f), nft.Saddr(f)),
		nft.NotIn(name(near, f), nft.Daddr(f)),
		nft.NotIn(name(hosts, f), nft.Daddr(f)),
	}
}
