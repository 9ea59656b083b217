//! From a document to an object, by the rules of an API server: what it would refuse is a fault here.

use std::sync::Arc;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    api,
    control::{
        convert::{self, GrantSpec, SERVICE_LABEL, TLS_SECRET, Unknown},
        object::{Key, Object, ObjectKind, Route, Tickets},
        path::{Fault, FieldPath},
        schema::nearest,
        tickets,
    },
    routing::ObjectName,
};

/// What a document is.
#[derive(Debug)]
pub(super) enum Decoded {
    Object(Object),
    /// Of a kind that routes are not made of.
    Skipped(String),
    /// Never without a fault.
    Refused(Vec<Fault>),
}

/// Reads one object, and who it says it is.
pub(super) fn decode(value: Value) -> (Option<Key>, Decoded) {
    let Value::Object(fields) = value else {
        let fault = Fault::new(
            FieldPath::default(),
            "not an object: apiVersion, kind and metadata are missing",
        );
        return (None, Decoded::Refused(vec![fault]));
    };
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let kind = match known(&api_version, &kind) {
        Ok(Some(kind)) => kind,
        Ok(None) => return (None, Decoded::Skipped(kind)),
        Err(fault) => return (None, Decoded::Refused(vec![fault])),
    };
    let name = match metadata(fields.get("metadata"), kind) {
        Ok(name) => name,
        Err(faults) => return (None, Decoded::Refused(faults)),
    };
    let key = Key {
        kind,
        name: name.clone(),
    };
    let object = match kind {
        ObjectKind::WebSocketRoute => route(name, fields),
        ObjectKind::Service => service(name, fields),
        ObjectKind::EndpointSlice => endpoint_slice(name, fields),
        ObjectKind::ReferenceGrant => reference_grant(name, fields),
        ObjectKind::Ingress => return (None, Decoded::Skipped(kind.word().to_owned())), // nobody issues certificates to a folder
        ObjectKind::Secret => match text("type").as_str() {
            TLS_SECRET => secret(name, fields),
            tickets::SECRET => ticket_keys(name, fields),
            _ => return (None, Decoded::Skipped(kind.word().to_owned())),
        },
    };
    (Some(key), object.map_or_else(Decoded::Refused, Decoded::Object))
}

