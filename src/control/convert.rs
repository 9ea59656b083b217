//! From what Kubernetes says of an object to what the control plane looks at. A file's words and an API server's go the same
//! way, so that they mean the same.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use k8s_openapi::{
    ByteString,
    api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{
    object::{EndpointSlice, Pod, Port, ReferenceGrant, Route, Secret, Service, SliceEndpoint},
    path::{Fault, FieldPath, Step},
    schema::Schema,
};
use crate::{
    api::{self, WebSocketRouteSpec},
    routing::{ObjectName, table::CHALLENGE_PATH},
};

/// What is done about fields that the schema does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// They are faults: a file says what its author means.
    Refuse,
    /// They mean nothing: a definition newer than this build may store them in every object.
    Ignore,
}

/// A route's spec, from the fields of its object less apiVersion, kind, metadata and status.
pub(super) fn route_spec(fields: Map<String, Value>, unknown: Unknown) -> Result<WebSocketRouteSpec, Vec<Fault>> {
    let schema = SCHEMA
        .as_ref()
        .map_err(|error| vec![Fault::new(FieldPath::default(), error.clone())])?;
    let mut value = Value::Object(fields);
    match unknown {
        Unknown::Refuse => schema.admit(&mut value)?,
        Unknown::Ignore => schema.admit_known(&mut value)?,
    }
    let spec = value.get_mut("spec").map(Value::take).unwrap_or_default();
    from_value(spec, &FieldPath::of(["spec"]))
}

/// A Service.
pub(super) fn service(name: ObjectName, object: core::Service) -> Result<Service, Vec<Fault>> {
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
    if faults.is_empty() { Ok(service) } else { Err(faults) }
}

/// An EndpointSlice of the Service that its label names.
pub(super) fn endpoint_slice(
    name: ObjectName,
    service: Option<&str>,
    object: discovery::EndpointSlice,
) -> Result<EndpointSlice, Vec<Fault>> {
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
    let slice = EndpointSlice {
        name,
        service: service.map(Arc::from),
        ports,
        endpoints,
    };
    if faults.is_empty() { Ok(slice) } else { Err(faults) }
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

/// A Secret of type kubernetes.io/tls.
pub(super) fn secret(name: ObjectName, object: core::Secret) -> Result<Secret, Vec<Fault>> {
    let mut data = secret_data(object);
    let mut take = |key: &str| data.remove(key).map(|ByteString(bytes)| bytes.into_boxed_slice());
    match (take(CHAIN), take(PRIVATE_KEY)) {
        (Some(chain), Some(key)) => Ok(Secret {
            name,
            chain,
            key,
            authorities: take(AUTHORITIES),
        }),
        (chain, _) => {
            let missing = if chain.is_none() { CHAIN } else { PRIVATE_KEY };
            let message = format!("{missing} is required for type {TLS_SECRET}");
            Err(vec![Fault::of_name(FieldPath::of(["data"]), message)])
        }
    }
}

/// The entries of a Secret; those in plain text go first.
pub(super) fn secret_data(object: core::Secret) -> BTreeMap<String, ByteString> {
    let mut data = object.data.unwrap_or_default();
    let text = object.string_data.unwrap_or_default();
    data.extend(text.into_iter().map(|(key, text)| (key, ByteString(text.into_bytes()))));
    data
}

/// An Ingress of cert-manager's HTTP-01 solver, as a route to the solver's Service: one host, and of its paths those of
/// challenges. `None`: there is none.
pub(super) fn challenge(name: ObjectName, ingress: networking::IngressSpec) -> Result<Option<Route>, Vec<Fault>> {
    let Some(rule) = ingress.rules.unwrap_or_default().into_iter().next() else {
        return Ok(None);
    };
    let path = FieldPath::of(["spec", "rules"]).item(0);
    let Some(host) = rule.host.filter(|host| !host.is_empty()) else {
        return Err(vec![Fault::of_name(path, "host is required: a challenge is one of a host")]);
    };
    let paths = rule.http.map(|http| http.paths).unwrap_or_default();
    let mut rules = Vec::new();
    for (index, of_path) in paths.into_iter().enumerate() {
        let backend = of_path.backend.service;
        let port = backend.as_ref().and_then(|service| service.port.as_ref()?.number);
        match (of_path.path, backend, port) {
            (Some(path), ..) if !path.starts_with(CHALLENGE_PATH) => {}
            (Some(path), Some(service), Some(port)) => rules.push(json!({
                "matches": [{"path": {"type": "Exact", "value": path}}],
                "backendRefs": [{"name": service.name, "port": port}],
            })),
            _ => {
                let path = path.field("http").field("paths").item(index);
                return Err(vec![Fault::new(
                    path,
                    "a path and a Service with the number of a port are required",
                )]);
            }
        }
    }
    if rules.is_empty() {
        return Ok(None);
    }
    let spec = json!({"hostnames": [host.to_ascii_lowercase()], "rules": rules});
    let fields = Map::from_iter([("spec".to_owned(), spec)]);
    Ok(Some(Route {
        name,
        created: 0,
        generation: None,
        spec: route_spec(fields, Unknown::Refuse)?,
        unreadable: Vec::new(),
        origin: None,
    }))
}

/// The spec of a ReferenceGrant as Gateway API has it.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct GrantSpec {
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

/// A ReferenceGrant, reduced to what concerns WebSocketRoutes, Services and Secrets.
pub(super) fn reference_grant(name: ObjectName, spec: GrantSpec) -> ReferenceGrant {
    let from = spec
        .from
        .into_iter()
        .filter(|from| from.group == api::GROUP && from.kind == api::KIND);
    let to = |kind: &str| {
        let of_kind = spec.to.iter().filter(|to| to.group.is_empty() && to.kind == kind);
        of_kind.map(|to| to.name.as_deref().map(Box::from)).collect()
    };
    ReferenceGrant {
        name,
        from: from.map(|from| from.namespace.into()).collect(),
        to: to("Service"),
        to_secrets: to("Secret"),
    }
}

/// Reads a type; what it cannot read is a fault of the field below `root`.
pub(super) fn from_value<T: DeserializeOwned>(value: Value, root: &FieldPath) -> Result<T, Vec<Fault>> {
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

/// The schema of our own kind, from the definition that the cluster has.
static SCHEMA: LazyLock<Result<Schema, String>> = LazyLock::new(|| {
    let crd = api::crd();
    let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap_or(&Value::Null);
    Schema::compile(schema).map_err(|error| error.to_string())
});

/// The type of Secrets that certificates are in.
pub(super) const TLS_SECRET: &str = "kubernetes.io/tls";
const CHAIN: &str = "tls.crt";
const PRIVATE_KEY: &str = "tls.key";
const AUTHORITIES: &str = "ca.crt";

/// The label that names the Service of an EndpointSlice.
pub(super) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
