//! The objects that routes are made of, reduced to what the control plane looks at, and the events that bring them.
//!
//! The folder reader makes them of files; a watch of a cluster makes the same of what the API server sends.

use std::{net::IpAddr, sync::Arc};

use super::{manifests::Origin, path::Fault};
use crate::{
    api::WebSocketRouteSpec,
    routing::{ObjectName, TicketKeys},
};

/// Something changed.
#[derive(Clone, Debug)]
pub enum Event {
    /// The object is there, new or changed.
    Apply(Object),
    /// The object is gone.
    Delete(Key),
    /// A DNS name of an ExternalName Service has these addresses, in order of preference.
    Resolved { host: Arc<str>, addresses: Vec<IpAddr> },
}

/// Any of the objects.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Route(Arc<Route>),
    Service(Service),
    EndpointSlice(EndpointSlice),
    ReferenceGrant(ReferenceGrant),
    Secret(Secret),
    Tickets(Tickets),
    /// A challenge of ACME that is being answered, as a route to who answers it. The name is that of the Ingress.
    Challenge(Arc<Route>),
}

/// What makes an object the same one across changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub kind: ObjectKind,
    pub name: ObjectName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    WebSocketRoute,
    Service,
    EndpointSlice,
    ReferenceGrant,
    Secret,
    /// Those of cert-manager's HTTP-01 solver only.
    Ingress,
}

/// A WebSocketRoute that the schema admits. Equal to another if it means the same, wherever it was read.
#[derive(Clone, Debug)]
pub struct Route {
    pub name: ObjectName,
    /// Seconds since 1970; 0 in a folder, whose objects are equally old.
    pub created: i64,
    pub generation: Option<i64>,
    pub spec: WebSocketRouteSpec,
    /// Why this build cannot read the spec, which is empty then. Only in a cluster, whose definition may be of another version.
    pub unreadable: Vec<Fault>,
    /// Where it stands in a file.
    pub origin: Option<Arc<Origin>>,
}

impl PartialEq for Route {
    fn eq(&self, other: &Self) -> bool {
        let key = |route: &Self| (route.created, route.generation);
        self.name == other.name && key(self) == key(other) && self.spec == other.spec && self.unreadable == other.unreadable
    }
}

/// A Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub name: ObjectName,
    pub ports: Vec<Port>,
    /// The DNS name of an ExternalName Service.
    pub external_name: Option<Arc<str>>,
    /// Whether IPv6 is the first of its families.
    pub ipv6_first: bool,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Empty: unnamed.
    pub name: Box<str>,
    pub number: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Box<str>,
    pub app_protocol: Option<Box<str>>,
}

/// Some endpoints of a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSlice {
    pub name: ObjectName,
    /// The Service's name, from the label `kubernetes.io/service-name`. `None`: it belongs to none.
    pub service: Option<Arc<str>>,
    /// TCP ports: name (empty: unnamed) and number.
    pub ports: Vec<(Box<str>, u16)>,
    pub endpoints: Vec<SliceEndpoint>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq)]
pub struct SliceEndpoint {
    /// Never empty.
    pub addresses: Vec<IpAddr>,
    pub pod: Option<Pod>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

/// The pod behind an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    pub name: Box<str>,
    pub uid: Box<str>,
}

/// Lets objects of some namespaces refer to objects of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceGrant {
    pub name: ObjectName,
    /// Namespaces whose WebSocketRoutes may refer.
    pub from: Vec<Box<str>>,
    /// Services that may be referred to; `None`: all of them.
    pub to: Vec<Option<Box<str>>>,
    /// Secrets, in the same way.
    pub to_secrets: Vec<Option<Box<str>>>,
}

/// A Secret of type kubernetes.io/tls.
#[derive(Clone, PartialEq)]
pub struct Secret {
    pub name: ObjectName,
    /// Certificates in PEM form, the host's first.
    pub chain: Box<[u8]>,
    /// The key in PEM form.
    pub key: Box<[u8]>,
    /// Who may vouch for others, in PEM form.
    pub authorities: Option<Box<[u8]>>,
}

/// A Secret of type holdfast.dev/tickets.
#[derive(Clone, Debug, PartialEq)]
pub struct Tickets {
    pub name: ObjectName,
    /// `None`: it has none yet.
    pub keys: Option<Arc<TicketKeys>>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ObjectKind {
    /// As in manifests.
    pub fn word(self) -> &'static str {
        match self {
            Self::WebSocketRoute => "WebSocketRoute",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::Secret => "Secret",
            Self::Ingress => "Ingress",
        }
    }

    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::WebSocketRoute,
        Self::Service,
        Self::EndpointSlice,
        Self::ReferenceGrant,
        Self::Secret,
        Self::Ingress,
    ];
}

impl Object {
    pub fn key(&self) -> Key {
        let (kind, name) = match self {
            Self::Route(route) => (ObjectKind::WebSocketRoute, &route.name),
            Self::Service(service) => (ObjectKind::Service, &service.name),
            Self::EndpointSlice(slice) => (ObjectKind::EndpointSlice, &slice.name),
            Self::ReferenceGrant(grant) => (ObjectKind::ReferenceGrant, &grant.name),
            Self::Secret(secret) => (ObjectKind::Secret, &secret.name),
            Self::Tickets(tickets) => (ObjectKind::Secret, &tickets.name),
            Self::Challenge(route) => (ObjectKind::Ingress, &route.name),
        };
        Key {
            kind,
            name: name.clone(),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.word(), self.name)
    }
}
