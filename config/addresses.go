package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/clarion-lb/clarion/internal/iprange"
)

// ParseAddresses reads the value of the annotation clarion.dev/addresses and of
// its aliases: IP addresses of both families, separated by commas, with any
// white space around them. At least one, none twice. The error tells
// every word that is no address and says why, in the order of the text and
// joined by semicolons; it does not name the annotation.
func ParseAddresses(value string) ([]netip.Addr, error) {
	var addrs []netip.Addr
	var wrong []string
	for word := range strings.SplitSeq(value, ",") {
		if strings.TrimSpace(word) == "" {
			continue // a comma at the end
		}
		a, err := iprange.ParseAddr(word)
		switch {
		case err != nil:
			wrong = append(wrong, err.Error())
		case slices.Contains(addrs, a):
			wrong = append(wrong, fmt.Sprintf("%v stands twice", a))
		default:
			addrs = append(addrs, a)
		}
	}
	switch {
	case len(wrong) > 0:
		return nil, errors.New(strings.Join(wrong, "; "))
	case len(addrs) == 0:
		return nil, errors.New("names no address: list IP addresses separated by commas, or remove it")
	}
	return addrs, nil
}
