//! The policies of a route: persistence, balancing, timeouts, heartbeat.
//!
//! None of their defaults is in the schema: a default that the API server stores could never change. The effective value
//! is the route's, else the process's, else the built-in one that the documentation of the field names.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Duration,
    pattern::{COOKIE_PATH, SUBDOMAIN, TOKEN},
};

/// How a client comes back to the endpoint that it had.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("!has(self.cookie) || self.type == 'Cookie'").message("cookie needs type Cookie"),
    validation = Rule::new("!has(self.clientIP) || self.type == 'ClientIP'").message("clientIP needs type ClientIP"),
    validation = Rule::new("!has(self.header) || self.type == 'Header'").message("header needs type Header"),
    validation = Rule::new("self.type != 'Header' || has(self.header)").message("type Header needs header")
)]
#[serde(rename_all = "camelCase")]
pub struct SessionPersistence {
    /// Cookie: Holdfast sets a cookie that names the endpoint, without telling its name or address; it works for
    /// browsers whatever address they come from. ClientIP: by a hash of the client's address, for clients without
    /// cookies. Header: by a hash of a header that the client sends.
    #[serde(default, rename = "type")]
    pub kind: PersistenceType,

    /// The cookie's attributes. Only with type Cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<Cookie>,

    /// Which part of the client's address counts. Only with type ClientIP.
    #[serde(rename = "clientIP", skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<ClientIp>,

    /// Which header counts. Only with type Header, which needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<SessionHeader>,

    /// What happens when the client's endpoint takes no new connections. Repick: another endpoint is chosen. Fail: 503,
    /// so that the client tries again. Default: Repick.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_unavailable: Option<OnUnavailable>,
}

/// How a client is recognised.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum PersistenceType {
    #[default]
    Cookie,
    ClientIP,
    Header,
}

/// What happens when the client's endpoint takes no new connections.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum OnUnavailable {
    #[default]
    Repick,
    Fail,
}

/// The attributes of the persistence cookie.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("!has(self.sameSite) || self.sameSite != 'None' || (has(self.secure) && self.secure)")
        .message("sameSite None needs secure: true; browsers drop the cookie otherwise"),
    validation = Rule::new("!has(self.partitioned) || !self.partitioned || (has(self.secure) && self.secure)")
        .message("partitioned needs secure: true; browsers drop the cookie otherwise"),
    validation = Rule::new("!has(self.name) || !self.name.startsWith('__Secure-') || (has(self.secure) && self.secure)")
        .message("a name that begins with __Secure- needs secure: true; browsers drop the cookie otherwise"),
    validation = Rule::new(
        "!has(self.name) || !self.name.startsWith('__Host-') || \
         (has(self.secure) && self.secure && !has(self.domain) && has(self.path) && self.path == '/')"
    )
    .message("a name that begins with __Host- needs secure: true, path / and no domain; browsers drop the cookie otherwise")
)]
#[serde(rename_all = "camelCase")]
pub struct Cookie {
    /// Its name. Two rules on one host need two names. At most 128 characters. Default: holdfast- and 8 hex digits made
    /// of the route's namespace and name and of the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = TOKEN))]
    pub name: Option<String>,

    /// The path below which the client sends it. At most 1024 characters. Default: the path prefix that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = COOKIE_PATH))]
    pub path: Option<String>,

    /// The domain whose hosts it is sent to. Default: the host that the client asked for, alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = SUBDOMAIN)
    )]
    pub domain: Option<String>,

    /// Whether pages of other sites may cause it to be sent: Strict and Lax say no, for WebSockets too; None says yes and
    /// needs secure: true. Default: Lax.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_site: Option<SameSite>,

    /// Whether it is sent over TLS only. Say true where something in front of Holdfast ends TLS. Default: whether the
    /// client that gets it came by TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure: Option<bool>,

    /// Whether it is hidden from scripts. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_only: Option<bool>,

    /// Whether it is kept apart for each top-level site (CHIPS). Needs secure: true. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitioned: Option<bool>,

    /// How long it is valid from when it was set; an older one counts as absent. 0s: as long as the browser runs.
    /// Default: 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
}

/// Whether pages of other sites may cause a cookie to be sent.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum SameSite {
    Strict,
    #[default]
    Lax,
    None,
}

