//! From a document to an object, by the rules of an API server: what it would refuse is a fault here.

use std::{
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    api::{self, WebSocketRouteSpec},
    control::{
        object::{EndpointSlice, Key, Object, ObjectKind, Pod, Port, ReferenceGrant, Route, Service, SliceEndpoint},
        path::{Fault, FieldPath, Step},
        schema::{Schema, nearest},
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
    let Value::Object(mut fields) = value else {
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
        ObjectKind::Service => typed(Value::Object(fields)).and_then(|object| service(name, object)),
        ObjectKind::EndpointSlice => typed(Value::Object(fields)).and_then(|object| endpoint_slice(name, object)),
        ObjectKind::ReferenceGrant => {
            fields.retain(|field, _| field != "status");
            typed(Value::Object(fields)).map(|object| reference_grant(name, object))
        }
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
    let mut value = Value::Object(fields);
    match &*SCHEMA {
        Ok(schema) => schema.admit(&mut value)?,
        Err(error) => return Err(vec![Fault::new(FieldPath::default(), error.clone())]),
    }
    let spec: WebSocketRouteSpec = from_value(value.get("spec").cloned().unwrap_or_default(), &FieldPath::of(["spec"]))?;
    Ok(Object::Route(Arc::new(Route {
        name,
        created: 0,
        generation: None,
        spec,
        origin: None,
    })))
}

fn service(name: ObjectName, object: core::Service) -> Result<Object, Vec<Fault>> {
    let spec = object.spec.unwrap_or_default();
    let path = FieldPath::of(["spec"]);
    let mut faults = Vec::new();
    let mut ports = Vec::new();
    for (index, port) in spec.ports.unwrap_or_default().into_iter().enumerate() {
        match port_number(port.port) {
            Some(number) => ports.push(Port {
                name: port.name.unwrap_or_default().into(),
                number,
                protocol: port.protocol.unwrap_or_else(|| "TCP".to_owned()).into(),
                app_protocol: port.app_protocol.map(Box::from),
            }),
            None => faults.push(out_of_range(&path.field("ports").item(index).field("port"), port.port)),
        }
    }
    let is_external = spec.type_.as_deref() == Some("ExternalName");
    let external_name = match spec.external_name.as_deref().map(|name| name.trim_end_matches('.')) {
        Some(name) if is_external && !name.is_empty() => Some(Arc::from(name.to_ascii_lowercase())),
        _ if is_external => {
            faults.push(Fault::of_name(path, "externalName is required for type ExternalName"));
            None
        }
        _ => None,
    };
    let first_family = spec.ip_families.as_ref().and_then(|families| families.first());
    let first_address = spec.cluster_ip.as_deref().unwrap_or_default();
    let ipv6_first = first_family.map_or_else(|| first_address.contains(':'), |family| family == "IPv6");
    let service = Service {
        name,
        ports,
        external_name,
        ipv6_first,
    };
    if faults.is_empty() {
        Ok(Object::Service(service))
    } else {
        Err(faults)
    }
}

fn endpoint_slice(name: ObjectName, object: discovery::EndpointSlice) -> Result<Object, Vec<Fault>> {
    let mut faults = Vec::new();
    let is_ipv6 = match object.address_type.as_str() {
        "IPv4" => false,
        "IPv6" => true,
        "FQDN" => {
            let message = "FQDN is not served; name the host in a Service of type ExternalName";
            return Err(vec![Fault::new(FieldPath::of(["addressType"]), message)]);
        }
        other => {
            let message = format!("{other:?} is not one of IPv4, IPv6");
            return Err(vec![Fault::new(FieldPath::of(["addressType"]), message)]);
        }
    };
    let mut ports = Vec::new();
    for (index, port) in object.ports.unwrap_or_default().into_iter().enumerate() {
        let is_tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        let Some(number) = port.port.filter(|_| is_tcp) else {
            continue;
        };
        match port_number(number) {
            Some(number) => ports.push((port.name.unwrap_or_default().into(), number)),
            None => faults.push(out_of_range(&FieldPath::of(["ports"]).item(index).field("port"), number)),
        }
    }
    let mut endpoints = Vec::with_capacity(object.endpoints.len());
    for (index, endpoint) in object.endpoints.into_iter().enumerate() {
        let path = FieldPath::of(["endpoints"]).item(index).field("addresses");
        let addresses = addresses(&endpoint.addresses, is_ipv6, &path, &mut faults);
        let conditions = endpoint.conditions.unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        endpoints.push(SliceEndpoint {
            addresses,
            pod: endpoint.target_ref.and_then(pod),
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
        });
    }
    let labels = object.metadata.labels.unwrap_or_default();
    let slice = EndpointSlice {
        name,
        service: labels.get(SERVICE_LABEL).map(|service| Arc::from(service.as_str())),
        ports,
        endpoints,
    };
    if faults.is_empty() {
        Ok(Object::EndpointSlice(slice))
    } else {
        Err(faults)
    }
}

fn addresses(texts: &[String], is_ipv6: bool, path: &FieldPath, faults: &mut Vec<Fault>) -> Vec<IpAddr> {
    if texts.is_empty() {
        faults.push(Fault::new(path.clone(), "must not be empty"));
    }
    let family = if is_ipv6 { "IPv6" } else { "IPv4" };
    let mut addresses = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        match text.parse::<IpAddr>() {
            Ok(address) if address.is_ipv6() == is_ipv6 => addresses.push(address),
            _ => faults.push(Fault::new(path.item(index), format!("{text:?} is not an {family} address"))),
        }
    }
    addresses
}

fn pod(reference: core::ObjectReference) -> Option<Pod> {
    Some(Pod {
        name: reference.name?.into(),
        uid: reference.uid?.into(),
    })
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number > 0)
}

