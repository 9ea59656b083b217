//! Properties of the routing domain: lookups against a naive reference, paths and hosts against their respellings, and
//! that no rule which is reported as unreachable is ever reached.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{borrow::Cow, cmp::Reverse, sync::Arc, time::Duration};

use holdfast::routing::{
    Handshake, ObjectName, Rule, RuleId, Table,
    balancer::Cursor,
    forwarded::Forwarded,
    route::{Balancing, Fallback, Heartbeat, Heartbeats, Timeouts},
    table::{Match, PathMatch, RouteSpec, RuleSpec, ValueMatch, ValuePattern, Verdict},
    target,
};
use http::{HeaderMap, HeaderValue};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{select, subsequence},
};

/// A route before it is compiled, in words of the tests: what both the table and the reference are made of.
#[derive(Clone, Debug)]
struct Route {
    created: i64,
    namespace: &'static str,
    hostnames: Vec<&'static str>,
    /// Rules, and the matches of each.
    rules: Vec<Vec<Wanted>>,
}

#[derive(Clone, Debug)]
struct Wanted {
    path: Path,
    headers: Vec<(&'static str, Text)>,
    query: Vec<(&'static str, Text)>,
    subprotocols: Vec<&'static str>,
}

#[derive(Clone, Debug)]
enum Path {
    Exact(String),
    Prefix(String),
    Regex(Pattern),
}

#[derive(Clone, Debug)]
enum Text {
    Exact(&'static str),
    Regex(Pattern),
}

/// An expression, and the same by hand.
#[derive(Clone, Copy, Debug)]
struct Pattern {
    source: &'static str,
    matches: fn(&str) -> bool,
}

#[derive(Clone, Debug)]
struct Asked {
    host: &'static str,
    path: String,
    query: Option<&'static str>,
    headers: Vec<(&'static str, &'static str)>,
}

const HOSTS: &[&str] = &["a.com", "x.a.com", "y.x.a.com", "z.y.x.a.com", "b.com", "com", "[::1]"];
const HOSTNAMES: &[&str] = &["a.com", "x.a.com", "y.x.a.com", "*.com", "*.a.com", "*.x.a.com", "b.com"];
const ELEMENTS: &[&str] = &["a", "b", "ab", "a%2Fb"];

const PATH_PATTERNS: &[Pattern] = &[
    Pattern {
        source: "/a.*",
        matches: |path| path.starts_with("/a"),
    },
    Pattern {
        source: ".*",
        matches: |_| true,
    },
    Pattern {
        source: "/[ab]|/ab/b",
        matches: |path| matches!(path, "/a" | "/b" | "/ab/b"),
    },
    Pattern {
        source: "/.*/b",
        matches: |path| path.len() >= 4 && path.ends_with("/b") || path == "//b",
    },
];
const TEXT_PATTERNS: &[Pattern] = &[
    Pattern {
        source: "1|2",
        matches: |text| matches!(text, "1" | "2"),
    },
    Pattern {
        source: ".*",
        matches: |_| true,
    },
    Pattern {
        source: "[0-9]+,2",
        matches: |text| matches!(text, "1,2"),
    },
];

const QUERIES: &[Option<&str>] = &[
    None,
    Some("v=1"),
    Some("v=2&v=1"),
    Some("w=1&v=%31"),
    Some("w=2"),
    Some("v=1+2&w=1"),
];
const HEADERS: &[(&str, &str)] = &[
    ("x", "1"),
    ("x", "2"),
    ("y", "1"),
    ("sec-websocket-protocol", "p, q"),
    ("sec-websocket-protocol", "r"),
];

fn any_text() -> impl Strategy<Value = Text> {
    prop_oneof![
        select(&["1", "2", "1,2", "1 2"][..]).prop_map(Text::Exact),
        select(TEXT_PATTERNS).prop_map(Text::Regex)
    ]
}

fn any_path(of: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    (vec(select(ELEMENTS), of), any::<bool>()).prop_map(|(elements, slash)| {
        let path: String = elements.iter().map(|element| format!("/{element}")).collect();
        if slash || path.is_empty() { path + "/" } else { path }
    })
}

fn wanted_path() -> impl Strategy<Value = Path> {
    prop_oneof![
        3 => any_path(0..3).prop_map(Path::Exact),
        5 => any_path(0..3).prop_map(Path::Prefix),
        1 => select(PATH_PATTERNS).prop_map(Path::Regex),
    ]
}

fn any_wanted() -> impl Strategy<Value = Wanted> {
    let named = |names: &'static [&'static str]| {
        subsequence(names, 0..=names.len()).prop_flat_map(|names| {
            let texts = vec(any_text(), names.len());
            texts.prop_map(move |texts| names.iter().copied().zip(texts).collect::<Vec<_>>())
        })
    };
    let maybe = |strategy: BoxedStrategy<Vec<(&'static str, Text)>>| prop_oneof![3 => Just(vec![]), 2 => strategy];
    let tokens = prop_oneof![3 => Just(vec![]), 1 => subsequence(vec!["p", "q", "r", "s"], 1..=3)];
    (
        wanted_path(),
        maybe(named(&["x", "y"]).boxed()),
        maybe(named(&["v", "w"]).boxed()),
        tokens,
    )
        .prop_map(|(path, headers, query, subprotocols)| Wanted {
            path,
            headers,
            query,
            subprotocols,
        })
}

fn any_route() -> impl Strategy<Value = Route> {
    let rules = vec(vec(any_wanted(), 1..3), 1..4);
    (0..2_i64, select(&["n", "m"][..]), subsequence(HOSTNAMES, 0..3), rules).prop_map(|(created, namespace, hostnames, rules)| {
        Route {
            created,
            namespace,
            hostnames,
            rules,
        }
    })
}

fn any_asked() -> impl Strategy<Value = Asked> {
    (
        select(HOSTS),
        any_path(0..4),
        select(QUERIES),
        subsequence(HEADERS, 0..=HEADERS.len()),
    )
        .prop_map(|(host, path, query, headers)| Asked {
            host,
            path,
            query,
            headers,
        })
}

/// The name of a rule: where its route stands in the list, and it in the route.
fn id(namespace: &str, route: usize, rule: usize) -> RuleId {
    RuleId {
        route: ObjectName {
            namespace: namespace.into(),
            name: format!("r{route:03}").into(),
        },
        rule: rule.to_string().into(),
    }
}

fn compiled(routes: &[Route]) -> Vec<RouteSpec> {
    let route = |(index, route): (usize, &Route)| RouteSpec {
        name: id(route.namespace, index, 0).route,
        created: route.created,
        hostnames: route.hostnames.iter().map(|host| Box::from(*host)).collect(),
        rules: route
            .rules
            .iter()
            .enumerate()
            .map(|(rule, matches)| RuleSpec {
                matches: matches.iter().map(Wanted::compiled).collect(),
                rule: Arc::new(rule_named(id(route.namespace, index, rule))),
            })
            .collect(),
    };
    routes.iter().enumerate().map(route).collect()
}

fn rule_named(id: RuleId) -> Rule {
    let off = Heartbeat {
        interval: Duration::ZERO,
        missed: 1,
    };
    Rule {
        id,
        backends: Box::default(),
        fallback: Fallback::Reject,
        filters: None,
        forwarded: Forwarded::BUILT_IN,
        persistence: None,
        balancing: Balancing::Random,
        timeouts: Timeouts {
            connect: Duration::ZERO,
            handshake: Duration::ZERO,
            idle: Duration::ZERO,
            send: Duration::ZERO,
            max_duration: Duration::ZERO,
            close_handshake: Duration::ZERO,
        },
        heartbeat: Heartbeats {
            client: off,
            endpoint: off,
        },
        limits: None,
        retry: None,
        health: None,
        security: Arc::default(),
        cursor: Cursor::default(),
    }
}

impl Wanted {
    fn compiled(&self) -> Match {
        let value = |text: &Text| match text {
            Text::Exact(value) => ValuePattern::Exact((*value).into()),
            Text::Regex(pattern) => ValuePattern::regex(pattern.source).unwrap(),
        };
        let values = |wanted: &[(&str, Text)]| {
            let wanted = wanted.iter().map(|(name, text)| ValueMatch {
                name: (*name).into(),
                value: value(text),
            });
            wanted.collect()
        };
        Match {
            path: match &self.path {
                Path::Exact(path) => PathMatch::exact(path).unwrap(),
                Path::Prefix(path) => PathMatch::prefix(path).unwrap(),
                Path::Regex(pattern) => PathMatch::regex(pattern.source).unwrap(),
            },
            headers: values(&self.headers),
            query: values(&self.query),
            subprotocols: self.subprotocols.iter().map(|token| Box::from(*token)).collect(),
        }
    }

    fn is_met(&self, asked: &Asked) -> bool {
        let path = match &self.path {
            Path::Exact(path) => *path == asked.path,
            Path::Prefix(prefix) => {
                let prefix: Vec<_> = prefix.split('/').collect();
                let asked: Vec<_> = asked.path.split('/').collect();
                let prefix = prefix.strip_suffix(&[""]).unwrap_or(&prefix);
                asked.starts_with(prefix)
            }
            Path::Regex(pattern) => (pattern.matches)(&asked.path),
        };
        let header = |(name, text): &(&str, Text)| asked.header(name).is_some_and(|value| text.matches(&value));
        let query = |(name, text): &(&str, Text)| asked.parameter(name).is_some_and(|value| text.matches(&value));
        let offered = asked.header("sec-websocket-protocol").unwrap_or_default();
        let offered: Vec<_> = offered.split(',').map(str::trim).collect();
        let subprotocol = self.subprotocols.is_empty() || self.subprotocols.iter().any(|token| offered.contains(token));
        path && self.headers.iter().all(header) && self.query.iter().all(query) && subprotocol
    }
}

impl Text {
    fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(exact) => *exact == value,
            Self::Regex(pattern) => (pattern.matches)(value),
        }
    }
}

impl Asked {
    fn header(&self, name: &str) -> Option<String> {
        let values: Vec<_> = self
            .headers
            .iter()
            .filter(|header| header.0 == name)
            .map(|header| header.1)
            .collect();
        (!values.is_empty()).then(|| values.join(","))
    }

