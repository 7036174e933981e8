package config

import "net/netip"

// A Problem is one thing that is wrong in the ConfigMap. It concerns exactly
// one key; all other keys are in force as they are written.
type Problem struct {
	Pool    string // the key of the ConfigMap: a pool's name or «_settings»
	Path    string // where, as in «public.addresses[1]»; begins with Pool
	Message string // what is wrong and what to do, without the path
	Kept    bool   // the last good form of the pool stays in force; false when there is none
}

// Error returns the path and the message.
func (p *Problem) Error() string { return p.Path + ": " + p.Message }

// Problems returns every problem that err, as Parse returned it, holds, in the
// order of the paths. It is nil for nil and for an error of anybody else.
func Problems(err error) []*Problem { return nil }

// Parse reads the data of the ConfigMap. Each key is a pool, keys that begin
// with «_» are settings. last is what was in force until now: a key with a
// mistake keeps the form it has there, and is absent when it has none. A key
// that is gone from data is gone from the result.
//
// An address can be in one pool only. When two pools claim it, the one that is
// in force already wins over the one that was edited, and of two edited ones
// the first by name. The loser is treated like any other pool with a mistake.
//
// The error is nil or a *multierror.Error of *Problem with everything that is
// wrong; see Problems. The Config is usable in both cases.
func Parse(data map[string]string, last Config) (Config, error) { return Config{}, nil }

// ParseAddresses reads the value of the annotation clarion.dev/addresses and of
// its aliases: IP addresses of both families, separated by commas, with any
// white space around them. At least one, none twice. The error names every
// word that is no address and says why; it does not name the annotation.
func ParseAddresses(value string) ([]netip.Addr, error) { return nil, nil }
