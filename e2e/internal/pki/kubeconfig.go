package pki

import (
	"encoding/json"
	"fmt"
	"os"
)

// WriteKubeconfig writes a kubeconfig with which the owner of the pair reaches the server. JSON is YAML.
func WriteKubeconfig(path, server string, authority *Authority, user string, pair Pair) error {
	type named map[string]any
	text, err := json.MarshalIndent(named{
		"apiVersion": "v1", "kind": "Config", "current-context": "clarion-lab",
		"clusters": []named{{"name": "clarion-lab", "cluster": named{
			"server": server, "certificate-authority-data": authority.PEM,
		}}},
		"users": []named{{"name": user, "user": named{
			"client-certificate-data": pair.Cert, "client-key-data": pair.Key,
		}}},
		"contexts": []named{{"name": "clarion-lab", "context": named{"cluster": "clarion-lab", "user": user}}},
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode kubeconfig of %s: %w", user, err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write kubeconfig of %s: %w", user, err)
	}
	return nil
}
