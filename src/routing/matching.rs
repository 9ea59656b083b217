//! What a rule asks of a handshake, and whether a handshake has it.
//!
//! The control plane makes a [`Match`] of each match of an object; the table finds by path and calls
//! [`Match::unmet`] for the rest. Nothing here knows of precedence.

use std::fmt;

use http::{HeaderMap, header};
use regex::{Regex, RegexBuilder};

use super::{query, target};

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

/// All parts must match.
#[derive(Clone, Debug)]
pub struct Match {
    pub path: PathMatch,
    pub headers: Vec<ValueMatch>,
    pub query: Vec<ValueMatch>,
    /// Any of them, by token and case; empty: whatever is offered.
    pub subprotocols: Vec<Box<str>>,
}

/// In one line, as answers of the command line and the live listener have it.
impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path)?;
        for header in &self.headers {
            write!(f, ", header {}: {}", header.name, header.value)?;
        }
        for parameter in &self.query {
            write!(f, ", query {}={}", parameter.name, parameter.value)?;
        }
        if !self.subprotocols.is_empty() {
            write!(f, ", subprotocol {}", self.subprotocols.join(" or "))?;
        }
        Ok(())
    }
}

/// Displays as objects and `holdfast why` write it: `PathPrefix /chat`.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// Made by [`PathMatch::exact`].
    Exact(Box<str>),
    /// By whole elements: `/chat` matches `/chat`, `/chat/` and `/chat/1`, not `/chats`. Made by [`PathMatch::prefix`].
    Prefix(Box<str>),
    /// Of the whole path, anchored. Made by [`PathMatch::regex`].
    Regex(Regex),
}

/// A named header (in any case) or query parameter (by case).
///
/// The values of a header that comes more than once are joined by commas; of a query parameter the first one counts, with
/// its escapes and `+` decoded.
#[derive(Clone, Debug)]
pub struct ValueMatch {
    pub name: Box<str>,
    pub value: ValuePattern,
}

#[derive(Clone, Debug)]
pub enum ValuePattern {
    Exact(Box<str>),
    /// Of the whole value, anchored. Made by [`ValuePattern::regex`].
    Regex(Regex),
}

/// Why a path or a regular expression of an object cannot be matched.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    #[error(
        "{0:?} is a path that no request can have: start it with a slash, leave out `?` and `#`, write escapes as %2F, and do not \
         step above the root"
    )]
    Path(Box<str>),
    #[error("{pattern:?} is not a regular expression that can be used: {reason}")]
    Regex { pattern: Box<str>, reason: Box<str> },
}

/// A condition that a handshake does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet<'a> {
    Header(&'a str),
    Query(&'a str),
    Subprotocol,
}

impl PathMatch {
    /// This path alone. The value is brought into the normal form that paths of requests have.
    ///
    /// # Errors
    /// No request can have this path.
    pub fn exact(value: &str) -> Result<Self, PatternError> {
        normal(value).map(Self::Exact)
    }

    /// This path and everything below it. Slashes at the end mean nothing.
    ///
    /// # Errors
    /// No request can have this path.
    pub fn prefix(value: &str) -> Result<Self, PatternError> {
        normal(value).map(|path| Self::Prefix(without_end_slashes(&path).into()))
    }

    /// A regular expression, in the syntax of Rust's `regex` crate, of the whole path in its normal form.
    ///
    /// # Errors
    /// It does not compile, or it is too large once compiled.
    pub fn regex(pattern: &str) -> Result<Self, PatternError> {
        anchored(pattern).map(Self::Regex)
    }

    /// Whether it matches a path in normal form.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) if **prefix == *"/" => true,
            Self::Prefix(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Regex(regex) => regex.is_match(path),
        }
    }

    /// The same with its value in normal form, however it was made. What cannot be brought into it stays, and never matches.
    pub(super) fn into_normal(self) -> Self {
        match self {
            Self::Exact(path) => Self::exact(&path).unwrap_or(Self::Exact(path)),
            Self::Prefix(path) => Self::prefix(&path).unwrap_or(Self::Prefix(path)),
            Self::Regex(regex) => Self::Regex(regex),
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "Exact {path}"),
            Self::Prefix(path) => write!(f, "PathPrefix {path}"),
            Self::Regex(regex) => write!(f, "RegularExpression {}", source(regex)),
        }
    }
}

