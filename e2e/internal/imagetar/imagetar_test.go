package imagetar

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, img Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := img.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sample(t *testing.T, when time.Time) Image {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("the program"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(program, when, when); err != nil {
		t.Fatal(err)
	}
	return Image{
		Tags:       []string{"example.test/a:1", "example.test/b:1"},
		Entrypoint: []string{"/bin/program"}, Command: []string{"wait"},
		Files: []File{{From: program, To: "/bin/program"}, {To: "/etc/deep/conf", Content: []byte("x"), Mode: 0o644}},
	}
}

func TestTheSameInputGivesTheSameBytes(t *testing.T) {
	one := sample(t, time.Now())
	two := sample(t, time.Now().Add(-time.Hour))
	two.Files[0], two.Files[1] = two.Files[1], two.Files[0]
	if !bytes.Equal(write(t, one), write(t, two)) {
		t.Error("time or order of the files leaked into the archive")
	}
}

func TestTheArchiveIsWhatItSays(t *testing.T) {
	files := untar(t, write(t, sample(t, time.Now())))
	var manifest []manifestEntry
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil || len(manifest) != 1 {
		t.Fatalf("manifest %s: %v", files["manifest.json"], err)
	}
	var config configFile
	if err := json.Unmarshal(files[manifest[0].Config], &config); err != nil {
		t.Fatal(err)
	}
	layer := files[manifest[0].Layers[0]]
	digest := sha256.Sum256(layer)
	if want := "sha256:" + hex.EncodeToString(digest[:]); config.RootFS.DiffIDs[0] != want {
		t.Errorf("the configuration says the layer is %s, but it is %s", config.RootFS.DiffIDs[0], want)
	}
	root := untar(t, layer)
	if string(root["bin/program"]) != "the program" || string(root["etc/deep/conf"]) != "x" {
		t.Errorf("the root holds %v", root)
	}
	for _, dir := range []string{"bin/", "etc/", "etc/deep/"} {
		if _, ok := root[dir]; !ok {
			t.Errorf("the root lacks the directory %s", dir)
		}
	}
	if strings.Join(manifest[0].RepoTags, " ") != "example.test/a:1 example.test/b:1" {
		t.Errorf("tags %v", manifest[0].RepoTags)
	}
}

func TestABaseIsTheLowerLayerAsItIs(t *testing.T) {
	base := []byte("stands for a tar")
	img := sample(t, time.Now())
	img.Base = filepath.Join(t.TempDir(), "base.tar")
	if err := os.WriteFile(img.Base, base, 0o600); err != nil {
		t.Fatal(err)
	}
	files := untar(t, write(t, img))
	var manifest []manifestEntry
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	var config configFile
	if err := json.Unmarshal(files[manifest[0].Config], &config); err != nil {
		t.Fatal(err)
	}
	if len(manifest[0].Layers) != 2 || !bytes.Equal(files[manifest[0].Layers[0]], base) {
		t.Fatalf("layers %v", manifest[0].Layers)
	}
	for i, layer := range manifest[0].Layers {
		digest := sha256.Sum256(files[layer])
		if want := "sha256:" + hex.EncodeToString(digest[:]); config.RootFS.DiffIDs[i] != want {
			t.Errorf("the configuration says layer %d is %s, but it is %s", i, config.RootFS.DiffIDs[i], want)
		}
	}
	if root := untar(t, files[manifest[0].Layers[1]]); string(root["bin/program"]) != "the program" {
		t.Errorf("the upper layer holds %v", root)
	}
}

func TestABaseThatIsNotThereIsAnError(t *testing.T) {
	img := sample(t, time.Now())
	img.Base = filepath.Join(t.TempDir(), "none.tar")
	if err := img.Write(io.Discard); err == nil || !strings.Contains(err.Error(), "none.tar") {
		t.Errorf("error %v", err)
	}
}

func TestPathsInAnImageAreCleanAndAbsolute(t *testing.T) {
	for _, path := range []string{"", "bin/x", "/../x", "/a//b"} {
		img := Image{Files: []File{{To: path, Content: []byte("x")}}}
		if err := img.Write(io.Discard); err == nil {
			t.Errorf("%q was taken", path)
		}
	}
}

func untar(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(epoch) || h.Uid != 0 || h.Uname != "" {
			t.Errorf("%s carries time %s and owner %d %q", h.Name, h.ModTime, h.Uid, h.Uname)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}
