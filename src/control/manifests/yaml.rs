//! Reads YAML and JSON into values that remember where they stand.
//!
//! Plain scalars mean what they mean to kubectl, which reads YAML 1.1: `on` and `yes` are booleans. Bounded in depth and in
//! size, aliases expanded, so that a small file cannot become a large value.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span as ParserSpan};
use serde_json::{Map, Number, Value};

use crate::control::path::{FieldPath, Step};

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    kind: Kind,
    span: Span,
    /// With everything below it, for the bound on expanded aliases.
    weight: usize,
}

#[derive(Clone, Debug)]
enum Kind {
    Scalar(Value),
    List(Vec<Node>),
    Fields(Vec<Field>),
}

/// One entry of a mapping.
#[derive(Clone, Debug)]
struct Field {
    name: String,
    /// Of the name.
    span: Span,
    value: Node,
    /// It came by `<<`, and gives way to one that is written out.
    merged: bool,
}

/// A place in a file. Lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub line: usize,
    pub column: usize,
    /// Characters; 0: it goes on over several lines.
    pub length: usize,
}

/// The text is not YAML, or more than a manifest needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct SyntaxError {
    pub(crate) message: String,
    pub(crate) span: Span,
}

/// The documents of a file, the empty ones left out.
///
/// # Errors
/// Where the text stops being YAML, or a bound is passed.
pub(crate) fn documents(text: &str) -> Result<Vec<Node>, SyntaxError> {
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let parser = Parser::new_from_str_with_options(text, options);
    let mut reader = Reader::default();
    for event in parser {
        let (event, span) = event.map_err(|error| syntax(&error))?;
        reader.take(event, Span::of(span))?;
    }
    Ok(reader.documents)
}

impl Node {
    /// As a JSON value.
    pub(crate) fn value(&self) -> Value {
        match &self.kind {
            Kind::Scalar(value) => value.clone(),
            Kind::List(items) => items.iter().map(Self::value).collect(),
            Kind::Fields(fields) => {
                let fields = fields.iter().map(|field| (field.name.clone(), field.value.value()));
                Value::Object(fields.collect::<Map<_, _>>())
            }
        }
    }

    /// The value of a field.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        match &self.kind {
            Kind::Fields(fields) => fields.iter().find(|field| field.name == name).map(|field| &field.value),
            _ => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn items(&self) -> &[Self] {
        match &self.kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }

    /// Where the value at `path` stands, or the nearest that is there. `at_name`: the field's name instead.
    pub(crate) fn locate(&self, path: &FieldPath, at_name: bool) -> Span {
        let mut node = self;
        let mut name = None;
        for step in path.steps() {
            match (step, &node.kind) {
                (Step::Field(wanted), Kind::Fields(fields)) => {
                    let Some(field) = fields.iter().find(|field| *field.name == **wanted) else {
                        break;
                    };
                    name = Some(field.span);
                    node = &field.value;
                }
                (Step::Item(index), Kind::List(items)) => {
                    let Some(item) = items.get(*index) else { break };
                    name = None;
                    node = item;
                }
                _ => break,
            }
        }
        match name {
            Some(name) if at_name || node.span.length == 0 => name, // the name says more than the first of several lines
            _ => node.span,
        }
    }
}

impl Span {
    fn of(span: ParserSpan) -> Self {
        let length = match span.end.line() == span.start.line() {
            true => span.end.col().saturating_sub(span.start.col()),
            false => 0,
        };
        Self {
            line: span.start.line(),
            column: span.start.col() + 1,
            length,
        }
    }

    /// From the start of one to the end of another.
    fn to(self, end: Self) -> Self {
        let length = match self.line == end.line {
            true => (end.column + end.length).saturating_sub(self.column),
            false => 0,
        };
        Self { length, ..self }
    }
}

#[derive(Default)]
struct Reader {
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    /// Values so far.
    weight: usize,
    /// Those of them that aliases brought.
    expanded: usize,
}

/// A collection whose end has not come yet.
struct Open {
    anchor: usize,
    span: Span,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Fields {
        fields: Vec<Field>,
        name: Option<(String, Span)>,
    },
}

