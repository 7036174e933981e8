package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const clarion = "../../deploy/chart/clarion"

func TestSchemaRefuses(t *testing.T) {
	tests := []struct {
		name string
		set  string
		want string // in the error
	}{
		{"an unknown key", "replicas=2", "replicas"},
		{"an unknown key further down", "agent.replicas=2", "replicas"},
		{"a misspelt key", "networkPolicy.enable=true", "enable"},
		{"a CPU limit on the agent", "agent.resources={limits: {cpu: 1}}", "cpu"},
		{"a log level that does not exist", "logLevel=loud", "logLevel"},
		{"a profile that does not exist", "profile=fast", "profile"},
		{"an API server without TLS", "apiServer=http://192.0.2.10", "apiServer"},
		{"a tag in the name of an image", "images.agent=example.org/agent:v1", "agent"},
		{"too many workers", "controller.workers=1000", "workers"},
		{"a word for a number", "controller.replicas=two", "replicas"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := run([]string{"-set", tt.set, clarion}, io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), "values.schema.json") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("-set %s: %v", tt.set, err)
			}
		})
	}
}

// TestSchemaKnowsEveryValue fails for a value without a schema, and for an
// object of the schema that is open to unknown keys though its keys are known.
func TestSchemaKnowsEveryValue(t *testing.T) {
	read := func(name string) (out map[string]any) {
		text, err := os.ReadFile(filepath.Join(clarion, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(text, &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	var walk func(path string, schema map[string]any, value any)
	walk = func(path string, schema map[string]any, value any) {
		properties, ok := schema["properties"].(map[string]any)
		object, isObject := value.(map[string]any)
		if !ok || !isObject {
			return
		}
		if schema["additionalProperties"] != false {
			t.Errorf("%s: the schema lets unknown keys pass", path)
		}
		for key, v := range object {
			next, ok := properties[key].(map[string]any)
			if !ok {
				t.Errorf("%s.%s stands in values.yaml and not in the schema", path, key)
				continue
			}
			walk(path+"."+key, next, v)
		}
	}
	walk("", read("values.schema.json"), read("values.yaml"))
}

// TestEveryValueIsExplained wants a comment above each value, or above the
// group of lists and words that it begins.
func TestEveryValueIsExplained(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(clarion, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	for key := range values {
		if _, group := values[key].(map[string]any); group {
			continue
		}
		if before, _, ok := strings.Cut(string(text), "\n"+key+":"); !ok || !strings.HasPrefix(before[strings.LastIndexByte(before, '\n')+1:], "#") {
			t.Errorf("%s has no comment above it", key)
		}
	}
}

func TestRender(t *testing.T) {
	var out bytes.Buffer
	sets := []string{"-set", "apiServer=https://192.0.2.10:6443", "-set", "images.tag=v9", "-set", "controller.podCIDRs=[10.0.0.0/8, 2001:db8::/32]",
		"-set", "agent.gossipPort=7000", "-set", "networkPolicy.enabled=true", "-set", "images.pullSecrets=[mine]", "-namespace", "elsewhere"}
	if err := run(append(sets, clarion), &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"--apiserver=https://192.0.2.10:6443", "clarion-agent:v9", "clarion-controller:v9", "--pod-cidrs=10.0.0.0/8,2001:db8::/32",
		"--gossip-port=7000", "hostPort: 7000", "kind: NetworkPolicy", "- name: mine", "system:serviceaccount:elsewhere:clarion-agent"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing", want)
		}
	}
	for _, not := range []string{"clarion-system", "kind: Namespace", "--log-level", "clarion.dev/clarion-agent:dev"} {
		if strings.Contains(out.String(), not) {
			t.Errorf("%q should not be there", not)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct{ set, want string }{
		{"profile=fast", "profile"},
		{"nonsense", "KEY=VALUE"},
	} {
		if err := run([]string{"-set", tt.set, clarion}, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("-set %s: %v", tt.set, err)
		}
	}
	if err := run([]string{"-only", "templates/none.yaml", clarion}, io.Discard, io.Discard); err == nil {
		t.Error("a template that does not exist was rendered")
	}
}
