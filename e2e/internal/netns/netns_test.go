package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// A first thread that stayed in a host would make its whole process look like a part of the lab, to be ended with it.
func TestAThreadThatVisitedANamespaceComesHome(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("naming a network namespace needs root, as the lab itself does")
	}
	name := fmt.Sprintf("netnstest-%d", os.Getpid())
	home := inode(t, "/proc/self/ns/net")
	if err := Add(name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Delete(name); err != nil {
			t.Error(err)
		}
	})
	if err := Add(name); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the name was given twice: %v", err)
	}
	there := inode(t, Path(name))
	if there == home {
		t.Fatal("the new namespace is this one")
	}
	var visits sync.WaitGroup
	for range 200 {
		visits.Go(func() {
			err := Do(name, func() error {
				if here := inode(t, "/proc/thread-self/ns/net"); here != there {
					t.Errorf("Do ran in %d, not in %d", here, there)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	visits.Wait()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		if got := inode(t, "/proc/self/task/"+thread.Name()+"/ns/net"); got != home {
			t.Errorf("thread %s stayed in %d", thread.Name(), got)
		}
	}
}

func TestANameThatWasNeverMountedOnIsRemoved(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("naming a network namespace needs root, as the lab itself does")
	}
	if err := os.MkdirAll(Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("netnstest-plain-%d", os.Getpid())
	if err := os.WriteFile(Path(name), nil, 0); err != nil {
		t.Fatal(err)
	}
	names, err := List("netnstest-plain-")
	if err != nil || !slices.Contains(names, name) {
		t.Errorf("listed %v, %v", names, err)
	}
	for range 2 { // the second time there is nothing to remove, which is no error
		if err := Delete(name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(Path(name)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the name is still there: %v", err)
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}
