//! What one rule of a route says, compiled: immutable, shared by every connection that it serves.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use super::{
    balancer::Cursor,
    endpoint::{Endpoint, EndpointCell, ServicePort},
    endpoint_tls::BackendTls,
    filter::Filters,
    forwarded::Forwarded,
    health::Passive,
    limits::Limits,
    retry::Retry,
    security::Security,
    tunnel_limits::TunnelLimits,
};

pub use super::fallback::Fallback;

/// Namespace and name of an object. Ordered as routes of equal age are: by namespace, then name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Which rule of which route. Displays as `namespace/route#rule`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId {
    pub route: ObjectName,
    /// The rule's name, or its index where it has none.
    pub rule: Arc<str>,
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.route, self.rule)
    }
}

/// A compiled rule.
#[derive(Debug)]
pub struct Rule {
    pub id: RuleId,
    /// In the order of the object. May be empty: then every handshake is answered 500.
    pub backends: Box<[Backend]>,
    pub fallback: Fallback,
    /// `None`: nothing is changed of requests and answers.
    pub filters: Option<Box<Filters>>,
    pub forwarded: Forwarded,
    pub persistence: Option<Persistence>,
    pub balancing: Balancing,
    pub timeouts: Timeouts,
    pub heartbeat: Heartbeats,
    /// The same for all rules of a route. `None`: nothing is limited.
    pub limits: Option<Arc<Limits>>,
    /// `None`: nothing is tried again once a handshake was sent.
    pub retry: Option<Arc<Retry>>,
    /// `None`: what is seen of endpoints does not count.
    pub health: Option<Arc<Passive>>,
    /// The same for all rules of a route.
    pub security: Arc<Security>,
    /// What picks leave for the next one. Starts as the default.
    pub cursor: Cursor,
}

impl Rule {
    /// What its tunnels may carry.
    pub fn tunnel_limits(&self) -> Option<&TunnelLimits> {
        self.limits.as_ref()?.tunnel.as_ref()
    }
}

/// One backendRef.
#[derive(Debug)]
pub struct Backend {
    pub service: ServicePort,
    /// Share of new connections relative to the other backends of the rule; 0 gets none (0 to 1,000,000).
    pub weight: u32,
    /// `None`: the reference cannot be resolved, and its share of handshakes is answered 500.
    pub endpoints: Option<Arc<EndpointCell>>,
    pub tls: BackendTls,
}

impl Rule {
    /// Whether connections to one of the rule's endpoints are secure.
    pub fn tls(&self, endpoint: &Endpoint) -> &BackendTls {
        let of_endpoint =
            |backend: &&Backend| !matches!(backend.tls, BackendTls::Off) && backend.service == endpoint.key().service;
        self.backends
            .iter()
            .find(of_endpoint)
            .map_or(&BackendTls::Off, |backend| &backend.tls)
    }
}

/// How a client comes back to the endpoint it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistence {
    pub by: PersistBy,
    pub on_unavailable: OnUnavailable,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PersistBy {
    Cookie(Cookie),
    ClientIp {
        ipv4_prefix: u8,
        ipv6_prefix: u8,
    },
    /// A hash of this header's value; where the header is absent the balancer decides. Lower case.
    Header(Box<str>),
}

/// Attributes of the persistence cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    pub name: Box<str>,
    /// `None`: the path prefix that matched.
    pub path: Option<Box<str>>,
    pub domain: Option<Box<str>>,
    pub same_site: SameSite,
    /// `None`: whether the client came by TLS.
    pub secure: Option<bool>,
    pub http_only: bool,
    pub partitioned: bool,
    /// Zero: a session cookie. Else an older cookie counts as absent.
    pub max_age: Duration,
}

impl Cookie {
    /// One with the attributes that hold where nobody says anything.
    pub fn named(name: impl Into<Box<str>>) -> Self {
        Self {
            name: name.into(),
            path: None,
            domain: None,
            same_site: SameSite::Lax,
            secure: None,
            http_only: true,
            partitioned: false,
            max_age: Duration::ZERO,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    Strict,
    Lax,
    None,
}

/// What to do when the endpoint that a client belongs to takes no new connections.
///
/// A client belongs to the endpoint that its cookie names, for as long as that is in the Service's slices; or to the one
/// that its hash falls to among all that are in the slices, ready or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnavailable {
    /// Another endpoint.
    Repick,
    /// 503. Nor is another one dialled when this one refuses.
    Fail,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balancing {
    RoundRobin,
    LeastConnections,
    PowerOfTwo,
    Random,
    ConsistentHash(HashSource),
}

/// In the words of manifests.
impl fmt::Display for Balancing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoundRobin => f.write_str("RoundRobin"),
            Self::LeastConnections => f.write_str("LeastConnections"),
            Self::PowerOfTwo => f.write_str("PowerOfTwo"),
            Self::Random => f.write_str("Random"),
            Self::ConsistentHash(HashSource::ClientIp) => f.write_str("ConsistentHash ClientIP"),
            Self::ConsistentHash(HashSource::Path) => f.write_str("ConsistentHash Path"),
            Self::ConsistentHash(HashSource::Header(name)) => write!(f, "ConsistentHash Header {name}"),
            Self::ConsistentHash(HashSource::QueryParam(name)) => write!(f, "ConsistentHash QueryParam {name}"),
        }
    }
}

/// What a consistent hash is taken of. Header names are lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashSource {
    /// An IPv4 address, or the first 64 bits of an IPv6 address: hosts change the others of their own accord.
    ClientIp,
    Header(Box<str>),
    QueryParam(Box<str>),
    Path,
}

/// All of them zero = off, except `connect` and `handshake`, which are never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For one dial.
    pub connect: Duration,
    /// From the request to the endpoint's 101, dials included.
    pub handshake: Duration,
    /// Without a message in either direction.
    pub idle: Duration,
    /// How long a side may refuse every byte queued for it.
    pub send: Duration,
    /// Of a whole tunnel.
    pub max_duration: Duration,
    /// Between a Close and the end of TCP.
    pub close_handshake: Duration,
}

/// Pings that Holdfast sends into a silent leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeats {
    pub client: Heartbeat,
    pub endpoint: Heartbeat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Zero: off.
    pub interval: Duration,
    /// Unanswered pings that end the tunnel, if the peer has ever answered one (1 to 10).
    pub missed: u8,
}

/// `address` with the bits behind the prefix cleared; an IPv4-mapped IPv6 address counts as IPv4.
pub fn network_of(address: IpAddr, ipv4_prefix: u8, ipv6_prefix: u8) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(ipv4_prefix.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(ipv6_prefix.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}
