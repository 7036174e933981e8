package provider

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/clarion-lb/clarion/allocator"
	"github.com/clarion-lb/clarion/config"
	"github.com/clarion-lb/clarion/internal/iprange"
	"github.com/clarion-lb/clarion/internal/reconcile"
)

// The ConfigMaps of the pools, both in the controller's namespace.
const (
	// PoolsName is the user's. Clarion never writes it.
	PoolsName = "clarion-pools"
	// InForceName is written by the leader: the last good form of every pool
	// and of the settings, each as the user wrote it. Agents and tools read it,
	// so that all of Clarion goes by one truth, and the next leader begins with
	// it, so that a mistake made before a restart costs nobody a pool.
	InForceName = "clarion-pools-in-force"
)

// AnnotationProblems on InForceName holds what is wrong in the user's pools,
// one line each, as it was last told in an Event.
const AnnotationProblems = "clarion.dev/problems"

// pools keeps the allocator's pools equal to the user's ConfigMap, in its last
// good form.
type pools struct {
	namespace string
	api       corev1.ConfigMapInterface
	user      corelisters.ConfigMapLister // sees PoolsName only
	inForce   corelisters.ConfigMapLister // sees InForceName only
	guard     *guard
	provider  *Provider
	loop      *reconcile.Loop
	events    *events
	log       *slog.Logger
	stats     *metrics

	// owned by load, then by the loop
	now      config.Config
	parsed   map[string]string // the user's text that now came from
	problems []string          // what is wrong in it
	logged   string
}

// load puts the pools in force before the first Service is looked at. The last
// good forms come from the API server itself, not from a cache.
func (p *pools) load(ctx context.Context) error {
	var last *v1.ConfigMap
	err := insist(ctx, func(ctx context.Context) (err error) {
		last, err = p.api.Get(ctx, InForceName, metav1.GetOptions{})
		return err
	})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return fmt.Errorf("read ConfigMap %s: %w", InForceName, err)
	default:
		var problem error
		if p.now, problem = config.Parse(last.Data, config.Config{}); problem != nil {
			p.log.Warn("the last good pools cannot be read in full; somebody wrote into them", "configmap", InForceName, "err", problem)
		}
	}
	user, err := p.read()
	if err != nil {
		return err
	}
	p.parse(user)
	return nil
}

// read returns the user's ConfigMap, nil when there is none: that is a set of
// pools that is empty.
func (p *pools) read() (*v1.ConfigMap, error) {
	cm, err := p.user.ConfigMaps(p.namespace).Get(PoolsName)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ConfigMap %s: %w", PoolsName, err)
	}
	return cm, nil
}

// parse puts what the user wrote into force.
func (p *pools) parse(user *v1.ConfigMap) {
	data := map[string]string{}
	if user != nil {
		data = user.Data
	}
	var err error
	p.now, err = config.Parse(data, p.now)
	p.parsed = maps.Clone(data)
	p.problems = nil
	for _, problem := range config.Problems(err) {
		text := problem.Error()
		if problem.Kept {
			text += " (its last good form stays in force)"
		}
		p.problems = append(p.problems, text)
	}
	if user != nil && len(user.BinaryData) > 0 {
		p.problems = append(p.problems, "binaryData is not read; write the pools under data")
	}
	p.provider.alloc.SetPools(PoolsOf(p.now))
	p.provider.alloc.SetRestTime(p.now.Settings.RestTime)
	p.provider.signal()
}