/// The kind, if it is one of those that routes are made of.
fn known(api_version: &str, kind: &str) -> Result<Option<ObjectKind>, Fault> {
    let missing = |field| Fault::of_name(FieldPath::default(), format!("{field} is required"));
    if api_version.is_empty() {
        return Err(missing("apiVersion"));
    }
    if kind.is_empty() {
        return Err(missing("kind"));
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let (kind, versions): (_, &[&str]) = match (group, kind) {
        (api::GROUP, api::KIND) => (ObjectKind::WebSocketRoute, &[api::VERSION]),
        (api::GROUP, _) => {
            let hint =
                nearest(kind, [api::KIND].into_iter()).map_or_else(String::new, |meant| format!(", did you mean {meant}?"));
            return Err(Fault::new(
                FieldPath::of(["kind"]),
                format!("{} has no kind {kind}{hint}", api::GROUP),
            ));
        }
        ("", "Service") => (ObjectKind::Service, &["v1"]),
        ("", "Secret") => (ObjectKind::Secret, &["v1"]),
        ("discovery.k8s.io", "EndpointSlice") => (ObjectKind::EndpointSlice, &["v1"]),
        ("gateway.networking.k8s.io", "ReferenceGrant") => (ObjectKind::ReferenceGrant, &["v1", "v1beta1"]),
        _ => return Ok(None),
    };
    if versions.contains(&version) {
        return Ok(Some(kind));
    }
    let message = format!(
        "{} is not served in version {version}, only in {}",
        kind.word(),
        versions.join(" and ")
    );
    Err(Fault::new(FieldPath::of(["apiVersion"]), message))
}

fn metadata(value: Option<&Value>, kind: ObjectKind) -> Result<ObjectName, Vec<Fault>> {
    let path = FieldPath::of(["metadata"]);
    let Some(Value::Object(fields)) = value else {
        return Err(vec![Fault::of_name(FieldPath::default(), "metadata is required")]);
    };
    let mut faults: Vec<Fault> = Vec::new();
    for field in fields.keys().filter(|field| !METADATA.contains(&field.as_str())) {
        let message = match nearest(field, METADATA.iter().copied()) {
            Some(meant) => format!("unknown field, did you mean {meant}?"),
            None => "unknown field".to_owned(),
        };
        faults.push(Fault::of_name(path.field(field), message));
    }
    let is_name = if kind == ObjectKind::Service { is_label } else { is_subdomain };
    let name = text(fields, "name", is_name, &mut faults);
    if !fields.contains_key("name") {
        faults.push(Fault::of_name(path.clone(), "name is required"));
    }
    let namespace = text(fields, "namespace", is_label, &mut faults).unwrap_or_else(|| Arc::from(DEFAULT_NAMESPACE));
    let name = name.unwrap_or_else(|| Arc::from(""));
    if faults.is_empty() {
        Ok(ObjectName { namespace, name })
    } else {
        Err(faults)
    }
}

/// A name in the metadata. `None`: it is absent or wrong.
fn text(fields: &Map<String, Value>, field: &str, is_name: fn(&str) -> bool, faults: &mut Vec<Fault>) -> Option<Arc<str>> {
    match fields.get(field)? {
        Value::String(text) if is_name(text) => Some(Arc::from(text.as_str())),
        Value::Null => None,
        other => {
            let path = FieldPath::of(["metadata", field]);
            faults.push(Fault::new(
                path,
                format!("{other} is not a name: lower case letters, digits and - within"),
            ));
            None
        }
    }
}

/// A label of RFC 1123.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.len() <= MAX_LABEL && !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// Labels with points between them.
fn is_subdomain(text: &str) -> bool {
    text.len() <= MAX_SUBDOMAIN && text.split('.').all(is_label)
}

fn route(name: ObjectName, mut fields: Map<String, Value>) -> Result<Object, Vec<Fault>> {
    fields.retain(|field, _| !["apiVersion", "kind", "metadata", "status"].contains(&field.as_str()));
    let spec = convert::route_spec(fields, Unknown::Refuse)?;
    Ok(Object::Route(Arc::new(Route {
        name,
        created: 0,
        generation: None,
        spec,
        unreadable: Vec::new(),
        origin: None,
    })))
}

fn service(name: ObjectName, fields: Map<String, Value>) -> Result<Object, Vec<Fault>> {
    let object: core::Service = typed(Value::Object(fields))?;
    convert::service(name, object).map(Object::Service)
}

fn endpoint_slice(name: ObjectName, fields: Map<String, Value>) -> Result<Object, Vec<Fault>> {
    let mut object: discovery::EndpointSlice = typed(Value::Object(fields))?;
    let labels = object.metadata.labels.take().unwrap_or_default();
    let service = labels.get(SERVICE_LABEL).map(String::as_str);
    convert::endpoint_slice(name, service, object).map(Object::EndpointSlice)
}

fn secret(name: ObjectName, fields: Map<String, Value>) -> Result<Object, Vec<Fault>> {
    let object: core::Secret = typed(Value::Object(fields))?;
    convert::secret(name, object).map(Object::Secret)
}

fn ticket_keys(name: ObjectName, fields: Map<String, Value>) -> Result<Object, Vec<Fault>> {
    let object: core::Secret = typed(Value::Object(fields))?;
    let stored =
        tickets::read(&convert::secret_data(object)).map_err(|why| vec![Fault::of_name(FieldPath::of(["data"]), why)])?;
    let keys = stored.map(|stored| stored.keys);
    Ok(Object::Tickets(Tickets { name, keys }))
}

fn reference_grant(name: ObjectName, mut fields: Map<String, Value>) -> Result<Object, Vec<Fault>> {
    fields.retain(|field, _| field != "status");
    let Grant { spec, .. } = typed(Value::Object(fields))?;
    Ok(Object::ReferenceGrant(convert::reference_grant(name, spec)))
}

/// A ReferenceGrant as it is written.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Grant {
    api_version: String,
    kind: String,
    metadata: Value,
    spec: GrantSpec,
}

/// Reads a type of Kubernetes' own; a field that it does not keep is a field that it does not know.
fn typed<T: DeserializeOwned + Serialize>(value: Value) -> Result<T, Vec<Fault>> {
    let object: T = convert::from_value(value.clone(), &FieldPath::default())?;
    let kept = serde_json::to_value(&object).unwrap_or_default();
    let mut faults = Vec::new();
    find_lost(&value, &kept, &FieldPath::default(), &mut faults);
    if faults.is_empty() { Ok(object) } else { Err(faults) }
}

fn find_lost(given: &Value, kept: &Value, path: &FieldPath, faults: &mut Vec<Fault>) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (name, value) in given.iter().filter(|(_, value)| !value.is_null()) {
                match kept.get(name) {
                    Some(kept) => find_lost(value, kept, &path.field(name), faults),
                    None => faults.push(Fault::of_name(path.field(name), "unknown field")),
                }
            }
        }
        (Value::Array(given), Value::Array(kept)) => {
            for (index, (given, kept)) in given.iter().zip(kept).enumerate() {
                find_lost(given, kept, &path.item(index), faults);
            }
        }
        _ => {}
    }
}

const MAX_LABEL: usize = 63;
const MAX_SUBDOMAIN: usize = 253;
const DEFAULT_NAMESPACE: &str = "default";

/// The fields of ObjectMeta.
const METADATA: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];
