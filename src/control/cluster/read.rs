//! From an object as the API server sends it to what is kept of it. What cannot be read is said, and touches nothing else.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    api::{WebSocketRouteSpec, WebSocketRouteStatus},
    control::{
        convert::{self, GrantSpec, SERVICE_LABEL, Unknown},
        object::{Key, Object, ObjectKind, Route},
        path::{Fault, FieldPath},
        status,
        watch::{Meta, Watched},
    },
    routing::ObjectName,
};

/// An object that was read.
#[derive(Debug)]
pub(in crate::control) struct Read {
    pub(in crate::control) key: Key,
    /// `None`: it is not for us, or cannot be used.
    pub(in crate::control) object: Option<Object>,
    /// Why it cannot be used.
    pub(in crate::control) complaint: Option<String>,
    /// Of a route of our class.
    pub(in crate::control) state: Option<RouteState>,
}

/// What the API server holds of a route beside its spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) struct RouteState {
    pub(in crate::control) uid: Box<str>,
    pub(in crate::control) generation: i64,
    /// The resourceVersion of this state.
    pub(in crate::control) version: u64,
    /// Of what we would write into its status.
    pub(in crate::control) digest: u64,
    /// The generation that its status says to be programmed.
    pub(in crate::control) programmed: Option<i64>,
    /// Why it is not programmed yet, if its status says so.
    pub(in crate::control) pending: Option<Box<str>>,
}

/// Reads an object of `kind`.
pub(super) fn read(kind: ObjectKind, class: &str, watched: Watched) -> Read {
    let Watched { metadata, mut fields } = watched;
    let name = ObjectName {
        namespace: metadata.namespace.as_str().into(),
        name: metadata.name.as_str().into(),
    };
    let key = Key {
        kind,
        name: name.clone(),
    };
    let object = match kind {
        ObjectKind::WebSocketRoute => return read_route(key, class, &metadata, fields),
        ObjectKind::Service => typed(fields)
            .and_then(|object: core::Service| convert::service(name, object))
            .map(Object::Service),
        ObjectKind::EndpointSlice if fields.get("addressType").is_some_and(|family| family == "FQDN") => {
            return unused(key, None); // names, which nothing in Kubernetes resolves
        }
        ObjectKind::EndpointSlice => typed(fields)
            .and_then(|object: discovery::EndpointSlice| {
                convert::endpoint_slice(name, metadata.labels.get(SERVICE_LABEL).map(String::as_str), object)
            })
            .map(Object::EndpointSlice),
        ObjectKind::ReferenceGrant => {
            let spec = fields.get_mut("spec").map(Value::take).unwrap_or_default();
            convert::from_value(spec, &FieldPath::of(["spec"]))
                .map(|spec: GrantSpec| Object::ReferenceGrant(convert::reference_grant(name, spec)))
        }
        ObjectKind::Ingress => {
            let of_class = metadata.annotations.get(CLASS_ANNOTATION).cloned();
            let ingress: Result<networking::Ingress, _> = typed(fields);
            let ingress = ingress.map(|ingress| ingress.spec.unwrap_or_default());
            match ingress.map(|spec| (of_class.or_else(|| spec.ingress_class_name.clone()), spec)) {
                Ok((Some(of_class), spec)) if of_class == class => match convert::challenge(name, spec) {
                    Ok(Some(route)) => Ok(Object::Challenge(Arc::new(route))),
                    Ok(None) => return unused(key, None),
                    Err(faults) => Err(faults),
                },
                Ok(_) => return unused(key, None), // somebody else's
                Err(faults) => Err(faults),
            }
        }
        ObjectKind::Secret => typed(fields)
            .and_then(|object: core::Secret| convert::secret(name, object))
            .map(Object::Secret),
    };
    match object {
        Ok(object) => Read {
            key,
            object: Some(object),
            complaint: None,
            state: None,
        },
        Err(faults) => unused(key, Some(in_words(&faults))),
    }
}

fn read_route(key: Key, class: &str, metadata: &Meta, mut fields: Map<String, Value>) -> Read {
    let of_class = fields
        .get("spec")
        .and_then(|spec| spec.get("className"))
        .and_then(Value::as_str);
    if of_class.is_some_and(|of_class| of_class != class) {
        return unused(key, None);
    }
    let found = fields.remove("status");
    fields.retain(|field, _| field == "spec");
    let (spec, unreadable) = match convert::route_spec(fields, Unknown::Ignore) {
        Ok(spec) => (spec, Vec::new()),
        Err(faults) => (WebSocketRouteSpec::default(), faults),
    };
    let state = state(metadata, found.as_ref());
    let route = Route {
        name: key.name.clone(),
        created: created(metadata),
        generation: metadata.generation,
        spec,
        unreadable,
        origin: None,
    };
    Read {
        key,
        object: Some(Object::Route(Arc::new(route))),
        complaint: None,
        state: Some(state),
    }
}

/// What a route's status says, as far as it can be read: what cannot is as good as nothing and will be written anew.
fn state(metadata: &Meta, found: Option<&Value>) -> RouteState {
    let status = found
        .and_then(|status| WebSocketRouteStatus::deserialize(status).ok())
        .unwrap_or_default();
    RouteState {
        uid: metadata.uid.as_str().into(),
        generation: metadata.generation.unwrap_or_default(),
        version: metadata.resource_version.parse().unwrap_or_default(),
        digest: status::digest(&status),
        programmed: status::programmed(&status),
        pending: status::pending(&status).map(Box::from),
    }
}

/// Seconds since 1970; the API server says when.
fn created(metadata: &Meta) -> i64 {
    let when = metadata.creation_timestamp.as_deref();
    when.and_then(|when| when.parse::<Timestamp>().ok())
        .map_or(0, Timestamp::as_second)
}

fn unused(key: Key, complaint: Option<String>) -> Read {
    Read {
        key,
        object: None,
        complaint,
        state: None,
    }
}

/// What cert-manager names the class by where an issuer says `class` and not `ingressClassName`.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

fn typed<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, Vec<Fault>> {
    convert::from_value(Value::Object(fields), &FieldPath::default())
}

fn in_words(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; ")
}
