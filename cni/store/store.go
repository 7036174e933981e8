// Package store keeps on disk which pod holds which address, in such a way
// that a kill -9 at any instant leaks nothing and gives nothing twice.
//
// Read node.go (what the agent tells the plugin), sandbox.go (the record of
// one ADD), pick.go (which address is next), then this file (the transaction).
//
// The data directory:
//
//	node.json                         what the agent wrote; see Node
//	boot-ID/                          one directory per boot of the machine
//	boot-ID/lock                      held for the short time of a change; remembers the last addresses given
//	boot-ID/sandboxes/CONTAINER@IF    the record of one attachment, locked while somebody works on it
//	boot-ID/addresses/ADDRESS         a hard link to the record that holds the address
//
// One rule carries everything: a record holds an address when, and only when,
// the address's file is the record's own inode. A record is put in place
// first and linked to its addresses afterwards, and on release the links go
// first, so whatever a crash leaves is a record that holds less than it says.
// Such a record hinders nobody, and the next ADD, DEL or Collect removes it.
//
// No namespace outlives a boot, so neither does a record: what other boots
// left is dropped whole, without being read. That is why nothing in here is
// synced to the disk: a power cut ends the boot, and with it all that a lost
// write could have said. See docs/decisions/0004-pod-network.md.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/clarion-lb/clarion/internal/ipfam"
)

// DefaultDir is where the state lies unless the configuration says otherwise.
const DefaultDir = "/var/lib/clarion/cni"

// BootIDFile is where the kernel shows the identity of this boot.
const BootIDFile = "/proc/sys/kernel/random/boot_id"

const (
	bootPrefix = "boot-"
	lockFile   = "lock"
	newRecord  = "new" // a record in the making; the lock's holder owns the name
	sandboxes  = "sandboxes"
	addresses  = "addresses"
)

// A Store is the records of one boot. It has no state of its own: any number
// of processes may open the same one.
type Store struct {
	dir string // the boot's directory

	// Reached, when set, is called after each change on the disk. Tests die
	// in it.
	Reached func(step string)
}

// Open opens the records of the boot with the given id and drops those of
// other boots. The directories are made.
func Open(dir, bootID string) (*Store, error) {
	if bootID == "" || strings.ContainsAny(bootID, "/\x00") {
		return nil, fmt.Errorf("%q is no boot id", bootID)
	}
	s := &Store{dir: filepath.Join(dir, bootPrefix+bootID)}
	for _, d := range []string{sandboxes, addresses} {
		if err := os.MkdirAll(filepath.Join(s.dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), bootPrefix) && e.Name() != bootPrefix+bootID {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return nil, fmt.Errorf("drop what an earlier boot left: %w", err)
			}
		}
	}
	return s, nil
}

// OpenThisBoot opens the records of the running boot.
func OpenThisBoot(dir string) (*Store, error) {
	id, err := os.ReadFile(BootIDFile)
	if err != nil {
		return nil, fmt.Errorf("which boot this is: %w", err)
	}
	return Open(dir, strings.TrimSpace(string(id)))
}

func (s *Store) reached(step string) {
	if s.Reached != nil {
		s.Reached(step)
	}
}

// Exhausted says that every address of a prefix is held.
type Exhausted struct {
	Prefix netip.Prefix
	Total  *big.Int // addresses of the prefix that a pod could have
}

func (e *Exhausted) Error() string {
	return fmt.Sprintf("all %s addresses of %s are in use", e.Total, e.Prefix)
}

// A Held is a record that the caller has locked. Nobody else releases or
// collects it until Close.
type Held struct {
	Sandbox

	file *os.File
}

// Close unlocks the record. It changes nothing on the disk.
func (h *Held) Close() error { return h.file.Close() }

