// Command kubectl-clarion is the kubectl plugin of Clarion: «kubectl clarion».
// It needs nothing but a kubeconfig.
//
// Read command.go (the verbs and the exit codes), then package inspect (what
// they say) and package migrate (how other load balancers are taken over).
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	color := term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" // no-color.org
	os.Exit(run(ctx, os.Args[1:], app{in: os.Stdin, out: os.Stdout, err: os.Stderr, color: color, connect: connect, now: time.Now}))
}
