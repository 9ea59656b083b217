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
