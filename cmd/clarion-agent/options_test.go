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
		{"a Pod's environment is enough", nil, map[string]string{"NODE_NAME": "node1", "POD_NAMESPACE": "x", "HOST_IP": "2001:db8:1::11"}, nil},
		{"without the node's name and address", nil, nil, []string{"NODE_NAME", "spec.nodeName", "HOST_IP"}},
		{"a silence that a stall would break", []string{"--failover-silence=50ms", "--address=192.0.2.11", "--node=a"}, nil, []string{"--failover-silence=50ms", "200ms"}},
		{"no port", []string{"--gossip-port=70000"}, nil, []string{"--gossip-port=70000"}},
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
