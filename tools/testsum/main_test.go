package main

import (
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	tests := []struct {
		name, in string
		ok       bool
		want     []string
	}{
		{"passes and skips are counted, the reason of a skip is told", `
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"B","Output":"=== RUN B\n"}
{"Action":"output","Package":"p","Test":"B","Output":"    b_test.go:3: kernel has no SCTP\n"}
{"Action":"skip","Package":"p","Test":"B"}
{"Action":"pass","Package":"p","Elapsed":1.5}`, true, []string{"skipped: p B: b_test.go:3: kernel has no SCTP", "1 passed, 0 failed, 1 skipped", "ok           1.5s  p"}},
		{"a failure shows its output", `
{"Action":"output","Package":"p","Test":"A","Output":"boom\n"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}`, false, []string{"boom", "0 passed, 1 failed, 0 skipped"}},
		{"a package that does not build is broken though no test failed", `
{"Action":"build-output","ImportPath":"p","Output":"syntax error\n"}
{"Action":"pass","Package":"q","Test":"A"}
{"Action":"fail","Package":"p"}`, false, []string{"syntax error", "broken: p"}},
		{"no test at all is a failure", ``, false, []string{"0 passed, 0 failed, 0 skipped"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			ok := run(strings.NewReader(strings.TrimSpace(tt.in)), &out)
			if ok != tt.ok {
				t.Errorf("ok = %v", ok)
			}
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%q is missing in\n%s", want, out.String())
				}
			}
		})
	}
}
