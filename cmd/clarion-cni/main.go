// Command clarion-cni is the CNI plugin. Container runtimes run it, also under
// the name loopback; see package cni/plugin.
package main

import (
	"context"
	"os"

	"github.com/clarion-lb/clarion/cni/plugin"
)

func main() {
	p := plugin.Plugin{Stdout: os.Stdout}
	os.Exit(p.Run(context.Background()))
}
