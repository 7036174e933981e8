package proc

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// Book is a file that remembers processes, one line «PID START NAME» each. It is only ever appended to, in one write per
// line, so that a killed writer leaves at worst one broken last line, which is skipped.
type Book struct{ Path string }

// Entry is one line of the book. The last entry of a name is the valid one.
type Entry struct {
	ID
	Name string
}

// Add notes a process.
func (b Book) Add(name string, id ID) error {
	f, err := os.OpenFile(b.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("note process %d of %s: %w", id.PID, name, err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%d %d %s\n", id.PID, id.Start, name); err != nil {
		return fmt.Errorf("note process %d of %s: %w", id.PID, name, err)
	}
	return nil
}

// Entries reads the book. A missing book is an empty one.
func (b Book) Entries() ([]Entry, error) {
	text, err := os.ReadFile(b.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read noted processes: %w", err)
	}
	return parseBook(text), nil
}

func parseBook(text []byte) []Entry {
	var entries []Entry
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		var e Entry
		if n, err := fmt.Sscanf(lines.Text(), "%d %d %s", &e.PID, &e.Start, &e.Name); n == 3 && err == nil {
			entries = append(entries, e)
		}
	}
	return entries
}

// Get returns the living process that was last noted under the name.
func (b Book) Get(name string) (ID, error) {
	entries, err := b.Entries()
	if err != nil {
		return ID{}, err
	}
	for _, e := range slices.Backward(entries) {
		if e.Name != name {
			continue
		}
		if e.Alive() {
			return e.ID, nil
		}
		break
	}
	return ID{}, fmt.Errorf("%s: %w", name, ErrGone)
}
