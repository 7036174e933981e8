package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"
)

// A chart is a folder as Helm lays it out.
type chart struct {
	dir    string
	meta   map[string]any // Chart.yaml, with keys as templates see them
	values map[string]any
	schema *jsonschema.Schema
}

// A release is what a template sees under .Release.
type release struct{ Name, Namespace string }

func load(dir string) (*chart, error) {
	c := &chart{dir: dir}
	var meta map[string]any
	if err := c.read("Chart.yaml", &meta); err != nil {
		return nil, err
	}
	c.meta = map[string]any{}
	for key, value := range meta {
		c.meta[strings.ToUpper(key[:1])+key[1:]] = value // appVersion is .Chart.AppVersion
	}
	if err := c.read("values.yaml", &c.values); err != nil {
		return nil, err
	}
	var err error
	if c.schema, err = jsonschema.NewCompiler().Compile(filepath.Join(dir, "values.schema.json")); err != nil {
		return nil, fmt.Errorf("read the schema of the values: %w", err)
	}
	return c, nil
}

func (c *chart) read(name string, into any) error {
	text, err := os.ReadFile(filepath.Join(c.dir, name))
	if err != nil {
		return err
	}
	if err := yaml.UnmarshalStrict(text, into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// render returns the objects of the chart's templates, the Namespace first and
// the rest in the order of the templates' names. only may name one template.
func (c *chart) render(r release, sets []string, only string) (string, error) {
	values, err := c.with(sets)
	if err != nil {
		return "", err
	}
	set := template.New("").Option("missingkey=error")
	set.Funcs(functions(set))
	paths, err := filepath.Glob(filepath.Join(c.dir, "templates", "*"))
	if err != nil {
		return "", err
	}
	var names []string
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		name := "templates/" + filepath.Base(path)
		if _, err := set.New(name).Parse(string(text)); err != nil {
			return "", err
		}
		if strings.HasSuffix(name, ".yaml") && (only == "" || only == name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "", fmt.Errorf("%s has no template %s", c.dir, only)
	}
	slices.Sort(names)
	data := map[string]any{"Values": values, "Chart": c.meta, "Release": r, "Files": files{c.dir}}
	var documents []string
	for _, name := range names {
		var out bytes.Buffer
		if err := set.ExecuteTemplate(&out, name, data); err != nil {
			return "", err
		}
		for _, document := range separator.Split(out.String(), -1) {
			if document = strings.TrimSpace(document); document != "" {
				documents = append(documents, document)
			}
		}
	}
	slices.SortStableFunc(documents, func(a, b string) int { return rank(a) - rank(b) })
	return strings.Join(documents, "\n---\n") + "\n", nil
}

var (
	separator   = regexp.MustCompile(`(?m)^---\s*$`)
	isNamespace = regexp.MustCompile(`(?m)^kind: Namespace$`)
)

// rank puts the Namespace first: `kubectl apply` makes objects in their order.
func rank(document string) int {
	if isNamespace.MatchString(document) {
		return 0
	}
	return 1
}

// with returns the chart's values with sets over them, as the schema allows.
func (c *chart) with(sets []string) (map[string]any, error) {
	text, err := json.Marshal(c.values)
	if err != nil {
		return nil, err
	}
	var values map[string]any // a copy
	if err := json.Unmarshal(text, &values); err != nil {
		return nil, err
	}
	for _, set := range sets {
		path, text, _ := strings.Cut(set, "=")
		var value any
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			return nil, fmt.Errorf("-set %s: %w", set, err)
		}
		keys := strings.Split(path, ".")
		at := values
		for _, key := range keys[:len(keys)-1] {
			next, ok := at[key].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[key] = next
			}
			at = next
		}
		at[keys[len(keys)-1]] = value
	}
	if err := c.schema.Validate(values); err != nil {
		return nil, fmt.Errorf("the values do not meet values.schema.json: %w", err)
	}
	return values, nil
}

// files are the chart's files as templates read them.
type files struct{ dir string }

// Get returns the text of a file, as Helm's .Files.Get does, but a file that
// is missing is an error.
func (f files) Get(name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(f.dir, filepath.FromSlash(name)))
	return string(text), err
}
