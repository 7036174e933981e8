package gossipkey

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestANewKeyIsRead(t *testing.T) {
	one, two := New(), New()
	keys, err := Parse(one + "\n" + two)
	if err != nil || len(keys) != 2 || len(keys[0]) != size || string(keys[0]) == string(keys[1]) {
		t.Fatal(len(keys), err)
	}
}

func TestParseNamesTheLineAndNotTheKey(t *testing.T) {
	secret := "c2VjcmV0c2VjcmV0"
	for text, want := range map[string]string{
		"":                            "there is no key",
		New() + secret:                "line 2 is not a key of 32 bytes",
		"not base64!":                 "line 1 is not a key",
		strings.TrimSpace(New())[:40]: "line 1 is not a key",
	} {
		_, err := Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
			t.Errorf("err = %v, want %q", err, want)
		}
	}
}

func TestTheRingSurvivesTheDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ring")
	if r, err := Load(path); err != nil || r.Keys != nil {
		t.Fatalf("no file: %v, %v", r, err)
	}
	keys, err := Parse(New() + New())
	if err != nil {
		t.Fatal(err)
	}
	want := Ring{Cluster: "uid", Keys: keys}
	if err := Save(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil || !got.Equal(want) {
		t.Fatalf("got %v, %v", got, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("others can read the keys: %v, %v", info.Mode(), err)
	}
	for _, damage := range []string{"{", `{"Keys":["c2hvcnQ="]}`} {
		if err := os.WriteFile(path, []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %v", damage, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(New())
	f.Add("\n\n x")
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := Parse(text)
		if err == nil && len(keys) == 0 {
			t.Fatal("no key and no error")
		}
		for _, k := range keys {
			if len(k) != size {
				t.Fatalf("a key of %d bytes", len(k))
			}
		}
	})
}
