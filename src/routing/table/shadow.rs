//! Rules that nothing can reach.
//!
//! Looks for a rule each of whose matches is, on each host, behind another rule's match that asks for no more. What it
//! reports is always true; what it does not look at (several rules that cover one together, or more than [`MAX_COMPARED`]
//! different ones on one path) it does not report.

use std::collections::HashMap;

use super::{Entry, EntryId, Shadowed, Table, host::HostRules};
use crate::routing::matching::{self, Match, PathMatch, ValueMatch, ValuePattern};

/// What is known of a rule so far. Ordered: the worse one is the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Unknown,
    /// All matches looked at are behind another rule's.
    Shadowed {
        by: usize,
    },
    Reachable,
}

pub(super) fn shadowed(table: &Table) -> Vec<Shadowed> {
    let mut reach = vec![Reach::Unknown; table.rules.len()];
    for host in table.exact.values().chain(table.wildcards.values()).chain(&table.every) {
        look_at(host, &table.entries, &mut reach);
    }
    let named = |rule: usize| table.rules[rule].id.clone();
    let shadowed = reach.iter().enumerate().filter_map(|(rule, reach)| match *reach {
        Reach::Shadowed { by } => Some(Shadowed {
            rule: named(rule),
            by: named(by),
        }),
        Reach::Unknown | Reach::Reachable => None,
    });
    shadowed.collect()
}

fn look_at(host: &HostRules, entries: &[Entry], reach: &mut [Reach]) {
    for group in host.groups() {
        let mut seen = HashMap::new();
        for (place, &id) in group.iter().enumerate() {
            let Entry { rule, conditions } = &entries[id];
            let same = *seen.entry(identity(conditions)).or_insert(*rule);
            let by = if same == *rule {
                covering(&entries[id], host, &group[..place], entries)
            } else {
                Some(same)
            };
            reach[*rule] = match (reach[*rule], by) {
                (Reach::Reachable, _) | (_, None) => Reach::Reachable,
                (Reach::Unknown, Some(by)) => Reach::Shadowed { by },
                (Reach::Shadowed { by: other }, Some(by)) => Reach::Shadowed { by: by.min(other) },
            };
        }
    }
}

/// Pairs are compared with this many that go first; equal ones are found among any number.
const MAX_COMPARED: usize = 64;

/// A rule with a match that goes before `entry` and takes all that it could get.
fn covering(entry: &Entry, host: &HostRules, earlier: &[EntryId], entries: &[Entry]) -> Option<usize> {
    let regexes = match entry.conditions.path {
        PathMatch::Prefix(_) => host.regexes(),
        PathMatch::Exact(_) | PathMatch::Regex(_) => &[],
    };
    let compared = earlier.iter().take(MAX_COMPARED).chain(regexes.iter().take(MAX_COMPARED));
    compared
        .map(|&id| &entries[id])
        .find(|other| other.rule != entry.rule && covers(&other.conditions, &entry.conditions))
        .map(|other| other.rule)
}

/// Whether every handshake that meets `narrow` meets `wide`. May say no although it does.
fn covers(wide: &Match, narrow: &Match) -> bool {
    covers_path(&wide.path, &narrow.path)
        && covers_values(&wide.headers, &narrow.headers)
        && covers_values(&wide.query, &narrow.query)
        && covers_subprotocols(&wide.subprotocols, &narrow.subprotocols)
}

fn covers_path(wide: &PathMatch, narrow: &PathMatch) -> bool {
    match (wide, narrow) {
        (PathMatch::Exact(wide), PathMatch::Exact(narrow)) | (PathMatch::Prefix(wide), PathMatch::Prefix(narrow)) => {
            wide == narrow
        }
        (PathMatch::Regex(wide), PathMatch::Regex(narrow)) => takes_all(wide) || wide.as_str() == narrow.as_str(),
        (PathMatch::Regex(wide), PathMatch::Prefix(_)) => takes_all(wide),
        _ => false,
    }
}