// Reserve makes the record of want and gives it one free address of every
// prefix. A record of the same key that wants the same and still holds its
// addresses is returned as it is, so that a repeated ADD gets the same ones;
// one that differs is released first. stale reports whether nothing in the
// kernel stands behind a record any more; it is asked only when a prefix is
// used up. Errors: *Exhausted, ErrBusy, or what the file system says; then
// nothing is held.
func (s *Store) Reserve(ctx context.Context, n Node, want Sandbox, stale func(Sandbox) (bool, error)) (*Held, error) {
	want.Version = SandboxVersion
	if err := want.Key().Validate(); err != nil {
		return nil, err
	}
	have, err := s.Take(ctx, want.Key())
	if err != nil {
		return nil, err
	}
	if have != nil {
		whole, err := s.Whole(have)
		if err != nil {
			return nil, errors.Join(err, have.Close())
		}
		if whole && have.wants(want) && fits(n, have.Addresses) {
			return have, nil
		}
		if err := s.Release(ctx, have); err != nil {
			return nil, err
		}
	}
	h, err := s.reserve(ctx, n, want)
	var full *Exhausted
	if !errors.As(err, &full) {
		return h, err
	}
	freed, cerr := s.Collect(ctx, stale)
	if len(freed) == 0 {
		return nil, errors.Join(err, cerr)
	}
	return s.reserve(ctx, n, want)
}

// fits reports whether addrs are still one of each of the node's prefixes.
func fits(n Node, addrs []netip.Addr) bool {
	if len(addrs) != len(n.PodCIDRs) {
		return false
	}
	for i, p := range n.PodCIDRs {
		if !p.Contains(addrs[i]) {
			return false
		}
	}
	return true
}

// Whole reports whether the record holds all its addresses.
func (s *Store) Whole(h *Held) (bool, error) {
	for _, a := range h.Addresses {
		same, err := sameFile(h.file, s.addressPath(a))
		if err != nil || !same {
			return false, err
		}
	}
	return len(h.Addresses) > 0, nil
}

func (s *Store) addressPath(a netip.Addr) string {
	return filepath.Join(s.dir, addresses, a.String())
}

func (s *Store) reserve(ctx context.Context, n Node, want Sandbox) (held *Held, err error) {
	lock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()

	taken, err := s.taken(n)
	if err != nil {
		return nil, err
	}
	last := readCursor(lock)
	want.Addresses = nil
	for _, p := range n.PodCIDRs {
		a, ok := pick(p, last[family(p)], func(a netip.Addr) bool { return taken[a] })
		if !ok {
			return nil, &Exhausted{p, usable(p).count()}
		}
		taken[a] = true
		last[family(p)] = a
		want.Addresses = append(want.Addresses, a)
	}
	f, err := s.place(ctx, want)
	if err != nil {
		return nil, err
	}
	h := &Held{want, f}
	for _, a := range want.Addresses {
		if err := os.Link(filepath.Join(s.dir, sandboxes, want.Key().String()), s.addressPath(a)); err != nil {
			return nil, errors.Join(fmt.Errorf("hold %s: %w", a, err), s.drop(h))
		}
		s.reached("link " + ipfam.Of(a).String())
	}
	if err := writeCursor(lock, last); err != nil {
		return nil, errors.Join(err, s.drop(h))
	}
	s.reached("cursor")
	return h, nil
}

// place puts a new record in place, locked. The caller has the store's lock.
func (s *Store) place(ctx context.Context, sb Sandbox) (f *os.File, err error) {
	data, err := json.MarshalIndent(sb, "", "  ")
	if err != nil {
		return nil, err
	}
	tmp, path := filepath.Join(s.dir, newRecord), filepath.Join(s.dir, sandboxes, sb.Key().String())
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err = os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			// Only the holder of the lock uses this name, so it is ours or gone.
			if rerr := os.Remove(tmp); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				err = errors.Join(err, rerr)
			}
			err = errors.Join(err, f.Close())
		}
	}()
	if err := flock(ctx, f); err != nil {
		return nil, err
	}
	s.reached("new record made")
	if _, err := f.Write(append(data, '\n')); err != nil {
		return nil, err
	}
	s.reached("new record written")
	// Two ADDs for one key at one time: the second finds the first one's record.
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("%w: another ADD for %s runs at the same time", ErrBusy, sb.Key())
	}
	if err := os.Rename(tmp, path); err != nil {
		return nil, err
	}
	s.reached("record in place")
	return f, nil
}

