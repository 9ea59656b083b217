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
    /// The matches of that host's rules, in order of precedence: at most [`MAX_CONSIDERED`], first of all those whose path
    /// matches.
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
