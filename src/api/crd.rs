//! The CustomResourceDefinition, as a document.

use kube::CustomResourceExt;
use serde_json::{Map, Value};

use super::WebSocketRoute;

/// The CustomResourceDefinition as JSON: what kube makes of the types, in the form that an API server stores.
#[must_use]
pub fn crd() -> Value {
    let mut crd = serde_json::to_value(WebSocketRoute::crd()).unwrap_or_default();
    tidy(&mut crd);
    crd
}

/// The same as YAML, for `kubectl apply` and crds/websocketroutes.yaml.
#[must_use]
pub fn crd_yaml() -> String {
    serde_saphyr::to_string(&crd()).unwrap_or_default()
}

/// Removes what the schema's generator adds and Kubernetes has no use for: `nullable`, which would let null mean
/// something, formats that are Rust's alone, and empty lists.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, value| !is_noise(name, value));
            let is_schema = fields.get("type").is_some_and(Value::is_string);
            if is_schema && let Some(Value::String(text)) = fields.get_mut("description") {
                *text = unwrapped(text);
            }
            if let Some(Value::Array(allowed)) = fields.get_mut("enum") {
                allowed.retain(|value| !value.is_null());
            }
            integers(fields);
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

fn is_noise(name: &str, value: &Value) -> bool {
    match (name, value) {
        ("nullable", Value::Bool(_)) | ("title", Value::String(_)) => true,
        ("format", Value::String(format)) => format.starts_with("uint") || format == "int8" || format == "int16",
        _ => false,
    }
}

/// Bounds come as floats; whole ones read better without their fraction.
fn integers(fields: &mut Map<String, Value>) {
    for name in ["minimum", "maximum"] {
        if let Some(bound) = fields.get_mut(name)
            && let Some(number) = bound.as_f64()
            && number.fract() == 0.0
            && number.abs() < 1e15
        {
            *bound = Value::from(number as i64);
        }
    }
}

/// Lines of a doc comment as one paragraph each.
fn unwrapped(text: &str) -> String {
    let paragraphs = text
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    paragraphs.collect::<Vec<_>>().join("\n\n")
}
