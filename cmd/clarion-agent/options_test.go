package main

import (
	"io"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name string
		args []string
		env  map[string]string
		want []string // in the error; none means no error
	}{
		{"a Pod's environment is enough", nil, map[string]string{"NODE_NAME": "node1", "POD_NAMESPACE": "x"}, nil},
		{"without the node's name", nil, nil, []string{"NODE_NAME", "spec.nodeName"}},
		{"every problem at once", []string{"--profile=fast", "--state=here", "stray"}, nil,
			[]string{"NODE_NAME", "--profile=fast", "--state=here", `"stray"`}},
		{"an unknown flag", []string{"--nod=a"}, nil, []string{"-nod"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parse(tt.args, func(key string) string { return tt.env[key] }, io.Discard)
			if (err != nil) != (tt.want != nil) {
				t.Fatalf("err = %v", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is missing in %q", want, err)
				}
			}
		})
	}
}
