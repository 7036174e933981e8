package watch

import (
	"context"
	"fmt"
	"log/slog"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/clarion-lb/clarion/internal/gossipkey"
)

// Keys follows the Secret with the keys of the agents' gossip.
type Keys struct {
	Client    kubernetes.Interface
	Namespace string
	Log       *slog.Logger
	// Got is called with every ring that can be read, from one goroutine.
	Got func(gossipkey.Ring)
}

func (k *Keys) String() string { return "gossip keys" }

// Run follows the Secret until ctx ends. A Secret that is deleted or damaged
// changes nothing: the keys in use stay in use.
func (k *Keys) Run(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(k.Client, 0, informers.WithNamespace(k.Namespace),
		informers.WithTransform(withoutManagedFields),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", gossipkey.Secret).String()
		}))
	_, err := factory.Core().V1().Secrets().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    k.read,
		UpdateFunc: func(_, now any) { k.read(now) },
		DeleteFunc: func(any) {
			k.Log.Warn("the Secret with the gossip keys was deleted; the keys in use stay in use until agents restart", "secret", gossipkey.Secret)
		},
	})
	if err != nil {
		return fmt.Errorf("listen to the Secret %s: %w", gossipkey.Secret, err)
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
	factory.Shutdown()
	return nil
}

func (k *Keys) read(object any) {
	secret, ok := object.(*v1.Secret)
	if !ok || secret.Name != gossipkey.Secret {
		return
	}
	keys, err := gossipkey.Parse(string(secret.Data[gossipkey.Field]))
	if err != nil {
		k.Log.Error("the Secret with the gossip keys cannot be used; the keys in use stay in use",
			"secret", k.Namespace+"/"+gossipkey.Secret, "field", gossipkey.Field, "err", err)
		return
	}
	k.Got(gossipkey.Ring{Cluster: string(secret.UID), Keys: keys})
}
