//! How long a lookup and a pick take: `cargo bench --bench lookup`.
//!
//! Prints the time of one lookup, with the host and path brought into normal form as for a request, in tables of three
//! sizes and two shapes, and the time to build each; then the time of one pick among 3 and 100 endpoints.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    hint::black_box,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast::routing::{
    Backend, BackendTls, Endpoint, EndpointCell, EndpointKey, EndpointSet, Handshake, ObjectName, Rule, RuleId, ServicePort,
    Table,
    balancer::{self, Client, Cursor},
    endpoint::State,
    forwarded::Forwarded,
    health::Moment,
    persistence,
    route::{Balancing, Cookie, Fallback, HashSource, Heartbeat, Heartbeats, OnUnavailable, PersistBy, Persistence, Timeouts},
    table::{Match, PathMatch, RouteSpec, RuleSpec},
    target,
};
use http::{HeaderMap, HeaderValue, header};

fn main() {
    println!("{:<34} {:>8} {:>12} {:>12}", "lookup", "routes", "ns", "build ms");
    for count in [10, 1_000, 10_000] {
        lookup("a host each, one prefix", count, a_host_each(count), |n| {
            (format!("chat-{n}.example.com:443"), format!("/chat/rooms/{n}"))
        });
    }
    for count in [10, 1_000, 10_000] {
        lookup("one host, prefixes and exact paths", count, one_host(count), |n| {
            (String::from("chat.example.com"), format!("/tenants/{n}/chat"))
        });
    }
    println!("\n{:<34} {:>8} {:>12}", "pick", "endpoints", "ns");
    for count in [3, 100] {
        for (name, balancing) in [
            ("RoundRobin", Balancing::RoundRobin),
            ("LeastConnections", Balancing::LeastConnections),
            ("PowerOfTwo", Balancing::PowerOfTwo),
            ("Random", Balancing::Random),
            ("ConsistentHash", Balancing::ConsistentHash(HashSource::ClientIp)),
        ] {
            pick(
                name,
                count,
                &rule("chat", balancing, None, vec![backend(count)]),
                &HeaderMap::new(),
            );
        }
        pick_by_cookie(count);
    }
}

/// Shortest of several rounds: what the machine does besides only ever adds.
fn nanoseconds(mut once: impl FnMut(usize)) -> f64 {
    const TIMES: u32 = 100_000;
    let round = |_| {
        let started = Instant::now();
        (0..TIMES as usize).for_each(&mut once);
        started.elapsed()
    };
    let best = (0..5).map(round).min().unwrap_or_default();
    best.as_secs_f64() * 1e9 / f64::from(TIMES)
}

fn lookup(shape: &str, count: usize, routes: Vec<RouteSpec>, asked: impl Fn(usize) -> (String, String)) {
    let started = Instant::now();
    let (table, shadowed) = Table::build(routes);
    let built = started.elapsed();
    assert!(shadowed.is_empty(), "each rule of the bench can be reached");

    let headers = HeaderMap::new();
    let asked: Vec<_> = (0..count).map(asked).collect();
    let time = nanoseconds(|n| {
        // A step that is coprime to all counts: neighbours in time are no neighbours in memory.
        let (authority, path) = &asked[n * 7_919 % count];
        let (Some(host), Some(path)) = (target::host(authority), target::path(path)) else {
            return;
        };
        let handshake = Handshake {
            host: &host,
            path: &path,
            query: None,
            headers: &headers,
        };
        assert!(
            black_box(table.find(&handshake)).is_some(),
            "each request of the bench has a rule"
        );
    });
    println!("{shape:<34} {count:>8} {time:>12.0} {:>12.1}", built.as_secs_f64() * 1e3);
}

fn a_host_each(count: usize) -> Vec<RouteSpec> {
    let route = |n: usize| route(n, format!("chat-{n}.example.com"), vec![PathMatch::Prefix("/chat".into())]);
    (0..count).map(route).collect()
}

