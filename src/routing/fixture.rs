//! Rules, endpoints and clients for the tests of this module.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    balancer::{Client, Cursor},
    endpoint::{Endpoint, EndpointCell, EndpointKey, EndpointSet, ServicePort, State},
    endpoint_tls::BackendTls,
    forwarded::Forwarded,
    health::Moment,
    route::{
        Backend, Balancing, Cookie, Fallback, Heartbeat, Heartbeats, ObjectName, OnUnavailable, PersistBy, Persistence, Rule,
        RuleId, Timeouts,
    },
    table::{Match, PathMatch, RouteSpec, RuleSpec, ValueMatch, ValuePattern},
};

pub fn rule_id(name: &str, rule: &str) -> RuleId {
    RuleId {
        route: ObjectName {
            namespace: "chat".into(),
            name: name.into(),
        },
        rule: rule.into(),
    }
}

pub fn rule(balancing: Balancing, persistence: Option<Persistence>, backends: Vec<Backend>) -> Rule {
    let second = Duration::from_secs(1);
    let off = Heartbeat {
        interval: Duration::ZERO,
        missed: 2,
    };
    Rule {
        id: rule_id("chat", "0"),
        backends: backends.into(),
        fallback: Fallback::Backend,
        filters: None,
        forwarded: Forwarded::BUILT_IN,
        persistence,
        balancing,
        timeouts: Timeouts {
            connect: second,
            handshake: second,
            idle: second,
            send: second,
            max_duration: second,
            close_handshake: second,
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

pub fn service(name: &str) -> ServicePort {
    ServicePort {
        namespace: "chat".into(),
        name: name.into(),
        port: 80,
    }
}

/// A backend whose endpoints are called `NAME-0` and so on, in these states.
pub fn backend(name: &str, weight: u32, states: &[State]) -> Backend {
    let members = states
        .iter()
        .enumerate()
        .map(|(index, state)| (endpoint(name, &format!("{name}-{index}")), *state));
    let cell = EndpointCell::default();
    cell.store(EndpointSet::new(members.collect()));
    Backend {
        service: service(name),
        weight,
        endpoints: Some(Arc::new(cell)),
        tls: BackendTls::Off,
    }
}

pub fn ready(name: &str, weight: u32, count: usize) -> Backend {
    backend(name, weight, &vec![State::Ready; count])
}

pub fn unresolved(name: &str, weight: u32) -> Backend {
    Backend {
        service: service(name),
        weight,
        endpoints: None,
        tls: BackendTls::Off,
    }
}

pub fn endpoint(service_name: &str, identity: &str) -> Arc<Endpoint> {
    let key = EndpointKey {
        service: service(service_name),
        identity: identity.into(),
        port: 8080,
    };
    Arc::new(Endpoint::new(key, None, vec![([10, 0, 0, 1], 8080).into()]))
}

pub fn cookie() -> Cookie {
    Cookie::named("sticky")
}

pub fn by_cookie(cookie: Cookie, on_unavailable: OnUnavailable) -> Option<Persistence> {
    Some(Persistence {
        by: PersistBy::Cookie(cookie),
        on_unavailable,
    })
}

pub fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let header = |name: &str| HeaderName::from_bytes(name.as_bytes()).unwrap();
    pairs
        .iter()
        .map(|(name, value)| (header(name), HeaderValue::from_bytes(value.as_bytes()).unwrap()))
        .collect()
}

pub fn client(headers: &HeaderMap) -> Client<'_> {
    Client {
        address: IpAddr::from([192, 0, 2, 1]),
        path: "/chat",
        query: None,
        headers,
        now: 1_000_000,
        moment: Moment::default(),
        tries: true,
    }
}

/// A route in namespace `chat`, as old as all others, whose rules are called by their index.
pub fn route(name: &str, hostnames: &[&str], rules: Vec<Vec<Match>>) -> RouteSpec {
    let rules = rules.into_iter().enumerate().map(|(index, matches)| {
        let rule = Rule {
            id: rule_id(name, &index.to_string()),
            ..rule(Balancing::Random, None, vec![])
        };
        RuleSpec {
            matches,
            rule: Arc::new(rule),
        }
    });
    RouteSpec {
        name: rule_id(name, "").route,
        created: 0,
        hostnames: hostnames.iter().map(|host| Box::from(*host)).collect(),
        rules: rules.collect(),
    }
}

pub fn exact(path: &str) -> Match {
    on(PathMatch::exact(path).unwrap())
}

pub fn prefix(path: &str) -> Match {
    on(PathMatch::prefix(path).unwrap())
}

pub fn regex(path: &str) -> Match {
    on(PathMatch::regex(path).unwrap())
}

fn on(path: PathMatch) -> Match {
    Match {
        path,
        headers: vec![],
        query: vec![],
        subprotocols: vec![],
    }
}

impl Match {
    /// With one more header, an expression if it starts with a `~`.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push(wanted(name, value));
        self
    }

    /// With one more query parameter, an expression if it starts with a `~`.
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push(wanted(name, value));
        self
    }

    pub fn subprotocols(mut self, tokens: &[&str]) -> Self {
        self.subprotocols = tokens.iter().map(|token| Box::from(*token)).collect();
        self
    }
}

fn wanted(name: &str, value: &str) -> ValueMatch {
    ValueMatch {
        name: name.into(),
        value: match value.strip_prefix('~') {
            Some(pattern) => ValuePattern::regex(pattern).unwrap(),
            None => ValuePattern::Exact(value.into()),
        },
    }
}
