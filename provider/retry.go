package provider

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// Pauses between tries of one request. The service controller's own retry
// begins at five seconds, far too long after a blip of the API server.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

// A backoff pauses longer each time: 20 ms doubling to one second, each
// shortened at random by up to half, so that many workers do not come back in
// step. The zero value is ready.
type backoff struct{ next time.Duration }

// wait pauses and returns nil, or returns the context's error when that ends
// first.
func (b *backoff) wait(ctx context.Context) error {
	if b.next == 0 {
		b.next = firstPause
	}
	pause := b.next - rand.N(b.next/2)
	b.next = min(2*b.next, lastPause)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func try(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	return do(ctx)
}

// transient reports whether the same request may succeed later although
// nothing about it is changed: the server is busy, restarting or unreachable.
func transient(err error) bool {
	return apierrors.IsTooManyRequests(err) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) ||
		apierrors.IsInternalError(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsUnexpectedServerError(err) ||
		utilnet.IsConnectionRefused(err) || utilnet.IsConnectionReset(err) || utilnet.IsProbableEOF(err) ||
		utilnet.IsTimeout(err) || errors.Is(err, context.DeadlineExceeded) || utilnet.IsHTTP2ConnectionLost(err)
}

// tryTimeout is how long one request may take. An API server that took it and
// never answers must not hold a worker for ever.
const tryTimeout = 5 * time.Second

// insist runs do until it gives anything but a transient error, or ctx ends.
// The context that do gets ends after tryTimeout.
func insist(ctx context.Context, do func(context.Context) error) error {
	pause := backoff{}
	for {
		err := try(ctx, do)
		if err == nil || !transient(err) {
			return err
		}
		if pause.wait(ctx) != nil {
			return err // the last answer says more than «context canceled»
		}
	}
}
