package config

import (
	"fmt"
	"strings"
)

// didYouMean returns a question that names the word of known that is nearest
// to word, and nothing when none is near.
func didYouMean(word string, known []string) string {
	best, least := "", 3 // more than two slips of the finger is another word
	for _, k := range known {
		a, b := plainWord(word), plainWord(k)
		if n := distance(a, b); n < least && n < len(b) {
			best, least = k, n
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// plainWord folds the spellings auto-assign, auto_assign and AutoAssign.
func plainWord(s string) string {
	return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(s))
}

// distance returns how many letters must be inserted, deleted, replaced or
// exchanged with their neighbour to make b of a. Words that are
// much longer than any key are not looked at.
func distance(a, b string) int {
	const longest = 64
	if len(a) > longest || len(b) > longest {
		return longest
	}
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
