package conformance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/clarion-lb/clarion/e2e/internal/proc"
)

func (r Run) suite() string  { return filepath.Join(r.cache(), "sig-network.test") }
func (r Run) ginkgo() string { return filepath.Join(r.cache(), "ginkgo") }

// build compiles the suite and the program that runs it on several processes. The flags are those of the lab's programs,
// so that the two share what is compiled already.
func (r Run) build(ctx context.Context) error {
	flags := []string{"-trimpath", "-buildvcs=false", "-ldflags", "-s -w"}
	commands := [][]string{
		append([]string{"test", "-c", "-tags", "conformance", "-o", r.suite()}, append(flags, "./conformance")...),
		append([]string{"build", "-o", r.ginkgo()}, append(flags, "github.com/onsi/ginkgo/v2/ginkgo")...),
	}
	for _, args := range commands {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = filepath.Join(r.Root, "e2e")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
		if _, err := proc.Output(cmd); err != nil {
			return fmt.Errorf("compile %s: %w", args[len(args)-1], err)
		}
	}
	return nil
}
