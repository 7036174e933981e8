package main

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"text/template"

	"sigs.k8s.io/yaml"
)

// functions are those of Helm's that the chart uses, with Helm's meaning.
func functions(set *template.Template) template.FuncMap {
	return template.FuncMap{
		"include": func(name string, data any) (string, error) {
			var out bytes.Buffer
			err := set.ExecuteTemplate(&out, name, data)
			return out.String(), err
		},
		"toYaml": func(value any) (string, error) {
			text, err := yaml.Marshal(value)
			return strings.TrimSuffix(string(text), "\n"), err
		},
		"nindent": func(n int, text string) string {
			pad := "\n" + strings.Repeat(" ", n)
			return pad + strings.ReplaceAll(text, "\n", pad)
		},
		"quote": func(value any) string { return fmt.Sprintf("%q", fmt.Sprint(value)) },
		"join": func(by string, list []any) string {
			words := make([]string, len(list))
			for i, item := range list {
				words[i] = fmt.Sprint(item)
			}
			return strings.Join(words, by)
		},
		"default": func(otherwise, value any) any {
			if v := reflect.ValueOf(value); !v.IsValid() || v.IsZero() {
				return otherwise
			}
			return value
		},
		"int": func(value any) (int, error) {
			switch n := value.(type) {
			case int:
				return n, nil
			case float64:
				return int(n), nil
			}
			return 0, fmt.Errorf("%v is not a number", value)
		},
		"dict": func(pairs ...any) (map[string]any, error) {
			if len(pairs)%2 != 0 {
				return nil, errors.New("dict: a key without a value")
			}
			out := map[string]any{}
			for i := 0; i < len(pairs); i += 2 {
				out[fmt.Sprint(pairs[i])] = pairs[i+1]
			}
			return out, nil
		},
		"fail": func(why string) (string, error) { return "", errors.New(why) },
	}
}
