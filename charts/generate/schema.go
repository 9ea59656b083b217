package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"go.yaml.in/yaml/v3"
)

// object is a JSON object; encoding/json sorts its keys.
type object = map[string]any

// schema is values.schema.json: what is not in values.yaml is refused, so that a typo is. `global` is open, because a parent
// chart puts in what it likes.
func schema(values []*value, policies object) (string, error) {
	properties, err := properties(values, policies)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err = encoder.Encode(object{
		"$schema":              "http://json-schema.org/draft-07/schema#",
		"title":                "Values of the chart holdfast",
		"type":                 "object",
		"additionalProperties": false,
		"properties":           properties,
	})
	return out.String(), err
}

func properties(values []*value, policies object) (object, error) {
	all := object{}
	for _, it := range values {
		schema, err := it.schema(policies)
		if err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", it.node.Line, it.name, err)
		}
		all[it.name] = schema
	}
	return all, nil
}

func (it *value) schema(policies object) (object, error) {
	schema := object{}
	for key, narrowed := range it.narrowed {
		schema[key] = narrowed
	}
	if _, is := schema["policies"]; is {
		schema = object{"type": "object", "additionalProperties": false, "properties": policies}
	}
	if it.text != "" {
		schema["description"] = it.text
	}
	_, enumerated := schema["enum"]
	if _, typed := schema["type"]; !typed && !enumerated {
		kind, err := kind(it.node)
		if err != nil {
			return nil, err
		}
		schema["type"] = kind
	}
	if it.children != nil {
		children, err := properties(it.children, policies)
		if err != nil {
			return nil, err
		}
		schema["properties"] = children
	}
	_, open := schema["additionalProperties"]
	_, items := schema["items"]
	switch {
	case it.node.Kind == yaml.MappingNode && !open && it.children == nil:
		return nil, fmt.Errorf("a mapping that says neither its keys nor additionalProperties")
	case it.node.Kind == yaml.MappingNode && !open:
		schema["additionalProperties"] = false
	case it.node.Kind == yaml.SequenceNode && !items:
		return nil, fmt.Errorf("a list that does not say its items")
	}
	return schema, nil
}

// required are the values that must be something: templates/_refusals.tpl looks whether they are. The schema does not say it, for
// it would ask for all of them in each file of values that an editor checks.
func required(values []*value, above string) []string {
	var names []string
	for _, it := range values {
		name := above + it.name
		if it.children != nil {
			names = append(names, name)
			names = append(names, required(it.children, name+".")...)
		} else if it.node.Kind == yaml.ScalarNode && it.node.Tag != "!!null" && it.node.Value != "" && !it.nullable() {
			names = append(names, name)
		}
	}
	return names
}

// nullable tells whether null is a value like others.
func (it *value) nullable() bool {
	kinds, _ := it.narrowed["type"].([]any)
	return slices.Contains(kinds, any("null"))
}

// kind is the type that the default value has.
func kind(node *yaml.Node) (string, error) {
	switch {
	case node.Kind == yaml.MappingNode:
		return "object", nil
	case node.Kind == yaml.SequenceNode:
		return "array", nil
	}
	kinds := map[string]string{"!!str": "string", "!!bool": "boolean", "!!int": "integer", "!!float": "number"}
	kind, known := kinds[node.Tag]
	if !known {
		return "", fmt.Errorf("%s does not tell its type; add # @schema {type: ...}", node.Tag)
	}
	return kind, nil
}

// policies are the fields of a route's spec that `defaults` may have, closed as the API server closes them.
func policies(crd string) (object, error) {
	text, err := os.ReadFile(crd)
	if err != nil {
		return nil, err
	}
	var definition struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema struct {
						Properties struct {
							Spec struct {
								Properties object
							}
						}
					} `yaml:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(text, &definition); err != nil {
		return nil, err
	}
	if len(definition.Spec.Versions) == 0 {
		return nil, fmt.Errorf("no version")
	}
	fields := definition.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties.Spec.Properties
	for name, field := range fields {
		// What names hosts and objects is the route's own.
		if slices.Contains([]string{"className", "hostnames", "tls", "rules"}, name) {
			delete(fields, name)
			continue
		}
		closed(field)
	}
	if len(fields) == 0 {
		return nil, fmt.Errorf("its spec has no policies")
	}
	return fields, nil
}

// closed makes of a schema of an API server one of JSON: without the words that only the former has, and closed to typos.
func closed(schema any) {
	switch it := schema.(type) {
	case object:
		for key, inner := range it {
			if len(key) > 2 && key[:2] == "x-" || key == "format" {
				delete(it, key)
				continue
			}
			closed(inner)
		}
		if _, is := it["properties"].(object); is && it["additionalProperties"] == nil && it["type"] == "object" {
			it["additionalProperties"] = false
		}
	case []any:
		for _, inner := range it {
			closed(inner)
		}
	}
}
