//! Why a lookup says what it says, for `holdfast why`. May take its time: nothing of it is on the way of a connection.

use std::{fmt, sync::Arc};

use super::{EntryId, Found, Table, host::HostRules};
use crate::routing::{
    matching::{Handshake, Match, PathMatch, Unmet},
    route::Rule,
};

/// How a handshake's rule was found, or why there is none.
#[derive(Debug, Default)]
pub struct Explanation<'a> {
    /// The host entry that was looked at. `None`: no route names the host, a wildcard over it, or every host.
    pub host: Option<HostEntry<'a>>,
    /// What [`Table::find`] answers.
    pub found: Option<Found<'a>>,
    /// The matches of that host's rules in order of precedence. Where there are more than [`MAX_CONSIDERED`], those whose
    /// path matches come first and the last are left out.
    pub rules: Vec<Considered<'a>>,
    /// Matches of that host that are not in `rules`.
    pub omitted: usize,
    /// Rules of wider hosts that cover the host too, and were not looked at: at most [`MAX_WIDER`].
    pub wider: Vec<(HostEntry<'a>, &'a Arc<Rule>)>,
    /// Where no path of the host matched: what the client may have meant.
    pub nearest: Option<Nearest<'a>>,
    /// Where no route covers the host: the one that is one letter away.
    pub nearest_host: Option<&'a str>,
}

/// A host as routes name it. Displays as `chat.example.com`, `*.example.com` or `every host`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostEntry<'a> {
    Exact(&'a str),
    /// Without the `*.`.
    Wildcard(&'a str),
    Every,
}

impl fmt::Display for HostEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
            Self::Every => f.write_str("every host"),
        }
    }
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

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matched => f.write_str("matched"),
            Self::PathDiffers => f.write_str("path differs"),
            Self::HeaderDiffers(name) => write!(f, "header {name} differs"),
            Self::QueryDiffers(name) => write!(f, "query {name} differs"),
            Self::SubprotocolNotOffered => f.write_str("subprotocol not offered"),
            Self::EarlierMatched => f.write_str("an earlier rule matched"),
        }
    }
}

/// The match whose path is the fewest letters away.
#[derive(Debug)]
pub struct Nearest<'a> {
    pub rule: &'a Arc<Rule>,
    pub conditions: &'a Match,
    /// Letters to change, add, drop or swap. Never 0.
    pub distance: usize,
}

pub const MAX_CONSIDERED: usize = 64;
pub const MAX_WIDER: usize = 16;

impl Table {
    /// Why [`Table::find`] says what it says.
    pub fn explain(&self, handshake: &Handshake<'_>) -> Explanation<'_> {
        let mut hosts = self.hosts(handshake.host);
        let Some((entry, host)) = hosts.next() else {
            return Explanation {
                nearest_host: self.nearest_host(handshake.host),
                ..Explanation::default()
            };
        };
        let mut rules = self.consider(host, handshake);
        let omitted = rules.len().saturating_sub(MAX_CONSIDERED);
        let no_path = rules.iter().all(|rule| rule.verdict == Verdict::PathDiffers);
        let nearest = if no_path { nearest(&rules, handshake.path) } else { None };
        if omitted > 0 {
            let (near, far): (Vec<_>, Vec<_>) = rules.into_iter().partition(|rule| rule.verdict != Verdict::PathDiffers);
            rules = near.into_iter().chain(far).take(MAX_CONSIDERED).collect();
        }
        let wider = hosts.flat_map(|(entry, host)| self.rules_of(host).into_iter().map(move |rule| (entry, rule)));
        Explanation {
            host: Some(entry),
            found: self.find(handshake),
            rules,
            omitted,
            wider: wider.take(MAX_WIDER).collect(),
            nearest,
            nearest_host: None,
        }
    }

    /// All matches of a host, in order of precedence, each with its verdict.
    fn consider(&self, host: &HostRules, handshake: &Handshake<'_>) -> Vec<Considered<'_>> {
        let mut matched = false;
        let considered = self.in_order(host).into_iter().map(|id| {
            let entry = &self.entries[id];
            let verdict = verdict(&entry.conditions, handshake, matched);
            matched |= verdict == Verdict::Matched;
            Considered {
                rule: self.rule(entry),
                conditions: &entry.conditions,
                verdict,
            }
        });
        considered.collect()
    }

    fn in_order(&self, host: &HostRules) -> Vec<EntryId> {
        let mut ids: Vec<EntryId> = host.groups().flatten().copied().collect();
        ids.sort_by_cached_key(|&id| self.entries[id].precedence(id));
        ids
    }

    /// Each rule of a host once.
    fn rules_of(&self, host: &HostRules) -> Vec<&Arc<Rule>> {
        let mut rules: Vec<usize> = host.groups().flatten().map(|&id| self.entries[id].rule).collect();
        rules.sort_unstable();
        rules.dedup();
        rules.into_iter().map(|rule| &self.rules[rule]).collect()
    }

    fn nearest_host(&self, host: &str) -> Option<&str> {
        let names = self.exact.keys().filter(|name| distance(name, host, 1) == Some(1));
        names.min().map(|name| &**name)
    }
}

fn verdict<'a>(conditions: &'a Match, handshake: &Handshake<'_>, matched: bool) -> Verdict<'a> {
    if !conditions.path.matches(handshake.path) {
        return Verdict::PathDiffers;
    }
    match conditions.unmet(handshake) {
        Some(Unmet::Header(name)) => Verdict::HeaderDiffers(name),
        Some(Unmet::Query(name)) => Verdict::QueryDiffers(name),
        Some(Unmet::Subprotocol) => Verdict::SubprotocolNotOffered,
        None if matched => Verdict::EarlierMatched,
        None => Verdict::Matched,
    }
}

/// The first of those with the least distance, if that is small beside the length.
fn nearest<'a>(rules: &[Considered<'a>], path: &str) -> Option<Nearest<'a>> {
    let near = rules.iter().filter_map(|considered| {
        let (wanted, given) = match &considered.conditions.path {
            PathMatch::Exact(wanted) => (&**wanted, path),
            PathMatch::Prefix(wanted) => (&**wanted, beginning(path, wanted.matches('/').count())),
            PathMatch::Regex(_) => return None,
        };
        let limit = (wanted.len() / 3).clamp(1, MAX_DISTANCE);
        Some((distance(wanted, given, limit)?, considered))
    });
    let (distance, considered) = near.min_by_key(|(distance, _)| *distance)?;
    Some(Nearest {
        rule: considered.rule,
        conditions: considered.conditions,
        distance,
    })
}

