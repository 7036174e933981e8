package member

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// A logWriter takes memberlist's log lines. What it calls an error is a
// warning here, because the agents go on, and the same kind of line is
// written at most once a minute; everything else is for debugging, because a
// dead node makes it say the same several times a second. What people must
// know is in Peers.
type logWriter struct {
	log *slog.Logger

	mu   sync.Mutex
	last map[string]time.Time
}

const (
	logEvery = time.Minute
	logKinds = 64 // more kinds than that are forgotten all at once
)

func newLogWriter(log *slog.Logger) *logWriter {
	return &logWriter{log: log, last: map[string]time.Time{}}
}

// Write takes one line, as package log writes it: date, time, [LEVEL], text.
func (w *logWriter) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	level := slog.LevelDebug
	if _, rest, ok := strings.Cut(text, "["); ok {
		var name string
		if name, text, ok = strings.Cut(rest, "] "); ok && strings.HasPrefix(name, "ERR") {
			level = slog.LevelWarn
		}
	}
	text = strings.TrimPrefix(text, "memberlist: ")
	if level == slog.LevelDebug || w.fresh(text) {
		w.log.Log(context.Background(), level, text, "from", "memberlist")
	}
	return len(line), nil
}

// fresh reports whether a line of this kind was not written within a minute.
func (w *logWriter) fresh(text string) bool {
	kind, _, _ := strings.Cut(text, ":")
	kind = strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, kind)
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if now.Sub(w.last[kind]) < logEvery {
		return false
	}
	if len(w.last) >= logKinds {
		clear(w.last)
	}
	w.last[kind] = now
	return true
}
