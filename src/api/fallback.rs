//! What answers a request that is no WebSocket handshake.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    filter::HeaderField,
    pattern::{FILE_NAME, FILE_PATH},
};

/// What answers a request that is no WebSocket handshake.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("has(self.respond) == (self.type == 'Respond')")
        .message("type Respond needs respond, and no other type has it"),
    validation = Rule::new("!has(self.static) || self.type == 'Static'").message("static needs type Static")
)]
#[serde(rename_all = "camelCase")]
pub struct Fallback {
    /// Backend: the rule's own endpoints, with the same persistence; long polling of Socket.IO and the like needs it.
    /// Reject: 426 Upgrade Required. Respond: one answer, always the same. Static: files.
    #[serde(default, rename = "type")]
    pub kind: FallbackType,

    /// The answer. Only with type Respond, which needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub respond: Option<Respond>,

    /// Which files. Only with type Static. Default: all below --static-root.
    #[serde(rename = "static", skip_serializing_if = "Option::is_none")]
    pub files: Option<StaticFiles>,
}

/// What answers a request that is no WebSocket handshake.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum FallbackType {
    #[default]
    Backend,
    Reject,
    Respond,
    Static,
}

/// One answer, always the same.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new(
        "!has(self.body) || self.body == '' || !has(self.statusCode) || !(self.statusCode in [204, 205, 304])"
    )
    .message("an answer with statusCode 204, 205 or 304 has no body"),
    validation = Rule::new(
        "!has(self.headers) || self.headers.all(f, !(f.name.lowerAscii() in ['connection', 'content-length', 'host', \
         'http2-settings', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade']) && \
         !f.name.lowerAscii().startsWith('sec-websocket-'))"
    )
    .message(
        "the connection needs these as they are: Connection, Content-Length, Host, HTTP2-Settings, Keep-Alive, \
         Proxy-Connection, Sec-WebSocket-*, TE, Trailer, Transfer-Encoding, Upgrade"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct Respond {
    /// The status. From 200 to 599. Default: 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 200, max = 599))]
    pub status_code: Option<i32>,

    /// Header fields, by name. At most 16. Default: Content-Type: text/plain; charset=utf-8, where there is a body.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub headers: Vec<HeaderField>,

    /// The body, as UTF-8. At most 16384 characters. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub body: Option<String>,
}

/// Files of a folder: what stands behind the prefix that matched is the file's path in it. Types go by the names' endings;
/// ETag, Last-Modified, ranges and files compressed beforehand (.br, .zst, .gz beside the file) are served. Names that begin
/// with a dot are not, .well-known apart; nor is anything outside of --static-root, symbolic links included. Needs
/// --static-root: without, the answer is 500.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StaticFiles {
    /// The folder below --static-root, or the one file: app/public. Letters, digits, -, _ and . in names that begin with no
    /// dot. At most 1024 characters. Default: --static-root itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = FILE_PATH))]
    pub path: Option<String>,

    /// The file that answers for a folder. At most 255 characters. Default: index.html.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = FILE_NAME))]
    pub index: Option<String>,

    /// The file below the folder that answers, with 200, where there is no other: index.html for an application that has
    /// pages of its own making. At most 1024 characters. Default: 404.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = FILE_PATH))]
    pub spa_fallback: Option<String>,
}