    fn parameter(&self, name: &str) -> Option<String> {
        let pairs = self.query?.split('&').filter_map(|pair| pair.split_once('='));
        let values: Vec<_> = pairs.filter(|pair| pair.0 == name).map(|pair| pair.1).collect();
        values.first().map(|value| value.replace('+', " ").replace("%31", "1"))
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }
}

/// How narrow a hostname is that covers a host; `None` if it does not.
fn narrowness(hostname: &str, host: &str) -> Option<usize> {
    match hostname.strip_prefix('*') {
        Some(suffix) => (host.len() > suffix.len() && host.ends_with(suffix)).then_some(suffix.len()),
        None => (hostname == host).then_some(usize::MAX),
    }
}

/// What serves a request: everything that matches on the narrowest host entry, sorted.
fn reference(routes: &[Route], asked: &Asked) -> Option<RuleId> {
    let narrowness_of = |route: &Route| {
        let every = route.hostnames.is_empty().then_some(0);
        route
            .hostnames
            .iter()
            .filter_map(|hostname| narrowness(hostname, asked.host))
            .max()
            .or(every)
    };
    let all: Vec<usize> = routes
        .iter()
        .flat_map(|route| route.hostnames.iter().filter_map(|name| narrowness(name, asked.host)))
        .collect();
    let narrowest = all
        .into_iter()
        .max()
        .or_else(|| routes.iter().filter_map(narrowness_of).max())?;

    let mut matching = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        if narrowness_of(route) != Some(narrowest) {
            continue;
        }
        for (number, rule) in route.rules.iter().enumerate() {
            for wanted in rule.iter().filter(|wanted| wanted.is_met(asked)) {
                let path = match &wanted.path {
                    Path::Exact(_) => (0, Reverse(0)),
                    Path::Regex(_) => (1, Reverse(0)),
                    Path::Prefix(prefix) => (2, Reverse(prefix.trim_end_matches('/').len())),
                };
                let asks = (
                    Reverse(wanted.headers.len()),
                    Reverse(wanted.query.len()),
                    Reverse(!wanted.subprotocols.is_empty()),
                );
                let id = id(route.namespace, index, number);
                matching.push((path, asks, route.created, route.namespace, index, number, id));
            }
        }
    }
    matching.sort();
    matching.into_iter().next().map(|(.., id)| id)
}

