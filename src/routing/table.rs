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

mod challenge;
mod explain;
mod host;
mod shadow;

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
};

pub use self::challenge::CHALLENGE_PATH;
pub use self::explain::{Considered, Explanation, HostEntry, MAX_CONSIDERED, MAX_WIDER, Nearest, Verdict};
use self::{challenge::Challenges, host::HostRules};
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
    challenges: Challenges,
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

    /// Serves a challenge of ACME, apart from all routes and before them: requests for this very host and path.
    pub fn add_challenge(&mut self, host: &str, path: &str, rule: Arc<Rule>) {
        self.rules.push(Arc::clone(&rule));
        self.challenges.add(host, path, rule);
    }

    /// The rule of a challenge that is being answered at this host and path.
    pub fn challenge(&self, host: &str, path: &str) -> Option<Found<'_>> {
        let (matched_path, rule) = self.challenges.find(host, path)?;
        Some(Found { rule, matched_path })
    }

    /// Each compiled rule once: from the oldest route on, by namespace and name, in the order of the object.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.iter()
    }

    /// Each match of each rule, in the order of [`Table::rules`]; challenges have none.
    pub fn matches(&self) -> impl Iterator<Item = (&Arc<Rule>, &Match)> {
        self.entries.iter().map(|entry| (self.rule(entry), &entry.conditions))
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

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::routing::fixture::{exact, headers, prefix, regex, route};

    fn table(routes: Vec<RouteSpec>) -> Table {
        Table::build(routes).0
    }

    /// `route#rule` of what serves a request, by the fixture's names.
    fn found(table: &Table, host: &str, path: &str, query: Option<&str>, headers: &HeaderMap) -> String {
        let handshake = Handshake {
            host,
            path,
            query,
            headers,
        };
        table.find(&handshake).map_or_else(String::new, |found| {
            let RuleId { route, rule } = &found.rule.id;
            format!("{}#{rule}", route.name)
        })
    }

    fn at(table: &Table, host: &str, path: &str) -> String {
        found(table, host, path, None, &HeaderMap::new())
    }

    #[test]
    fn the_narrowest_host_entry_serves_alone() {
        let table = table(vec![
            route("every", &[], vec![vec![prefix("/")]]),
            route("wide", &["*.com"], vec![vec![prefix("/")]]),
            route("sub", &["*.example.com"], vec![vec![prefix("/")]]),
            route("own", &["chat.example.com"], vec![vec![prefix("/chat")]]),
        ]);
        for (host, path, expected) in [
            ("chat.example.com", "/chat", "own#0"),
            ("chat.example.com", "/other", ""),
            ("www.example.com", "/", "sub#0"),
            ("a.b.example.com", "/", "sub#0"),
            ("a.chat.example.com", "/", "sub#0"),
            ("example.com", "/", "wide#0"),
            ("notexample.com", "/", "wide#0"),
            ("com", "/", "every#0"),
            ("example.org", "/", "every#0"),
            ("localhost", "/", "every#0"),
            ("[::1]", "/", "every#0"),
        ] {
            assert_eq!(at(&table, host, path), expected, "{host}{path}");
        }
    }

    #[test]
    fn a_host_without_an_entry_has_no_rule() {
        let table = table(vec![route(
            "own",
            &["chat.example.com", "*.rt.example.com"],
            vec![vec![prefix("/")]],
        )]);
        for host in [
            "example.com",
            "rt.example.com",
            "xrt.example.com",
            "chat.example.com.example.com",
            "",
        ] {
            assert_eq!(at(&table, host, "/"), "", "{host}");
        }
        assert_eq!(at(&table, "chat.example.com", "/"), "own#0");
        assert_eq!(at(&table, "a.rt.example.com", "/"), "own#0");
        assert_eq!(at(&Table::default(), "chat.example.com", "/"), "");
    }

    #[test]
    fn exact_then_expression_then_the_longest_prefix() {
        let rules = vec![
            vec![prefix("/")],
            vec![prefix("/chat")],
            vec![prefix("/chat/rooms/")],
            vec![regex("/chat/rooms/[0-9]+")],
            vec![regex("/chat/rooms/1.*")],
            vec![exact("/chat/rooms/12")],
            vec![exact("/chat/")],
        ];
        let table = table(vec![route("r", &["a"], rules)]);
        for (path, expected) in [
            ("/", "r#0"),
            ("/chats", "r#0"),
            ("/chat", "r#1"),
            ("/chat/", "r#6"),
            ("/chat/room", "r#1"),
            ("/chat/rooms", "r#2"),
            ("/chat/rooms/", "r#2"),
            ("/chat/rooms/x", "r#2"),
            ("/chat/rooms/7", "r#3"),
            ("/chat/rooms/17", "r#3"),
            ("/chat/rooms/1x", "r#4"),
            ("/chat/rooms/12", "r#5"),
            ("/chat/rooms/12/x", "r#4"),
            ("/chat/rooms%2F12", "r#1"),
        ] {
            assert_eq!(at(&table, "a", path), expected, "{path}");
        }
    }

    #[test]
    fn a_better_path_that_asks_for_more_than_is_there_leaves_the_rest_to_others() {
        let rules = vec![
            vec![prefix("/")],
            vec![prefix("/chat").header("x", "1")],
            vec![exact("/chat").query("v", "2")],
            vec![regex("/ch.*").subprotocols(&["mqtt"])],
        ];
        let table = table(vec![route("r", &["a"], rules)]);
        let none = HeaderMap::new();
        let all = headers(&[("x", "1"), ("sec-websocket-protocol", "soap, mqtt")]);
        let only_x = headers(&[("x", "1")]);
        assert_eq!(found(&table, "a", "/chat", None, &none), "r#0");
        assert_eq!(found(&table, "a", "/chat", None, &only_x), "r#1");
        assert_eq!(found(&table, "a", "/chat", None, &all), "r#3");
        assert_eq!(found(&table, "a", "/chat", Some("v=2"), &all), "r#2");
    }

    #[test]
    fn ties_go_by_what_is_asked_for_then_age_then_name_then_order() {
        let all = headers(&[("x", "1"), ("y", "1"), ("sec-websocket-protocol", "mqtt")]);
        let any = || prefix("/chat");
        let by = |name: &str, created, matched: Match| RouteSpec {
            created,
            ..route(name, &["a"], vec![vec![matched]])
        };
        let of = |routes| found(&table(routes), "a", "/chat", Some("v=1&w=1"), &all);
        let queries = || any().query("v", "1").query("w", "1");

        assert_eq!(of(vec![by("a", 1, queries()), by("b", 2, any().header("x", "1"))]), "b#0");
        let two = any().header("x", "1").header("y", "1");
        assert_eq!(of(vec![by("a", 1, any().header("x", "1")), by("b", 2, two)]), "b#0");
        assert_eq!(of(vec![by("a", 1, any().query("v", "1")), by("b", 2, queries())]), "b#0");
        let token = any().subprotocols(&["mqtt"]);
        assert_eq!(of(vec![by("b", 2, any().query("v", "1")), by("a", 1, token.clone())]), "b#0");
        assert_eq!(of(vec![by("a", 1, any()), by("b", 2, token)]), "b#0");
        assert_eq!(of(vec![by("a", 2, any()), by("b", 1, any())]), "b#0");
        assert_eq!(of(vec![by("b", 1, any()), by("a", 1, any())]), "a#0");
        assert_eq!(
            of(vec![route("a", &["a"], vec![vec![exact("/")], vec![any()], vec![any()]])]),
            "a#1"
        );

        let elsewhere = RouteSpec {
            name: ObjectName {
                namespace: "aaa".into(),
                name: "z".into(),
            },
            ..by("z", 1, any())
        };
        assert_eq!(of(vec![by("a", 1, any()), elsewhere]), "z#0");
    }

    #[test]
    fn the_matched_path_is_the_rules() {
        let rules = vec![vec![exact("/a/%62"), prefix("/c/"), regex("/d.*"), prefix("/")]];
        let table = table(vec![route("r", &[], rules)]);
        let headers = HeaderMap::new();
        for (path, expected) in [("/a/b", "/a/b"), ("/c/d/e", "/c"), ("/dd", "/"), ("/x", "/")] {
            let handshake = Handshake {
                host: "a",
                path,
                query: None,
                headers: &headers,
            };
            assert_eq!(table.find(&handshake).unwrap().matched_path, expected, "{path}");
        }
    }

    #[test]
    fn a_path_that_no_request_can_have_matches_none() {
        let odd = |path: &str| {
            let both = [PathMatch::Exact(path.into()), PathMatch::Prefix(path.into())];
            vec![both.map(|path| Match { path, ..prefix("/") }).to_vec()]
        };
        for path in ["chat", "/%zz", "/chat?x", "/../chat", ""] {
            let table = table(vec![route("r", &[], odd(path))]);
            for asked in ["/", "/chat", "/%zz", "chat"] {
                assert!(asked == path || at(&table, "a", asked).is_empty(), "{path} {asked}");
            }
        }
        let spelled = table(vec![route("r", &[], odd("/%63hat"))]);
        assert_eq!(at(&spelled, "a", "/chat"), "r#0");
    }

    #[test]
    fn each_rule_is_there_once_from_the_oldest_on() {
        let two = vec![vec![prefix("/a"), prefix("/b")], vec![prefix("/c")]];
        let young = RouteSpec {
            created: 9,
            ..route("a", &["x", "y", "x"], vec![vec![prefix("/")]])
        };
        let table = table(vec![young, route("b", &["x", "*.y"], two)]);
        let ids: Vec<_> = table.rules().map(|rule| rule.id.to_string()).collect();
        assert_eq!(ids, ["chat/b#0", "chat/b#1", "chat/a#0"]);
    }

    #[test]
    fn a_path_of_many_elements_is_looked_up_all_the_same() {
        let deep = "/a".repeat(500);
        let table = table(vec![route("r", &[], vec![vec![prefix("/a")], vec![prefix(&deep)]])]);
        assert_eq!(at(&table, "a", &"/".repeat(60_000)), "");
        assert_eq!(at(&table, "a", &"/a".repeat(499)), "r#0");
        assert_eq!(at(&table, "a", &"/a".repeat(30_000)), "r#1");
    }
}