impl Reader {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxError> {
        match event {
            Event::DocumentStart(..) => self.anchors.clear(),
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.as_deref().and_then(|tag| tag.core_suffix().map(str::to_owned));
                let value = scalar(&text, style, tag.as_deref());
                self.finish(Kind::Scalar(value), anchor, span)?;
            }
            Event::SequenceStart(_, anchor, _) => self.begin(OpenKind::List(Vec::new()), anchor, span)?,
            Event::MappingStart(_, anchor, _) => {
                let kind = OpenKind::Fields {
                    fields: Vec::new(),
                    name: None,
                };
                self.begin(kind, anchor, span)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span)?,
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err(refuse("an alias within its own anchor", span));
                };
                self.expanded += node.weight;
                if self.expanded > MAX_EXPANDED {
                    return Err(refuse(
                        format!("aliases that stand for more than {MAX_EXPANDED} values"),
                        span,
                    ));
                }
                let node = Node { span, ..node.clone() };
                let cost = node.weight;
                self.add(node, cost)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, kind: OpenKind, anchor: usize, span: Span) -> Result<(), SyntaxError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(refuse(format!("nested more than {MAX_DEPTH} deep"), span));
        }
        self.open.push(Open { anchor, span, kind });
        Ok(())
    }

    fn end(&mut self, span: Span) -> Result<(), SyntaxError> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let kind = match open.kind {
            OpenKind::List(items) => Kind::List(items),
            OpenKind::Fields { fields, .. } => Kind::Fields(fields),
        };
        self.finish(kind, open.anchor, open.span.to(span))
    }

    fn finish(&mut self, kind: Kind, anchor: usize, span: Span) -> Result<(), SyntaxError> {
        let below: usize = match &kind {
            Kind::Scalar(_) => 0,
            Kind::List(items) => items.iter().map(|item| item.weight).sum(),
            Kind::Fields(fields) => fields.iter().map(|field| field.value.weight).sum(),
        };
        let node = Node {
            kind,
            span,
            weight: below + 1,
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.add(node, 1) // its parts were counted as they came
    }

    /// Puts a complete value where it belongs.
    fn add(&mut self, node: Node, cost: usize) -> Result<(), SyntaxError> {
        self.weight += cost;
        if self.weight > MAX_NODES {
            return Err(refuse(format!("more than {MAX_NODES} values"), node.span));
        }
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self
                .documents
                .extend(Some(node).filter(|node| !matches!(node.kind, Kind::Scalar(Value::Null)))),
            Some(OpenKind::List(items)) => items.push(node),
            Some(OpenKind::Fields { fields, name }) => match name.take() {
                None => *name = Some((key(&node)?, node.span)),
                Some((name, span)) => put(fields, name, span, node)?,
            },
        }
        Ok(())
    }
}

fn key(node: &Node) -> Result<String, SyntaxError> {
    match &node.kind {
        Kind::Scalar(Value::String(text)) => Ok(text.clone()),
        Kind::Scalar(value @ (Value::Bool(_) | Value::Number(_))) => Ok(value.to_string()),
        _ => Err(refuse("a field's name must be text", node.span)),
    }
}

fn put(fields: &mut Vec<Field>, name: String, span: Span, value: Node) -> Result<(), SyntaxError> {
    if name == "<<" {
        return merge(fields, value);
    }
    let field = Field {
        name,
        span,
        value,
        merged: false,
    };
    let known = fields.len();
    match fields.iter_mut().find(|existing| existing.name == field.name) {
        Some(existing) if existing.merged => *existing = field,
        Some(existing) => {
            let message = format!("{} is there twice, first in line {}", existing.name, existing.span.line);
            return Err(refuse(message, span));
        }
        None if known >= MAX_FIELDS => return Err(refuse(format!("more than {MAX_FIELDS} fields"), span)),
        None => fields.push(field),
    }
    Ok(())
}

/// `<<: *base`: the fields of another mapping, unless they are given here.
fn merge(fields: &mut Vec<Field>, base: Node) -> Result<(), SyntaxError> {
    let span = base.span;
    match base.kind {
        Kind::Fields(more) => {
            for field in more {
                if !fields.iter().any(|existing| existing.name == field.name) {
                    fields.push(Field { merged: true, ..field });
                }
            }
            Ok(())
        }
        Kind::List(list) => list.into_iter().try_for_each(|item| merge(fields, item)),
        Kind::Scalar(_) => Err(refuse("<< needs a mapping", span)),
    }
}