const MAX_DISTANCE: usize = 4;

/// The first `elements` elements of a path.
fn beginning(path: &str, elements: usize) -> &str {
    let end = path.match_indices('/').nth(elements).map_or(path.len(), |(at, _)| at);
    &path[..end]
}

/// Letters to change, add, drop or swap with the next to make one of the other; `None` if more than `limit`.
///
/// Fills only the diagonal band of the matrix that `limit` allows.
fn distance(a: &str, b: &str, limit: usize) -> Option<usize> {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len().abs_diff(b.len()) > limit {
        return None;
    }
    let far = limit + 1;
    let mut before = vec![far; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for row in 1..=a.len() {
        let mut current = vec![far; b.len() + 1];
        if row <= limit {
            current[0] = row;
        }
        for column in row.saturating_sub(limit).max(1)..=(row + limit).min(b.len()) {
            let changed = usize::from(a[row - 1] != b[column - 1]);
            let mut least = (above[column - 1] + changed)
                .min(above[column] + 1)
                .min(current[column - 1] + 1);
            if row > 1 && column > 1 && a[row - 1] == b[column - 2] && a[row - 2] == b[column - 1] {
                least = least.min(before[column - 2] + 1);
            }
            current[column] = least.min(far);
        }
        before = std::mem::replace(&mut above, current);
    }
    above.last().copied().filter(|distance| *distance <= limit)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::routing::{
        fixture::{exact, headers, prefix, regex, route},
        table::RouteSpec,
    };

    /// An explanation as lines of text.
    fn lines(routes: Vec<RouteSpec>, host: &str, path: &str, headers: &HeaderMap) -> Vec<String> {
        let (table, _) = Table::build(routes);
        let handshake = Handshake {
            host,
            path,
            query: None,
            headers,
        };
        let explanation = table.explain(&handshake);
        let mut lines = Vec::new();
        lines.extend(explanation.host.map(|host| format!("host {host}")));
        lines.extend(explanation.found.iter().map(|found| format!("found {}", found.rule.id)));
        for Considered {
            rule,
            conditions,
            verdict,
        } in &explanation.rules
        {
            lines.push(format!("{} {}: {verdict}", rule.id, conditions.path));
        }
        lines.extend(
            explanation
                .wider
                .iter()
                .map(|(host, rule)| format!("wider {host} {}", rule.id)),
        );
        let nearest = explanation.nearest;
        lines.extend(nearest.map(|near| format!("nearest {} {} {}", near.rule.id, near.conditions.path, near.distance)));
        lines.extend(explanation.nearest_host.map(|host| format!("nearest host {host}")));
        lines
    }

    fn routes() -> Vec<RouteSpec> {
        let own = vec![
            vec![prefix("/chat")],
            vec![prefix("/chat").header("x-tenant", "gold"), exact("/chat/admin")],
            vec![prefix("/chat").query("v", "2")],
            vec![prefix("/chat").subprotocols(&["mqtt"])],
            vec![regex("/room/[0-9]+")],
        ];
        vec![
            route("own", &["chat.example.com"], own),
            route("sub", &["*.example.com"], vec![vec![prefix("/"), exact("/")]]),
            route("every", &[], vec![vec![prefix("/")]]),
        ]
    }

    #[test]
    fn each_rule_in_order_with_what_became_of_it() {
        assert_eq!(
            lines(routes(), "chat.example.com", "/chat/1", &HeaderMap::new()),
            [
                "host chat.example.com",
                "found chat/own#0",
                "chat/own#1 Exact /chat/admin: path differs",
                "chat/own#4 RegularExpression /room/[0-9]+: path differs",
                "chat/own#1 PathPrefix /chat: header x-tenant differs",
                "chat/own#2 PathPrefix /chat: query v differs",
                "chat/own#3 PathPrefix /chat: subprotocol not offered",
                "chat/own#0 PathPrefix /chat: matched",
                "wider *.example.com chat/sub#0",
                "wider every host chat/every#0",
            ]
        );
        let gold = headers(&[("x-tenant", "gold")]);
        assert_eq!(
            lines(routes(), "chat.example.com", "/chat/admin", &gold),
            [
                "host chat.example.com",
                "found chat/own#1",
                "chat/own#1 Exact /chat/admin: matched",
                "chat/own#4 RegularExpression /room/[0-9]+: path differs",
                "chat/own#1 PathPrefix /chat: an earlier rule matched",
                "chat/own#2 PathPrefix /chat: query v differs",
                "chat/own#3 PathPrefix /chat: subprotocol not offered",
                "chat/own#0 PathPrefix /chat: an earlier rule matched",
                "wider *.example.com chat/sub#0",
                "wider every host chat/every#0",
            ]
        );
    }

    #[test]
    fn what_the_client_may_have_meant() {
        let nearest = |path| {
            let lines = lines(routes(), "chat.example.com", path, &HeaderMap::new());
            lines.into_iter().find(|line| line.starts_with("nearest"))
        };
        let chat = Some("nearest chat/own#1 PathPrefix /chat 1".to_owned());
        assert_eq!(nearest("/caht"), chat);
        assert_eq!(nearest("/caht/room/7"), chat);
        assert_eq!(nearest("/Chat"), chat);
        assert_eq!(nearest("/chat1/x"), chat);
        assert_eq!(
            nearest("/cat/admin"),
            Some("nearest chat/own#1 Exact /chat/admin 1".to_owned())
        );
        assert_eq!(nearest("/something"), None);
        assert_eq!(nearest("/dhzt"), None);
        assert_eq!(nearest("/chat"), None);
        let only = || vec![route("r", &["chat.example.com"], vec![vec![prefix("/")]])];
        let none = HeaderMap::new();
        assert_eq!(
            lines(only(), "caht.example.com", "/", &none),
            ["nearest host chat.example.com"]
        );
        assert_eq!(lines(only(), "chat.example.org", "/", &none), [""; 0]);
        assert_eq!(lines(vec![], "a", "/", &none), [""; 0]);
    }

    #[test]
    fn what_is_too_far_away_is_not_meant() {
        let nearest = |wanted: &str, path| {
            let lines = lines(vec![route("r", &[], vec![vec![exact(wanted)]])], "a", path, &HeaderMap::new());
            lines.iter().any(|line| line.starts_with("nearest"))
        };
        assert!(nearest("/a", "/b"));
        assert!(!nearest("/ab", "/cd"));
        assert!(nearest("/a/rather/long/path", "/a/rather/long/pa"));
        assert!(nearest("/a/rather/long/path", "/A/RAther/long/pat"));
        assert!(!nearest("/a/rather/long/path", "/A/RATher/long/pat"));
    }

    #[test]
    fn the_list_is_bounded_and_keeps_what_matters() {
        let rules = (0..300).map(|n| vec![exact(&format!("/{n}"))]).chain([vec![prefix("/")]]);
        let (table, _) = Table::build(vec![route("r", &[], rules.collect())]);
        let explanation = table.explain(&Handshake {
            host: "a",
            path: "/299",
            query: None,
            headers: &HeaderMap::new(),
        });
        assert_eq!(explanation.rules.len(), MAX_CONSIDERED);
        assert_eq!(explanation.omitted, 301 - MAX_CONSIDERED);
        let first = &explanation.rules[..2];
        assert_eq!(first[0].rule.id.to_string(), "chat/r#299");
        assert_eq!(first[0].verdict, Verdict::Matched);
        assert_eq!(first[1].rule.id.to_string(), "chat/r#300");
        assert_eq!(first[1].verdict, Verdict::EarlierMatched);
    }

    #[test]
    fn distances() {
        for (a, b, limit, expected) in [
            ("chat", "chat", 0, Some(0)),
            ("chat", "caht", 1, Some(1)),
            ("chat", "chats", 1, Some(1)),
            ("chat", "hat", 1, Some(1)),
            ("chat", "chaz", 1, Some(1)),
            ("chat", "chxz", 1, None),
            ("chat", "chxz", 2, Some(2)),
            ("kitten", "sitting", 4, Some(3)),
            ("kitten", "sitting", 2, None),
            ("", "abc", 3, Some(3)),
            ("", "", 0, Some(0)),
            ("abcdef", "ghijkl", 4, None),
        ] {
            assert_eq!(distance(a, b, limit), expected, "{a} {b}");
            assert_eq!(distance(b, a, limit), expected, "{b} {a}");
        }
    }
}
