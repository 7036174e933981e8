package inspect

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/clarion-lb/clarion/provider"
)

// ParsePools reads the data of clarion-pools from a file: the manifest of the
// ConfigMap, alone or among others, or only its data as a mapping from pools
// to text. namespace is where the ConfigMap has to be.
func ParsePools(text []byte, namespace string) (map[string]string, error) {
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	var found map[string]string
	var kinds []string
	for n := 1; ; n++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("document %d cannot be read: %w", n, err)
		}
		var m map[string]any
		if err := yaml.UnmarshalStrict(document, &m); err != nil {
			return nil, fmt.Errorf("it is neither the manifest of a ConfigMap nor a mapping from pools to text: %s", strings.TrimPrefix(err.Error(), "error converting YAML to JSON: "))
		}
		if len(m) == 0 {
			continue // an empty document, or only comments
		}
		kind, isManifest := m["kind"].(string)
		_, hasVersion := m["apiVersion"].(string)
		isManifest = isManifest && hasVersion
		var data map[string]string
		switch {
		case !isManifest:
			data, err = textsOf(m)
		case kind != "ConfigMap" || nameOf(m) != provider.PoolsName:
			kinds = append(kinds, kind+" "+nameOf(m))
			continue
		default:
			data, err = dataOf(m, namespace)
		}
		if err != nil {
			return nil, err
		}
		if found != nil {
			return nil, errors.New("it holds the pools twice: remove one of the two documents")
		}
		found = data
	}
	switch {
	case found != nil:
		return found, nil
	case len(kinds) > 0:
		return nil, fmt.Errorf("it holds no ConfigMap named %s, but %s", provider.PoolsName, list(kinds))
	}
	return nil, fmt.Errorf("it is empty: to see what deleting all pools would do, write the ConfigMap %s without data", provider.PoolsName)
}

func nameOf(m map[string]any) string {
	meta, _ := m["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	return name
}

// dataOf returns the data of a manifest.
func dataOf(m map[string]any, namespace string) (map[string]string, error) {
	meta, _ := m["metadata"].(map[string]any)
	if ns, ok := meta["namespace"].(string); ok && ns != namespace {
		return nil, fmt.Errorf("the ConfigMap is in the namespace %s, and Clarion reads the one in %s", ns, namespace)
	}
	if _, ok := m["binaryData"]; ok {
		return nil, errors.New("binaryData is not read; write the pools under data")
	}
	switch data := m["data"].(type) {
	case nil:
		return map[string]string{}, nil
	case map[string]any:
		return textsOf(data)
	}
	return nil, errors.New("data is not a mapping from pools to text")
}

// textsOf returns a mapping whose values are all text. A pool that was written
// as YAML itself, which a ConfigMap cannot hold, is the usual mistake.
func textsOf(m map[string]any) (map[string]string, error) {
	out := make(map[string]string, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		switch v := m[key].(type) {
		case string:
			out[key] = v
		case nil:
			return nil, fmt.Errorf("%s has no value: list its addresses, or remove it", key)
		case map[string]any, []any:
			return nil, fmt.Errorf("%s is YAML, and a ConfigMap holds text: write «%s: |» and the pool indented below it", key, key)
		default:
			return nil, fmt.Errorf("%s is %v, and a ConfigMap holds text: put it in quotes", key, v)
		}
	}
	return out, nil
}
