//! What a route matches, and where it sends what matches.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    fallback::Fallback,
    filter::RouteFilter,
    pattern::{GROUP, KIND, LABEL, RULE_NAME, TOKEN},
};

/// One rule: what it matches, and where that goes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RouteRule {
    /// The rule's name, unique in the route: it stands in metrics, records and answers of the command line, and in the
    /// default name of the persistence cookie. Lower case letters, digits and -, at most 63. Default: the rule's
    /// position, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = RULE_NAME))]
    pub name: Option<String>,

    /// What a handshake must look like; any of these. At most 64. Default: everything (PathPrefix /).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub matches: Vec<RouteMatch>,

    /// What is changed of requests and answers on their way, as in HTTPRoute; each type at most once. In which order they
    /// stand here does not matter. Default: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 4),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub filters: Vec<RouteFilter>,

    /// The Services that new connections go to, by weight. While a reference cannot be resolved, its share is answered
    /// 500. From 1 to 16.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub backend_refs: Vec<BackendRef>,

    /// What answers a request that matches but is no WebSocket handshake. Default: type Backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
}

/// One way in which a handshake matches: all of its parts must.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RouteMatch {
    /// The path of the request, without its query. Default: every path.
    #[serde(default)]
    pub path: PathMatch,

    /// Request headers; all of them must match, each by a name of its own. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub headers: Vec<HeaderMatch>,

    /// Query parameters; all of them must match, each by a name of its own. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub query_params: Vec<QueryParamMatch>,

    /// Subprotocols, any of which the client must offer in Sec-WebSocket-Protocol. Compared exactly. At most 16.
    /// Default: whatever it offers, or nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 256), regex(pattern = TOKEN)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub subprotocols: Vec<String>,
}

/// How the path of a request is compared.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PathMatch {
    /// Exact: the whole path. PathPrefix: whole elements of it from the left, so that /chat matches /chat, /chat/ and
    /// /chat/1, but not /chats. RegularExpression: the whole path, in the syntax of RE2 and Rust's regex.
    #[serde(default, rename = "type")]
    pub kind: PathMatchType,

    /// What to compare with. Exact and PathPrefix values begin with / and are compared in normal form: %7E equals ~.
    /// At most 1024 characters.
    #[serde(default = "root")]
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

impl Default for PathMatch {
    fn default() -> Self {
        Self {
            kind: PathMatchType::default(),
            value: root(),
        }
    }
}

fn root() -> String {
    "/".to_owned()
}

/// How the path of a request is compared.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum PathMatchType {
    Exact,
    #[default]
    PathPrefix,
    RegularExpression,
}

/// How a value is compared.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum ValueMatchType {
    #[default]
    Exact,
    RegularExpression,
}

/// A header that must be there.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// Exact: the whole value. RegularExpression: the whole value, in the syntax of RE2 and Rust's regex.
    #[serde(default, rename = "type")]
    pub kind: ValueMatchType,

    /// The header's name, in any case. At most 256 characters.
    #[schemars(length(min = 1, max = 256), regex(pattern = TOKEN))]
    pub name: String,

    /// What to compare the value with. At most 4096 characters.
    #[schemars(length(min = 1, max = 4096))]
    pub value: String,
}

/// A query parameter that must be there.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct QueryParamMatch {
    /// Exact: the whole value. RegularExpression: the whole value, in the syntax of RE2 and Rust's regex.
    #[serde(default, rename = "type")]
    pub kind: ValueMatchType,

    /// The parameter's name, compared exactly, decoded. Where the client sends it several times, the first one counts.
    /// At most 256 characters.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,

    /// What to compare the decoded value with. At most 1024 characters.
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

/// A Service port that connections go to.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    /// The API group of what is referred to. Only the core group, "", has something that can be.
    #[serde(default)]
    #[schemars(
        length(max = 253),
        regex(pattern = GROUP)
    )]
    pub group: String,

    /// The kind of what is referred to. Only a Service can be.
    #[serde(default = "service")]
    #[schemars(length(min = 1, max = 63), regex(pattern = KIND))]
    pub kind: String,

    /// The Service's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// The Service's namespace. In another one than the route's, a ReferenceGrant must allow it. Default: the route's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    pub namespace: Option<String>,

    /// The Service's own port number, not the container's. From 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// The share of new connections, relative to the other backendRefs of the rule. 0 gets none; clients that
    /// persistence sends here still come. From 0 to 1000000.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: i32,
}

fn service() -> String {
    "Service".to_owned()
}

fn one() -> i32 {
    1
}
