//! The table: from host, path, headers, query and subprotocols to the one rule that serves a handshake.

use std::sync::Arc;

use http::HeaderMap;

use super::route::{ObjectName, Rule, RuleId};

/// One accepted route, as [`Table::build`] takes it.
#[derive(Debug)]
pub struct RouteSpec {
    pub name: ObjectName,
    /// Seconds since 1970 at which the object was created; older routes go first. 0 for folders: equally old.
    pub created: i64,
    /// Lower case, without a trailing dot: `chat.example.com` or `*.example.com`. Empty: every host.
    pub hostnames: Vec<Box<str>>,
    pub rules: Vec<RuleSpec>,
}

#[derive(Debug)]
pub struct RuleSpec {
    /// Never empty; any of them.
    pub matches: Vec<Match>,
    pub rule: Arc<Rule>,
}

/// All parts must match.
#[derive(Clone, Debug)]
pub struct Match {
    pub path: PathMatch,
    pub headers: Vec<ValueMatch>,
    pub query: Vec<ValueMatch>,
    /// Any of them, by token; empty: whatever is offered.
    pub subprotocols: Vec<Box<str>>,
}

#[derive(Clone, Debug)]
pub enum PathMatch {
    Exact(Box<str>),
    /// By whole elements: `/chat` matches `/chat` and `/chat/1`, not `/chats`.
    Prefix(Box<str>),
    /// Of the whole path, anchored.
    Regex(regex::Regex),
}

/// A named header (lower case) or query parameter.
#[derive(Clone, Debug)]
pub struct ValueMatch {
    pub name: Box<str>,
    pub value: ValuePattern,
}

#[derive(Clone, Debug)]
pub enum ValuePattern {
    Exact(Box<str>),
    Regex(regex::Regex),
}

/// What is looked at to find a rule.
#[derive(Clone, Copy, Debug)]
pub struct Handshake<'a> {
    /// From [`super::target::host`]: lower case, no port, no trailing dot.
    pub host: &'a str,
    /// From [`super::target::path`]: normal form.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
}

/// The rule that serves a handshake.
#[derive(Debug)]
pub struct Found<'a> {
    pub rule: &'a Arc<Rule>,
    /// The exact path or prefix that matched; `/` for a regular expression.
    pub matched_path: &'a str,
}

/// All compiled rules by host, in order of precedence.
#[derive(Debug, Default)]
pub struct Table {}

/// A rule that can never serve anything, because on each of its hosts another one with the same conditions goes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadowed {
    pub rule: RuleId,
    pub by: RuleId,
}

impl Table {
    /// Compiles the table. Which routes may claim which host has been decided before.
    pub fn build(_routes: Vec<RouteSpec>) -> (Self, Vec<Shadowed>) {
        unreachable!("routing helper")
    }

    /// The rule for a handshake: host first (exact, then the longest wildcard, then "every host", with no fall-through to a
    /// wider one), then the order of kubernetes.md.
    pub fn find(&self, _handshake: &Handshake<'_>) -> Option<Found<'_>> {
        None
    }
}
