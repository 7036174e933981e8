package store

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// SandboxVersion is the version of the sandbox files that this code reads and
// writes; see NodeVersion for when it is raised.
const SandboxVersion = 1

// A Key names one interface of one container: what CNI calls an attachment.
type Key struct{ ContainerID, IfName string }

// maxKey bounds the name of a sandbox file: a file name has at most 255 bytes.
const maxKey = 250

func (k Key) String() string { return k.ContainerID + "@" + k.IfName }

// HostIfPrefix begins the name of the host's side of every pod's interface.
const HostIfPrefix = "clp"

// HostIf returns the name of the host's side of the interface: the prefix and
// 60 bits of a hash in base32, 15 bytes in all, the longest name that Linux
// has. It needs nothing but the key, so a DEL finds the interface when the
// record is lost.
func (k Key) HostIf() string {
	sum := sha256.Sum256([]byte(k.String()))
	return HostIfPrefix + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:8]))[:12]
}

// Validate reports why k cannot be the name of a file. The runtime's words
// have already been checked against the CNI specification; this is what the
// file system adds.
func (k Key) Validate() error {
	switch {
	case k.ContainerID == "" || k.IfName == "":
		return errors.New("container id or interface name is empty")
	case len(k.String()) > maxKey:
		return fmt.Errorf("container id %.32q… with interface %s is longer than %d bytes", k.ContainerID, k.IfName, maxKey)
	case strings.ContainsAny(k.ContainerID, "/@\x00") || strings.ContainsAny(k.IfName, "/\x00"):
		return fmt.Errorf("container id %q or interface name %q has a character that cannot be in a file name", k.ContainerID, k.IfName)
	}
	return nil
}

// A Sandbox is what one ADD gave: the record that says which addresses are
// held and by whom. A record never changes once it is in place.
type Sandbox struct {
	Version     int           `json:"version"`
	ContainerID string        `json:"containerID"`
	IfName      string        `json:"ifName"`
	Network     string        `json:"network"` // the name in the network configuration
	Netns       string        `json:"netns"`   // as the runtime gave it; may be gone
	Pod         string        `json:"pod,omitempty"`
	Addresses   []netip.Addr  `json:"addresses"`
	Ports       []PortMapping `json:"ports,omitempty"`
	Bandwidth   Bandwidth     `json:"bandwidth,omitzero"`
}

// A PortMapping makes a port of the node lead to a port of the pod (CNI
// conventions, runtimeConfig.portMappings).
type PortMapping struct {
	HostIP        netip.Addr       `json:"hostIP,omitzero"` // the zero Addr means every address of the node
	HostPort      uint16           `json:"hostPort"`
	ContainerPort uint16           `json:"containerPort"`
	Protocol      cluster.Protocol `json:"protocol"`
}

// Bandwidth limits a pod's traffic as the pod sees it (CNI conventions,
// runtimeConfig.bandwidth). Rates are bits per second, bursts are bits; 0
// means no limit.
type Bandwidth struct {
	IngressRate  uint64 `json:"ingressRate,omitempty"`
	IngressBurst uint64 `json:"ingressBurst,omitempty"`
	EgressRate   uint64 `json:"egressRate,omitempty"`
	EgressBurst  uint64 `json:"egressBurst,omitempty"`
}

// Key returns the name of the record.
func (s Sandbox) Key() Key { return Key{s.ContainerID, s.IfName} }

// wants reports whether s asks for the same as t, apart from the addresses.
func (s Sandbox) wants(t Sandbox) bool {
	return s.Key() == t.Key() && s.Network == t.Network && s.Netns == t.Netns && s.Pod == t.Pod &&
		s.Bandwidth == t.Bandwidth && slices.Equal(s.Ports, t.Ports)
}

// ParseSandbox reads a record.
func ParseSandbox(data []byte) (Sandbox, error) {
	var s Sandbox
	if err := json.Unmarshal(data, &s); err != nil {
		return Sandbox{}, err
	}
	if s.Version != SandboxVersion {
		return Sandbox{}, fmt.Errorf("version: %d is not %d", s.Version, SandboxVersion)
	}
	if err := s.Key().Validate(); err != nil {
		return Sandbox{}, err
	}
	for i, a := range s.Addresses {
		if !a.IsValid() || a.Zone() != "" {
			return Sandbox{}, fmt.Errorf("addresses[%d]: %q is no plain address", i, a)
		}
	}
	return s, nil
}
