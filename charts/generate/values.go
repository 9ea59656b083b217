package main

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// value is one key of values.yaml with what the comment above it says.
type value struct {
	name     string
	section  string // of the keys at the top only
	text     string
	narrowed map[string]any // "# @schema"
	node     *yaml.Node
	children []*value // nil: it is shown, and checked, as a whole
}

// parse reads the keys and the comments of values.yaml.
func parse(text string) ([]*value, error) {
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		return nil, err
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("not a mapping")
	}
	lines := strings.Split(text, "\n")
	values, _, err := keys(document.Content[0], lines)
	if err != nil {
		return nil, err
	}
	section := ""
	sections := map[int]string{}
	for at, line := range lines {
		if title, is := strings.CutPrefix(line, "## "); is {
			section = title
		}
		sections[at+1] = section
	}
	for at, value := range values {
		value.section = sections[document.Content[0].Content[2*at].Line]
	}
	return values, nil
}

// keys reads the keys of a mapping, and whether one of them has a comment.
func keys(mapping *yaml.Node, lines []string) ([]*value, bool, error) {
	var values []*value
	commented := false
	for at := 0; at < len(mapping.Content); at += 2 {
		key, node := mapping.Content[at], mapping.Content[at+1]
		it := &value{name: key.Value, node: node}
		if err := it.comment(above(lines, key)); err != nil {
			return nil, false, fmt.Errorf("line %d: %s: %w", key.Line, key.Value, err)
		}
		commented = commented || it.text != "" || it.narrowed != nil
		if node.Kind == yaml.MappingNode {
			children, are, err := keys(node, lines)
			if err != nil {
				return nil, false, err
			}
			if are {
				it.children = children
			}
		}
		values = append(values, it)
	}
	return values, commented, nil
}

// above is the comment directly above a key, in its column.
func above(lines []string, key *yaml.Node) []string {
	prefix := strings.Repeat(" ", key.Column-1) + "#"
	end := key.Line - 1
	start := end
	for start > 0 && strings.HasPrefix(lines[start-1], prefix) && !strings.HasPrefix(lines[start-1], prefix+"# ") {
		start--
	}
	var comment []string
	for _, line := range lines[start:end] {
		comment = append(comment, strings.TrimSpace(strings.TrimPrefix(line, prefix)))
	}
	return comment
}

func (it *value) comment(lines []string) error {
	var text []string
	for _, line := range lines {
		schema, is := strings.CutPrefix(line, "@schema ")
		if !is {
			text = append(text, line)
			continue
		}
		if err := yaml.Unmarshal([]byte(schema), &it.narrowed); err != nil {
			return err
		}
	}
	it.text = strings.Join(text, " ")
	return nil
}
