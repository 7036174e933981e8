package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/inspect"
)

// The exit codes, as --help documents them.
const (
	exitOK       = 0
	exitFailed   = 1
	exitUsage    = 2
	exitFindings = 3
)

const exitCodes = `Exit codes:
  0  done, and nothing is wrong with what was asked about
  1  it could not be done; the sentence on standard error says why
  2  the command line is wrong
  3  done, and something is wrong: a problem (status, pools), a Service without
     address or announcement (explain), a Service that would be stranded or a
     pool that would be refused (plan), a Service that would not keep its
     address or something that cannot be taken over (migrate)
`

// An app is what the verbs work with.
type app struct {
	in       io.Reader
	out, err io.Writer
	color    bool // out is a terminal that knows colours
	connect  func(target) (*connection, error)
	now      func() time.Time
}

// A target says which cluster is meant.
type target struct {
	kubeconfig, context, as string
}

// options are the flags that every verb has.
type options struct {
	target
	namespace string // of Services
	clarion   string // Clarion's own
	output    string
	all       bool
}

// errFindings ends a verb that has told bad news.
var errFindings = errors.New("something is wrong with what was asked about")

// A usageError is a wrong command line.
type usageError struct{ error }

// run runs the command line and returns the exit code.
func run(ctx context.Context, args []string, a app) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	err := root.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errFindings):
		return exitFindings
	case errors.As(err, &usage):
		fmt.Fprintf(a.err, "%v\nSee: kubectl clarion --help\n", err)
		return exitUsage
	}
	fmt.Fprintln(a.err, err)
	return exitFailed
}

func (a app) root() *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:           "kubectl-clarion",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl clarion"},
		Short:         "Look at Clarion, and plan what it will do",
		Long:          "Look at Clarion, which gives addresses to Services of type LoadBalancer, and plan what it will do.\n\n" + exitCodes,
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("%q is no verb", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			switch o.output {
			case "", "json", "yaml":
				return nil
			}
			return usageError{fmt.Errorf("--output is %q; it can be json or yaml, and without it the output is for people", o.output)}
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	f := root.PersistentFlags()
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "file to use instead of $KUBECONFIG or ~/.kube/config")
	f.StringVar(&o.context, "context", "", "context of the kubeconfig to use")
	f.StringVar(&o.as, "as", "", "user to impersonate")
	f.StringVarP(&o.namespace, "namespace", "n", "", "namespace of the Service; default is that of the context")
	f.StringVar(&o.clarion, "clarion-namespace", "clarion-system", "namespace in which Clarion runs and clarion-pools is")
	f.StringVarP(&o.output, "output", "o", "", "json or yaml, for programs; lists are complete then")
	f.BoolVar(&o.all, "all", false, "do not shorten lists")
	root.AddCommand(a.statusCommand(o), a.poolsCommand(o), a.explainCommand(o), a.planCommand(o), a.migrateCommand(o), completionCommand())
	return root
}

// noArgs refuses arguments.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no argument, and %q is one", cmd.Name(), args[0])}
	}
	return nil
}

// oneArg wants exactly one argument.
func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{fmt.Errorf("%s takes one argument, %s, and got %d", cmd.Name(), what, len(args))}
		}
		return nil
	}
}

// reader connects and returns who reads the cluster.
func (a app) reader(o *options) (*inspect.Reader, *connection, error) {
	c, err := a.connect(o.target)
	if err != nil {
		return nil, nil, err
	}
	return &inspect.Reader{Client: c.client, Raw: c.raw, Namespace: o.clarion, Now: a.now}, c, nil
}
