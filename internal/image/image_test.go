package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func sample() Image {
	return Image{
		Tag: "clarion.dev/sample:1", Entrypoint: []string{"/bin/a"}, User: "65532:65532",
		Files: []File{{Path: "/bin/a", Executable: true, Content: []byte("program")}, {Path: "/etc/passwd", Content: []byte("x")}},
	}
}

func TestSameInputSameBytes(t *testing.T) {
	a, b := sample(), sample()
	slices.Reverse(b.Files) // the order of the command line must not matter
	var one, two bytes.Buffer
	if err := errors.Join(Write(&one, a), Write(&two, b)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Fatal("two writes of one image differ")
	}
}

func TestArchiveNamesWhatItHolds(t *testing.T) {
	var buf bytes.Buffer
	if err := Write(&buf, sample()); err != nil {
		t.Fatal(err)
	}
	files := untar(t, &buf)
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	var config struct {
		Config struct {
			Entrypoint []string
			User       string
		}
		Rootfs struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal(files[manifest[0].Config], &config); err != nil {
		t.Fatal(err)
	}
	layer := files[manifest[0].Layers[0]]
	if got, want := config.Rootfs.DiffIDs[0], "sha256:"+sum(layer); got != want {
		t.Errorf("diff id %s, want %s", got, want)
	}
	if manifest[0].RepoTags[0] != "clarion.dev/sample:1" || config.Config.User != "65532:65532" || config.Config.Entrypoint[0] != "/bin/a" {
		t.Errorf("got %+v %+v", manifest, config)
	}
	root := untar(t, bytes.NewReader(layer))
	if string(root["bin/a"]) != "program" || string(root["etc/passwd"]) != "x" {
		t.Errorf("root holds %v", root)
	}
}

func TestRefusals(t *testing.T) {
	tests := []struct {
		name string
		edit func(*Image)
		want string
	}{
		{"a tag without version", func(i *Image) { i.Tag = "clarion.dev/sample" }, "has no version"},
		{"a colon that belongs to a port", func(i *Image) { i.Tag = "host:5000/sample" }, "has no version"},
		{"a relative path", func(i *Image) { i.Files[0].Path = "bin/a" }, "not absolute"},
		{"a path that climbs", func(i *Image) { i.Files[0].Path = "/bin/../a" }, "not absolute and clean"},
		{"a file given twice", func(i *Image) { i.Files[1].Path = "/bin/a" }, "given twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			img := sample()
			tt.edit(&img)
			if err := Write(io.Discard, img); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("err = %v, want %q", err, tt.want)
			}
		})
	}
}

func untar(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(epoch) {
			t.Errorf("%s carries the time %v", h.Name, h.ModTime)
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}
