// Package image writes container images without a registry or a daemon: a few
// files on an empty root, as an archive that `docker load`, `podman load` and
// `ctr images import` read. The same input gives the same bytes on every
// machine, so a digest names a build.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// An Image is what goes into one archive.
type Image struct {
	Tag        string   // name:tag, as a Pod names it
	Entrypoint []string // argv of the process
	User       string   // numeric "uid" or "uid:gid"; empty is root
	Labels     map[string]string
	Files      []File
}

// A File is one regular file in the image.
type File struct {
	Path       string // absolute and clean
	Executable bool
	Content    []byte
}

// epoch is the time of everything in an image: a real one would make two
// builds of one source differ.
var epoch = time.Unix(0, 0).UTC()

// Write writes img to w as a docker-archive with one layer. It refuses a tag
// without a version and a file whose path is not absolute and clean.
func Write(w io.Writer, img Image) error {
	layer, err := layerOf(img.Files)
	if err != nil {
		return fmt.Errorf("image %s: %w", img.Tag, err)
	}
	if i := strings.LastIndexByte(img.Tag, ':'); i <= 0 || i == len(img.Tag)-1 || strings.Contains(img.Tag[i:], "/") {
		return fmt.Errorf("image tag %q has no version: write name:version", img.Tag)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64",
		"os":           "linux",
		"created":      epoch.Format(time.RFC3339),
		"config":       map[string]any{"Entrypoint": img.Entrypoint, "User": img.User, "Labels": img.Labels, "WorkingDir": "/"},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum(layer)}},
		"history":      []map[string]any{{"created": epoch.Format(time.RFC3339), "created_by": "clarion mkimage"}},
	})
	if err != nil {
		return fmt.Errorf("image %s: encode its config: %w", img.Tag, err)
	}
	configName, layerName := sum(config)+".json", sum(layer)+"/layer.tar"
	manifest, err := json.Marshal([]map[string]any{{"Config": configName, "RepoTags": []string{img.Tag}, "Layers": []string{layerName}}})
	if err != nil {
		return fmt.Errorf("image %s: encode its manifest: %w", img.Tag, err)
	}
	t := tar.NewWriter(w)
	for _, f := range []File{{Path: configName, Content: config}, {Path: layerName, Content: layer}, {Path: "manifest.json", Content: manifest}} {
		if err := add(t, f.Path, 0o644, f.Content); err != nil {
			return fmt.Errorf("image %s: %w", img.Tag, err)
		}
	}
	if err := t.Close(); err != nil {
		return fmt.Errorf("image %s: write the archive: %w", img.Tag, err)
	}
	return nil
}

// layerOf returns the layer as a tar, parents before children, in path order.
func layerOf(files []File) ([]byte, error) {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	var buf bytes.Buffer
	t := tar.NewWriter(&buf)
	made := map[string]bool{"/": true}
	for _, f := range files {
		if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "/" {
			return nil, fmt.Errorf("file path %q is not absolute and clean", f.Path)
		}
		if made[f.Path] {
			return nil, fmt.Errorf("file %s is given twice", f.Path)
		}
		if err := parents(t, path.Dir(f.Path), made); err != nil {
			return nil, err
		}
		mode := int64(0o644)
		if f.Executable {
			mode = 0o755
		}
		made[f.Path] = true
		if err := add(t, strings.TrimPrefix(f.Path, "/"), mode, f.Content); err != nil {
			return nil, err
		}
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func parents(t *tar.Writer, dir string, made map[string]bool) error {
	if made[dir] {
		return nil
	}
	if err := parents(t, path.Dir(dir), made); err != nil {
		return err
	}
	made[dir] = true
	return t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(dir, "/") + "/", Mode: 0o755, ModTime: epoch, Format: tar.FormatUSTAR})
}

func add(t *tar.Writer, name string, mode int64, content []byte) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: epoch, Format: tar.FormatUSTAR}
	if err := t.WriteHeader(h); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if _, err := t.Write(content); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
