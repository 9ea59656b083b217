//! The Kubernetes API of Holdfast: `WebSocketRoute` in `holdfast.dev/v1alpha1`.
//!
//! Owns the types, their schema and the CustomResourceDefinition made of them. The documentation of a field is what
//! `kubectl explain` shows. Nothing here decides what a route means; the control plane compiles it.

#![allow(clippy::duplicated_attributes, reason = "each printer column has a type of its own")]

mod backend_tls;
mod crd;
mod duration;
mod fallback;
mod filter;
mod forwarded;
mod health;
mod limits;
mod pattern;
mod policy;
mod retry;
mod rule;
mod security;
mod status;
mod tls;
mod tunnel_limits;

use kube::{CustomResource, KubeSchema};
use pattern::{HOSTNAME, SUBDOMAIN};
use serde::{Deserialize, Serialize};

pub use backend_tls::{BackendTls, BackendTlsMode, SecretRef};
pub use crd::{crd, crd_yaml};
pub use duration::{Duration, InvalidDuration};
pub use fallback::{Fallback, FallbackType, Respond, StaticFiles};
pub use filter::{
    FilterType, HeaderField, HeaderModifier, OF_FORWARDED, PathModifier, PathModifierType, RedirectScheme, RequestRedirect,
    RouteFilter, UrlRewrite, is_of_the_handshake,
};
pub use forwarded::{Forwarded, ForwardedMode};
pub use health::{Health, PassiveHealth};
pub use limits::{ClientConnections, HandshakeRate, LimitKey, LimitKeySource, Limits};
pub use pattern::pattern_in_words;
pub use policy::{
    Algorithm, ClientIp, Cookie, HashSource, HashSourceType, Heartbeat, Heartbeats, LoadBalancing, OnUnavailable,
    PersistenceType, SameSite, SessionHeader, SessionPersistence, Timeouts,
};
pub use retry::Retry;
pub use rule::{BackendRef, HeaderMatch, PathMatch, PathMatchType, QueryParamMatch, RouteMatch, RouteRule, ValueMatchType};
pub use security::{MissingOrigin, OriginPolicy, Origins, Security, SourceRanges};
pub use status::{Condition, ConditionStatus, WebSocketRouteStatus};
pub use tls::RouteTls;
pub use tunnel_limits::{FrameRate, OnExceeded, SideLimits, TunnelLimits};

/// The API group.
pub const GROUP: &str = "holdfast.dev";
/// The version of the group that this build serves.
pub const VERSION: &str = "v1alpha1";
/// The kind.
pub const KIND: &str = "WebSocketRoute";

/// Which WebSocket handshakes go to which Services, and how their connections are treated.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "WebSocketRoute",
    doc = "WebSocketRoute says which WebSocket handshakes go to which Services, and how their connections are treated.",
    namespaced,
    status = "WebSocketRouteStatus",
    derive = "PartialEq",
    shortname = "wsr",
    category = "holdfast",
    printcolumn(name = "Hostnames", type_ = "string", json_path = ".spec.hostnames"),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("self.rules.map(r, has(r.matches) ? size(r.matches) : 1).sum() <= 128")
        .message("at most 128 matches in all rules together"),
    validation = Rule::new("!has(self.tls) || self.tls.all(t, !has(t.hosts) || t.hosts.all(h, has(self.hostnames) && h in self.hostnames))")
        .message("each of tls[].hosts must be one of hostnames")
)]
#[serde(rename_all = "camelCase")]
pub struct WebSocketRouteSpec {
    /// The class that serves this route: the --class of a Holdfast. Routes of other classes are ignored.
    /// Default: every class.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = SUBDOMAIN)
    )]
    pub class_name: Option<String>,

    /// The hosts that clients ask for, in lower case and without a port: chat.example.com, or *.example.com for any
    /// name below example.com. A hostname belongs to the namespace of the oldest route that names it; routes of other
    /// namespaces that name it are not accepted, unless the process runs with --host-ownership=shared. At most 64.
    /// Default: every host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(
            length(min = 1, max = 253),
            regex(pattern = HOSTNAME)
        ),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub hostnames: Vec<String>,

    /// The certificates of the hosts, for connections with TLS. TLS belongs to the host: once an accepted route gives it a
    /// certificate, no route serves it in plain unless allowPlain says so. Needs --https. At most 16. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub tls: Vec<RouteTls>,

    /// Whether connections to the endpoints use TLS, and whom they trust. Default: what the appProtocol of each Service's
    /// port says, with the system's authorities.
    #[serde(rename = "backendTLS", skip_serializing_if = "Option::is_none")]
    pub backend_tls: Option<BackendTls>,

    /// What to match and where it goes. Among the rules that match a handshake, whichever route they are in, one is
    /// chosen: Exact paths before RegularExpression before the longest PathPrefix, then more headers, more query
    /// parameters, any subprotocols, the older route, the route's namespace and name, the order of the rules.
    /// From 1 to 64, with at most 128 matches in all.
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    #[x_kube(
        validation = Rule::new("self.all(a, !has(a.name) || self.exists_one(b, has(b.name) && b.name == a.name))")
            .message("each rule's name must be unique in the route")
    )]
    pub rules: Vec<RouteRule>,

    /// How a client comes back to the endpoint that it had, across connections. Default: it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,

    /// How an endpoint is chosen where no persistence says so. Default: PowerOfTwo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,

    /// How long each part of a connection's life may take. Durations are written as 90s, 1h30m or 250ms; 0s means no
    /// limit where it is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,

    /// What endpoints are told of who the client is. What a client says of that itself is taken out, unless it comes from one of
    /// --trusted-proxies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forwarded: Option<Forwarded>,

    /// The pings that Holdfast itself sends into a silent connection, so that a peer that vanished is noticed and
    /// proxies on the way keep the connection open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Heartbeats>,

    /// How many connections and handshakes the route admits, in all and of each client, and what may pass through each
    /// WebSocket. Default: no limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,

    /// What happens when an endpoint answers a handshake with a refusal, wrongly, or not at all. An endpoint that cannot be
    /// connected to is followed by the next in any case. What the last endpoint answers is what the client reads. Requests
    /// that are no handshakes are not sent again. Default: the client reads the refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,

    /// Which endpoints are left out for a time, besides those that Kubernetes says are not ready. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,

    /// Who may come in: pages of which origins, clients of which addresses. Default: everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security: Option<Security>,
}
