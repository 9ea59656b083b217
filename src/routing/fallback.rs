//! What answers a request that is no WebSocket handshake.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// The rule's own endpoints.
    Backend,
    /// 426.
    Reject,
    /// One answer, always the same.
    Respond(Box<Respond>),
    Static(Box<StaticFiles>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respond {
    /// 200 to 599.
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Files below the process's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticFiles {
    /// Names with slashes between them, none of which begins with a dot; empty: the root itself.
    pub path: Box<str>,
    /// A file's name.
    pub index: Box<str>,
    /// The file below `path` that answers where there is no other.
    pub spa_fallback: Option<Box<str>>,
}
