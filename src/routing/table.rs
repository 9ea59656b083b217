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
    /// Of the whole path, anchored. Made by [`PathMatch::regex`].
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
    /// Of the whole value, anchored. Made by [`ValuePattern::regex`].
    Regex(regex::Regex),
}

impl PathMatch {
    /// A regular expression of the whole path.
    ///
    /// # Errors
    /// It does not compile, or its program is too large.
    pub fn regex(pattern: &str) -> Result<Self, regex::Error> {
        anchored(pattern).map(Self::Regex)
    }
}

impl ValuePattern {
    /// A regular expression of the whole value.
    ///
    /// # Errors
    /// It does not compile, or its program is too large.
    pub fn regex(pattern: &str) -> Result<Self, regex::Error> {
        anchored(pattern).map(Self::Regex)
    }
}

fn anchored(pattern: &str) -> Result<regex::Regex, regex::Error> {
    regex::Regex::new(&format!("\\A(?:{pattern})\\z"))
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
        (Self::default(), Vec::new())
    }

    /// The rule for a handshake: host first (exact, then the longest wildcard, then "every host", with no fall-through to a
    /// wider one), then the order of kubernetes.md.
    pub fn find(&self, _handshake: &Handshake<'_>) -> Option<Found<'_>> {
        None
    }

    /// Each compiled rule once, in no particular order.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        std::iter::empty()
    }

    /// Why [`Table::find`] says what it says.
    pub fn explain(&self, _handshake: &Handshake<'_>) -> Explanation<'_> {
        Explanation::default()
    }
}

/// How a handshake's rule was found, or why there is none.
#[derive(Debug, Default)]
pub struct Explanation<'a> {
    /// The host entry that was looked at. `None`: no route names the host, a wildcard over it, or every host.
    pub host: Option<HostEntry<'a>>,
    /// What [`Table::find`] answers.
    pub found: Option<Found<'a>>,
    /// The rules of that host, one per match, in order of precedence. Bounded: see `omitted`.
    pub rules: Vec<Considered<'a>>,
    /// Matches of that host that are not in `rules`.
    pub omitted: usize,
    /// Rules of wider hosts that cover the host too, and were not looked at. Bounded.
    pub wider: Vec<(HostEntry<'a>, &'a Arc<Rule>)>,
    /// Where nothing matched: what the client may have meant.
    pub nearest: Option<Nearest<'a>>,
}

/// A host as routes name it. Displays as `chat.example.com`, `*.example.com` or `every host`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostEntry<'a> {
    Exact(&'a str),
    /// With the `*.`.
    Wildcard(&'a str),
    Every,
}

/// One match of a rule, and what became of it.
#[derive(Debug)]
pub struct Considered<'a> {
    pub rule: &'a Arc<Rule>,
    pub conditions: &'a Match,
    pub verdict: Verdict<'a>,
}

/// Displays as the words of `holdfast why`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    Matched,
    PathDiffers,
    HeaderDiffers(&'a str),
    QueryDiffers(&'a str),
    SubprotocolNotOffered,
    /// It matches too, but another one goes first.
    EarlierMatched,
}

/// The match whose path is the fewest letters away.
#[derive(Debug)]
pub struct Nearest<'a> {
    pub rule: &'a Arc<Rule>,
    pub conditions: &'a Match,
    /// Letters to change, add, drop or swap.
    pub distance: usize,
}
