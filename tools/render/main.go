// Command render renders a Helm chart to standard output, as `helm template`
// would, so that the manifest in deploy/ and the chart are one source. It
// knows the few template functions that Clarion's chart uses and refuses
// others; the whole of Helm takes a quarter of an hour to compile on a small
// machine.
//
//	render -namespace clarion-system -set namespace.create=true CHART
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("render", flag.ContinueOnError)
	f.SetOutput(stderr)
	var sets settings
	namespace := f.String("namespace", "clarion-system", "namespace of the release")
	only := f.String("only", "", "path of one template; empty renders all")
	f.Var(&sets, "set", "KEY.KEY=VALUE, the value read as YAML; may be repeated")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 {
		return fmt.Errorf("want one argument, the folder of the chart, and got %d", f.NArg())
	}
	c, err := load(f.Arg(0))
	if err != nil {
		return err
	}
	text, err := c.render(release{Name: "clarion", Namespace: *namespace}, sets, *only)
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, text)
	return err
}

// settings are the values given by -set.
type settings []string

func (s *settings) String() string { return strings.Join(*s, ",") }

// Set implements flag.Value.
func (s *settings) Set(text string) error {
	if !strings.Contains(text, "=") {
		return fmt.Errorf("%q is not KEY=VALUE", text)
	}
	*s = append(*s, text)
	return nil
}
