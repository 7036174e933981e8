// Package config reads the pools that the user wrote into the ConfigMap
// clarion-pools. It is strict, tells every problem at once with its path, and
// lets a mistake in one pool touch that pool only.
//
// Read config.go (the values), parse.go (from text to values), long.go (the keys
// of the long form), overlap.go (who wins when two pools claim an address), then
// reference.yaml, which shows every key.
package config

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/clarion-lb/clarion/internal/iprange"
	"github.com/clarion-lb/clarion/internal/selector"
)

// A Pool is a named set of addresses that the user owns, with rules on who may
// use it and how it is announced.
type Pool struct {
	Name      string
	Addresses iprange.Set

	// AutoAssign lets Services that ask for neither this pool nor one of its
	// addresses get one. True unless the user says otherwise.
	AutoAssign bool
	// AvoidBuggyIPs keeps the IPv4 addresses that end in .0 and .255 from being
	// chosen. A Service that asks for one of them by address still gets it.
	AvoidBuggyIPs bool
	// Priority orders the pools: the higher is tried first, equal ones by name.
	Priority int

	// Namespaces and NamespaceSelector say whose Services may use the pool; one
	// of the two is enough. When neither is set, all namespaces may.
	Namespaces        []string
	NamespaceSelector *selector.Selector
	// ServiceSelector must match the labels of the Service, in addition.
	ServiceSelector *selector.Selector

	Announce Announce
}

// Announce narrows where the VIPs of a pool are announced. The zero value is
// everywhere.
type Announce struct {
	Interfaces   []string           // globs as in path.Match; a link needs to match one
	NodeSelector *selector.Selector // nil means every node
}

// Settings are global. They stand under the key «_settings» of the ConfigMap.
type Settings struct {
	// RestTime is how long an address that a Service gave up rests before
	// another Service may get it. The Service that held it may have it back at
	// once. Default 0: who waits for a full pool is served at once.
	RestTime time.Duration
	// Quarantine is how long an address rests after a foreign host was seen
	// using it. Default 10 minutes.
	Quarantine time.Duration
}

// DefaultSettings returns the settings of an empty «_settings».
func DefaultSettings() Settings { return Settings{Quarantine: 10 * time.Minute} }

// Config is what is in force. The zero value has no pools; Parse of no data
// returns it with the default settings.
type Config struct {
	Pools    []Pool // sorted by name; no address is in two of them
	Settings Settings

	raw map[string]string // the text of each pool in force, and of the settings
}

// Pool returns the pool with that name.
func (c Config) Pool(name string) (Pool, bool) {
	i, ok := slices.BinarySearchFunc(c.Pools, Pool{Name: name}, compareNames)
	if !ok {
		return Pool{}, false
	}
	return c.Pools[i], true
}

func compareNames(a, b Pool) int { return strings.Compare(a.Name, b.Name) }

// Raw returns the text of everything in force, by key, as the user wrote it.
// Parse(c.Raw(), Config{}) gives c again, without a problem: whoever stores Raw
// can start later from the last good form of every pool.
func (c Config) Raw() map[string]string { return maps.Clone(c.raw) }