fn out_of_range(path: &FieldPath, number: i32) -> Fault {
    Fault::new(path.clone(), format!("{number} is not from 1 to 65535"))
}

/// A ReferenceGrant as Gateway API has it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Grant {
    api_version: String,
    kind: String,
    metadata: Value,
    spec: GrantSpec,
}

#[derive(Debug, Deserialize, Serialize)]
struct GrantSpec {
    from: Vec<GrantFrom>,
    to: Vec<GrantTo>,
}

#[derive(Debug, Deserialize, Serialize)]
struct GrantFrom {
    group: String,
    kind: String,
    namespace: String,
}

#[derive(Debug, Deserialize, Serialize)]
struct GrantTo {
    group: String,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

fn reference_grant(name: ObjectName, object: Grant) -> Object {
    let from = object
        .spec
        .from
        .into_iter()
        .filter(|from| from.group == api::GROUP && from.kind == api::KIND);
    let to = object
        .spec
        .to
        .into_iter()
        .filter(|to| to.group.is_empty() && to.kind == "Service");
    Object::ReferenceGrant(ReferenceGrant {
        name,
        from: from.map(|from| from.namespace.into()).collect(),
        to: to.map(|to| to.name.map(Box::from)).collect(),
    })
}

/// Reads a type of Kubernetes' own; a field that it does not keep is a field that it does not know.
fn typed<T: DeserializeOwned + Serialize>(value: Value) -> Result<T, Vec<Fault>> {
    let object: T = from_value(value.clone(), &FieldPath::default())?;
    let kept = serde_json::to_value(&object).unwrap_or_default();
    let mut faults = Vec::new();
    find_lost(&value, &kept, &FieldPath::default(), &mut faults);
    if faults.is_empty() { Ok(object) } else { Err(faults) }
}

fn from_value<T: DeserializeOwned>(value: Value, root: &FieldPath) -> Result<T, Vec<Fault>> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let inner = error.path().iter().filter_map(|segment| match segment {
            serde_path_to_error::Segment::Seq { index } => Some(Step::Item(*index)),
            serde_path_to_error::Segment::Map { key } => Some(Step::Field(key.as_str().into())),
            _ => None,
        });
        let path = root.steps().iter().cloned().chain(inner).collect();
        vec![Fault::new(path, error.inner().to_string())]
    })
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

/// The schema of our own kind, from the definition that the cluster has.
static SCHEMA: LazyLock<Result<Schema, String>> = LazyLock::new(|| {
    let crd = api::crd();
    let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap_or(&Value::Null);
    Schema::compile(schema).map_err(|error| error.to_string())
});

const MAX_LABEL: usize = 63;
const MAX_SUBDOMAIN: usize = 253;
const DEFAULT_NAMESPACE: &str = "default";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

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
