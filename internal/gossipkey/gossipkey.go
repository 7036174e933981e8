// Package gossipkey is the form of the keys with which agents encrypt what
// they say to each other: as text in a Secret, and as a file on each node, so
// that an agent which starts while the API server is away can still talk.
package gossipkey

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Secret is the name of the Secret, and Field the key in it that holds the text.
const (
	Secret = "clarion-gossip"
	Field  = "keys"
)

// size is the length of a key in bytes: AES-256.
const size = 32

// A Ring is what agents share.
type Ring struct {
	Cluster string   // tells this cluster from others on the same network: the UID of the Secret
	Keys    [][]byte // the first encrypts, all decrypt
}

// Equal reports whether r and o say the same.
func (r Ring) Equal(o Ring) bool {
	if r.Cluster != o.Cluster || len(r.Keys) != len(o.Keys) {
		return false
	}
	for i := range r.Keys {
		if !bytes.Equal(r.Keys[i], o.Keys[i]) {
			return false
		}
	}
	return true
}

// New returns the text of one new random key.
func New() string {
	key := make([]byte, size)
	if _, err := rand.Read(key); err != nil {
		panic(fmt.Sprintf("the kernel has no random bytes: %v", err)) // documented never to happen
	}
	return base64.StdEncoding.EncodeToString(key) + "\n"
}

// Parse reads the text of a Secret: a key of 32 bytes in base64 on each line,
// the one in use first. The error names the line and never shows a key.
func Parse(text string) ([][]byte, error) {
	var keys [][]byte
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(key) != size {
			return nil, fmt.Errorf("line %d is not a key of %d bytes in base64; make one with: head -c %d /dev/urandom | base64", i+1, size, size)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("there is no key; make one with: head -c %d /dev/urandom | base64", size)
	}
	return keys, nil
}

// Load reads the ring that Save wrote. No file is an empty ring and no error.
func Load(path string) (Ring, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Ring{}, nil
	}
	if err != nil {
		return Ring{}, fmt.Errorf("read the stored keys: %w", err)
	}
	var r Ring
	if err := json.Unmarshal(text, &r); err != nil {
		return Ring{}, fmt.Errorf("the stored keys in %s are damaged and will be written anew", path)
	}
	for _, k := range r.Keys {
		if len(k) != size {
			return Ring{}, fmt.Errorf("the stored keys in %s are damaged and will be written anew", path)
		}
	}
	return r, nil
}

// Save writes the ring for root alone, whole or not at all.
func Save(path string, r Ring) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the keys: %w", err)
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return fmt.Errorf("store the keys: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("store the keys: %w", err)
	}
	return nil
}
