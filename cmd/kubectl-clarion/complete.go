package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// kubectlScript is what kubectl runs to complete the words behind «kubectl
// clarion»: an executable on PATH named kubectl_complete-clarion.
const kubectlScript = `#!/bin/sh
exec kubectl-clarion __complete "$@"
`

// completionCommand prints scripts that complete verbs, flags and the names of
// Services.
func completionCommand() *cobra.Command {
	scripts := map[string]func(*cobra.Command, io.Writer) error{
		"bash": func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) },
		"zsh":  func(root *cobra.Command, w io.Writer) error { return root.GenZshCompletion(w) },
		"fish": func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) },
		"kubectl": func(_ *cobra.Command, w io.Writer) error {
			_, err := io.WriteString(w, kubectlScript)
			return err
		},
	}
	return &cobra.Command{
		Use:       "completion bash|zsh|fish|kubectl",
		Short:     "Print a script that completes the words of this program in a shell",
		ValidArgs: []string{"bash", "zsh", "fish", "kubectl"},
		Long: `Print a script that completes the words of this program.

For «kubectl-clarion» by itself:
  bash:  source <(kubectl-clarion completion bash)
  zsh:   source <(kubectl-clarion completion zsh)
  fish:  kubectl-clarion completion fish | source

For «kubectl clarion», kubectl asks an executable that must be on your PATH:
  kubectl-clarion completion kubectl > ~/bin/kubectl_complete-clarion
  chmod +x ~/bin/kubectl_complete-clarion
`,
		Args: oneArg("the shell"),
		RunE: func(cmd *cobra.Command, args []string) error {
			write, ok := scripts[args[0]]
			if !ok {
				return usageError{fmt.Errorf("there is no script for %q; there are bash, zsh, fish and kubectl", args[0])}
			}
			if err := write(cmd.Root(), cmd.OutOrStdout()); err != nil {
				return fmt.Errorf("write the script for %s: %w", args[0], err)
			}
			return nil
		},
	}
}