// taken returns the addresses that nobody may get now.
func (s *Store) taken(n Node) (map[netip.Addr]bool, error) {
	held, err := os.ReadDir(filepath.Join(s.dir, addresses))
	if err != nil {
		return nil, err
	}
	taken := make(map[netip.Addr]bool, len(held)+len(n.Excluded))
	for _, a := range n.Excluded {
		taken[a] = true
	}
	for _, e := range held {
		if a, err := netip.ParseAddr(e.Name()); err == nil {
			taken[a] = true
		}
	}
	return taken, nil
}

// Take locks the record of a key, waiting for whoever works on it. It returns
// nil when there is none. A record that cannot be read is returned with its
// key alone, so that it can be released.
func (s *Store) Take(ctx context.Context, k Key) (*Held, error) {
	if err := k.Validate(); err != nil {
		return nil, err
	}
	f, err := s.openLocked(ctx, k.String(), true)
	if f == nil || err != nil {
		return nil, err
	}
	return load(f, k)
}

func load(f *os.File, k Key) (*Held, error) {
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	sb, err := ParseSandbox(data)
	if err != nil || sb.Key() != k {
		sb = Sandbox{ContainerID: k.ContainerID, IfName: k.IfName}
	}
	return &Held{sb, f}, nil
}

// Release gives the addresses of a record back, removes it and closes h. It
// may be called for a record that a crash left half made or half released.
func (s *Store) Release(ctx context.Context, h *Held) (err error) {
	lock, err := s.lock(ctx)
	if err != nil {
		return errors.Join(err, h.Close())
	}
	return errors.Join(s.drop(h), lock.Close())
}

// drop is Release for a caller that has the store's lock.
func (s *Store) drop(h *Held) error {
	addrs := h.Addresses
	if len(addrs) == 0 {
		// The record could not be read: search the links that are its inode.
		held, err := os.ReadDir(filepath.Join(s.dir, addresses))
		if err != nil {
			return errors.Join(err, h.Close())
		}
		for _, e := range held {
			if a, err := netip.ParseAddr(e.Name()); err == nil {
				addrs = append(addrs, a)
			}
		}
	}
	for _, a := range addrs {
		mine, err := sameFile(h.file, s.addressPath(a))
		if err == nil && mine {
			err = os.Remove(s.addressPath(a))
			s.reached("unlink " + ipfam.Of(a).String())
		}
		if err != nil {
			return errors.Join(fmt.Errorf("give %s back: %w", a, err), h.Close())
		}
	}
	path := filepath.Join(s.dir, sandboxes, h.Key().String())
	mine, err := sameFile(h.file, path)
	if err == nil && mine {
		err = os.Remove(path)
		s.reached("record removed")
	}
	return errors.Join(err, h.Close())
}

// List returns all records, in the order of their keys. One that cannot be
// read has only its key. It takes no lock: what it returns may be in the
// making or on its way out.
func (s *Store) List() ([]Sandbox, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, sandboxes))
	if err != nil {
		return nil, err
	}
	var list []Sandbox
	for _, e := range entries {
		k, ok := parseKey(e.Name())
		if !ok {
			continue
		}
		data, err := os.ReadFile(filepath.Join(s.dir, sandboxes, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went while we looked
		}
		if err != nil {
			return nil, err
		}
		sb, err := ParseSandbox(data)
		if err != nil || sb.Key() != k {
			sb = Sandbox{ContainerID: k.ContainerID, IfName: k.IfName}
		}
		list = append(list, sb)
	}
	return list, nil
}

func parseKey(name string) (Key, bool) {
	id, ifName, ok := strings.Cut(name, "@")
	k := Key{id, ifName}
	return k, ok && k.Validate() == nil
}