/// Which part of a client's address counts.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClientIp {
    /// How many leading bits of an IPv4 address count. Clients that share them share an endpoint; 24 is what nginx's
    /// ip_hash does. From 1 to 32. Default: 32.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub ipv4_prefix_length: Option<i32>,

    /// How many leading bits of an IPv6 address count: 64 is one household, whose devices change the rest.
    /// From 1 to 128. Default: 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 128))]
    pub ipv6_prefix_length: Option<i32>,
}

/// Which header tells one client from another.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SessionHeader {
    /// The header's name, in any case. Where a client does not send it, loadBalancing decides. At most 256 characters.
    #[schemars(length(min = 1, max = 256), regex(pattern = TOKEN))]
    pub name: String,
}

/// How an endpoint is chosen for a new connection.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new(
        "has(self.algorithm) && self.algorithm == 'ConsistentHash' ? has(self.hash) : !has(self.hash)"
    )
    .message("algorithm ConsistentHash needs hash, and no other algorithm has one")
)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancing {
    /// RoundRobin: in turn. LeastConnections: the one with the fewest connections of this process. PowerOfTwo: of two at
    /// random the one with fewer. Random: any. ConsistentHash: by a hash of the request, so that equal ones meet on one
    /// endpoint: a room on one pod. Default: PowerOfTwo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,

    /// What is hashed. Only with ConsistentHash, which needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<HashSource>,
}

/// How an endpoint is chosen.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum Algorithm {
    RoundRobin,
    LeastConnections,
    #[default]
    PowerOfTwo,
    Random,
    ConsistentHash,
}

/// What is hashed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(
    validation = Rule::new("self.source == 'Header' || self.source == 'QueryParam' ? has(self.name) : !has(self.name)")
        .message("sources Header and QueryParam need a name, and no other source has one")
)]
#[serde(rename_all = "camelCase")]
pub struct HashSource {
    /// ClientIP: the client's address. Header and QueryParam: the value of the one that name names; without it the
    /// choice is PowerOfTwo's. Path: the path of the request.
    pub source: HashSourceType,

    /// The header's name, in any case, or the query parameter's, compared exactly. At most 256 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub name: Option<String>,
}

/// What is hashed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum HashSourceType {
    ClientIP,
    Header,
    QueryParam,
    Path,
}

/// How long each part of a connection's life may take.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("!has(self.connect) || self.connect.matches('[1-9]')").message("connect must be more than 0s"),
    validation = Rule::new("!has(self.handshake) || self.handshake.matches('[1-9]')").message("handshake must be more than 0s")
)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// For the connection to one endpoint, the TLS handshake included; then the next is tried. More than 0s. Default: 2s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<Duration>,

    /// From the client's request to the endpoint's answer, connecting included; then 504. More than 0s. Default: 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake: Option<Duration>,

    /// Without a message in either direction, pings and pongs not counted; then Close 1001. 0s: no limit.
    /// Default: 0s, or 1h where heartbeat.client is off, because then a client that vanished is not noticed otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,

    /// How long a side may accept not one byte of what waits for it, the answer to a plain request included; then the connection
    /// ends. 0s: no limit. Default: 60s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send: Option<Duration>,

    /// Of a whole connection, with 10% of spread; then Close 1001. 0s: no limit. Default: 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_duration: Option<Duration>,

    /// How long the other side may take to answer a Close before TCP is closed. 0s: not at all. Default: 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub close_handshake: Option<Duration>,
}

/// The pings that Holdfast itself sends, on each of its two sides.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Heartbeats {
    /// Towards the client. Default: interval 45s, missed 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<Heartbeat>,

    /// Towards the endpoint. Default: interval 0s, which is off, because TCP keepalive notices an endpoint that vanished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Heartbeat>,
}

/// Pings on one side. Only a silent side is pinged; the answers are not passed on.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    /// After how much silence a ping is sent, with 20% of spread. 0s: off; else at least 1s.
    /// Default: 45s for client, 0s for endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,

    /// How many pings in a row may stay unanswered before the connection ends, if the peer has ever answered one.
    /// From 1 to 10. Default: 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub missed: Option<i32>,
}
