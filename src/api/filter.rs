//! What is changed of requests and answers on their way: the filters of HTTPRoute, by its names and meanings.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pattern::{HEADER_VALUE, REPLACEMENT, REQUEST_PATH, SUBDOMAIN, TOKEN};

/// One filter of a rule.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(
    validation = Rule::new("has(self.requestHeaderModifier) == (self.type == 'RequestHeaderModifier')")
        .message("type RequestHeaderModifier needs requestHeaderModifier, and no other type has it"),
    validation = Rule::new("has(self.responseHeaderModifier) == (self.type == 'ResponseHeaderModifier')")
        .message("type ResponseHeaderModifier needs responseHeaderModifier, and no other type has it"),
    validation = Rule::new("has(self.urlRewrite) == (self.type == 'URLRewrite')")
        .message("type URLRewrite needs urlRewrite, and no other type has it"),
    validation = Rule::new("has(self.requestRedirect) == (self.type == 'RequestRedirect')")
        .message("type RequestRedirect needs requestRedirect, and no other type has it")
)]
#[serde(rename_all = "camelCase")]
pub struct RouteFilter {
    /// RequestHeaderModifier: header fields of the request, as the endpoint gets it. ResponseHeaderModifier: of every answer
    /// to the client, the 101 and our own refusals included. URLRewrite: host and path as the endpoint gets them.
    /// RequestRedirect: plain requests are sent to another address. WebSocket handshakes never are, because browsers follow
    /// no redirect there: they go to the backendRefs.
    #[serde(rename = "type")]
    pub kind: FilterType,

    /// What changes in the request. Only with type RequestHeaderModifier, which needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderModifier>,

    /// What changes in the answer. Only with type ResponseHeaderModifier, which needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderModifier>,

    /// What the endpoint is asked for. Only with type URLRewrite, which needs it. Not together with a RequestRedirect in
    /// one rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_rewrite: Option<UrlRewrite>,

    /// Where plain requests are sent. Only with type RequestRedirect, which needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_redirect: Option<RequestRedirect>,
}

/// What a filter does.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[schemars(inline)]
pub enum FilterType {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    RequestRedirect,
}

/// Header fields to set, add and remove. A name may stand in one of the three only.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new(
        "(!has(self.set) || self.set.all(f, !(f.name.lowerAscii() in ['connection', 'content-length', 'host', \
         'http2-settings', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade']) && \
         !f.name.lowerAscii().startsWith('sec-websocket-'))) && \
         (!has(self.add) || self.add.all(f, !(f.name.lowerAscii() in ['connection', 'content-length', 'host', \
         'http2-settings', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade']) && \
         !f.name.lowerAscii().startsWith('sec-websocket-'))) && \
         (!has(self.remove) || self.remove.all(name, !(name.lowerAscii() in ['connection', 'content-length', 'host', \
         'http2-settings', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade']) && \
         !name.lowerAscii().startsWith('sec-websocket-')))"
    )
    .message(
        "the connection and the handshake need these as they are: Connection, Content-Length, Host (see urlRewrite.hostname), \
         HTTP2-Settings, Keep-Alive, Proxy-Connection, Sec-WebSocket-*, TE, Trailer, Transfer-Encoding, Upgrade"
    ),
    validation = Rule::new(
        "(!has(self.set) || self.set.all(f, !(f.name.lowerAscii() in ['forwarded', 'x-forwarded-for', 'x-real-ip']))) && \
         (!has(self.add) || self.add.all(f, !(f.name.lowerAscii() in ['forwarded', 'x-forwarded-for', 'x-real-ip'])))"
    )
    .message("Forwarded, X-Forwarded-For and X-Real-IP say who the client is: see spec.forwarded")
)]
#[serde(rename_all = "camelCase")]
pub struct HeaderModifier {
    /// Fields that replace whatever the message has by their names. Names are written in canonical case, whatever the case
    /// here. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub set: Vec<HeaderField>,

    /// Fields that come behind those that the message has. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub add: Vec<HeaderField>,

    /// Names of fields that are taken out, in any case. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 256), regex(pattern = TOKEN)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub remove: Vec<String>,
}

