package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	two = Node{Version: 1, Name: "n1", MTU: 1500, PodCIDRs: []netip.Prefix{
		netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd44:0:0:1::/64")}}
	tiny = Node{Version: 1, Name: "n1", MTU: 1500, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/29")}}
)

func never(Sandbox) (bool, error) { return false, nil }

func open(t *testing.T, dir, boot string) *Store {
	t.Helper()
	s, err := Open(dir, boot)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// reserve makes a record and lets go of it.
func reserve(t *testing.T, s *Store, n Node, id string) []netip.Addr {
	t.Helper()
	h, err := s.Reserve(t.Context(), n, Sandbox{ContainerID: id, IfName: "eth0"}, never)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	return h.Addresses
}

func release(t *testing.T, s *Store, id string) {
	t.Helper()
	h, err := s.Take(t.Context(), Key{id, "eth0"})
	if err != nil || h == nil {
		t.Fatalf("take %s: %v, %v", id, h, err)
	}
	if err := s.Release(t.Context(), h); err != nil {
		t.Fatal(err)
	}
}

// files returns what lies in a directory of the store.
func files(t *testing.T, s *Store, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, dir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestAPodGetsOneAddressOfEachFamily(t *testing.T) {
	s := open(t, t.TempDir(), "b1")
	got := reserve(t, s, two, "c1")
	want := []netip.Addr{netip.MustParseAddr("10.244.1.1"), netip.MustParseAddr("fd44:0:0:1::1")}
	if !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	if again := reserve(t, s, two, "c1"); !slices.Equal(again, got) {
		t.Fatalf("the repeat got %v, want %v", again, got)
	}
	release(t, s, "c1")
	if left := append(files(t, s, sandboxes), files(t, s, addresses)...); len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
	if next := reserve(t, s, two, "c2"); next[0] == got[0] || next[1] == got[1] {
		t.Fatalf("%v were given again at once", next)
	}
}

func TestParallelReservationsDiffer(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	got := make([][]netip.Addr, 200)
	for i := range got {
		wg.Go(func() {
			h, err := open(t, dir, "b1").Reserve(t.Context(), two, Sandbox{ContainerID: fmt.Sprint("c", i), IfName: "eth0"}, never)
			if err != nil {
				t.Error(err)
				return
			}
			got[i] = h.Addresses
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[netip.Addr]bool{}
	for _, addrs := range got {
		for _, a := range addrs {
			seen[a] = true
		}
	}
	if len(seen) != 400 {
		t.Fatalf("%d different addresses, want 400", len(seen))
	}
}

func TestExhaustion(t *testing.T) {
	s := open(t, t.TempDir(), "b1")
	n := tiny
	n.Excluded = []netip.Addr{netip.MustParseAddr("10.244.1.1")}
	for i := range 5 {
		reserve(t, s, n, fmt.Sprint("c", i))
	}
	var full *Exhausted
	if err := s.Free(n); !errors.As(err, &full) || full.Prefix != n.PodCIDRs[0] {
		t.Fatalf("Free = %v", err)
	}
	want := Sandbox{ContainerID: "late", IfName: "eth0"}
	if _, err := s.Reserve(t.Context(), n, want, never); !errors.As(err, &full) || full.Total.Int64() != 6 {
		t.Fatalf("err = %v", err)
	}
	if got := files(t, s, sandboxes); len(got) != 5 {
		t.Fatalf("the refusal left %v", got)
	}
	dead := func(sb Sandbox) (bool, error) { return sb.ContainerID == "c3", nil }
	h, err := s.Reserve(t.Context(), n, want, dead)
	if err != nil {
		t.Fatal(err)
	}
	if h.Addresses[0] != netip.MustParseAddr("10.244.1.5") {
		t.Fatalf("got %v, want the address of the dead c3", h.Addresses)
	}
}

func TestWhatACrashLeavesHindersNobody(t *testing.T) {
	// The states a kill can leave, made by hand; the plugin's tests make them
	// with real kills.
	s := open(t, t.TempDir(), "b1")
	first := reserve(t, s, two, "c1")
	for _, a := range first { // dead between the record and its links, or between the links and the record
		if err := os.Remove(s.addressPath(a)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.dir, newRecord), []byte("{half"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, lockFile), []byte("10.244"), 0o644); err != nil {
		t.Fatal(err)
	}
	thief := reserve(t, s, two, "c2")
	if !slices.Equal(thief, first) {
		t.Fatalf("c2 got %v, want the first addresses, which nobody holds", thief)
	}
	again := reserve(t, s, two, "c1")
	if again[0] == thief[0] || again[1] == thief[1] {
		t.Fatalf("c1 and c2 both have %v", again)
	}
	release(t, s, "c1")
	if h, err := s.Take(t.Context(), Key{"c2", "eth0"}); err != nil {
		t.Fatal(err)
	} else if whole, err := s.Whole(h); err != nil || !whole {
		t.Fatalf("c2 lost its addresses: %v", err)
	}
}

func TestCollectSparesTheLivingAndTheBusy(t *testing.T) {
	s := open(t, t.TempDir(), "b1")
	for _, id := range []string{"busy", "dead", "living"} {
		reserve(t, s, two, id)
	}
	busy, err := s.Take(t.Context(), Key{"busy", "eth0"})
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	foreign := filepath.Join(s.dir, sandboxes, "README")
	if err := os.WriteFile(foreign, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(s.dir, sandboxes, "newer@eth0")
	if err := os.WriteFile(newer, []byte(`{"version":7}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(newer, s.addressPath(netip.MustParseAddr("10.244.1.99"))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.addressPath(netip.MustParseAddr("10.244.1.77")), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	freed, err := s.Collect(t.Context(), func(sb Sandbox) (bool, error) {
		return sb.ContainerID == "dead" || sb.ContainerID == "busy", nil
	})
	if err != nil || len(freed) != 1 || freed[0].ContainerID != "dead" {
		t.Fatalf("freed %v, %v", freed, err)
	}
	want := []string{"10.244.1.1", "10.244.1.3", "10.244.1.99", "fd44:0:0:1::1", "fd44:0:0:1::3"}
	if got := files(t, s, addresses); !slices.Equal(got, want) {
		t.Fatalf("addresses %v, want %v", got, want)
	}
	boom := errors.New("no kernel today")
	if freed, err := s.Collect(t.Context(), func(Sandbox) (bool, error) { return false, boom }); !errors.Is(err, boom) || len(freed) > 0 {
		t.Fatalf("freed %v, %v", freed, err)
	}
}

func TestARebootDropsEverything(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, "b1")
	first := reserve(t, s, two, "c1")
	// A power cut may leave any file empty.
	if err := os.Truncate(filepath.Join(s.dir, sandboxes, "c1@eth0"), 0); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, "b2")
	if _, err := os.Stat(filepath.Join(dir, "boot-b1")); !os.IsNotExist(err) {
		t.Fatalf("the records of the boot before are still there: %v", err)
	}
	if got := reserve(t, s, two, "c2"); !slices.Equal(got, first) {
		t.Fatalf("got %v, want %v", got, first)
	}
}

func TestAnUnreadableRecordCanBeReleased(t *testing.T) {
	s := open(t, t.TempDir(), "b1")
	reserve(t, s, two, "c1")
	if err := os.WriteFile(filepath.Join(s.dir, sandboxes, "c1@eth0"), []byte("?"), 0o644); err != nil {
		t.Fatal(err)
	}
	release(t, s, "c1")
	if left := append(files(t, s, sandboxes), files(t, s, addresses)...); len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestALockedRecordIsWaitedForAndThenReported(t *testing.T) {
	s := open(t, t.TempDir(), "b1")
	reserve(t, s, two, "c1")
	h, err := s.Take(t.Context(), Key{"c1", "eth0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("waited long enough"))
	if _, err := s.Take(ctx, Key{"c1", "eth0"}); !errors.Is(err, ErrBusy) {
		t.Fatalf("err = %v, want ErrBusy", err)
	}
	got := make(chan *Held)
	go func() {
		h, err := s.Take(t.Context(), Key{"c1", "eth0"})
		if err != nil {
			t.Error(err)
		}
		got <- h
	}()
	// Release removes the record that the other one may be waiting for.
	if err := s.Release(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if h := <-got; h != nil {
		t.Fatalf("took the released record %v", h)
	}
}

func TestPickGoesRound(t *testing.T) {
	tests := []struct {
		name, prefix, after string
		taken               []string
		want                string
	}{
		{name: "from the beginning, not the network address", prefix: "10.0.0.0/30", want: "10.0.0.1"},
		{name: "after the last one", prefix: "10.0.0.0/30", after: "10.0.0.1", want: "10.0.0.2"},
		{name: "round, not the broadcast address", prefix: "10.0.0.0/30", after: "10.0.0.2", want: "10.0.0.1"},
		{name: "round to the same", prefix: "10.0.0.0/30", after: "10.0.0.2", taken: []string{"10.0.0.1"}, want: "10.0.0.2"},
		{name: "full", prefix: "10.0.0.0/30", taken: []string{"10.0.0.1", "10.0.0.2"}},
		{name: "a cursor of another prefix", prefix: "10.0.0.0/30", after: "192.0.2.1", want: "10.0.0.1"},
		{name: "two addresses, both usable", prefix: "10.0.0.0/31", want: "10.0.0.0"},
		{name: "one address", prefix: "10.0.0.7/32", want: "10.0.0.7"},
		{name: "the end of all IPv4", prefix: "255.255.255.252/30", after: "255.255.255.254", want: "255.255.255.253"},
		{name: "not the subnet-router anycast address", prefix: "fd44::/64", want: "fd44::1"},
		{name: "the last of a prefix", prefix: "fd44::/126", after: "fd44::2", want: "fd44::3"},
		{name: "round", prefix: "fd44::/126", after: "fd44::3", want: "fd44::1"},
		{name: "the end of all IPv6", prefix: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126", after: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", want: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffd"},
		{name: "two addresses", prefix: "fd44::/127", after: "fd44::", want: "fd44::1"},
	}
	for _, tt := range tests {
		t.Run(tt.prefix+" "+tt.name, func(t *testing.T) {
			var after netip.Addr
			if tt.after != "" {
				after = netip.MustParseAddr(tt.after)
			}
			got, ok := pick(netip.MustParsePrefix(tt.prefix), after, func(a netip.Addr) bool { return slices.Contains(tt.taken, a.String()) })
			if ok != (tt.want != "") || ok && got.String() != tt.want {
				t.Fatalf("got %v, %v; want %q", got, ok, tt.want)
			}
		})
	}
}

func TestAStuckLockDoesNotHangForEver(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, "b1")
	f, err := os.OpenFile(filepath.Join(s.dir, lockFile), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := s.Reserve(ctx, two, Sandbox{ContainerID: "c1", IfName: "eth0"}, never); !errors.Is(err, ErrBusy) {
		t.Fatalf("err = %v, want ErrBusy", err)
	}
}
