//! Validates an object against a CustomResourceDefinition's own schema, as an API server does.
//!
//! The folder reader and `holdfast check` use it, so that their verdict is the cluster's: unknown fields first, then
//! defaults, then types and bounds, and the CEL rules last, if everything else is right. The steps and their order are
//! those of kube-apiserver with strict field validation. It knows what our schemas use and refuses schemas that use more.

mod cel;
mod suggest;

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde_json::{Map, Value};

use self::cel::Rule;
use super::path::{Fault, FieldPath};
use crate::api::pattern_in_words;

pub(crate) use suggest::nearest;

/// A schema, compiled.
#[derive(Debug)]
pub struct Schema {
    kind: Kind,
    default: Option<Value>,
    allowed: Vec<Value>,
    rules: Vec<Rule>,
}

#[derive(Debug)]
enum Kind {
    Object {
        fields: BTreeMap<String, Schema>,
        required: Vec<String>,
    },
    List {
        items: Box<Schema>,
        length: (usize, usize),
        unique: Unique,
    },
    Text {
        length: (usize, usize),
        pattern: Option<Regex>,
    },
    Integer {
        range: (i64, i64),
    },
    Boolean,
    /// `metadata`, which has rules of its own.
    Opaque,
}

/// `x-kubernetes-list-type`.
#[derive(Debug)]
enum Unique {
    No,
    Items,
    Keys(Vec<String>),
}

/// The schema uses something that this validator does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unsupported schema at {at:?}: {what}")]
pub struct UnsupportedSchema {
    at: String,
    what: String,
}

impl Schema {
    /// Compiles an `openAPIV3Schema`.
    ///
    /// # Errors
    /// It uses what this validator does not know: that is a bug, and a test compiles every schema of ours.
    pub fn compile(schema: &Value) -> Result<Self, UnsupportedSchema> {
        compile(schema, "")
    }

    /// Checks `object` and fills in its defaults.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of the schema; never empty. `object` may have some defaults then.
    pub fn admit(&self, object: &mut Value) -> Result<(), Vec<Fault>> {
        let root = FieldPath::default();
        let mut faults = Vec::new();
        self.find_unknown(object, &root, &mut faults);
        self.check_all(object, faults)
    }

    /// The same, except that fields which the schema does not have mean nothing.
    ///
    /// # Errors
    /// As above.
    pub fn admit_known(&self, object: &mut Value) -> Result<(), Vec<Fault>> {
        self.check_all(object, Vec::new())
    }

