//go:build conformance

package conformance

import (
	"fmt"
	"io"

	"k8s.io/kubernetes/test/utils/image"
)

// printImages prints the images that the specs start and that a Debian root with agnhost can stand for, as parseImages
// reads them. Names and tags are upstream's, so the suite is asked for them.
func printImages(w io.Writer) {
	fmt.Fprintln(w, agnhost, image.GetPauseImageName())
	for _, id := range []image.ImageID{image.Agnhost, image.AgnhostPrev} {
		fmt.Fprintln(w, agnhost, image.GetE2EImage(id))
	}
	for _, id := range []image.ImageID{image.BusyBox, image.GlibcDnsTesting} {
		fmt.Fprintln(w, shell, image.GetE2EImage(id))
	}
}
