package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/clarion-lb/clarion/internal/annotation"
	"github.com/clarion-lb/clarion/provider"
)

// manager is the field manager of what a take-over writes.
const manager = "kubectl-clarion"

// replicasBefore is the annotation that keeps how many replicas a Deployment
// had, for whoever undoes the take-over.
const replicasBefore = "clarion.dev/replicas-before"

// Apply does the steps that are ready, in their order, and stops at the first
// that is not or that fails. It returns what was done. Doing it again goes on
// where it stopped.
func Apply(ctx context.Context, client kubernetes.Interface, p Plan) (done []Step, err error) {
	for _, s := range p.Steps {
		switch s.Progress {
		case Done:
			continue
		case Ready:
		default:
			return done, nil
		}
		if err := apply(ctx, client, p, s); err != nil {
			return done, fmt.Errorf("%s (%s): %w; nothing after it was done, and the same command goes on from here", s.What, s.Object, err)
		}
		s.Progress = Done
		done = append(done, s)
	}
	return done, nil
}

func apply(ctx context.Context, client kubernetes.Interface, p Plan, s Step) error {
	namespace, name, _ := strings.Cut(s.Object, "/")
	options := metav1.PatchOptions{FieldManager: manager}
	switch s.Kind {
	case WritePools:
		_, err := client.CoreV1().Namespaces().Create(ctx, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{FieldManager: manager})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create its namespace: %w", err)
		}
		_, err = client.CoreV1().ConfigMaps(namespace).Create(ctx, p.manifest(), metav1.CreateOptions{FieldManager: manager})
		return err
	case ShareAddresses:
		i := slices.IndexFunc(p.Services, func(svc Service) bool { return string(svc.Service) == s.Object })
		patch := annotate(annotation.Share, p.Services[i].Share)
		_, err := client.CoreV1().Services(namespace).Patch(ctx, name, types.MergePatchType, encode(patch), options)
		return err
	case StopController:
		now, err := client.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		before := int32(1) // the API's default
		if now.Spec.Replicas != nil {
			before = *now.Spec.Replicas
		}
		patch := annotate(replicasBefore, fmt.Sprint(before))
		patch["spec"] = map[string]any{"replicas": 0}
		_, err = client.AppsV1().Deployments(namespace).Patch(ctx, name, types.MergePatchType, encode(patch), options)
		return err
	case StopSpeakers:
		patch := map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"nodeSelector": map[string]string{retired: "true"}}}}}
		_, err := client.AppsV1().DaemonSets(namespace).Patch(ctx, name, types.MergePatchType, encode(patch), options)
		return err
	}
	panic(fmt.Sprintf("step %q is nothing that a program does", s.Kind))
}

func annotate(key, value string) map[string]any {
	return map[string]any{"metadata": map[string]any{"annotations": map[string]string{key: value}}}
}

func encode(patch map[string]any) []byte {
	out, err := json.Marshal(patch)
	if err != nil {
		panic(fmt.Sprintf("the patch %v cannot be encoded: %v", patch, err)) // plain values always can
	}
	return out
}

// manifest is the ConfigMap of the pools.
func (p Plan) manifest() *v1.ConfigMap {
	return &v1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: provider.PoolsName},
		Data:       p.Pools,
	}
}

// Check reads the Services again and says which do not show the addresses that
// they had when the plan was made.
func Check(ctx context.Context, client kubernetes.Interface, p Plan) ([]string, error) {
	list, err := client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, unreadable("the Services of all namespaces, to check that they keep their addresses", err)
	}
	var out []string
	for _, was := range p.Services {
		i := slices.IndexFunc(list.Items, func(s v1.Service) bool { return keyOf(&s) == was.Service })
		if i < 0 {
			continue // somebody deleted it
		}
		if now := vips(&list.Items[i]); !slices.Equal(now, was.Addresses) {
			out = append(out, fmt.Sprintf("Service %s had %v and shows %v now", was.Service, was.Addresses, now))
		}
	}
	return out, nil
}
