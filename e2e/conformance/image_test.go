package conformance

import (
	"maps"
	"slices"
	"testing"
)

func TestImagesAreReadByKind(t *testing.T) {
	got, err := parseImages("agnhost example.test/agnhost:1\nshell example.test/busybox:2\nagnhost example.test/pause:3\n")
	want := map[kind][]string{
		agnhost: {"example.test/agnhost:1", "example.test/pause:3"},
		shell:   {"example.test/busybox:2"},
	}
	if err != nil || !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestAListOfImagesThatIsNotUnderstoodIsRefused(t *testing.T) {
	for _, list := range []string{"", "agnhost", "agnhost \nshell b", "windows c", "agnhost a", "shell b", "PASS\n"} {
		if got, err := parseImages(list); err == nil {
			t.Errorf("%q was read as %v", list, got)
		}
	}
}

func FuzzParseImages(f *testing.F) {
	f.Add("agnhost a\nshell b\n")
	f.Add("agnhost\n\n")
	f.Fuzz(func(t *testing.T, list string) {
		names, err := parseImages(list)
		if err != nil {
			return
		}
		for k, all := range names {
			if (k != agnhost && k != shell) || slices.Contains(all, "") {
				t.Errorf("%q was read as %v", list, names)
			}
		}
	})
}