/// Paths start with a slash and hold no line break.
fn takes_all(regex: &regex::Regex) -> bool {
    matches!(matching::source(regex), ".*" | ".+" | "/.*" | "^/.*" | "^/.*$" | "^.*$")
}

/// Each of `wide` follows from one of `narrow`.
fn covers_values(wide: &[ValueMatch], narrow: &[ValueMatch]) -> bool {
    wide.iter().all(|wide| {
        narrow
            .iter()
            .any(|narrow| wide.name == narrow.name && covers_value(&wide.value, &narrow.value))
    })
}

fn covers_value(wide: &ValuePattern, narrow: &ValuePattern) -> bool {
    match (wide, narrow) {
        (wide, ValuePattern::Exact(narrow)) => wide.matches(narrow.as_bytes()),
        (ValuePattern::Regex(wide), ValuePattern::Regex(narrow)) => wide.as_str() == narrow.as_str(),
        (ValuePattern::Exact(_), ValuePattern::Regex(_)) => false,
    }
}

fn covers_subprotocols(wide: &[Box<str>], narrow: &[Box<str>]) -> bool {
    wide.is_empty() || (!narrow.is_empty() && narrow.iter().all(|token| wide.contains(token)))
}

/// Equal for two matches that ask for the same, in whatever order.
fn identity(conditions: &Match) -> Vec<(Part, &str, &str)> {
    let path = match &conditions.path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => (Part::Path, "", &**path),
        PathMatch::Regex(regex) => (Part::PathRegex, "", regex.as_str()),
    };
    let headers = conditions
        .headers
        .iter()
        .map(|header| value(Part::Header, Part::HeaderRegex, header));
    let query = conditions
        .query
        .iter()
        .map(|query| value(Part::Query, Part::QueryRegex, query));
    let subprotocols = conditions.subprotocols.iter().map(|token| (Part::Subprotocol, &**token, ""));
    let mut parts: Vec<_> = std::iter::once(path)
        .chain(headers)
        .chain(query)
        .chain(subprotocols)
        .collect();
    parts.sort_unstable();
    parts.dedup();
    parts
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Part {
    Path,
    PathRegex,
    Header,
    HeaderRegex,
    Query,
    QueryRegex,
    Subprotocol,
}

