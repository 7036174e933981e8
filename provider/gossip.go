package provider

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/clarion-lb/clarion/internal/gossipkey"
)

// A KeyMaker makes the Secret with the gossip key when there is none. Both
// replicas may do it at once: the API server lets one of them make it, and
// neither ever changes one that exists.
type KeyMaker struct {
	Client    kubernetes.Interface
	Namespace string
	Log       *slog.Logger
}

func (k *KeyMaker) String() string { return "gossip key" }

// keyEvery is how often the Secret is looked for, keyRetry after a failure.
const (
	keyEvery = 5 * time.Minute
	keyRetry = 2 * time.Second
)

// Run makes sure that there is a key, until ctx ends.
func (k *KeyMaker) Run(ctx context.Context) error {
	for {
		pause := keyEvery
		if err := k.ensure(ctx); err != nil && ctx.Err() == nil {
			k.Log.Warn("the gossip key could not be made; agents that have none wait for it", "err", err, "retry", keyRetry)
			pause = keyRetry
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func (k *KeyMaker) ensure(ctx context.Context) error {
	secrets := k.Client.CoreV1().Secrets(k.Namespace)
	_, err := secrets.Get(ctx, gossipkey.Secret, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return wrapKey(err)
	}
	_, err = secrets.Create(ctx, &v1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: gossipkey.Secret, Namespace: k.Namespace, Labels: map[string]string{"app.kubernetes.io/part-of": "clarion"}},
		StringData: map[string]string{gossipkey.Field: gossipkey.New()},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // the other replica was first
	}
	if err == nil {
		k.Log.Info("made the gossip key", "secret", k.Namespace+"/"+gossipkey.Secret)
	}
	return wrapKey(err)
}

func wrapKey(err error) error {
	if err != nil {
		return fmt.Errorf("make sure that Secret %s exists: %w", gossipkey.Secret, err)
	}
	return nil
}
