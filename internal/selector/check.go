package selector

import (
	"fmt"
	"regexp"
	"strings"
)

var (
	name      = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)
	subdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
)

// The longest that the API server takes (apimachinery/pkg/util/validation).
const (
	maxName      = 63
	maxSubdomain = 253
)

// CheckKey returns an error when no label can have the key: it is a name of
// at most 63 letters, digits, «-», «_» and «.», optionally after a DNS name and
// a slash.
func CheckKey(key string) error {
	prefix, rest, found := strings.Cut(key, "/")
	if !found {
		prefix, rest = "", key
	}
	if found && (len(prefix) > maxSubdomain || !subdomain.MatchString(prefix)) {
		return fmt.Errorf("%q is not a label key: %q before the slash is not a DNS name", key, prefix)
	}
	if len(rest) > maxName || !name.MatchString(rest) {
		return fmt.Errorf("%q is not a label key: %q is not 1 to %d letters, digits, «-», «_» or «.» that begin and end with a letter or digit", key, rest, maxName)
	}
	return nil
}

// CheckValue returns an error when no label can have the value.
func CheckValue(value string) error {
	if value != "" && (len(value) > maxName || !name.MatchString(value)) {
		return fmt.Errorf("%q is not a label value: it is at most %d letters, digits, «-», «_» or «.» that begin and end with a letter or digit", value, maxName)
	}
	return nil
}
