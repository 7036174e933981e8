// Package viewfile keeps the last complete view of the cluster on the node's
// disk, so that an agent that starts while the API server is away serves what
// was true a moment ago instead of nothing.
package viewfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

// version is the form of the file. A file of another form is not read.
const version = 1

type file struct {
	Version int          `json:"version"`
	Written time.Time    `json:"written"`
	View    cluster.View `json:"view"`
}

// Load reads the view at path. No file is no error: the view is empty. The
// time says when it was written.
func Load(path string) (cluster.View, time.Time, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return cluster.View{}, time.Time{}, nil
	}
	if err != nil {
		return cluster.View{}, time.Time{}, fmt.Errorf("read the stored view: %w", err)
	}
	return decode(path, text)
}

func decode(path string, text []byte) (cluster.View, time.Time, error) {
	var f file
	if err := json.Unmarshal(text, &f); err != nil {
		return cluster.View{}, time.Time{}, fmt.Errorf("the stored view %s is damaged and will be written anew: %w", path, err)
	}
	if f.Version != version {
		return cluster.View{}, time.Time{}, fmt.Errorf("the stored view %s has form %d, this program reads form %d; it will be written anew", path, f.Version, version)
	}
	for key, s := range f.View.Services {
		if s == nil {
			return cluster.View{}, time.Time{}, fmt.Errorf("the stored view %s is damaged and will be written anew: Service %s is null", path, key)
		}
	}
	for name, n := range f.View.Nodes {
		if n == nil {
			return cluster.View{}, time.Time{}, fmt.Errorf("the stored view %s is damaged and will be written anew: Node %s is null", path, name)
		}
	}
	return f.View, f.Written, nil
}

// save writes the view so that a reader, or a crash, sees the old file or the
// new one, whole.
func save(path string, v cluster.View, now time.Time) error {
	text, err := json.Marshal(file{Version: version, Written: now, View: v})
	if err != nil {
		return fmt.Errorf("encode the view: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return fmt.Errorf("store the view: %w", err)
	}
	_, err = tmp.Write(text)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("store the view at %s: %w", path, err), os.Remove(tmp.Name()))
	}
	return nil
}

// A Writer follows a feed and keeps the file at Path up to date, at most once
// per Every. It writes nothing before the view is complete: a half view would
// replace a whole one.
type Writer struct {
	Path  string
	Every time.Duration
	Feed  *cluster.Feed
	Log   *slog.Logger
}

func (w *Writer) String() string { return "view file" }

// Run writes until ctx ends. A disk that refuses is told once and does not end
// the agent: the view is a help for bad days, not a condition for good ones.
func (w *Writer) Run(ctx context.Context) error {
	var v cluster.View
	synced, failing := false, false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.Feed.Ready():
		}
		d := w.Feed.Take()
		v.Apply(d)
		if synced = synced || d.Synced; !synced {
			continue
		}
		err := save(w.Path, v, time.Now())
		if err != nil && !failing {
			w.Log.Error("the view cannot be stored; after a restart without the API server this agent would know nothing", "err", err)
		}
		failing = err != nil
		select { // changes that come meanwhile fold in the feed
		case <-ctx.Done():
			return nil
		case <-time.After(w.Every):
		}
	}
}