/// A header field.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HeaderField {
    /// The name, in any case. At most 256 characters.
    #[schemars(length(min = 1, max = 256), regex(pattern = TOKEN))]
    pub name: String,

    /// The value: printable ASCII, spaces and tabs within. At most 4096 characters.
    #[schemars(length(min = 1, max = 4096), regex(pattern = HEADER_VALUE))]
    pub value: String,
}

/// What the endpoint is asked for in place of what the client asked for. Persistence and its cookie go by what the client
/// asked for; X-Forwarded-Host tells the client's host.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = Rule::new("has(self.hostname) || has(self.path)").message("needs hostname or path, or both"))]
#[serde(rename_all = "camelCase")]
pub struct UrlRewrite {
    /// The host. Default: the client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = SUBDOMAIN))]
    pub hostname: Option<String>,

    /// The path. The query stays. Default: the client's, in normal form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// Where plain requests are sent. One that is there already goes on to the rule's fallback, so that scheme https sends
/// clients to TLS and does not turn in a circle.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("has(self.scheme) || has(self.hostname) || has(self.path) || has(self.port)")
        .message("needs scheme, hostname, path or port: it would lead to where it came from"),
    validation = Rule::new("!has(self.statusCode) || self.statusCode in [301, 302, 303, 307, 308]")
        .message("statusCode must be 301, 302, 303, 307 or 308")
)]
#[serde(rename_all = "camelCase")]
pub struct RequestRedirect {
    /// The scheme. Default: the client's, which a trusted proxy tells by X-Forwarded-Proto.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<RedirectScheme>,

    /// The host. Default: the client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = SUBDOMAIN))]
    pub hostname: Option<String>,

    /// The path. The query stays. Default: the client's, in normal form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,

    /// The port. From 1 to 65535. Default: with a scheme, the usual one of that; without, the one that the client asked
    /// for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,

    /// 301 and 308 are for ever, 302, 303 and 307 for now; 307 and 308 keep the method. Default: 302.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 301, max = 308))]
    pub status_code: Option<i32>,
}

/// The scheme of an address.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
#[serde(rename_all = "lowercase")]
pub enum RedirectScheme {
    Http,
    Https,
}

/// What becomes of a path.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(
    validation = Rule::new("has(self.replaceFullPath) == (self.type == 'ReplaceFullPath')")
        .message("type ReplaceFullPath needs replaceFullPath, and no other type has it"),
    validation = Rule::new("has(self.replacePrefixMatch) == (self.type == 'ReplacePrefixMatch')")
        .message("type ReplacePrefixMatch needs replacePrefixMatch, and no other type has it")
)]
#[serde(rename_all = "camelCase")]
pub struct PathModifier {
    /// ReplaceFullPath: another path. ReplacePrefixMatch: another beginning in place of the prefix that matched; every match
    /// of the rule must be a PathPrefix then.
    #[serde(rename = "type")]
    pub kind: PathModifierType,

    /// The other path, without a query. Begins with /. At most 1024 characters. Only with type ReplaceFullPath, which needs
    /// it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = REQUEST_PATH))]
    pub replace_full_path: Option<String>,

    /// The other beginning: with the prefix /chat and /rooms here, /chat/1 becomes /rooms/1 and /chat becomes /rooms. Begins
    /// with /, or is empty, which takes the prefix away; a / at its end does not count. At most 1024 characters. Only with
    /// type ReplacePrefixMatch, which needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = REPLACEMENT))]
    pub replace_prefix_match: Option<String>,
}

/// What becomes of a path.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum PathModifierType {
    ReplaceFullPath,
    ReplacePrefixMatch,
}

/// Whether a filter must leave a header field alone, because the connection or the handshake needs it as it is. `name` in lower
/// case. The schema says the same.
#[must_use]
pub fn is_of_the_handshake(name: &str) -> bool {
    name.starts_with("sec-websocket-") || HANDSHAKE.contains(&name)
}

const HANDSHAKE: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The header fields that `spec.forwarded` rules over. In lower case.
pub const OF_FORWARDED: [&str; 3] = ["forwarded", "x-forwarded-for", "x-real-ip"];
