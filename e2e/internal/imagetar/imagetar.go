// Package imagetar writes container images without a registry or a daemon: a docker-archive tar with one configuration and
// one layer, or two if the image stands on a base, byte for byte the same for the same input.
package imagetar

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Image says what an image holds. The root holds what is in Base, Files and the directories that lead to them, and nothing
// else.
type Image struct {
	Tags       []string // name:tag; the first may be any, containerd imports all
	Base       string   // a tar of a root on this machine, which becomes the lower layer; empty for an empty root
	Files      []File
	Entrypoint []string
	Command    []string
	Env        []string
}

// File is one regular file of the root: where it comes from on this machine, and where it goes.
type File struct {
	From string // a path on this machine; empty if Content is used
	To   string // an absolute path in the image
	// Content is used if From is empty.
	Content []byte
	Mode    int64 // defaults to 0755
}

// epoch is the time of everything in the image, so that time does not leak into its bytes.
var epoch = time.Unix(0, 0).UTC()

// Write writes the archive. The layer goes through a temporary file, because its digest stands before it.
func (img Image) Write(w io.Writer) error {
	layer, err := os.CreateTemp("", "layer-*.tar")
	if err != nil {
		return fmt.Errorf("make a temporary file for the layer: %w", err)
	}
	defer layer.Close()
	// The file lives on without its name until it is closed, so that nothing is left if this process is killed.
	if err := os.Remove(layer.Name()); err != nil {
		return fmt.Errorf("make a temporary file for the layer: %w", err)
	}
	digest := sha256.New()
	size, err := img.writeLayer(io.MultiWriter(layer, digest))
	if err != nil {
		return err
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("rewind the layer: %w", err)
	}
	layers := []content{{sum(digest), layer, size}}
	if img.Base != "" {
		base, err := openBase(img.Base)
		if err != nil {
			return err
		}
		defer base.file.Close()
		layers = slices.Insert(layers, 0, base)
	}
	var ids, names []string
	for _, l := range layers {
		ids, names = append(ids, "sha256:"+l.id), append(names, l.id+".tar")
	}

	config, err := json.Marshal(configFile{
		Architecture: runtime.GOARCH, OS: "linux", Created: epoch.Format(time.RFC3339),
		Config: runConfig{Entrypoint: img.Entrypoint, Cmd: img.Command, Env: img.Env, WorkingDir: "/"},
		RootFS: rootFS{Type: "layers", DiffIDs: ids},
	})
	if err != nil {
		return fmt.Errorf("encode the configuration: %w", err)
	}
	configID := sha256.Sum256(config)
	configName := hex.EncodeToString(configID[:]) + ".json"
	manifest, err := json.Marshal([]manifestEntry{{Config: configName, RepoTags: img.Tags, Layers: names}})
	if err != nil {
		return fmt.Errorf("encode the manifest: %w", err)
	}

	archive := tar.NewWriter(w)
	if err := addBytes(archive, "manifest.json", manifest, 0o644); err != nil {
		return err
	}
	if err := addBytes(archive, configName, config, 0o644); err != nil {
		return err
	}
	for i, l := range layers {
		if err := archive.WriteHeader(header(names[i], l.size, 0o644)); err != nil {
			return fmt.Errorf("write the layer: %w", err)
		}
		if _, err := io.Copy(archive, l.file); err != nil {
			return fmt.Errorf("write the layer: %w", err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("finish the archive: %w", err)
	}
	return nil
}

// content is one layer, ready to be read: its SHA-256 in hexadecimal, and its bytes.
type content struct {
	id   string
	file *os.File
	size int64
}

func openBase(name string) (content, error) {
	file, err := os.Open(name)
	if err != nil {
		return content{}, fmt.Errorf("open the base of the image: %w", err)
	}
	digest := sha256.New()
	size, err := io.Copy(digest, file)
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		file.Close()
		return content{}, fmt.Errorf("read the base of the image, %s: %w", name, err)
	}
	return content{sum(digest), file, size}, nil
}

func (img Image) writeLayer(w io.Writer) (size int64, err error) {
	counted := &counter{w: w}
	layer := tar.NewWriter(counted)
	files := slices.SortedFunc(slices.Values(img.Files), func(a, b File) int { return strings.Compare(a.To, b.To) })
	made := map[string]bool{}
	for _, f := range files {
		if !path.IsAbs(f.To) || path.Clean(f.To) != f.To {
			return 0, fmt.Errorf("%q is not a clean absolute path in an image", f.To)
		}
		for _, dir := range parents(f.To) {
			if made[dir] {
				continue
			}
			made[dir] = true
			if err := layer.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: epoch, Format: tar.FormatPAX}); err != nil {
				return 0, fmt.Errorf("add directory %s: %w", dir, err)
			}
		}
		if err := addFile(layer, f); err != nil {
			return 0, err
		}
	}
	if err := layer.Close(); err != nil {
		return 0, fmt.Errorf("finish the layer: %w", err)
	}
	return counted.n, nil
}

// parents lists the directories above an absolute path, outermost first, without a leading slash.
func parents(file string) []string {
	var dirs []string
	for dir := path.Dir(file); dir != "/"; dir = path.Dir(dir) {
		dirs = append(dirs, strings.TrimPrefix(dir, "/"))
	}
	slices.Reverse(dirs)
	return dirs
}

func addFile(layer *tar.Writer, f File) error {
	mode, name := f.Mode, strings.TrimPrefix(f.To, "/")
	if mode == 0 {
		mode = 0o755
	}
	if f.From == "" {
		return addBytes(layer, name, f.Content, mode)
	}
	in, err := os.Open(f.From)
	if err != nil {
		return fmt.Errorf("add %s: %w", f.To, err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return fmt.Errorf("add %s: %w", f.To, err)
	}
	if err := layer.WriteHeader(header(name, info.Size(), mode)); err != nil {
		return fmt.Errorf("add %s: %w", f.To, err)
	}
	if _, err := io.Copy(layer, in); err != nil {
		return fmt.Errorf("add %s from %s: %w", f.To, f.From, err)
	}
	return nil
}

func addBytes(w *tar.Writer, name string, content []byte, mode int64) error {
	if err := w.WriteHeader(header(name, int64(len(content)), mode)); err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	if _, err := w.Write(content); err != nil {
		return fmt.Errorf("add %s: %w", name, err)
	}
	return nil
}

func header(name string, size, mode int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: mode, ModTime: epoch, Format: tar.FormatPAX}
}

func sum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// The documents of the docker-archive format, as far as containerd reads them.
type (
	manifestEntry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	configFile struct {
		Architecture string    `json:"architecture"`
		OS           string    `json:"os"`
		Created      string    `json:"created"`
		Config       runConfig `json:"config"`
		RootFS       rootFS    `json:"rootfs"`
	}
	runConfig struct {
		Entrypoint []string `json:",omitempty"`
		Cmd        []string `json:",omitempty"`
		Env        []string `json:",omitempty"`
		WorkingDir string   `json:",omitempty"`
	}
	rootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
)
