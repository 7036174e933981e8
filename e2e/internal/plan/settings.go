// Package plan says what the lab is made of: its settings, its hosts, their addresses and links. It is pure: values in,
// values out. Read settings.go (what the user may choose), then hosts.go (what follows from it), then links.go (the
// same as input for ip).
package plan

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
)

// Profile says who brings pods their network and Services their rules.
type Profile string

const (
	// Upstream is the yardstick: kube-proxy in nftables mode, the reference CNI plugins, and no Clarion.
	Upstream Profile = "upstream"
	// LB is Upstream plus Clarion's controller and speaker.
	LB Profile = "lb"
	// Full is Clarion alone: no kube-proxy, and no CNI plugin but Clarion's.
	Full Profile = "full"
)

// HasClarion tells whether Clarion is installed in the cluster.
func (p Profile) HasClarion() bool { return p == LB || p == Full }

// HasUpstreamNetwork tells whether the lab itself brings kube-proxy, the reference CNI plugins and the pod routes.
func (p Profile) HasUpstreamNetwork() bool { return p == LB || p == Upstream }

// Topology says how the hosts are cabled.
type Topology string

const (
	// Flat puts every host on one segment.
	Flat Topology = "flat"
	// Routed puts the last node on a second segment, behind a router.
	Routed Topology = "routed"
)

// Settings are what a user chooses. Two labs with equal Settings are interchangeable.
type Settings struct {
	Nodes    int      `json:"nodes"`
	Profile  Profile  `json:"profile"`
	Topology Topology `json:"topology"`
	// SkipClarion leaves Clarion out of a profile that has it; for debugging the lab itself.
	SkipClarion bool `json:"skipClarion,omitempty"`
}

// InstallsClarion tells whether the lab installs Clarion with these settings.
func (s Settings) InstallsClarion() bool { return s.Profile.HasClarion() && !s.SkipClarion }

func (s Settings) String() string {
	text := fmt.Sprintf("%d nodes, profile %s, topology %s", s.Nodes, s.Profile, s.Topology)
	if s.Profile.HasClarion() && s.SkipClarion {
		text += ", without Clarion"
	}
	return text
}

// MaxNodes is the last node whose address stays below the client's.
const MaxNodes = 80

// FromEnv reads LAB_NODES, LAB_PROFILE, LAB_TOPOLOGY, LAB_SKIP_CLARION and LAB_DIR through getenv. Every problem is
// reported, not only the first. The directory is absolute; it defaults to .lab below root.
func FromEnv(getenv func(string) string, root string) (Settings, string, error) {
	s := Settings{Nodes: 3, Profile: LB, Topology: Flat}
	var problems []error
	if v := getenv("LAB_NODES"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			problems = append(problems, fmt.Errorf("LAB_NODES: %q is not a number", v))
		}
		s.Nodes = n
	}
	if v := getenv("LAB_PROFILE"); v != "" {
		s.Profile = Profile(v)
	}
	if v := getenv("LAB_TOPOLOGY"); v != "" {
		s.Topology = Topology(v)
	}
	if v := getenv("LAB_SKIP_CLARION"); v != "" && v != "0" {
		s.SkipClarion = true
	}
	dir := getenv("LAB_DIR")
	if dir == "" {
		dir = ".lab"
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(root, dir)
	}
	if len(problems) == 0 {
		problems = append(problems, s.Check())
	}
	return s, filepath.Clean(dir), errors.Join(problems...)
}

// Check returns every reason why a lab with these settings cannot exist.
func (s Settings) Check() error {
	var problems []error
	if s.Nodes < 1 || s.Nodes > MaxNodes {
		problems = append(problems, fmt.Errorf("LAB_NODES: %d is not between 1 and %d", s.Nodes, MaxNodes))
	}
	switch s.Profile {
	case Upstream, LB, Full:
	default:
		problems = append(problems, fmt.Errorf("LAB_PROFILE: %q is not one of lb, full, upstream", s.Profile))
	}
	switch s.Topology {
	case Flat:
	case Routed:
		if s.Nodes == 1 {
			problems = append(problems, errors.New("LAB_TOPOLOGY: routed puts the last node behind the router, so LAB_NODES must be 2 or more"))
		}
	default:
		problems = append(problems, fmt.Errorf("LAB_TOPOLOGY: %q is not one of flat, routed", s.Topology))
	}
	return errors.Join(problems...)
}
