// Package hostinit is the first process of a lab host that runs programs: it gives the host its own view of the file
// system, starts the host's programs, starts them again when they end, and buries what they leave. It is process 1 of
// the host's process namespace, so everything on the host ends with it, whatever it was.
package hostinit

import (
	"encoding/json"
	"fmt"
	"os"
)

// Spec says what a host is. It is written to a file that the init reads.
type Spec struct {
	Host string `json:"host"` // also the hostname
	// Private are directories that get a view of their own on this host: what stands in them on the machine can be read,
	// what is written goes to Upper.
	Private []string `json:"private,omitempty"`
	Upper   string   `json:"upper,omitempty"`
	// Binds are real directories put in place of others, for what cannot live on an overlay. Target to source.
	Binds map[string]string `json:"binds,omitempty"`
	// Cgroup is the host's group below the root of every hierarchy, such as clarion-lab/node1.
	Cgroup   string    `json:"cgroup"`
	Programs []Program `json:"programs"`
	// Relay passes connections to the inherited listeners (descriptor 3 and up) on to this address.
	Relay     string `json:"relay,omitempty"`
	Listeners int    `json:"listeners,omitempty"`
}

// Program is a daemon of the host.
type Program struct {
	Name string   `json:"name"`
	Args []string `json:"args"` // with the path of the binary first
	Env  []string `json:"env,omitempty"`
	Log  string   `json:"log"`
	// Gate is a file that must exist before the program is started. Without one the program starts at once.
	Gate string `json:"gate,omitempty"`
}

// Write writes the spec to a file.
func (s Spec) Write(path string) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the spec of host %s: %w", s.Host, err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the spec of host %s: %w", s.Host, err)
	}
	return nil
}

func readSpec(path string) (Spec, error) {
	var s Spec
	text, err := os.ReadFile(path)
	if err != nil {
		return s, fmt.Errorf("read host spec: %w", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("read host spec %s: %w", path, err)
	}
	return s, nil
}