/// What a scalar means to kubectl.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&str>) -> Value {
    match tag {
        Some("str") => return Value::from(text),
        None if style != ScalarStyle::Plain => return Value::from(text),
        _ => {}
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "y" | "Y" | "on" | "On" | "ON" => return Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "n" | "N" | "off" | "Off" | "OFF" => return Value::Bool(false),
        _ => {}
    }
    number(text).map_or_else(|| Value::from(text), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    let starts = text.bytes().next()?;
    if !(starts.is_ascii_digit() || matches!(starts, b'+' | b'-' | b'.')) {
        return None;
    }
    let plain = text.replace('_', "");
    if let Some(integer) = integer(&plain) {
        return Some(integer);
    }
    if !is_float(&plain) {
        return None;
    }
    let float: f64 = plain.parse().ok()?;
    if float.fract() == 0.0 && float.abs() < EXACT {
        return Some(Number::from(float as i64)); // as it is in JSON: 1.0 is 1
    }
    Number::from_f64(float)
}

fn integer(plain: &str) -> Option<Number> {
    let (negative, digits) = match plain.as_bytes().first()? {
        b'-' => (true, &plain[1..]),
        b'+' => (false, &plain[1..]),
        _ => (false, plain),
    };
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
        [b'0', b'b' | b'B', ..] => (&digits[2..], 2),
        [b'0', b'o' | b'O', ..] => (&digits[2..], 8),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    if !digits.bytes().next()?.is_ascii_alphanumeric() {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    match negative {
        false => Some(Number::from(magnitude)),
        true => 0_i64.checked_sub_unsigned(magnitude).map(Number::from),
    }
}

/// `[-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?`, or a point at the end of the digits.
fn is_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
        None => (unsigned, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent = exponent.map(|exponent| exponent.strip_prefix(['-', '+']).unwrap_or(exponent));
    digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent))
}

fn refuse(message: impl Into<String>, span: Span) -> SyntaxError {
    SyntaxError {
        message: message.into(),
        span,
    }
}

fn syntax(error: &ScanError) -> SyntaxError {
    let marker = error.marker();
    let span = Span {
        line: marker.line(),
        column: marker.col() + 1,
        length: 0,
    };
    refuse(error.info(), span)
}

