package build

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/clarion-lb/clarion/e2e/internal/imagetar"
)

// Image is one archive of the lab: a program on an empty root.
type Image struct {
	Name    string
	Program Program
	Tags    []string
	Command []string // what follows the program's name if a pod says nothing else
}

// The names of the lab's images.
const (
	PauseImage   = "clarion.dev/lab/pause:1"
	AgnhostImage = "clarion.dev/lab/agnhost:1"
	CoreDNSImage = "clarion.dev/lab/coredns:1"
)

// Images lists the images that every node of the lab has. The upstream suites want a fuller agnhost, with a shell and
// network tools around it: that one is for a later target, which packs a Debian root with imagetar.
func Images() []Image {
	return []Image{
		// The program that a sandbox waits with and the test program are one binary.
		{Name: "agnhost", Program: Agnhost, Tags: []string{AgnhostImage, PauseImage}, Command: []string{"pause"}},
		{Name: "coredns", Program: CoreDNS, Tags: []string{CoreDNSImage}},
	}
}

// Pack writes the archive of the image beside its program, unless it is there, and returns its path.
func (c Cache) Pack(img Image) (string, error) {
	program, err := c.Path(img.Program)
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(program), img.Name+".tar")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	unfinished, err := os.Create(path + ".part")
	if err != nil {
		return "", fmt.Errorf("pack image %s: %w", img.Name, err)
	}
	defer unfinished.Close()
	archive := imagetar.Image{
		Tags:       img.Tags,
		Files:      []imagetar.File{{From: program, To: "/" + img.Program.Name}},
		Entrypoint: []string{"/" + img.Program.Name},
		Command:    img.Command,
	}
	if err := archive.Write(unfinished); err != nil {
		return "", fmt.Errorf("pack image %s: %w", img.Name, err)
	}
	if err := unfinished.Close(); err != nil {
		return "", fmt.Errorf("pack image %s: %w", img.Name, err)
	}
	if err := os.Rename(unfinished.Name(), path); err != nil {
		return "", fmt.Errorf("keep image %s: %w", img.Name, err)
	}
	return path, nil
}