// sync is the loop's function: it runs when either ConfigMap or the reserved
// ranges change.
func (p *pools) sync(ctx context.Context) error {
	user, err := p.read()
	if err != nil {
		return err
	}
	if edited := user != nil && !maps.Equal(user.Data, p.parsed) || user == nil && len(p.parsed) > 0; edited {
		p.parse(user)
		p.log.Info("pools edited", "pools", len(p.now.Pools), "problems", len(p.problems))
		// Stranded, adopted or waiting: any condition may read differently now.
		p.provider.ours.KickAll(everyService)
	}
	problems := append(p.problems[:len(p.problems):len(p.problems)], collide(p.now.Pools, p.guard.ranges())...)
	p.stats.problems.Set(float64(len(problems)))
	text := strings.Join(problems, "\n")
	if text != p.logged {
		p.logged = text
		for _, line := range problems {
			p.log.Warn("a mistake in the pools", "configmap", PoolsName, "problem", line)
		}
	}
	before, err := p.publish(ctx, text)
	if err != nil {
		return err
	}
	switch {
	case user == nil || before == text:
	case text != "":
		p.events.say("ConfigMap", &user.ObjectMeta, v1.EventTypeWarning, "PoolsRefused", text)
	default:
		p.events.say("ConfigMap", &user.ObjectMeta, v1.EventTypeNormal, "PoolsAccepted", "every pool is in force as it is written")
	}
	return nil
}

// publish writes what is in force, if it is not written already, and returns
// the problems that had been told until now. A publication that crosses with
// that of another leader is refused by its resourceVersion and tried again.
func (p *pools) publish(ctx context.Context, problems string) (told string, err error) {
	want := p.now.Raw()
	have, err := p.inForce.ConfigMaps(p.namespace).Get(InForceName)
	if err == nil && maps.Equal(have.Data, want) && have.Annotations[AnnotationProblems] == problems {
		return problems, nil
	}
	have, err = p.api.Get(ctx, InForceName, metav1.GetOptions{}) // the cache may not show our own last write yet
	if apierrors.IsNotFound(err) {
		have = &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: InForceName, Labels: ownLabels()}}
	} else if err != nil {
		return "", fmt.Errorf("read ConfigMap %s: %w", InForceName, err)
	}
	told = have.Annotations[AnnotationProblems]
	if maps.Equal(have.Data, want) && told == problems && have.ResourceVersion != "" {
		return told, nil
	}
	next := have.DeepCopy()
	next.Data = want
	delete(next.Annotations, AnnotationProblems)
	if problems != "" {
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, AnnotationProblems, problems)
	}
	if have.ResourceVersion == "" {
		_, err = p.api.Create(ctx, next, metav1.CreateOptions{FieldManager: FieldManager})
	} else {
		_, err = p.api.Update(ctx, next, metav1.UpdateOptions{FieldManager: FieldManager})
	}
	if err != nil {
		return "", fmt.Errorf("write ConfigMap %s: %w", InForceName, err)
	}
	return told, nil
}

// mostCollisions bounds what is told about one pool.
const mostCollisions = 5

// collide tells where pools overlap with what no Service gets. The rest of
// such a pool is in force.
func collide(pools []config.Pool, ranges []allocator.Reserved) []string {
	var out []string
	for _, pool := range pools {
		found := 0
		for _, r := range ranges {
			common := pool.Addresses.Intersect(iprange.SetOf(r.Range))
			if common.Empty() {
				continue
			}
			if found++; found > mostCollisions {
				out = append(out, fmt.Sprintf("%s: and more of this kind", pool.Name))
				break
			}
			verb := "is"
			if rs := common.Ranges(); len(rs) > 1 || rs[0].From != rs[0].To {
				verb = "are"
			}
			out = append(out, fmt.Sprintf("%s: %s %s %s and will not be given to a Service; take it out of the pool", pool.Name, common, verb, r.Reason))
		}
	}
	return out
}

// shorten cuts text to at most n bytes, at the end of a line where it can.
func shorten(text string, n int) string {
	if len(text) <= n {
		return text
	}
	text = text[:n-len("\n…")]
	if i := strings.LastIndexByte(text, '\n'); i > 0 {
		text = text[:i]
	}
	return strings.ToValidUTF8(text, "") + "\n…"
}

// ownLabels are on every object that the controller makes.
func ownLabels() map[string]string {
	return map[string]string{"app.kubernetes.io/name": "clarion", "app.kubernetes.io/component": "controller"}
}
