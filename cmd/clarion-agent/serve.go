package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/clarion-lb/clarion/internal/task"
)

// serve answers HTTP on a listener until ctx ends.
func serve(name string, listener net.Listener, handler http.Handler) task.Task {
	return task.Func(name, func(ctx context.Context) error {
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
		failed := make(chan error, 1)
		go func() { failed <- server.Serve(listener) }()
		select {
		case err := <-failed:
			return fmt.Errorf("serve %s: %w", listener.Addr(), err)
		case <-ctx.Done():
		}
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if err := server.Shutdown(last); err != nil {
			err = errors.Join(err, server.Close())
			return fmt.Errorf("stop serving %s: %w", listener.Addr(), err)
		}
		return nil
	})
}
