package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/clarion-lb/clarion/cni/store"
)

// Install says where the runtime looks for the plugin. The zero value installs
// nothing.
type Install struct {
	Program string // the plugin's program as the image has it, such as /clarion-cni
	BinDir  string // the runtime's, such as /opt/cni/bin
	ConfDir string // the runtime's, such as /etc/cni/net.d
}

// The names that Clarion installs.
const (
	programName  = "clarion-cni"
	loopbackName = "loopback"
	confName     = "10-clarion.conflist"
)

// confList is what the runtime reads. cniVersion is what runtimes know that
// are older than the specification 1.1.0 (containerd 1.6); newer ones take the
// highest of cniVersions.
func confList(dataDir string) ([]byte, error) {
	return json.MarshalIndent(map[string]any{
		"cniVersion":  "1.0.0",
		"cniVersions": []string{"1.0.0", "1.1.0"},
		"name":        "clarion",
		"plugins": []any{map[string]any{
			"type":         programName,
			"dataDir":      dataDir,
			"capabilities": map[string]bool{"portMappings": true, "bandwidth": true},
		}},
	}, "", "  ")
}

// install puts program and configuration in place, each in one step: the
// program first, since the configuration is what makes the runtime say that
// the node is ready. What is right already is not touched. It returns what is
// in the way.
func (in Install) install(dataDir string) (problems []string, err error) {
	if in == (Install{}) {
		return nil, nil
	}
	program, err := os.ReadFile(in.Program)
	if err != nil {
		return nil, fmt.Errorf("read the plugin to install: %w", err)
	}
	if err := store.ReplaceFile(filepath.Join(in.BinDir, programName), program, 0o755); err != nil {
		return nil, fmt.Errorf("install the plugin: %w", err)
	}
	if err := in.loopback(); err != nil {
		return nil, fmt.Errorf("install the loopback plugin: %w", err)
	}
	conf, err := confList(dataDir)
	if err != nil {
		return nil, err
	}
	if err := store.ReplaceFile(filepath.Join(in.ConfDir, confName), append(conf, '\n'), 0o644); err != nil {
		return nil, fmt.Errorf("install the network configuration: %w", err)
	}
	return in.foreign()
}

// loopback gives the runtime a loopback plugin if it has none. One that is
// there is somebody's, and good enough.
func (in Install) loopback() error {
	err := os.Symlink(programName, filepath.Join(in.BinDir, loopbackName))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// foreign tells of other network configurations. Runtimes use the first by
// name (containerd: plugins.cri.cni.max_conf_num = 1).
func (in Install) foreign() (problems []string, err error) {
	entries, err := os.ReadDir(in.ConfDir)
	if err != nil {
		return nil, fmt.Errorf("look for other network configurations: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if name == confName || !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(name)) {
			continue
		}
		path := filepath.Join(in.ConfDir, name)
		if name < confName {
			problems = append(problems, fmt.Sprintf("the runtime uses %s, which comes before %s, so pods get their network from it and not from Clarion; remove it, or switch Clarion's pod network off (profile lb)", path, confName))
		} else {
			problems = append(problems, fmt.Sprintf("there is another network configuration, %s; the runtime uses %s before it, but would fall back to it; remove it", path, confName))
		}
	}
	return problems, nil
}

// remove takes away what install made, the configuration first.
func (in Install) remove() error {
	if in == (Install{}) {
		return nil
	}
	paths := []string{filepath.Join(in.ConfDir, confName)}
	if to, err := os.Readlink(filepath.Join(in.BinDir, loopbackName)); err == nil && to == programName {
		paths = append(paths, filepath.Join(in.BinDir, loopbackName))
	}
	var errs []error
	for _, p := range append(paths, filepath.Join(in.BinDir, programName)) {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
