package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// NodeVersion is the version of the node file that this code reads and writes.
// It is raised when an older plugin would read a newer file wrongly; a new
// field that may be ignored does not raise it.
const NodeVersion = 1

// NodeFile is the name of the node file inside the data directory.
const NodeFile = "node.json"

// The MTUs that a pod can have. IPv6 needs 1280 (RFC 8200 section 5); below
// 576 not even a DNS answer is sure to pass (RFC 1122 section 3.3.3).
const (
	minMTU   = 576
	minMTUv6 = 1280
	maxMTU   = 65535
)

// Node is all that the plugin needs to know of the machine it runs on. The
// agent writes it, the plugin only reads it: that is why pods start and end
// while the agent is down.
type Node struct {
	Version  int            `json:"version"`
	Name     string         `json:"node"`               // the Kubernetes Node, for messages
	PodCIDRs []netip.Prefix `json:"podCIDRs"`           // spec.podCIDRs; a pod gets one address of each
	Excluded []netip.Addr   `json:"excluded,omitempty"` // never given to a pod: the node itself uses them
	MTU      int            `json:"mtu"`                // of pod interfaces, bytes
	NotReady string         `json:"notReady,omitempty"` // why no pod can be served; empty when one can
}

// ErrNoNode says that the agent has not yet written the node file.
var ErrNoNode = errors.New("the agent has not described this node yet")

// ParseNode reads a node file. The error names every mistake, each with its
// path in the file.
func ParseNode(data []byte) (Node, error) {
	var n Node
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return Node{}, fmt.Errorf("not JSON: %w", err)
	}
	if version.Version != NodeVersion {
		return Node{}, fmt.Errorf("version: %d is not %d; agent and plugin are of different releases, restart the agent so that it installs its own plugin",
			version.Version, NodeVersion)
	}
	if err := json.Unmarshal(data, &n); err != nil {
		return Node{}, err
	}
	if n.NotReady != "" {
		return n, nil // the rest may be missing: that is what it says
	}
	if err := n.validate(); err != nil {
		return Node{}, err
	}
	return n, nil
}

func (n Node) validate() error {
	var errs []error
	lowest := minMTU
	if len(n.PodCIDRs) == 0 {
		errs = append(errs, errors.New("podCIDRs: there is none"))
	}
	for i, p := range n.PodCIDRs {
		switch {
		case !p.IsValid():
			errs = append(errs, fmt.Errorf("podCIDRs[%d]: missing", i))
			continue
		case p != p.Masked():
			errs = append(errs, fmt.Errorf("podCIDRs[%d]: %s has host bits set; %s is meant", i, p, p.Masked()))
		case p.Addr().Is4In6():
			errs = append(errs, fmt.Errorf("podCIDRs[%d]: %s is an IPv4 prefix written as IPv6", i, p))
		case usable(p).none():
			errs = append(errs, fmt.Errorf("podCIDRs[%d]: %s has no address that a pod could get", i, p))
		}
		if p.Addr().Is6() {
			lowest = minMTUv6
		}
		for j, q := range n.PodCIDRs[:i] {
			switch {
			case !q.IsValid():
			case p.Overlaps(q):
				errs = append(errs, fmt.Errorf("podCIDRs[%d]: %s overlaps podCIDRs[%d] %s", i, p, j, q))
			case family(p) == family(q):
				errs = append(errs, fmt.Errorf("podCIDRs[%d]: %s is a second %s prefix beside %s; a node has one of each family", i, p, family(p), q))
			}
		}
	}
	for i, a := range n.Excluded {
		if !a.IsValid() || a.Zone() != "" {
			errs = append(errs, fmt.Errorf("excluded[%d]: %q is no plain address", i, a))
		}
	}
	if n.MTU < lowest || n.MTU > maxMTU {
		errs = append(errs, fmt.Errorf("mtu: %d is not in %d-%d", n.MTU, lowest, maxMTU))
	}
	return errors.Join(errs...)
}

// Equal reports whether two descriptions say the same.
func (n Node) Equal(m Node) bool {
	return n.Version == m.Version && n.Name == m.Name && n.MTU == m.MTU && n.NotReady == m.NotReady &&
		slices.Equal(n.PodCIDRs, m.PodCIDRs) && slices.Equal(n.Excluded, m.Excluded)
}

// ReadNode reads the node file of a data directory. It returns ErrNoNode when
// there is none.
func ReadNode(dir string) (Node, error) {
	path := filepath.Join(dir, NodeFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Node{}, fmt.Errorf("%w: %s does not exist", ErrNoNode, path)
	}
	if err != nil {
		return Node{}, err
	}
	n, err := ParseNode(data)
	if err != nil {
		return Node{}, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// WriteNode writes the node file: a reader sees the old or the new one, also
// over a power cut. A file that already says the same is left alone.
func WriteNode(dir string, n Node) error {
	n.Version = NodeVersion
	if n.NotReady == "" {
		if err := n.validate(); err != nil {
			return fmt.Errorf("node file: %w", err)
		}
	}
	data, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return err
	}
	return ReplaceFile(filepath.Join(dir, NodeFile), append(data, '\n'), 0o644)
}

// ReplaceFile puts a file in place in one step, synced to the disk before and
// after, and leaves one alone that is already right. The directory is made.
func ReplaceFile(path string, data []byte, mode fs.FileMode) (err error) {
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, data) {
		if st, err := os.Stat(path); err == nil && st.Mode().Perm() == mode {
			return nil
		}
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// One fixed name, so that a crash leaves at most one such file behind and
	// the next write takes it over. Only the agent writes here.
	tmp := filepath.Join(dir, "."+filepath.Base(path)+".new")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode) // the umask may have taken bits away
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	serr := d.Sync()
	if errors.Is(serr, unix.EINVAL) {
		serr = nil // this file system has no sync for directories
	}
	if cerr := errors.Join(serr, d.Close()); cerr != nil {
		return fmt.Errorf("sync %s: %w", dir, cerr)
	}
	return nil
}
