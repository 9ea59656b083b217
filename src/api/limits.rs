//! What a route admits: how many connections and handshakes, of whom, and how large a request's head may be.
//!
//! None of these limits has a built-in value. Each replica counts by itself what it serves itself.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, TunnelLimits, pattern::TOKEN};

/// What a route admits. Each replica counts for itself: where there are three, a route takes three times as much.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// How many connections the route may have in one replica: handshakes under way and open WebSockets of all its rules.
    /// One more is answered 503 with Retry-After. Requests that are no handshakes are not counted. From 1 to 10000000.
    /// Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_connections: Option<i32>,

    /// How many connections one replica may hold to one endpoint, whichever routes they came by. An endpoint that has as
    /// many is passed over as one that is not ready is; sessionPersistence.onUnavailable says what happens to its own
    /// clients. When every endpoint has as many: 503 with Retry-After. A request that is no handshake is never refused for
    /// it, but counts while it is answered. From 1 to 10000000. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_connections_per_endpoint: Option<i32>,

    /// How many connections one client may have to the route in one replica: handshakes under way and open WebSockets. One
    /// more is answered 429 with Retry-After. Connections that were open before the limit, or its key, was set are not
    /// counted. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections_per_client: Option<ClientConnections>,

    /// How many handshakes one client may begin with the route, those excepted that this rate refuses. One more is answered 429, with the
    /// time after which it would be let in as Retry-After. Requests that are no handshakes are not counted.
    /// Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake_rate: Option<HandshakeRate>,

    /// How large the head of a request may be, its line and its header fields, in bytes; else 431. It holds for every
    /// request, handshake or not. No head may be larger than 32 KiB. From 256 to 32768. Default: 32768.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 256, max = 32_768))]
    pub max_header_bytes: Option<i32>,

    /// What each side of a WebSocket may send: rates of messages, bytes and control frames, and sizes. Default: no limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelLimits>,

    /// Whether these limits only count what they would refuse: in holdfast_limited_total with mode dry_run, and in the
    /// record of the connection. For finding the right numbers. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
}

/// How many connections one client may have.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClientConnections {
    /// How many. From 1 to 10000000.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub count: i32,

    /// What tells one client from another. Default: its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<LimitKey>,
}

/// How many handshakes one client may begin: an even pace, and how many may come at once after a pause.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(
    validation = Rule::new("self.interval.matches('[1-9]')").message("interval must be more than 0s")
)]
#[serde(rename_all = "camelCase")]
pub struct HandshakeRate {
    /// How many in each interval, evenly: 10 in 1m is one in 6s. From 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: i32,

    /// The interval. More than 0s.
    pub interval: Duration,

    /// How many may come at once, after a pause that is long enough. 1: only the even pace. nginx counts one less, as what
    /// comes beyond the pace. From 1 to 1000000. Default: as many as requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<i32>,

    /// What tells one client from another. Default: its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<LimitKey>,
}

/// What tells one client from another.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("has(self.source) && self.source != 'ClientIP' ? has(self.name) : !has(self.name)")
        .message("sources Header and Cookie need a name, and ClientIP has none"),
    validation = Rule::new(
        "!has(self.source) || self.source == 'ClientIP' || (!has(self.ipv4PrefixLength) && !has(self.ipv6PrefixLength))"
    )
    .message("prefix lengths need source ClientIP")
)]
#[serde(rename_all = "camelCase")]
pub struct LimitKey {
    /// ClientIP: the client's address, as trusted proxies tell it. Header and Cookie: the value of the one that name names;
    /// clients that send none, or an empty one, are not limited, as with nginx. Whoever can choose the value can choose
    /// another: it should be one that something in front of Holdfast has checked. Default: ClientIP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<LimitKeySource>,

    /// The header's name, in any case, or the cookie's, compared exactly. At most 256 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = TOKEN))]
    pub name: Option<String>,

    /// How many leading bits of an IPv4 address count. Clients that share them share the limit. From 1 to 32. Default: 32.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub ipv4_prefix_length: Option<i32>,

    /// How many leading bits of an IPv6 address count: 64 is one household, whose devices change the rest.
    /// From 1 to 128. Default: 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 128))]
    pub ipv6_prefix_length: Option<i32>,
}

/// Where a client's key comes from.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum LimitKeySource {
    #[default]
    ClientIP,
    Header,
    Cookie,
}
