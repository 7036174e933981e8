// Package report holds what an agent says about itself when it is asked over
// HTTP, as JSON: GET /v1/status and GET /v1/explain?service=NAMESPACE/NAME on
// the port of its health checks. Tools read it through the API server.
package report

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"
)

// The paths that an agent serves.
const (
	StatusPath  = "/v1/status"
	ExplainPath = "/v1/explain" // with the parameter «service»: NAMESPACE/NAME
)

// A Status is an agent's answer to StatusPath.
type Status struct {
	Node string `json:"node"`
	// NotReady says why the agent is not ready; empty when it is.
	NotReady string `json:"notReady,omitempty"`
	// Units are those that this node answers for, and those with which it has
	// trouble, of all Services, in order of VIP, segment and Service.
	Units []ServiceUnit `json:"units"`
	// Links counts the frames of the responders by link.
	Links map[string]Counters `json:"links,omitempty"`
}

// Counters are what the responder of one link has counted since the agent
// began; speaker.Stats tells what each is.
type Counters struct {
	Received  uint64 `json:"received"`
	Malformed uint64 `json:"malformed"`
	Answered  uint64 `json:"answered"`
	Unsent    uint64 `json:"unsent"`
	Lost      uint64 `json:"lost"`
}

// A ServiceUnit is a unit with the Service that it is told for.
type ServiceUnit struct {
	Service string `json:"service"` // NAMESPACE/NAME
	Unit
}

// An Explanation is an agent's answer to ExplainPath.
type Explanation struct {
	Node    string `json:"node"`
	Service string `json:"service"`
	// Units is empty when this agent knows no Service of that name that has an
	// address of Clarion.
	Units []Unit `json:"units"`
}

// A Unit says how a VIP stands in one segment, as far as one agent knows.
type Unit struct {
	VIP     netip.Addr   `json:"vip"`
	Segment netip.Prefix `json:"segment,omitzero"` // absent when the VIP is on no segment
	Owner   string       `json:"owner,omitempty"`  // the node that answers, or should
	Mine    bool         `json:"mine,omitempty"`   // this node answers now
	Since   time.Time    `json:"since,omitzero"`   // when this node began to
	Probing bool         `json:"probing,omitempty"`
	Link    string       `json:"link,omitempty"` // of this node, in the segment
	// Conflict is the MAC of a foreign host that uses the address.
	Conflict string `json:"conflict,omitempty"`
	// Withheld is the elder Service that has the address, when this one carries
	// it without leave to share.
	Withheld string `json:"withheld,omitempty"`
	// Refused says of each node why it is no candidate; a candidate has an
	// empty text. Only an Explanation has it always.
	Refused map[string]string `json:"refused,omitempty"`
	// Self says why this node, though a candidate, does not answer right now.
	Self string `json:"self,omitempty"`
	// Rules says that the packet rules for the VIP are in this node's kernel.
	Rules bool `json:"rules"`
}

// Announces words that a node answers for VIPs, as the condition
// clarion.dev/Announced says it. Owners reads it.
func Announces(node string, vips []string) string {
	return fmt.Sprintf("node %s announces %s", node, strings.Join(vips, " and "))
}

var announces = regexp.MustCompile(`\bnode (\S+) announces ([0-9a-fA-F.:]+(?: and [0-9a-fA-F.:]+)*)`)

// Owners returns which node a condition clarion.dev/Announced names for each
// VIP. A text that was worded by somebody else gives nothing.
func Owners(message string) map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for _, m := range announces.FindAllStringSubmatch(message, -1) {
		for text := range strings.SplitSeq(m[2], " and ") {
			if a, err := netip.ParseAddr(text); err == nil {
				out[a] = m[1]
			}
		}
	}
	return out
}
