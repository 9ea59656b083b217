//! What a rule changes of requests and answers on their way: header fields, host and path, and where it redirects.
//!
//! The control plane compiles it, so that nothing here can be wrong any more; the proxy applies it. Paths are in normal form
//! ([`super::target::path`]) on both sides of a change.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// The filters of one rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Of the request, as the endpoint gets it.
    pub request: HeaderEdits,
    /// Of every answer, as the client gets it.
    pub response: HeaderEdits,
    pub rewrite: Option<Rewrite>,
    /// Of requests that are no handshakes.
    pub redirect: Option<Redirect>,
}

/// Header fields to change. No name is in two of the lists, nor one that the connection or a handshake needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    pub remove: Box<[HeaderName]>,
    pub set: Box<[(HeaderName, HeaderValue)]>,
    pub add: Box<[(HeaderName, HeaderValue)]>,
}

impl HeaderEdits {
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

/// What the endpoint is asked for in place of what the client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    pub host: Option<HeaderValue>,
    pub path: Option<PathEdit>,
}

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    Full(Box<str>),
    /// In place of the prefix that matched. Without a slash at its end; empty: the prefix is taken away.
    Prefix(Box<str>),
}

impl PathEdit {
    /// A path after the change. `matched`: the prefix that matched it.
    pub fn apply(&self, path: &str, matched: &str) -> String {
        match self {
            Self::Full(path) => path.to_string(),
            Self::Prefix(prefix) => {
                let rest = below(path, matched).unwrap_or(path);
                match (&**prefix, rest) {
                    ("", "") => "/".to_owned(),
                    (prefix, rest) => format!("{prefix}{rest}"),
                }
            }
        }
    }
}

/// What stands behind a prefix that matched a path: nothing, or a slash and more.
pub fn below<'a>(path: &'a str, matched: &str) -> Option<&'a str> {
    path.strip_prefix(matched.trim_end_matches('/'))
}

/// Where requests are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// A redirection.
    pub status: StatusCode,
    pub scheme: Option<&'static str>,
    pub host: Option<Box<str>>,
    pub port: Option<u16>,
    pub path: Option<PathEdit>,
}

/// What a client asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// From [`super::target::host`].
    pub host: &'a str,
    /// `None`: the usual one of the scheme.
    pub port: Option<u16>,
    /// From [`super::target::path`].
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// The prefix that matched.
    pub matched: &'a str,
}

impl Redirect {
    /// The address that a client is sent to; `None`: it is there already.
    pub fn location(&self, asked: &Asked<'_>) -> Option<String> {
        let scheme = self.scheme.unwrap_or(asked.scheme);
        let host = self.host.as_deref().unwrap_or(asked.host);
        let own_port = asked.port.unwrap_or_else(|| usual_port(asked.scheme));
        let port = match (self.port, self.scheme) {
            (Some(port), _) => port,
            (None, Some(scheme)) => usual_port(scheme),
            (None, None) => own_port,
        };
        let path = match &self.path {
            Some(edit) => edit.apply(asked.path, asked.matched),
            None => asked.path.to_owned(),
        };
        if (scheme, host, port, &*path) == (asked.scheme, asked.host, own_port, asked.path) {
            return None;
        }
        let mut location = format!("{scheme}://{host}");
        if port != usual_port(scheme) {
            location.push_str(&format!(":{port}"));
        }
        location.push_str(&with_query(&path, asked.query));
        Some(location)
    }
}