impl ValuePattern {
    /// A regular expression, in the syntax of Rust's `regex` crate, of the whole value.
    ///
    /// # Errors
    /// It does not compile, or it is too large once compiled.
    pub fn regex(pattern: &str) -> Result<Self, PatternError> {
        anchored(pattern).map(Self::Regex)
    }

    /// Bytes that are no UTF-8 match no regular expression.
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == value,
            Self::Regex(regex) => std::str::from_utf8(value).is_ok_and(|value| regex.is_match(value)),
        }
    }
}

impl fmt::Display for ValuePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(value) => f.write_str(value),
            Self::Regex(regex) => f.write_str(source(regex)),
        }
    }
}

impl Match {
    /// The first condition besides the path that a handshake does not meet.
    pub fn unmet(&self, handshake: &Handshake<'_>) -> Option<Unmet<'_>> {
        let header = self.headers.iter().find(|header| !header_matches(handshake.headers, header));
        if let Some(header) = header {
            return Some(Unmet::Header(&header.name));
        }
        let differs = |parameter: &&ValueMatch| {
            !query::parameter(handshake.query, &parameter.name).is_some_and(|value| parameter.value.matches(&value))
        };
        if let Some(parameter) = self.query.iter().find(differs) {
            return Some(Unmet::Query(&parameter.name));
        }
        let offered = self.subprotocols.is_empty() || offers_any(handshake.headers, &self.subprotocols);
        (!offered).then_some(Unmet::Subprotocol)
    }
}

/// The pattern as it was given to [`PathMatch::regex`] or [`ValuePattern::regex`].
pub(super) fn source(regex: &Regex) -> &str {
    let pattern = regex.as_str();
    pattern
        .strip_prefix(OPEN)
        .and_then(|rest| rest.strip_suffix(CLOSE))
        .unwrap_or(pattern)
}

/// The values of a header, joined by commas if there are several. `None`: there is no such header.
pub(super) fn header_value<T>(headers: &HeaderMap, name: &str, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let Some(second) = values.next() else {
        return Some(read(first));
    };
    let mut joined = first.to_vec();
    for value in std::iter::once(second).chain(values) {
        joined.push(b',');
        joined.extend_from_slice(value.as_bytes());
    }
    Some(read(&joined))
}

fn header_matches(headers: &HeaderMap, wanted: &ValueMatch) -> bool {
    header_value(headers, &wanted.name, |value| wanted.value.matches(value)) == Some(true)
}

/// Whether any of `wanted` is among the tokens that the client offers, in however many headers.
fn offers_any(headers: &HeaderMap, wanted: &[Box<str>]) -> bool {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .any(|token| wanted.iter().any(|wanted| wanted.as_bytes() == token))
}

fn normal(value: &str) -> Result<Box<str>, PatternError> {
    match target::path(value) {
        Some(path) => Ok(path.into()),
        None => Err(PatternError::Path(value.into())),
    }
}

fn without_end_slashes(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => "/",
        path => path,
    }
}

/// What [`anchored`] puts around a pattern.
const OPEN: &str = r"\A(?:";
const CLOSE: &str = r")\z";

/// Bytes that one compiled expression may take. A table holds thousands.
const MAX_PROGRAM: usize = 1 << 18;

