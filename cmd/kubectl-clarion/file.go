package main

import (
	"fmt"
	"io"
	"os"

	"github.com/clarion-lb/clarion/cmd/kubectl-clarion/inspect"
)

// maxFile is the largest file that is read: no ConfigMap can be larger than
// 1 MiB (core/v1).
const maxFile = 4 << 20

// readPools reads the data of clarion-pools from a file, or from standard
// input for «-».
func (a app) readPools(file, namespace string) (map[string]string, error) {
	in, name := a.in, "standard input"
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("read the new pools: %w", err)
		}
		defer f.Close()
		in, name = f, file
	}
	text, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read the new pools from %s: %w", name, err)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes, which no ConfigMap can be", name, maxFile)
	}
	data, err := inspect.ParsePools(text, namespace)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}
