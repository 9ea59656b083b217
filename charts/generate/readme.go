package main

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	start = "<!-- values: written by make generate from values.yaml -->\n"
	end   = "<!-- /values -->\n"
)

// describe puts the tables of values between their marks.
func describe(readme string, values []*value) (string, error) {
	before, rest, found := strings.Cut(readme, start)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		return "", fmt.Errorf("the marks %q and %q are not there", strings.TrimSpace(start), strings.TrimSpace(end))
	}
	var out strings.Builder
	section := ""
	for _, it := range values {
		if it.section != section {
			section = it.section
			fmt.Fprintf(&out, "\n### %s\n\n| value | default | meaning |\n| --- | --- | --- |\n", section)
		}
		if err := it.rows(&out, ""); err != nil {
			return "", err
		}
	}
	return before + start + out.String() + "\n" + end + after, nil
}

func (it *value) rows(out *strings.Builder, above string) error {
	name := above + it.name
	text := it.text
	if it.children != nil {
		if text != "" {
			fmt.Fprintf(out, "| `%s` | | %s |\n", name, cell(text))
		}
		for _, child := range it.children {
			if err := child.rows(out, name+"."); err != nil {
				return err
			}
		}
		return nil
	}
	if enum, is := it.narrowed["enum"].([]any); is {
		var words []string
		for _, word := range enum {
			if word != "" {
				words = append(words, fmt.Sprintf("`%v`", word))
			}
		}
		text = strings.TrimSpace(text + " One of " + strings.Join(words, ", ") + ".")
	}
	value, err := compact(it.node)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "| `%s` | `%s` | %s |\n", name, value, cell(text))
	return nil
}

// compact is the value on one line.
func compact(node *yaml.Node) (string, error) {
	if node.Kind == yaml.ScalarNode {
		if node.Tag == "!!str" && node.Value == "" {
			return `""`, nil
		}
		return node.Value, nil
	}
	flow(node)
	text, err := yaml.Marshal(node)
	return strings.Join(strings.Fields(string(text)), " "), err
}

func flow(node *yaml.Node) {
	node.Style = yaml.FlowStyle
	node.HeadComment, node.LineComment, node.FootComment = "", "", ""
	for _, inner := range node.Content {
		if inner.Kind != yaml.ScalarNode {
			flow(inner)
		}
	}
}

func cell(text string) string {
	return strings.ReplaceAll(text, "|", "\\|")
}