/// A path in normal form and a query as it came, as the field `Location` can have them: clients send queries that are not
/// escaped.
pub fn with_query(path: &str, query: Option<&str>) -> String {
    let mut out = path.to_owned();
    if let Some(query) = query {
        out.push('?');
        for byte in query.bytes() {
            match byte {
                b'!'..=b'~' => out.push(char::from(byte)),
                byte => out.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    out
}

fn usual_port(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::routing::{fixture::headers, target};

    #[test]
    fn fields_are_removed_set_and_added() {
        let field = |name: &'static str, value: &'static str| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let edits = HeaderEdits {
            remove: Box::new([HeaderName::from_static("server")]),
            set: Box::new([field("x-one", "new")]),
            add: Box::new([field("x-two", "more"), field("x-three", "first")]),
        };
        let mut fields = headers(&[
            ("server", "x"),
            ("server", "y"),
            ("x-one", "a"),
            ("x-one", "b"),
            ("x-two", "old"),
        ]);
        edits.apply(&mut fields);
        let all = |name| {
            let values = fields.get_all(name).iter();
            values.map(|value| value.to_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(all("server"), Vec::<&str>::new());
        assert_eq!(all("x-one"), ["new"]);
        assert_eq!(all("x-two"), ["old", "more"]);
        assert_eq!(all("x-three"), ["first"]);
    }

    /// The table in the documentation of HTTPRoute's HTTPPathModifier.
    #[test]
    fn a_prefix_is_replaced_as_gateway_api_says() {
        for (path, matched, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/", "/", "/xyz", "/xyz/"),
            ("/", "/", "", "/"),
            ("/foo//bar%2F", "/foo", "/x", "/x//bar%2F"),
        ] {
            let edit = PathEdit::Prefix(replacement.into());
            assert_eq!(edit.apply(path, matched), expected, "{path} {matched} {replacement}");
        }
        assert_eq!(PathEdit::Full("/new".into()).apply("/foo/bar", "/foo"), "/new");
    }

    proptest! {
        /// What is sent is as unambiguous as what was matched.
        #[test]
        fn a_rewritten_path_is_in_normal_form(
            segments in prop::collection::vec("[a-c.;%2Ff]{0,4}", 1..5),
            depth in 0_usize..4,
            replacement in prop::sample::select(vec!["", "/x", "/x/y", "/x//y", "/..x"]),
        ) {
            let path = format!("/{}", segments.join("/"));
            let Some(path) = target::path(&path) else { return Ok(()) };
            let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
            let matched = &path[..ends.take(depth + 1).last().unwrap_or_default()];
            let rewritten = PathEdit::Prefix(replacement.into()).apply(&path, matched);
            let normal = target::path(&rewritten);
            prop_assert_eq!(normal.as_deref(), Some(&*rewritten));
            prop_assert!(rewritten.starts_with(replacement));
        }
    }

    #[test]
    fn a_query_is_escaped_where_it_must_be_and_nowhere_else() {
        assert_eq!(with_query("/a", None), "/a");
        assert_eq!(with_query("/a", Some("")), "/a?");
        assert_eq!(with_query("/a", Some("b=%2f&c=/?ä \u{1}")), "/a?b=%2f&c=/?%C3%A4%20%01");
    }

    const TO_NOTHING: Redirect = Redirect {
        status: StatusCode::FOUND,
        scheme: None,
        host: None,
        port: None,
        path: None,
    };

    #[test]
    fn what_a_redirect_does_not_say_stays() {
        let asked = Asked {
            scheme: "http",
            host: "a.example.com",
            port: Some(8080),
            path: "/chat/1",
            query: Some("room=7"),
            matched: "/chat",
        };
        let to = |redirect: Redirect| redirect.location(&asked);
        for (redirect, expected) in [
            (
                Redirect {
                    scheme: Some("https"),
                    ..TO_NOTHING
                },
                "https://a.example.com/chat/1?room=7",
            ),
            (
                Redirect {
                    scheme: Some("https"),
                    port: Some(8443),
                    ..TO_NOTHING
                },
                "https://a.example.com:8443/chat/1?room=7",
            ),
            (
                Redirect {
                    host: Some("b.example.com".into()),
                    ..TO_NOTHING
                },
                "http://b.example.com:8080/chat/1?room=7",
            ),
            (
                Redirect {
                    port: Some(80),
                    ..TO_NOTHING
                },
                "http://a.example.com/chat/1?room=7",
            ),
            (
                Redirect {
                    path: Some(PathEdit::Prefix("/rooms".into())),
                    ..TO_NOTHING
                },
                "http://a.example.com:8080/rooms/1?room=7",
            ),
        ] {
            assert_eq!(to(redirect).as_deref(), Some(expected));
        }
    }

    #[test]
    fn whoever_is_there_already_is_not_sent_in_a_circle() {
        let to_tls = Redirect {
            scheme: Some("https"),
            ..TO_NOTHING
        };
        let mut asked = Asked {
            scheme: "https",
            host: "[::1]",
            port: None,
            path: "/",
            query: None,
            matched: "/",
        };
        assert_eq!(to_tls.location(&asked), None);
        asked.port = Some(443);
        assert_eq!(to_tls.location(&asked), None);
        asked.port = Some(8443);
        assert_eq!(to_tls.location(&asked).as_deref(), Some("https://[::1]/"));
        asked.path = "/x";
        let to_path = Redirect {
            path: Some(PathEdit::Full("/x".into())),
            ..TO_NOTHING
        };
        assert_eq!(to_path.location(&asked), None);
    }
}