fn found(table: &Table, asked: &Asked) -> Option<RuleId> {
    let headers = asked.headers();
    let handshake = Handshake {
        host: asked.host,
        path: &asked.path,
        query: asked.query,
        headers: &headers,
    };
    table.find(&handshake).map(|found| found.rule.id.clone())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_lookup_finds_what_a_naive_reference_finds(routes in vec(any_route(), 0..8), asked in vec(any_asked(), 30)) {
        let (table, _) = Table::build(compiled(&routes));
        for asked in asked {
            prop_assert_eq!(found(&table, &asked), reference(&routes, &asked), "{:?}", asked);
        }
    }

    #[test]
    fn nothing_reaches_a_rule_that_is_reported_as_shadowed(routes in vec(any_route(), 2..8), asked in vec(any_asked(), 200)) {
        let (table, shadowed) = Table::build(compiled(&routes));
        for asked in asked {
            let found = found(&table, &asked);
            prop_assert!(!shadowed.iter().any(|shadowed| Some(&shadowed.rule) == found.as_ref()), "{:?} {:?}", found, asked);
        }
        for shadowed in shadowed {
            prop_assert_ne!(shadowed.rule, shadowed.by);
        }
    }

    #[test]
    fn an_explanation_agrees_with_the_lookup(routes in vec(any_route(), 0..8), asked in any_asked()) {
        let (table, _) = Table::build(compiled(&routes));
        let headers = asked.headers();
        let handshake = Handshake { host: asked.host, path: &asked.path, query: asked.query, headers: &headers };
        let explanation = table.explain(&handshake);
        let found = table.find(&handshake).map(|found| (found.rule.id.clone(), found.matched_path));
        prop_assert_eq!(explanation.found.map(|found| (found.rule.id.clone(), found.matched_path)), found.clone());

        let matched: Vec<_> = explanation.rules.iter().filter(|rule| rule.verdict == Verdict::Matched).collect();
        prop_assert_eq!(matched.first().map(|rule| &rule.rule.id), found.as_ref().map(|(id, _)| id));
        prop_assert!(matched.len() <= 1);
        let first = explanation.rules.iter().position(|rule| matches!(rule.verdict, Verdict::Matched | Verdict::EarlierMatched));
        prop_assert_eq!(first, explanation.rules.iter().position(|rule| rule.verdict == Verdict::Matched));
    }

    #[test]
    fn a_path_in_normal_form_stays_as_it_is(path in "/(\\PC|[/.%;?#\\\\]|%[0-9a-fA-F]{2}|%2[fFeE]|\\.\\.?/){0,12}") {
        if let Some(normal) = target::path(&path) {
            prop_assert!(matches!(target::path(&normal), Some(Cow::Borrowed(same)) if same == normal), "{:?} {:?}", path, normal);
            prop_assert!(normal.starts_with('/') && normal.is_ascii());
            prop_assert!(!normal.split('/').any(|element| matches!(element, "." | "..")), "{:?}", normal);
            for (at, _) in normal.match_indices('%') {
                let escape = &normal[at + 1..at + 3];
                prop_assert!(escape.bytes().all(|digit| digit.is_ascii_digit() || (b'A'..=b'F').contains(&digit)), "{:?}", normal);
            }
        }
    }

    #[test]
    fn two_spellings_of_a_path_have_one_normal_form(elements in vec("[a-z0-9~!;:@%é ]{1,4}", 1..5), choices in vec(any::<u8>(), 64)) {
        let escape = |element: &str| element.replace('%', "%25");
        let plain: String = elements.iter().map(|element| format!("/{}", escape(element))).collect();
        let respelled = respelled(&plain, &choices);
        prop_assert_eq!(target::path(&respelled), target::path(&plain), "{} {}", respelled, plain);
        prop_assert!(target::path(&plain).is_some());
    }

    #[test]
    fn an_escaped_slash_is_never_a_slash(before in "[a-z]{1,3}", after in "[a-z]{1,3}") {
        for slash in ["%2f", "%2F"] {
            let path = format!("/{before}{slash}{after}");
            let normal = target::path(&path).unwrap();
            prop_assert_eq!(normal.matches('/').count(), 1);
            let prefix = PathMatch::prefix(&path[..=before.len()]).unwrap();
            prop_assert!(!prefix.matches(&normal));
        }
    }

    #[test]
    fn a_host_in_normal_form_stays_as_it_is(authority in "(\\PC|[a-zA-Z0-9.:@%\\[\\]_-]){0,20}") {
        if let Some(normal) = target::host(&authority) {
            prop_assert_eq!(target::host(&normal), Some(Cow::Borrowed(&*normal)), "{:?}", authority);
            prop_assert!(!normal.is_empty() && !normal.ends_with('.') && normal.is_ascii());
            prop_assert!(!normal.bytes().any(|byte| byte.is_ascii_uppercase()));
        }
    }

    #[test]
    fn spellings_of_a_host_have_one_normal_form(host in "[a-z0-9_-]{1,8}(\\.[a-z0-9-]{1,8}){0,3}", port in any::<u16>(), upper in any::<u64>()) {
        let letter = |(at, letter): (usize, char)| if upper >> (at % 64) & 1 == 1 { letter.to_ascii_uppercase() } else { letter };
        let spelled: String = host.chars().enumerate().map(letter).collect();
        for end in [String::new(), ".".into(), ":".into(), format!(":{port}"), format!(".:{port}")] {
            let authority = format!("{spelled}{end}");
            prop_assert_eq!(target::host(&authority), Some(Cow::Borrowed(&*host)), "{}", authority);
        }
    }

    #[test]
    fn an_ipv6_address_has_one_spelling(segments in any::<[u16; 8]>()) {
        let long: Vec<_> = segments.iter().map(|segment| format!("{segment:04X}")).collect();
        let normal = format!("[{}]", std::net::Ipv6Addr::from(segments));
        let authority = format!("[{}]:80", long.join(":"));
        prop_assert_eq!(target::host(&authority), Some(Cow::Borrowed(&*normal)));
    }
}

/// The same path with characters escaped that need not be, escapes in lower case, and dot segments that lead nowhere.
fn respelled(path: &str, choices: &[u8]) -> String {
    let mut choices = choices.iter().copied().cycle();
    let mut spelled = String::new();
    let mut letters = path.char_indices();
    while let Some((at, letter)) = letters.next() {
        let choice = choices.next().unwrap();
        match letter {
            '/' => spelled.push_str(["/", "/./", "/x/../", "/%2e/", "/y/%2E./", "/"][usize::from(choice) % 6]),
            '%' => {
                let escape = &path[at..at + 3];
                spelled.push_str(&if choice % 2 == 0 {
                    escape.to_ascii_lowercase()
                } else {
                    escape.to_ascii_uppercase()
                });
                letters.nth(1);
            }
            'a'..='z' | '0'..='9' | '~' if choice % 3 == 0 => spelled.push_str(&format!("%{:02x}", u32::from(letter))),
            'é' | ' ' if choice % 2 == 0 => {
                let mut bytes = [0; 4];
                letter
                    .encode_utf8(&mut bytes)
                    .bytes()
                    .for_each(|byte| spelled.push_str(&format!("%{byte:02x}")));
            }
            _ => spelled.push(letter),
        }
    }
    spelled
}