fn value(exact: Part, regex: Part, wanted: &ValueMatch) -> (Part, &str, &str) {
    match &wanted.value {
        ValuePattern::Exact(value) => (exact, &wanted.name, value),
        ValuePattern::Regex(pattern) => (regex, &wanted.name, pattern.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use crate::routing::{
        fixture::{exact, prefix, regex, route},
        table::{Match, RouteSpec, Table},
    };

    /// What is reported, as `rule < the one that shadows it`.
    fn shadowed(routes: Vec<RouteSpec>) -> Vec<String> {
        let (_, shadowed) = Table::build(routes);
        shadowed
            .iter()
            .map(|shadowed| format!("{} < {}", shadowed.rule, shadowed.by))
            .collect()
    }

    /// Two rules of one route: whether the second is shadowed.
    fn hides(first: Match, second: Match) -> bool {
        let reported = shadowed(vec![route("r", &["a"], vec![vec![first], vec![second]])]);
        assert!(reported.is_empty() || reported == ["chat/r#1 < chat/r#0"], "{reported:?}");
        !reported.is_empty()
    }

    #[test]
    fn equal_matches() {
        let full = |path: Match| {
            path.header("x", "1")
                .header("y", "~2|3")
                .query("q", "1")
                .subprotocols(&["mqtt", "soap"])
        };
        let other_order = prefix("/a/")
            .header("y", "~2|3")
            .header("x", "1")
            .query("q", "1")
            .subprotocols(&["soap", "mqtt"]);
        assert!(hides(prefix("/a"), prefix("/a/")));
        assert!(hides(exact("/a"), exact("/%61")));
        assert!(hides(regex("/a+"), regex("/a+")));
        assert!(hides(full(prefix("/a")), full(prefix("/a"))));
        assert!(hides(full(exact("/a")), full(exact("/a"))));
        assert!(hides(full(prefix("/a")), other_order));
    }

    #[test]
    fn matches_that_another_covers() {
        assert!(hides(prefix("/").header("x", "~1|2"), prefix("/").header("x", "2")));
        assert!(hides(prefix("/").query("x", "~.*"), prefix("/").query("x", "2")));
        assert!(hides(prefix("/").subprotocols(&["a", "b"]), prefix("/").subprotocols(&["b"])));
        assert!(hides(regex(".*"), prefix("/a").header("x", "1")));
        assert!(hides(regex("/.*"), regex("/a+")));
    }

    #[test]
    fn matches_that_can_be_reached() {
        assert!(!hides(prefix("/"), prefix("/a")));
        assert!(!hides(prefix("/a"), prefix("/")));
        assert!(!hides(prefix("/a"), exact("/a")));
        assert!(!hides(regex(".*"), exact("/a")));
        assert!(!hides(exact("/a"), prefix("/a")));
        assert!(!hides(regex("/a+"), regex("/a*")));
        assert!(!hides(prefix("/"), prefix("/").header("x", "1")));
        assert!(!hides(prefix("/").header("x", "1"), prefix("/")));
        assert!(!hides(prefix("/").header("x", "1"), prefix("/").header("x", "2")));
        assert!(!hides(prefix("/").header("x", "1"), prefix("/").header("y", "1")));
        assert!(!hides(prefix("/").header("x", "1"), prefix("/").query("x", "1")));
        assert!(!hides(prefix("/").header("x", "2"), prefix("/").header("x", "~1|2")));
        assert!(!hides(
            prefix("/").subprotocols(&["a"]),
            prefix("/").subprotocols(&["a", "b"])
        ));
        assert!(!hides(prefix("/").subprotocols(&["a"]), prefix("/")));
        assert!(!hides(regex(".*").header("x", "1"), prefix("/")));
    }

    #[test]
    fn a_rule_is_shadowed_only_on_all_of_its_hosts_and_with_all_of_its_matches() {
        let all = || vec![vec![prefix("/")]];
        let older = |hostnames: &[&str]| route("a", hostnames, all());
        assert_eq!(
            shadowed(vec![older(&["x", "y"]), route("b", &["x", "y"], all())]),
            ["chat/b#0 < chat/a#0"]
        );
        assert_eq!(shadowed(vec![older(&["x"]), route("b", &["x", "y"], all())]), [""; 0]);
        assert_eq!(shadowed(vec![older(&["*.x"]), route("b", &["a.x"], all())]), [""; 0]);
        assert_eq!(shadowed(vec![older(&[]), route("b", &["x"], all())]), [""; 0]);
        assert_eq!(shadowed(vec![older(&[]), route("b", &[], all())]), ["chat/b#0 < chat/a#0"]);
        let two = vec![vec![prefix("/"), prefix("/b")]];
        assert_eq!(shadowed(vec![older(&["x"]), route("b", &["x"], two)]), [""; 0]);
        let by_two = vec![vec![prefix("/")], vec![prefix("/b")], vec![prefix("/"), prefix("/b")]];
        assert_eq!(shadowed(vec![route("a", &["x"], by_two)]), ["chat/a#2 < chat/a#0"]);
    }

    #[test]
    fn a_rule_does_not_shadow_itself() {
        let twice = vec![vec![prefix("/"), prefix("/")]];
        assert_eq!(shadowed(vec![route("a", &["x", "x"], twice)]), [""; 0]);
        let narrower = vec![vec![prefix("/").header("x", "~1|2"), prefix("/").header("x", "2")]];
        assert_eq!(shadowed(vec![route("a", &["x"], narrower)]), [""; 0]);
    }

    #[test]
    fn equal_matches_are_found_among_any_number() {
        let tenant = |n: usize| vec![prefix("/").header("x-tenant", &n.to_string())];
        let rules = (0..2_000).chain([1_500]).map(tenant).collect();
        assert_eq!(shadowed(vec![route("a", &["x"], rules)]), ["chat/a#2000 < chat/a#1500"]);
    }
}