/// Compiles the pattern alone first: a pattern such as `a)|(b` must not reach out of its anchors.
fn anchored(pattern: &str) -> Result<Regex, PatternError> {
    let compiled = |text: &str| {
        RegexBuilder::new(text)
            .size_limit(MAX_PROGRAM)
            .dfa_size_limit(MAX_PROGRAM)
            .build()
            .map_err(|error| PatternError::Regex {
                pattern: pattern.into(),
                reason: match error {
                    regex::Error::CompiledTooBig(limit) => format!("it takes more than {limit} bytes compiled").into(),
                    other => last_line(&other.to_string()).into(),
                },
            })
    };
    compiled(pattern)?;
    compiled(&format!("{OPEN}{pattern}{CLOSE}"))
}

/// Syntax errors draw the pattern over several lines, and say what is wrong on the last one.
fn last_line(text: &str) -> &str {
    text.lines().next_back().unwrap_or(text).trim_start_matches("error: ")
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_bytes(value.as_bytes()).unwrap(),
                )
            })
            .collect()
    }

    fn handshake<'a>(query: Option<&'a str>, headers: &'a HeaderMap) -> Handshake<'a> {
        Handshake {
            host: "a",
            path: "/",
            query,
            headers,
        }
    }

    fn wanted(name: &str, value: ValuePattern) -> Vec<ValueMatch> {
        vec![ValueMatch {
            name: name.into(),
            value,
        }]
    }

    fn any() -> Match {
        Match {
            path: PathMatch::Prefix("/".into()),
            headers: vec![],
            query: vec![],
            subprotocols: vec![],
        }
    }

    #[test]
    fn a_prefix_matches_whole_elements() {
        for (prefix, path, expected) in [
            ("/chat", "/chat", true),
            ("/chat", "/chat/", true),
            ("/chat", "/chat/1", true),
            ("/chat", "/chat//", true),
            ("/chat", "/chats", false),
            ("/chat", "/cha", false),
            ("/chat", "/Chat", false),
            ("/chat", "/", false),
            ("/chat", "//chat", false),
            ("/chat", "/chat%2F1", false),
            ("/chat/", "/chat", true),
            ("/chat//", "/chat", true),
            ("/chat/", "/chats", false),
            ("/a/b", "/a/b/c", true),
            ("/a/b", "/a", false),
            ("/%63hat", "/chat", true),
            ("/", "/", true),
            ("/", "//", true),
            ("/", "/chat", true),
        ] {
            assert_eq!(PathMatch::prefix(prefix).unwrap().matches(path), expected, "{prefix} {path}");
        }
    }

    #[test]
    fn an_exact_path_is_compared_in_normal_form() {
        assert!(PathMatch::exact("/%63hat/../chat").unwrap().matches("/chat"));
        assert!(!PathMatch::exact("/chat/").unwrap().matches("/chat"));
        assert!(!PathMatch::exact("/chat").unwrap().matches("/chat/"));
        for value in ["", "chat", "/a?b", "/..", "/%zz"] {
            assert!(matches!(PathMatch::exact(value), Err(PatternError::Path(_))), "{value}");
            assert!(matches!(PathMatch::prefix(value), Err(PatternError::Path(_))), "{value}");
        }
    }

    #[test]
    fn an_expression_matches_the_whole_and_stays_within_its_anchors() {
        for (pattern, path, expected) in [
            ("/room/[0-9]+", "/room/12", true),
            ("/room/[0-9]+", "/room/12/x", false),
            ("/room/[0-9]+", "/a/room/12", false),
            ("/a|/b", "/b", true),
            ("/a|/b", "/a/b", false),
            ("^/a$", "/a", true),
            ("(?m)^/a$", "/a", true),
            ("(?i)/CHAT", "/chat", true),
            ("(?x) /a # letter a\n", "/a", true),
            ("", "/", false),
        ] {
            assert_eq!(PathMatch::regex(pattern).unwrap().matches(path), expected, "{pattern} {path}");
        }
        for pattern in [
            "a)|(b",
            "(",
            "[",
            "(?x)/a # no end",
            r"\p{Nope}",
            r"(?:\w{1000}){1000}",
            "(?=a)",
        ] {
            let error = PathMatch::regex(pattern).unwrap_err().to_string();
            assert!(!error.contains('\n') && error.len() < 200, "{error}");
        }
    }

    #[test]
    fn patterns_display_as_they_were_given() {
        assert_eq!(PathMatch::regex("/a|/b").unwrap().to_string(), "RegularExpression /a|/b");
        assert_eq!(PathMatch::prefix("/a/").unwrap().to_string(), "PathPrefix /a");
        assert_eq!(PathMatch::exact("/a").unwrap().to_string(), "Exact /a");
        assert_eq!(ValuePattern::regex("a+").unwrap().to_string(), "a+");
    }

    #[test]
    fn headers_by_name_in_any_case_and_joined() {
        let given = headers(&[
            ("x-tenant", "gold"),
            ("x-many", "a"),
            ("x-many", "b"),
            ("x-empty", ""),
            ("x-raw", "\u{e4}"),
        ]);
        for (name, value, expected) in [
            ("x-tenant", ValuePattern::Exact("gold".into()), true),
            ("X-Tenant", ValuePattern::Exact("gold".into()), true),
            ("x-tenant", ValuePattern::Exact("Gold".into()), false),
            ("x-tenant", ValuePattern::regex("g.*").unwrap(), true),
            ("x-tenant", ValuePattern::regex("g").unwrap(), false),
            ("x-many", ValuePattern::Exact("a".into()), false),
            ("x-many", ValuePattern::Exact("a,b".into()), true),
            ("x-many", ValuePattern::regex("a,[b]").unwrap(), true),
            ("x-empty", ValuePattern::Exact("".into()), true),
            ("x-missing", ValuePattern::Exact("".into()), false),
            ("x-missing", ValuePattern::regex(".*").unwrap(), false),
            ("no header name", ValuePattern::regex(".*").unwrap(), false),
            ("x-raw", ValuePattern::Exact("ä".into()), true),
        ] {
            let rule = Match {
                headers: wanted(name, value.clone()),
                ..any()
            };
            let unmet = rule.unmet(&handshake(None, &given));
            assert_eq!(unmet, (!expected).then_some(Unmet::Header(name)), "{name} {value:?}");
        }
    }

    #[test]
    fn a_query_parameter_by_its_first_value() {
        let rule = Match {
            query: wanted("v", ValuePattern::Exact("2 3".into())),
            ..any()
        };
        let none = HeaderMap::new();
        for (query, expected) in [
            (Some("v=2+3"), true),
            (Some("v=2%203"), true),
            (Some("a=1&%76=2+3"), true),
            (Some("v=2+3&v=4"), true),
            (Some("v=4&v=2+3"), false),
            (Some("V=2+3"), false),
            (Some("v"), false),
            (Some(""), false),
            (None, false),
        ] {
            let unmet = rule.unmet(&handshake(query, &none));
            assert_eq!(unmet, (!expected).then_some(Unmet::Query("v")), "{query:?}");
        }
    }

    #[test]
    fn subprotocols_by_token() {
        let rule = Match {
            subprotocols: vec!["graphql-transport-ws".into(), "mqtt".into()],
            ..any()
        };
        for (offered, expected) in [
            (&["graphql-transport-ws"][..], true),
            (&["soap, mqtt"], true),
            (&["soap", "wamp ,\tmqtt"], true),
            (&["soap,mqtt,"], true),
            (&["MQTT"], false),
            (&["mqttx", "xmqtt"], false),
            (&["mqtt graphql-transport-ws"], false),
            (&["", ","], false),
            (&[], false),
        ] {
            let given: Vec<_> = offered.iter().map(|value| ("sec-websocket-protocol", *value)).collect();
            let given = headers(&given);
            let unmet = rule.unmet(&handshake(None, &given));
            assert_eq!(unmet, (!expected).then_some(Unmet::Subprotocol), "{offered:?}");
        }
    }
}