// Collect releases the records that nobody works on and that stale calls
// stale, and drops links that belong to no record. It goes on over errors and
// returns what it released.
func (s *Store) Collect(ctx context.Context, stale func(Sandbox) (bool, error)) (freed []Sandbox, err error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, sandboxes))
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, e := range entries {
		k, ok := parseKey(e.Name())
		if !ok {
			continue // no file of ours
		}
		f, err := s.openLocked(ctx, e.Name(), false)
		if errors.Is(err, ErrBusy) {
			continue // an ADD or a DEL works on it and will finish its job
		}
		if err != nil {
			errs = append(errs, err)
		}
		if f == nil {
			continue
		}
		h, err := load(f, k)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		gone, err := stale(h.Sandbox)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("look for the remains of %s: %w", k, err), h.Close())
		case gone:
			if err := s.Release(ctx, h); err != nil {
				errs = append(errs, err)
				continue
			}
			freed = append(freed, h.Sandbox)
		default:
			errs = append(errs, h.Close())
		}
	}
	errs = append(errs, s.dropOrphans(ctx))
	return freed, errors.Join(errs...)
}

// dropOrphans removes addresses whose record is gone. Our own order of writes
// never leaves one; a hand that deletes a record does. It compares inodes and
// reads nothing, so that a record of a newer release keeps its addresses.
func (s *Store) dropOrphans(ctx context.Context) (err error) {
	lock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	records, err := s.inodes(sandboxes)
	if err != nil {
		return err
	}
	held, err := s.inodes(addresses)
	if err != nil {
		return err
	}
	living := map[uint64]bool{}
	for _, inode := range records {
		living[inode] = true
	}
	for name, inode := range held {
		if !living[inode] {
			err = errors.Join(err, os.Remove(filepath.Join(s.dir, addresses, name)))
		}
	}
	return err
}

// inodes lists a directory of the store.
func (s *Store) inodes(dir string) (map[string]uint64, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, dir))
	if err != nil {
		return nil, err
	}
	found := make(map[string]uint64, len(entries))
	for _, e := range entries {
		var st unix.Stat_t
		err := unix.Stat(filepath.Join(s.dir, dir, e.Name()), &st)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("stat %s/%s: %w", dir, e.Name(), err)
		}
		found[e.Name()] = st.Ino
	}
	return found, nil
}

// Free returns the first prefix of n that has no free address left, as
// *Exhausted, or nil.
func (s *Store) Free(n Node) error {
	taken, err := s.taken(n)
	if err != nil {
		return err
	}
	for _, p := range n.PodCIDRs {
		if _, ok := pick(p, netip.Addr{}, func(a netip.Addr) bool { return taken[a] }); !ok {
			return &Exhausted{p, usable(p).count()}
		}
	}
	return nil
}

// lock takes the lock of the whole store.
func (s *Store) lock(ctx context.Context) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, lockFile), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := flock(ctx, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// A cursor is the last address given of each family.
type cursor map[ipfam.Family]netip.Addr

// readCursor reads the cursor out of the lock file. A torn or strange one
// means to begin at the beginning: it only makes addresses rest, it does not
// say which are free.
func readCursor(lock *os.File) cursor {
	c := cursor{}
	data, err := io.ReadAll(lock)
	if err != nil {
		return c
	}
	for word := range strings.FieldsSeq(string(data)) {
		if a, err := netip.ParseAddr(word); err == nil {
			c[ipfam.Of(a)] = a
		}
	}
	return c
}

func writeCursor(lock *os.File, c cursor) error {
	var words []string
	for _, f := range []ipfam.Family{ipfam.V4, ipfam.V6} {
		if a := c[f]; a.IsValid() {
			words = append(words, a.String())
		}
	}
	if err := lock.Truncate(0); err != nil {
		return err
	}
	_, err := lock.WriteAt([]byte(strings.Join(words, " ")+"\n"), 0)
	return err
}

func family(p netip.Prefix) ipfam.Family { return ipfam.Of(p.Addr()) }

// Exclusive calls f with all records while nobody can reserve or release. It
// must be short.
func (s *Store) Exclusive(ctx context.Context, f func(records []Sandbox) error) (err error) {
	lock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	records, err := s.List()
	if err != nil {
		return err
	}
	return f(records)
}
