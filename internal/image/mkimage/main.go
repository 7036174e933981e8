// Command mkimage writes a container image of a few files on an empty root:
//
//	mkimage -o agent.tar -tag clarion.dev/clarion-agent:dev -entrypoint /clarion-agent bin/clarion-agent=/clarion-agent
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/clarion-lb/clarion/internal/image"
)

func main() {
	if err := run(os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(args []string, stderr io.Writer) error {
	fs := flag.NewFlagSet("mkimage", flag.ContinueOnError)
	fs.SetOutput(stderr)
	out := fs.String("o", "", "the archive to write")
	tag := fs.String("tag", "", "name:version of the image")
	entrypoint := fs.String("entrypoint", "", "absolute path of the program")
	user := fs.String("user", "", "numeric uid:gid; root when empty")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *out == "" || *tag == "" || *entrypoint == "" || fs.NArg() == 0 {
		return errors.New("-o, -tag, -entrypoint and at least one SOURCE=/PATH are needed")
	}
	img := image.Image{Tag: *tag, Entrypoint: []string{*entrypoint}, User: *user}
	for _, arg := range fs.Args() {
		src, dst, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q is not SOURCE=/PATH", arg)
		}
		content, err := os.ReadFile(src)
		if err != nil {
			return err
		}
		info, err := os.Stat(src)
		if err != nil {
			return err
		}
		img.Files = append(img.Files, image.File{Path: dst, Executable: info.Mode()&0o100 != 0, Content: content})
	}
	var buf bytes.Buffer
	if err := image.Write(&buf, img); err != nil {
		return err
	}
	return replace(*out, buf.Bytes())
}

// replace writes a file so that a reader sees the old or the new one, whole.
func replace(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, content, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
