//! Rules, endpoints and clients for the tests of this module.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    balancer::{Client, Cursor},
    endpoint::{Endpoint, EndpointCell, EndpointKey, EndpointSet, ServicePort, State},
    route::{
        Backend, Balancing, Cookie, Fallback, Heartbeat, Heartbeats, ObjectName, OnUnavailable, PersistBy, Persistence, Rule,
        RuleId, SameSite, Timeouts,
    },
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
    Cookie {
        name: "sticky".into(),
        path: None,
        domain: None,
        same_site: SameSite::Lax,
        secure: None,
        http_only: true,
        partitioned: false,
        max_age: Duration::ZERO,
    }
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
    }
}
