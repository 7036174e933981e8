package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/clarion-lb/clarion/cni/store"
	"github.com/clarion-lb/clarion/internal/cluster"
)

// Type is the plugin's name in a network configuration and on the disk.
const Type = "clarion-cni"

// TypeLoopback is the name under which runtimes ask for the loopback of a pod
// to be set up.
const TypeLoopback = "loopback"

// Conf is the plugin's part of a network configuration, as it comes on stdin.
type Conf struct {
	types.PluginConf

	DataDir string // where the state lies; store.DefaultDir by default

	Ports     []store.PortMapping
	Bandwidth store.Bandwidth
	HasValid  bool            // whether the valid attachments of a GC were listed, be it none
	Prev      *current.Result // prevResult in the newest form; nil for none
}

// wire is what Conf reads beside the fields of every plugin.
type wire struct {
	types.PluginConf
	DataDir       string          `json:"dataDir"`
	Valid         json.RawMessage `json:"cni.dev/valid-attachments"`
	RuntimeConfig struct {
		PortMappings []wirePort      `json:"portMappings"`
		Bandwidth    store.Bandwidth `json:"bandwidth"`
	} `json:"runtimeConfig"`
}

type wirePort struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// ParseConf reads a network configuration. Keys that it does not know are
// other people's: the specification lets runtimes add some. The error is a
// *types.Error and names every mistake.
func ParseConf(stdin []byte) (*Conf, error) {
	var w wire
	if err := json.Unmarshal(stdin, &w); err != nil {
		return nil, fail(types.ErrDecodingFailure, "read the network configuration", err)
	}
	c := &Conf{PluginConf: w.PluginConf, DataDir: w.DataDir, Bandwidth: w.RuntimeConfig.Bandwidth}
	if w.Valid != nil { // our own field hides the embedded one
		c.HasValid = true
		if err := json.Unmarshal(w.Valid, &c.ValidAttachments); err != nil {
			return nil, fail(types.ErrDecodingFailure, "read cni.dev/valid-attachments", err)
		}
	}
	if c.DataDir == "" {
		c.DataDir = store.DefaultDir
	}
	if c.CNIVersion == "" {
		c.CNIVersion = "0.1.0" // as the library reads its absence
	}
	if !c.IPAM.IsEmpty() {
		return nil, failf(types.ErrUnsupportedField, "ipam.type: %q is not used: Clarion gives addresses from the node's pod CIDRs itself; remove the key ipam", c.IPAM.Type)
	}
	var errs []error
	if !filepath.IsAbs(c.DataDir) || strings.ContainsRune(c.DataDir, 0) {
		errs = append(errs, fmt.Errorf("dataDir: %q is not an absolute path", c.DataDir))
	}
	for i, wp := range w.RuntimeConfig.PortMappings {
		if wp.HostPort == 0 {
			continue // runtimes list the ports that are not mapped, too
		}
		port, err := wp.parse()
		if err != nil {
			errs = append(errs, fmt.Errorf("runtimeConfig.portMappings[%d].%w", i, err))
			continue
		}
		c.Ports = append(c.Ports, port)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fail(types.ErrInvalidNetworkConfig, "the network configuration has mistakes", err)
	}
	if c.RawPrevResult != nil {
		if err := version.ParsePrevResult(&c.PluginConf); err != nil {
			return nil, fail(types.ErrDecodingFailure, "read prevResult", err)
		}
		prev, err := current.NewResultFromResult(c.PrevResult)
		if err != nil {
			return nil, fail(types.ErrDecodingFailure, "read prevResult", err)
		}
		c.Prev = prev
	}
	return c, nil
}

var protocols = map[string]cluster.Protocol{"tcp": cluster.TCP, "udp": cluster.UDP, "sctp": cluster.SCTP}

func (w wirePort) parse() (store.PortMapping, error) {
	var p store.PortMapping
	const highest = 1<<16 - 1
	if w.HostPort < 1 || w.HostPort > highest {
		return p, fmt.Errorf("hostPort: %d is not in 1-%d", w.HostPort, highest)
	}
	if w.ContainerPort < 1 || w.ContainerPort > highest {
		return p, fmt.Errorf("containerPort: %d is not in 1-%d", w.ContainerPort, highest)
	}
	p.HostPort, p.ContainerPort = uint16(w.HostPort), uint16(w.ContainerPort)
	p.Protocol = cluster.TCP // core/v1 ContainerPort.protocol
	if w.Protocol != "" {
		var ok bool
		if p.Protocol, ok = protocols[strings.ToLower(w.Protocol)]; !ok {
			return p, fmt.Errorf("protocol: %q is not tcp, udp or sctp", w.Protocol)
		}
	}
	if w.HostIP != "" {
		a, err := netip.ParseAddr(w.HostIP)
		if err != nil || a.Zone() != "" {
			return p, fmt.Errorf("hostIP: %q is not an address", w.HostIP)
		}
		if a = a.Unmap(); !a.IsUnspecified() {
			p.HostIP = a
		}
	}
	return p, nil
}

// readNode reads what the agent says about the node, with an error that tells
// the runtime whether trying again can help.
func readNode(dir string) (store.Node, error) {
	n, err := store.ReadNode(dir)
	switch {
	case errors.Is(err, store.ErrNoNode):
		return n, fail(types.ErrTryAgainLater, "this node cannot serve pods yet; is the agent (DaemonSet clarion-agent) running here?", err)
	case isDisk(err):
		return n, fail(types.ErrIOFailure, "read the description of the node", err)
	case err != nil:
		return n, fail(CodeNodeFile, "the agent's description of the node cannot be used", err)
	case n.NotReady != "":
		return n, failf(types.ErrTryAgainLater, "this node cannot serve pods: %s", n.NotReady)
	}
	return n, nil
}

// isDisk reports whether err is the file system's.
func isDisk(err error) bool {
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return true
	}
	_, ok := errors.AsType[*os.LinkError](err)
	return ok
}

// podName reads the pod's name out of CNI_ARGS, where Kubernetes runtimes put
// it. It is only shown to people, so its absence is no mistake.
func podName(args string) string {
	found := map[string]string{}
	for pair := range strings.SplitSeq(args, ";") {
		if k, v, ok := strings.Cut(pair, "="); ok {
			found[k] = v
		}
	}
	namespace, name := found["K8S_POD_NAMESPACE"], found["K8S_POD_NAME"]
	if namespace == "" || name == "" {
		return ""
	}
	return namespace + "/" + name
}
