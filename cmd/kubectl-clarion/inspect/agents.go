package inspect

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/clarion-lb/clarion/internal/cluster"
	"github.com/clarion-lb/clarion/internal/report"
)

const (
	agentPort    = 7949            // when the Pod names no port «health»
	agentLimit   = 3 * time.Second // for one answer
	agentsAtOnce = 16
)

// AskStatus asks every agent for its status, through the API server.
func (r *Reader) AskStatus(ctx context.Context, c *Cluster) {
	c.Reports = askAgents[report.Status](ctx, r, c, report.StatusPath, nil)
}

// AskExplanation asks every agent about one Service.
func (r *Reader) AskExplanation(ctx context.Context, c *Cluster, key cluster.Key) {
	c.Explanations = askAgents[report.Explanation](ctx, r, c, report.ExplainPath, map[string]string{"service": string(key)})
}

// askAgents returns the answers by node. What cannot be had is told in Gaps.
func askAgents[T any](ctx context.Context, r *Reader, c *Cluster, path string, query map[string]string) map[string]T {
	var mu sync.Mutex
	answers, failures := map[string]T{}, map[string]error{}
	slots := make(chan struct{}, agentsAtOnce)
	var wg sync.WaitGroup
	for _, pod := range c.Agents {
		if pod.Status.Phase != v1.PodRunning {
			continue // its state says more than that it does not answer
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			answer, err := askAgent[T](ctx, r, &pod, path, query)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failures[pod.Spec.NodeName] = err
				return
			}
			answers[pod.Spec.NodeName] = answer
		})
	}
	wg.Wait()
	c.Gaps = append(c.Gaps, unanswered(failures, c.Namespace)...)
	return answers
}

func askAgent[T any](ctx context.Context, r *Reader, pod *v1.Pod, path string, query map[string]string) (answer T, err error) {
	ctx, cancel := context.WithTimeout(ctx, agentLimit)
	defer cancel()
	text, err := r.Raw(ctx, fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy%s", pod.Namespace, pod.Name, healthPort(pod), path), query)
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return answer, fmt.Errorf("its answer cannot be read: %w", err)
	}
	return answer, nil
}

func healthPort(pod *v1.Pod) int32 {
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if p.Name == "health" {
				return p.ContainerPort
			}
		}
	}
	return agentPort
}

// unanswered says which agents did not answer and why, in a sentence for each
// cause.
func unanswered(failures map[string]error, namespace string) []string {
	const lost = "owners are taken from the conditions of the Services"
	causes := map[string][]string{}
	for node, err := range failures {
		cause := "through the API server: " + err.Error()
		switch {
		case apierrors.IsForbidden(err):
			return []string{fmt.Sprintf("the agents are not asked, because you lack the permission «get» on pods/proxy in namespace %s: %s", namespace, lost)}
		case apierrors.IsNotFound(err):
			cause = "it does not know the question: it is of another version than this program, or its Pod has just gone"
		case apierrors.IsServiceUnavailable(err), apierrors.IsInternalError(err):
			cause = "the API server cannot reach it; the port of its health checks may be closed between the two"
		case strings.Contains(err.Error(), context.DeadlineExceeded.Error()):
			cause = fmt.Sprintf("no answer within %v", agentLimit)
		}
		causes[cause] = append(causes[cause], node)
	}
	var out []string
	for _, cause := range slices.Sorted(maps.Keys(causes)) {
		nodes := causes[cause]
		slices.Sort(nodes)
		out = append(out, fmt.Sprintf("the agent on %s did not answer (%s): %s", list(nodes), cause, lost))
	}
	return out
}

// list names up to five things.
func list(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
