//! The table: from host, path, headers, query and subprotocols to the one rule that serves a handshake.
//!
//! The control plane builds it from all accepted routes at once; the proxy calls [`Table::find`] for each request, and
//! `holdfast why` calls [`Table::explain`]. A lookup costs a few hash lookups however many routes there are, plus a look at
//! each rule that has the same path, and at each regular expression of the host.
//!
//! # Precedence
//! The host goes first: its own entry, else the longest wildcard over it, else the entry for every host, and nothing of a
//! wider one. Within it, of all matches that a handshake meets: an exact path, then a regular expression, then the longest
//! prefix; then more headers; then more query parameters; then one with subprotocols; then the older object; then by
//! namespace and name; then by order in the object.

mod explain;
mod host;
mod shadow;

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
};

pub use self::explain::{Considered, Explanation, HostEntry, Nearest, Verdict};
use self::host::HostRules;
pub use super::matching::{Handshake, Match, PathMatch, PatternError, ValueMatch, ValuePattern};
use super::route::{ObjectName, Rule, RuleId};

/// One accepted route, as [`Table::build`] takes it.
#[derive(Debug)]
pub struct RouteSpec {
    pub name: ObjectName,
    /// Seconds since 1970 at which the object was created; older routes go first. 0 for folders: equally old.
    pub created: i64,
    /// Lower case, without a trailing dot: `chat.example.com`, or `*.example.com` for every host with one or more labels
    /// in front of `.example.com`. Empty: every host.
    pub hostnames: Vec<Box<str>>,
    pub rules: Vec<RuleSpec>,
}

#[derive(Debug)]
pub struct RuleSpec {
    /// Never empty; any of them.
    pub matches: Vec<Match>,
    pub rule: Arc<Rule>,
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
pub struct Table {
    /// From the oldest route on, by namespace, name, and order in the object.
    rules: Vec<Arc<Rule>>,
    /// In the order of their rules.
    entries: Vec<Entry>,
    exact: HashMap<Box<str>, HostRules>,
    /// By what stands behind the `*.`.
    wildcards: HashMap<Box<str>, HostRules>,
    every: Option<HostRules>,
}

/// A rule that can never serve anything, because on each of its hosts another one with the same conditions, or fewer, goes
/// first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadowed {
    pub rule: RuleId,
    /// One that goes first: another may do so on another host or for another match.
    pub by: RuleId,
}

impl Table {
    /// Compiles the table, and says which rules nothing can reach. Which routes may claim which host has been decided before.
    ///
    /// Every rule that is reported is unreachable; one that several others cover only together is not reported.
    pub fn build(mut routes: Vec<RouteSpec>) -> (Self, Vec<Shadowed>) {
        routes.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        let mut table = Self::default();
        for route in routes {
            table.add(route);
        }
        let entries = &table.entries;
        let hosts = table
            .exact
            .values_mut()
            .chain(table.wildcards.values_mut())
            .chain(&mut table.every);
        hosts.for_each(|host| host.sort(entries));
        let shadowed = shadow::shadowed(&table);
        (table, shadowed)
    }

    /// The rule for a handshake.
    pub fn find(&self, handshake: &Handshake<'_>) -> Option<Found<'_>> {
        let (_, host) = self.host(handshake.host)?;
        let entry = host.find(handshake, &self.entries)?;
        Some(Found {
            rule: self.rule(entry),
            matched_path: entry.matched_path(),
        })
    }

    /// Each compiled rule once: from the oldest route on, by namespace and name, in the order of the object.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.iter()
    }

    /// The narrowest entry for a host.
    fn host(&self, host: &str) -> Option<(HostEntry<'_>, &HostRules)> {
        self.hosts(host).next()
    }

    /// All entries that cover a host, the narrowest first.
    fn hosts(&self, host: &str) -> impl Iterator<Item = (HostEntry<'_>, &HostRules)> {
        let own = self.exact.get_key_value(host);
        let wider = host
            .match_indices('.')
            .filter(|_| !self.wildcards.is_empty())
            .filter_map(|(dot, _)| self.wildcards.get_key_value(&host[dot + 1..]));
        let own = own.map(|(name, rules)| (HostEntry::Exact(name), rules));
        let wider = wider.map(|(suffix, rules)| (HostEntry::Wildcard(suffix), rules));
        own.into_iter()
            .chain(wider)
            .chain(self.every.as_ref().map(|rules| (HostEntry::Every, rules)))
    }

    fn rule(&self, entry: &Entry) -> &Arc<Rule> {
        &self.rules[entry.rule]
    }

    fn add(&mut self, route: RouteSpec) {
        let hostnames: HashSet<Box<str>> = route.hostnames.into_iter().collect();
        for RuleSpec { matches, rule } in route.rules {
            for Match {
                path,
                headers,
                query,
                subprotocols,
            } in matches
            {
                let conditions = Match {
                    path: path.into_normal(),
                    headers,
                    query,
                    subprotocols,
                };
                let id = self.entries.len();
                let path = &conditions.path;
                if hostnames.is_empty() {
                    self.every.get_or_insert_default().add(path, id);
                }
                for hostname in &hostnames {
                    let host = match hostname.strip_prefix("*.") {
                        Some(suffix) => self.wildcards.entry(suffix.into()),
                        None => self.exact.entry(hostname.clone()),
                    };
                    host.or_default().add(path, id);
                }
                self.entries.push(Entry {
                    rule: self.rules.len(),
                    conditions,
                });
            }
            self.rules.push(rule);
        }
    }
}

/// A place in [`Table::entries`].
type EntryId = usize;

/// One match of one rule.
#[derive(Debug)]
struct Entry {
    /// A place in [`Table::rules`].
    rule: usize,
    conditions: Match,
}

impl Entry {
    fn matched_path(&self) -> &str {
        match &self.conditions.path {
            PathMatch::Exact(path) | PathMatch::Prefix(path) => path,
            PathMatch::Regex(_) => "/",
        }
    }

    /// Orders the entries of one host: the least goes first. Entries are numbered by age, name and order.
    fn precedence(&self, id: EntryId) -> impl Ord + use<> {
        let Match {
            path,
            headers,
            query,
            subprotocols,
        } = &self.conditions;
        let path = match path {
            PathMatch::Exact(_) => (0, Reverse(0)),
            PathMatch::Regex(_) => (1, Reverse(0)),
            PathMatch::Prefix(prefix) => (2, Reverse(prefix.len())),
        };
        (
            path,
            Reverse(headers.len()),
            Reverse(query.len()),
            subprotocols.is_empty(),
            id,
        )
    }
}