    fn check_all(&self, object: &mut Value, mut faults: Vec<Fault>) -> Result<(), Vec<Fault>> {
        let root = FieldPath::default();
        self.fill(object);
        self.check(object, &root, &mut faults);
        if faults.is_empty() {
            self.check_rules(object, &root, &mut faults);
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn find_unknown(&self, value: &Value, path: &FieldPath, faults: &mut Vec<Fault>) {
        match (&self.kind, value) {
            (Kind::Object { fields, .. }, Value::Object(given)) => {
                for (name, value) in given {
                    match fields.get(name) {
                        Some(field) => field.find_unknown(value, &path.field(name), faults),
                        None => faults.push(unknown(path, name, fields.keys().filter(|known| !given.contains_key(*known)))),
                    }
                }
            }
            (Kind::List { items, .. }, Value::Array(given)) => {
                for (index, value) in given.iter().enumerate() {
                    items.find_unknown(value, &path.item(index), faults);
                }
            }
            _ => {}
        }
    }

    /// Puts defaults where fields are absent. Null is as absent, as it is to an API server where `nullable` does not say
    /// otherwise; not in a list.
    fn fill(&self, value: &mut Value) {
        match (&self.kind, value) {
            (Kind::Object { fields, .. }, Value::Object(given)) => {
                given.retain(|name, value| !(value.is_null() && fields.contains_key(name)));
                for (name, field) in fields {
                    if let Some(default) = &field.default
                        && !given.contains_key(name)
                    {
                        given.insert(name.clone(), default.clone());
                    }
                    if let Some(value) = given.get_mut(name) {
                        field.fill(value);
                    }
                }
            }
            (Kind::List { items, .. }, Value::Array(given)) => given.iter_mut().for_each(|value| items.fill(value)),
            _ => {}
        }
    }

    fn check(&self, value: &Value, path: &FieldPath, faults: &mut Vec<Fault>) {
        let mut fault = |message| faults.push(Fault::new(path.clone(), message));
        match (&self.kind, value) {
            (Kind::Object { fields, required }, Value::Object(given)) => {
                for name in required.iter().filter(|name| !given.contains_key(*name)) {
                    faults.push(Fault::of_name(path.clone(), format!("{name} is required")));
                }
                for (name, value) in given {
                    if let Some(field) = fields.get(name) {
                        field.check(value, &path.field(name), faults);
                    }
                }
            }
            (Kind::List { items, length, unique }, Value::Array(given)) => {
                if let Some(message) = out_of_bounds(given.len(), *length, "item") {
                    fault(message);
                }
                for (index, value) in given.iter().enumerate() {
                    items.check(value, &path.item(index), faults);
                }
                unique.check(given, path, faults);
            }
            (Kind::Text { length, pattern }, Value::String(text)) => {
                if let Some(message) = out_of_bounds(text.chars().count(), *length, "character") {
                    fault(message);
                } else if let Some(pattern) = pattern
                    && !pattern.is_match(text)
                    && self.allowed.is_empty()
                {
                    fault(mismatch(value, pattern));
                }
            }
            (Kind::Integer { range: (least, most) }, Value::Number(number)) if number.is_i64() || number.is_u64() => {
                if !number.as_i64().is_some_and(|number| (*least..=*most).contains(&number)) {
                    fault(match (*least, *most) {
                        (least, i64::MAX) => format!("{number} is not at least {least}"),
                        (least, most) => format!("{number} is not from {least} to {most}"),
                    });
                }
            }
            (Kind::Boolean, Value::Bool(_)) | (Kind::Opaque, _) => {}
            (Kind::Text { .. }, Value::Bool(_) | Value::Number(_)) => {
                fault(format!("must be text, is {}; put it in quotes", described(value)));
            }
            (kind, _) => fault(format!("must be {}, is {}", kind.name(), described(value))),
        }
        if !self.allowed.is_empty() && value.is_string() && !self.allowed.contains(value) {
            faults.push(Fault::new(path.clone(), not_one_of(value, &self.allowed)));
        }
    }

    fn check_rules(&self, value: &Value, path: &FieldPath, faults: &mut Vec<Fault>) {
        faults.extend(
            self.rules
                .iter()
                .filter_map(|rule| rule.broken_by(value))
                .map(|message| Fault::new(path.clone(), message)),
        );
        match (&self.kind, value) {
            (Kind::Object { fields, .. }, Value::Object(given)) => {
                for (name, value) in given {
                    if let Some(field) = fields.get(name) {
                        field.check_rules(value, &path.field(name), faults);
                    }
                }
            }
            (Kind::List { items, .. }, Value::Array(given)) => {
                for (index, value) in given.iter().enumerate() {
                    items.check_rules(value, &path.item(index), faults);
                }
            }
            _ => {}
        }
    }
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Object { .. } | Self::Opaque => "an object",
            Self::List { .. } => "a list",
            Self::Text { .. } => "text",
            Self::Integer { .. } => "a whole number",
            Self::Boolean => "true or false",
        }
    }
}

impl Unique {
    fn check(&self, items: &[Value], path: &FieldPath, faults: &mut Vec<Fault>) {
        let key = |item: &Value| match self {
            Self::No => None,
            Self::Items => Some(item.to_string()),
            Self::Keys(keys) => Some(
                keys.iter()
                    .map(|key| item.get(key).unwrap_or(&Value::Null).to_string())
                    .collect(),
            ),
        };
        let mut seen = BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            if let Some(key) = key(item)
                && !seen.insert(key.clone())
            {
                let path = match self {
                    Self::Keys(keys) => keys
                        .first()
                        .map_or_else(|| path.item(index), |key| path.item(index).field(key)),
                    _ => path.item(index),
                };
                faults.push(Fault::new(path, format!("{key} is there twice")));
            }
        }
    }
}

fn unknown<'a>(path: &FieldPath, name: &str, known: impl Iterator<Item = &'a String>) -> Fault {
    let message = match nearest(name, known.map(String::as_str)) {
        Some(meant) => format!("unknown field, did you mean {meant}?"),
        None => "unknown field".to_owned(),
    };
    Fault::of_name(path.field(name), message)
}

fn out_of_bounds(length: usize, (least, most): (usize, usize), unit: &str) -> Option<String> {
    let units = |count| if count == 1 { unit.to_owned() } else { format!("{unit}s") };
    match length {
        0 if least > 0 => Some("must not be empty".to_owned()),
        length if length < least => Some(format!("has {length} {}, must have at least {least}", units(length))),
        length if length > most => Some(format!("has {length} {}, may have at most {most}", units(length))),
        _ => None,
    }
}

