package viewfile

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clarion-lb/clarion/internal/cluster"
)

func sample() cluster.View {
	return cluster.View{
		Services: map[cluster.Key]*cluster.Service{"shop/a": {
			Key: "shop/a", UID: "1", Created: time.Unix(1000, 0).UTC(), Ours: true, Affinity: time.Hour,
			VIPs:         []netip.Addr{netip.MustParseAddr("192.0.2.200"), netip.MustParseAddr("2001:db8:1::200")},
			SourceRanges: []netip.Prefix{netip.MustParsePrefix("2001:db8::/32")},
			Ports: []cluster.Port{{Name: "web", Protocol: cluster.TCP, Port: 80, Endpoints: []cluster.Endpoint{
				{Addr: netip.MustParseAddrPort("[fd44::5]:8080"), Node: "node1", Ready: true},
			}}},
		}},
		Nodes: map[string]*cluster.Node{"node1": {
			Name: "node1", Refused: cluster.Cordoned, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24")},
			Links: []cluster.Link{{Name: "eth0", MAC: cluster.MAC{2, 0, 0, 0, 0, 1}, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}},
		}},
		Pools: map[string]string{"default": "192.0.2.200-192.0.2.250"},
	}
}

func TestTheViewSurvivesTheDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "view.json")
	now := time.Unix(2000, 0).UTC()
	if err := save(path, sample(), now); err != nil {
		t.Fatal(err)
	}
	got, written, err := Load(path)
	if err != nil || !written.Equal(now) {
		t.Fatal(written, err)
	}
	if !reflect.DeepEqual(got, sample()) {
		t.Fatalf("got %+v", got)
	}
	if left, _ := filepath.Glob(path + "*.tmp"); left != nil {
		t.Fatalf("left behind: %v", left)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if v, _, err := Load(filepath.Join(dir, "none")); err != nil || v.Nodes != nil {
		t.Fatalf("no file: %v, %v", v, err)
	}
	for text, want := range map[string]string{
		"{":             "damaged",
		`{"version":9}`: "form 9",
		`{"version":1,"view":{"Services":{"a/b":null}}}`: "Service a/b is null",
		`{"version":1,"view":{"Nodes":{"n":null}}}`:      "Node n is null",
	} {
		path := filepath.Join(dir, "view.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Load(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: err = %v, want %q", text, err, want)
		}
	}
}

func TestWriterWaitsForACompleteViewAndIsPaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "view.json")
	synctest.Test(t, func(t *testing.T) {
		feed := cluster.NewFeed()
		w := &Writer{Path: path, Every: time.Second, Feed: feed, Log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		feed.Put(sample().Delta())
		synctest.Wait()
		if v, _, _ := Load(path); v.Nodes != nil {
			t.Error("a view was written before it was complete")
		}
		feed.Put(cluster.Delta{Synced: true})
		synctest.Wait()
		if v, _, err := Load(path); err != nil || len(v.Services) != 1 {
			t.Errorf("the complete view was not written at once: %+v, %v", v, err)
		}
		feed.Put(cluster.Delta{Services: map[cluster.Key]*cluster.Service{"shop/a": nil}})
		synctest.Wait()
		if v, _, _ := Load(path); len(v.Services) != 1 {
			t.Error("a second write came within the pause")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if v, _, _ := Load(path); len(v.Services) != 0 {
			t.Error("the change was not written after the pause")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"version":1,"view":{"Nodes":{"n":{"Name":"n"}}}}`))
	f.Add([]byte(`{"version":1,"view":{"Services":{"a/b":{"VIPs":["192.0.2.1"]}}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		v, _, err := decode("view.json", text)
		if err != nil {
			return
		}
		v.Apply(v.Delta()) // must be usable without a panic
		for _, s := range v.Services {
			s.ReadyNodes()
		}
	})
}