/// Deeper than any manifest; shallow enough for every recursion over a value.
const MAX_DEPTH: usize = 64;
/// Values in one file: far beyond 10,000 routes.
const MAX_NODES: usize = 2_000_000;
/// Values that aliases may stand for, so that a small file stays one.
const MAX_EXPANDED: usize = 100_000;
/// In one mapping; names are compared one by one.
const MAX_FIELDS: usize = 10_000;
/// Whole numbers below it are exact in a float.
const EXACT: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    proptest! {
        #[test]
        fn no_text_is_too_much(text in "[-:?{}\\[\\],&*!|>'\"%@`# \n\t<a0.~]{0,60}") {
            for node in documents(&text).unwrap_or_default() {
                let _ = node.value();
                let _ = node.locate(&FieldPath::of(["a"]), true);
            }
        }
    }

    fn one(text: &str) -> Node {
        let mut documents = documents(text).unwrap();
        assert_eq!(documents.len(), 1, "{text}");
        documents.remove(0)
    }

    fn fault(text: &str) -> String {
        let error = documents(text).unwrap_err();
        format!("{}:{} {}", error.span.line, error.span.column, error.message)
    }

    #[test]
    fn plain_scalars_mean_what_they_mean_to_kubectl() {
        for (text, value) in [
            ("yes", json!(true)),
            ("on", json!(true)),
            ("y", json!(true)),
            ("No", json!(false)),
            ("OFF", json!(false)),
            ("oN", json!("oN")),
            ("true", json!(true)),
            ("~", json!(null)),
            ("\"on\"", json!("on")),
            ("'1'", json!("1")),
            ("!!str 1", json!("1")),
            ("8080", json!(8080)),
            ("-1", json!(-1)),
            ("+1", json!(1)),
            ("0x1F", json!(31)),
            ("0b101", json!(5)),
            ("0777", json!(511)),
            ("0o17", json!(15)),
            ("08", json!(8)),
            ("1_000", json!(1000)),
            ("1.5", json!(1.5)),
            ("1.0", json!(1)),
            ("1e3", json!(1000)),
            (".5", json!(0.5)),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
            ("-9223372036854775808", json!(i64::MIN)),
            ("1h30m", json!("1h30m")),
            ("10.0.0.1", json!("10.0.0.1")),
            ("2026-03-01", json!("2026-03-01")),
            ("-", json!([null])),
            ("0x", json!("0x")),
            ("1e", json!("1e")),
            ("++1", json!("++1")),
        ] {
            assert_eq!(
                one(&format!("a: {}", if text == "-" { "[~]" } else { text })).value(),
                json!({"a": value}),
                "{text}"
            );
        }
    }

    #[test]
    fn documents_are_told_apart_and_empty_ones_are_left_out() {
        let all = documents("# nothing\n---\na: 1\n---\n---\n# nothing\n---\nb: 2\n...\n").unwrap();
        assert_eq!(
            all.iter().map(Node::value).collect::<Vec<_>>(),
            [json!({"a": 1}), json!({"b": 2})]
        );
        assert!(documents("").unwrap().is_empty());
    }

    #[test]
    fn json_is_read_too() {
        let text = "{\"a\":\t[1, \"\\u00e4\\ud83d\\ude00\\/\"],\n\t\"b\": {\"c\": null, \"d\": false}}";
        assert_eq!(one(text).value(), json!({"a": [1, "ä😀/"], "b": {"c": null, "d": false}}));
    }

    #[test]
    fn places_are_those_of_the_text() {
        let node = one("spec:\n  hostnames: [a, \"bc\"]\n  rules:\n  - name: x\n    port: 80\n  - {name: y}\n");
        let place = |path: &[Step], at_name| {
            let span = node.locate(&path.iter().cloned().collect(), at_name);
            (span.line, span.column, span.length)
        };
        let field = |name: &str| Step::Field(name.into());
        let (spec, rules) = (field("spec"), field("rules"));
        assert_eq!(place(&[spec.clone(), field("hostnames")], false), (2, 14, 9));
        assert_eq!(place(&[spec.clone(), field("hostnames")], true), (2, 3, 9));
        assert_eq!(place(&[spec.clone(), field("hostnames"), Step::Item(1)], false), (2, 18, 4));
        assert_eq!(place(&[spec.clone(), rules.clone()], false), (3, 3, 5), "a block: its name");
        let port = [spec.clone(), rules.clone(), Step::Item(0), field("port")];
        assert_eq!(place(&port, false), (5, 11, 2));
        let missing = [spec.clone(), rules.clone(), Step::Item(1), field("port")];
        assert_eq!(place(&missing, false), (6, 5, 9), "what is not there: what should have it");
    }

    #[test]
    fn anchors_and_merges_are_expanded() {
        let text = "base: &b {x: 1, z: 2}\nlist: [*b]\nmore: {<<: *b, z: 3}\nmost: {z: 4, <<: [*b]}\n";
        let expected = json!({
            "base": {"x": 1, "z": 2}, "list": [{"x": 1, "z": 2}], "more": {"x": 1, "z": 3}, "most": {"z": 4, "x": 1},
        });
        assert_eq!(one(text).value(), expected);
    }

    #[test]
    fn what_grows_beyond_its_bounds_is_refused() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let below = format!("*a{}, ", level - 1).repeat(10);
            laughs.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert!(fault(&laughs).contains("aliases that stand for"), "{}", fault(&laughs));
        assert!(documents(&"[".repeat(100_000)).is_err());
        assert!(documents(&"- ".repeat(100_000)).is_err());
        assert!(documents(&"{a: ".repeat(100_000)).is_err());
        let wide: String = (0..=MAX_FIELDS).map(|index| format!("f{index}: 1\n")).collect();
        assert!(fault(&wide).contains("more than 10000 fields"));
    }

    #[test]
    fn faults_say_where() {
        assert_eq!(fault("a: 1\nb: 2\na: 3\n"), "3:1 a is there twice, first in line 1");
        assert_eq!(fault("a: 1\n[b]: 2\n"), "2:1 a field's name must be text");
        assert_eq!(fault("a: [1,\nb: 2\n"), "1:4 unclosed bracket '['");
        assert_eq!(fault("a: \"x\n"), "1:4 unclosed quote");
        assert!(fault("a: *nobody\n").starts_with("1:4 "), "{}", fault("a: *nobody\n"));
        assert!(fault("a: &x [*x]\n").starts_with("1:"));
    }
}