fn mismatch(value: &Value, pattern: &Regex) -> String {
    match pattern_in_words(pattern.as_str()) {
        Some(words) => format!("{} is not {words}", shown(value)),
        None => format!("{} does not match {pattern}", shown(value)),
    }
}

fn not_one_of(value: &Value, allowed: &[Value]) -> String {
    let words: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
    let hint = value
        .as_str()
        .and_then(|given| nearest(given, words.iter().copied()))
        .map_or_else(String::new, |meant| format!(", did you mean {meant}?"));
    format!("{} is not one of {}{hint}", shown(value), words.join(", "))
}

fn described(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(_) => format!("the text {}", shown(value)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// The value as JSON, cut where it is too long for a message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= MAX_SHOWN {
        return text;
    }
    text.chars().take(MAX_SHOWN).chain("...".chars()).collect()
}

fn compile(schema: &Value, at: &str) -> Result<Schema, UnsupportedSchema> {
    let unsupported = |what: String| UnsupportedSchema { at: at.to_owned(), what };
    let Value::Object(keywords) = schema else {
        return Err(unsupported("not an object".to_owned()));
    };
    if let Some(keyword) = keywords.keys().find(|keyword| !KNOWN.contains(&keyword.as_str())) {
        return Err(unsupported(format!("keyword {keyword}")));
    }
    let rules = match keywords.get("x-kubernetes-validations") {
        Some(Value::Array(rules)) => rules
            .iter()
            .map(Rule::compile)
            .collect::<Result<_, _>>()
            .map_err(unsupported)?,
        _ => Vec::new(),
    };
    Ok(Schema {
        kind: kind(keywords, at)?,
        default: keywords.get("default").cloned(),
        allowed: keywords.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
        rules,
    })
}

fn kind(keywords: &Map<String, Value>, at: &str) -> Result<Kind, UnsupportedSchema> {
    let unsupported = |what: String| UnsupportedSchema { at: at.to_owned(), what };
    let number = |name: &str| keywords.get(name).and_then(Value::as_i64);
    let length = |least: &str, most: &str| {
        let bound = |name, default| number(name).and_then(|bound| usize::try_from(bound).ok()).unwrap_or(default);
        (bound(least, 0), bound(most, usize::MAX))
    };
    match keywords.get("type").and_then(Value::as_str) {
        Some("object") => match keywords.get("properties") {
            Some(Value::Object(properties)) => object(keywords, properties, at),
            _ => Ok(Kind::Opaque),
        },
        Some("array") => Ok(Kind::List {
            items: Box::new(compile(keywords.get("items").unwrap_or(&Value::Null), &format!("{at}[]"))?),
            length: length("minItems", "maxItems"),
            unique: unique(keywords),
        }),
        Some("string") => Ok(Kind::Text {
            length: length("minLength", "maxLength"),
            pattern: match keywords.get("pattern").and_then(Value::as_str) {
                Some(pattern) => Some(Regex::new(pattern).map_err(|error| unsupported(error.to_string()))?),
                None => None,
            },
        }),
        Some("integer") => {
            let (least, most) = match keywords.get("format").and_then(Value::as_str) {
                Some("int32") => (i64::from(i32::MIN), i64::from(i32::MAX)),
                _ => (i64::MIN, i64::MAX),
            };
            Ok(Kind::Integer {
                range: (number("minimum").unwrap_or(least), number("maximum").unwrap_or(most)),
            })
        }
        Some("boolean") => Ok(Kind::Boolean),
        other => Err(unsupported(format!("type {}", other.unwrap_or("missing")))),
    }
}

fn object(keywords: &Map<String, Value>, properties: &Map<String, Value>, at: &str) -> Result<Kind, UnsupportedSchema> {
    let fields = properties
        .iter()
        .map(|(name, field)| Ok((name.clone(), compile(field, &format!("{at}.{name}"))?)));
    Ok(Kind::Object {
        fields: fields.collect::<Result<_, _>>()?,
        required: texts(keywords.get("required")),
    })
}

fn unique(keywords: &Map<String, Value>) -> Unique {
    match keywords.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => Unique::Items,
        Some("map") => Unique::Keys(texts(keywords.get("x-kubernetes-list-map-keys"))),
        _ => Unique::No,
    }
}

fn texts(list: Option<&Value>) -> Vec<String> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// Every keyword that is looked at, or that only describes.
const KNOWN: &[&str] = &[
    "default",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "pattern",
    "properties",
    "required",
    "type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-validations",
];

/// Characters of a wrong value in a message.
const MAX_SHOWN: usize = 64;