/// Every other rule an exact path, the others prefixes; all of one host.
fn one_host(count: usize) -> Vec<RouteSpec> {
    let path = |n: usize| match n % 2 {
        0 => PathMatch::Exact(format!("/tenants/{n}/chat").into()),
        _ => PathMatch::Prefix(format!("/tenants/{n}").into()),
    };
    (0..count)
        .map(|n| route(n, "chat.example.com".into(), vec![path(n)]))
        .collect()
}

fn route(n: usize, hostname: String, paths: Vec<PathMatch>) -> RouteSpec {
    let rule = rule(&format!("chat-{n}"), Balancing::PowerOfTwo, None, vec![]);
    let matches = paths.into_iter().map(|path| Match {
        path,
        headers: vec![],
        query: vec![],
        subprotocols: vec![],
    });
    RouteSpec {
        name: rule.id.route.clone(),
        created: 0,
        hostnames: vec![hostname.into()],
        rules: vec![RuleSpec {
            matches: matches.collect(),
            rule: Arc::new(rule),
        }],
    }
}

fn pick(name: &str, count: usize, rule: &Rule, headers: &HeaderMap) {
    let time = nanoseconds(|n| {
        let client = Client {
            address: IpAddr::from([10, 0, (n >> 8) as u8, n as u8]),
            path: "/chat",
            query: None,
            headers,
            now: 0,
            moment: Moment::default(),
            tries: true,
        };
        assert!(
            black_box(balancer::pick(rule, &client)).is_ok(),
            "each rule of the bench has endpoints"
        );
    });
    println!("{name:<34} {count:>8} {time:>12.0}");
}

fn pick_by_cookie(count: usize) {
    let cookie = Cookie::named("sticky");
    let by_cookie = Persistence {
        by: PersistBy::Cookie(cookie),
        on_unavailable: OnUnavailable::Repick,
    };
    let rule = rule("chat", Balancing::PowerOfTwo, Some(by_cookie), vec![backend(count)]);
    let mut headers = HeaderMap::new();
    let client = Client {
        address: IpAddr::from([10, 0, 0, 1]),
        path: "/chat",
        query: None,
        headers: &HeaderMap::new(),
        now: 0,
        moment: Moment::default(),
        tries: true,
    };
    let set = rule
        .backends
        .iter()
        .filter_map(|backend| backend.endpoints.as_ref())
        .next()
        .map(|cell| cell.load());
    let cookie = set.and_then(|set| persistence::set_cookie(&rule, &client, set.usable().last()?, "/", false));
    if let Some(Ok(cookie)) = cookie.map(|cookie| HeaderValue::from_str(&cookie)) {
        headers.insert(header::COOKIE, cookie);
    }
    pick("PowerOfTwo, by cookie", count, &rule, &headers);
}

fn backend(count: usize) -> Backend {
    let service = ServicePort {
        namespace: "chat".into(),
        name: "chat".into(),
        port: 80,
    };
    let member = |n: usize| {
        let key = EndpointKey {
            service: service.clone(),
            identity: format!("chat-{n}").into(),
            port: 8080,
        };
        (
            Arc::new(Endpoint::new(key, None, vec![([10, 0, 0, 1], 8080).into()])),
            State::Ready,
        )
    };
    let cell = EndpointCell::default();
    cell.store(EndpointSet::new((0..count).map(member).collect()));
    Backend {
        service,
        weight: 1,
        endpoints: Some(Arc::new(cell)),
        tls: BackendTls::Off,
    }
}

fn rule(name: &str, balancing: Balancing, persistence: Option<Persistence>, backends: Vec<Backend>) -> Rule {
    let off = Heartbeat {
        interval: Duration::ZERO,
        missed: 1,
    };
    Rule {
        id: RuleId {
            route: ObjectName {
                namespace: "chat".into(),
                name: name.into(),
            },
            rule: "0".into(),
        },
        backends: backends.into(),
        fallback: Fallback::Reject,
        filters: None,
        forwarded: Forwarded::BUILT_IN,
        persistence,
        balancing,
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
