// Generate writes what of the chart is derived from something else: values.schema.json and the table of values in README.md from
// the comments of values.yaml, with it the list of those that must not be null; and the Grafana dashboards from the queries in
// dashboards.go. scripts/generate.sh calls it.
//
//	generate CHART CRD OUT
//
// CHART is read, CRD says what `defaults` may be, and OUT is the folder of the chart that is written.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: generate CHART CRD OUT")
		os.Exit(2)
	}
	if err := generate(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func generate(chart, crd, out string) error {
	text, err := os.ReadFile(filepath.Join(chart, "values.yaml"))
	if err != nil {
		return err
	}
	values, err := parse(string(text))
	if err != nil {
		return fmt.Errorf("values.yaml: %w", err)
	}
	policies, err := policies(crd)
	if err != nil {
		return fmt.Errorf("%s: %w", crd, err)
	}
	schema, err := schema(values, policies)
	if err != nil {
		return fmt.Errorf("values.yaml: %w", err)
	}
	readme, err := os.ReadFile(filepath.Join(chart, "README.md"))
	if err != nil {
		return err
	}
	described, err := describe(string(readme), values)
	if err != nil {
		return fmt.Errorf("README.md: %w", err)
	}
	files := map[string]string{
		"values.schema.json":             schema,
		"README.md":                      described,
		"files/required.txt":             strings.Join(required(values, ""), "\n") + "\n",
		"files/dashboards/operator.json": operator.json(),
		"files/dashboards/route.json":    route.json(),
	}
	for name, text := range files {
		path := filepath.Join(out, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
