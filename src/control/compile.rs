//! Compiles one WebSocketRoute, by itself: what its matches and policies mean, without looking at any other object.

mod backend_tls;
mod filter;
mod limits;
mod security;
mod tunnel_limits;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use http::HeaderName;

use super::{
    defaults::Defaults,
    path::{Fault, FieldPath},
    policy::{self, BALANCING, MIN_HEARTBEAT, ON_UNAVAILABLE, PREFIX_LENGTHS, Policies},
};
use crate::{
    api::{
        Algorithm, BackendRef, Cookie as CookieSpec, HashSourceType, LoadBalancing, OnUnavailable as OnUnavailableSpec,
        PathMatch as PathSpec, PathMatchType, PersistenceType, RouteMatch, RouteRule, RouteTls, SameSite as SameSiteSpec,
        SessionPersistence, ValueMatchType, WebSocketRouteSpec,
    },
    routing::{
        ObjectName, RuleId,
        filter::Filters,
        health::Passive,
        limits::Limits,
        persistence::default_cookie_name,
        retry::Retry,
        route::{Balancing, Cookie, Fallback, HashSource, OnUnavailable, PersistBy, Persistence, SameSite},
        security::Security,
        table::{Match, PathMatch, ValueMatch, ValuePattern},
    },
};

pub(crate) use backend_tls::{CompiledBackendTls, SecretReference};

/// What a route's own fields mean.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// What its schema admits and still cannot mean anything: the route is not accepted then.
    pub(crate) faults: Vec<Fault>,
    /// Filters that do not go together: the same.
    pub(crate) incompatible: Vec<Fault>,
    pub(crate) hostnames: Vec<Box<str>>,
    pub(crate) tls: Vec<CompiledTls>,
    pub(crate) backend_tls: CompiledBackendTls,
    pub(crate) rules: Vec<CompiledRule>,
    pub(crate) policies: Policies,
    pub(crate) limits: Option<Arc<Limits>>,
    pub(crate) retry: Option<Arc<Retry>>,
    pub(crate) health: Option<Arc<Passive>>,
    pub(crate) security: Arc<Security>,
}

/// A certificate that a route names.
#[derive(Debug)]
pub(crate) struct CompiledTls {
    pub(crate) path: FieldPath,
    pub(crate) secret: ObjectName,
    /// Empty: every host.
    pub(crate) hosts: Vec<Box<str>>,
    pub(crate) allows_plain: bool,
}

#[derive(Debug)]
pub(crate) struct CompiledRule {
    pub(crate) id: RuleId,
    pub(crate) matches: Vec<Match>,
    pub(crate) references: Vec<Reference>,
    pub(crate) fallback: Fallback,
    pub(crate) filters: Option<Box<Filters>>,
    pub(crate) persistence: Option<Persistence>,
    pub(crate) balancing: Balancing,
}

/// A backendRef that has not been looked up yet.
#[derive(Clone, Debug)]
pub(crate) struct Reference {
    pub(crate) path: FieldPath,
    pub(crate) group: Box<str>,
    pub(crate) kind: Box<str>,
    pub(crate) service: ObjectName,
    pub(crate) port: u16,
    pub(crate) weight: u32,
}

/// Compiles a route.
pub(crate) fn compile(name: &ObjectName, spec: &WebSocketRouteSpec, defaults: &Defaults) -> Compiled {
    let (mut faults, mut incompatible) = (Faults::default(), Faults::default());
    let root = FieldPath::of(["spec"]);
    let spec = &*defaults.complete(spec);
    let policies = policies(spec, &root, &mut faults);
    let balancing = balancing(spec.load_balancing.as_ref(), &root.field("loadBalancing"), &mut faults);
    let mut rules = Vec::with_capacity(spec.rules.len());
    for (index, rule) in spec.rules.iter().enumerate() {
        let path = root.field("rules").item(index);
        let id = RuleId {
            route: name.clone(),
            rule: rule.name.as_deref().map_or_else(|| index.to_string().into(), Arc::from),
        };
        rules.push(CompiledRule {
            matches: matches(rule, &path, &mut faults),
            references: references(rule, name, &path),
            fallback: filter::fallback(rule, &path, &mut faults),
            filters: filter::filters(rule, &path, &mut faults, &mut incompatible),
            persistence: spec.session_persistence.as_ref().map(|persistence| persist(persistence, &id)),
            balancing: balancing.clone(),
            id,
        });
    }
    let security = security::security(spec, &root.field("security"), &mut faults);
    let hostnames = spec.hostnames.iter().map(|hostname| hostname.as_str().into()).collect();
    let health = passive_health(spec, &root, &mut faults);
    Compiled {
        faults: faults.0,
        incompatible: incompatible.0,
        tls: certificates(name, spec, &root),
        backend_tls: CompiledBackendTls::of(name, spec, &root),
        hostnames,
        rules,
        policies,
        limits: limits::limits(spec.limits.as_ref()),
        retry: policy::health::retry(spec).map(Arc::new),
        health,
        security: Arc::new(security),
    }
}

/// What was found so far.
#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, path: FieldPath, message: impl Into<String>) {
        self.0.push(Fault::new(path, message));
    }
}

fn certificates(route: &ObjectName, spec: &WebSocketRouteSpec, root: &FieldPath) -> Vec<CompiledTls> {
    let certificate = |(index, tls): (usize, &RouteTls)| {
        let hosts = if tls.hosts.is_empty() { &spec.hostnames } else { &tls.hosts };
        CompiledTls {
            path: root.field("tls").item(index),
            secret: ObjectName {
                namespace: tls
                    .secret_namespace
                    .as_deref()
                    .map_or_else(|| Arc::clone(&route.namespace), Arc::from),
                name: tls.secret_name.as_str().into(),
            },
            hosts: hosts.iter().map(|host| host.as_str().into()).collect(),
            allows_plain: tls.allow_plain.unwrap_or(false),
        }
    };
    spec.tls.iter().enumerate().map(certificate).collect()
}

fn matches(rule: &RouteRule, path: &FieldPath, faults: &mut Faults) -> Vec<Match> {
    if rule.matches.is_empty() {
        return vec![everything()];
    }
    let at = |index| path.field("matches").item(index);
    let matches = rule.matches.iter().enumerate();
    matches
        .filter_map(|(index, entry)| conditions(entry, &at(index), faults))
        .collect()
}

fn everything() -> Match {
    Match {
        path: PathMatch::Prefix("/".into()),
        headers: Vec::new(),
        query: Vec::new(),
        subprotocols: Vec::new(),
    }
}

fn conditions(entry: &RouteMatch, path: &FieldPath, faults: &mut Faults) -> Option<Match> {
    let mut names = BTreeSet::new();
    let mut headers = Vec::with_capacity(entry.headers.len());
    for (index, header) in entry.headers.iter().enumerate() {
        let at = path.field("headers").item(index);
        let name = header.name.to_ascii_lowercase();
        if !names.insert(name.clone()) {
            faults.add(
                at.field("name"),
                format!("{} is there twice; case does not count", header.name),
            );
        }
        headers.extend(value(name, header.kind, &header.value, &at, faults));
    }
    let mut query = Vec::with_capacity(entry.query_params.len());
    for (index, parameter) in entry.query_params.iter().enumerate() {
        let at = path.field("queryParams").item(index);
        query.extend(value(parameter.name.clone(), parameter.kind, &parameter.value, &at, faults));
    }
    Some(Match {
        path: path_match(&entry.path, &path.field("path").field("value"), faults)?,
        headers,
        query,
        subprotocols: entry.subprotocols.iter().map(|word| word.as_str().into()).collect(),
    })
}

fn value(name: String, kind: ValueMatchType, value: &str, path: &FieldPath, faults: &mut Faults) -> Option<ValueMatch> {
    let value = match kind {
        ValueMatchType::Exact => ValuePattern::Exact(value.into()),
        ValueMatchType::RegularExpression => match ValuePattern::regex(value) {
            Ok(pattern) => pattern,
            Err(error) => {
                faults.add(path.field("value"), error.to_string());
                return None;
            }
        },
    };
    Some(ValueMatch {
        name: name.into(),
        value,
    })
}

fn path_match(spec: &PathSpec, path: &FieldPath, faults: &mut Faults) -> Option<PathMatch> {
    let compiled = match spec.kind {
        PathMatchType::Exact => PathMatch::exact(&spec.value),
        PathMatchType::PathPrefix => PathMatch::prefix(&spec.value),
        PathMatchType::RegularExpression => PathMatch::regex(&spec.value),
    };
    compiled.map_err(|error| faults.add(path.clone(), error.to_string())).ok()
}

fn references(rule: &RouteRule, route: &ObjectName, path: &FieldPath) -> Vec<Reference> {
    let reference = |(index, entry): (usize, &BackendRef)| Reference {
        path: path.field("backendRefs").item(index),
        group: entry.group.as_str().into(),
        kind: entry.kind.as_str().into(),
        service: ObjectName {
            namespace: entry
                .namespace
                .as_deref()
                .map_or_else(|| Arc::clone(&route.namespace), Arc::from),
            name: entry.name.as_str().into(),
        },
        port: u16::try_from(entry.port).unwrap_or_default(), // the schema bounds both
        weight: u32::try_from(entry.weight).unwrap_or_default(),
    };
    rule.backend_refs.iter().enumerate().map(reference).collect()
}

fn persist(spec: &SessionPersistence, id: &RuleId) -> Persistence {
    let by = match (spec.kind, &spec.header) {
        (PersistenceType::Header, Some(header)) => PersistBy::Header(header.name.to_ascii_lowercase().into()),
        (PersistenceType::ClientIP, _) => {
            let given = spec.client_ip.clone().unwrap_or_default();
            let length = |given: Option<i32>, default| given.and_then(|length| u8::try_from(length).ok()).unwrap_or(default);
            PersistBy::ClientIp {
                ipv4_prefix: length(given.ipv4_prefix_length, PREFIX_LENGTHS.0),
                ipv6_prefix: length(given.ipv6_prefix_length, PREFIX_LENGTHS.1),
            }
        }
        (PersistenceType::Cookie | PersistenceType::Header, _) => {
            PersistBy::Cookie(cookie(&spec.cookie.clone().unwrap_or_default(), id))
        }
    };
    let on_unavailable = match spec.on_unavailable {
        None => ON_UNAVAILABLE,
        Some(OnUnavailableSpec::Repick) => OnUnavailable::Repick,
        Some(OnUnavailableSpec::Fail) => OnUnavailable::Fail,
    };
    Persistence { by, on_unavailable }
}

fn cookie(spec: &CookieSpec, id: &RuleId) -> Cookie {
    let built_in = Cookie::named(spec.name.clone().unwrap_or_else(|| default_cookie_name(id)));
    Cookie {
        path: spec.path.as_deref().map(Box::from),
        domain: spec.domain.as_deref().map(Box::from),
        same_site: match spec.same_site {
            Some(SameSiteSpec::Strict) => SameSite::Strict,
            Some(SameSiteSpec::Lax) => SameSite::Lax,
            Some(SameSiteSpec::None) => SameSite::None,
            None => built_in.same_site,
        },
        secure: spec.secure,
        http_only: spec.http_only.unwrap_or(built_in.http_only),
        partitioned: spec.partitioned.unwrap_or(built_in.partitioned),
        max_age: spec.max_age.map_or(built_in.max_age, Duration::from),
        ..built_in
    }
}

fn balancing(spec: Option<&LoadBalancing>, path: &FieldPath, faults: &mut Faults) -> Balancing {
    let Some(spec) = spec else { return BALANCING };
    match (spec.algorithm, &spec.hash) {
        (Some(Algorithm::RoundRobin), _) => Balancing::RoundRobin,
        (Some(Algorithm::LeastConnections), _) => Balancing::LeastConnections,
        (Some(Algorithm::PowerOfTwo), _) => Balancing::PowerOfTwo,
        (Some(Algorithm::Random), _) => Balancing::Random,
        (Some(Algorithm::ConsistentHash), Some(hash)) => {
            let name = hash.name.as_deref().unwrap_or_default();
            Balancing::ConsistentHash(match hash.source {
                HashSourceType::ClientIP => HashSource::ClientIp,
                HashSourceType::Path => HashSource::Path,
                HashSourceType::QueryParam => HashSource::QueryParam(name.into()),
                HashSourceType::Header => {
                    if HeaderName::from_bytes(name.as_bytes()).is_err() {
                        faults.add(path.field("hash").field("name"), format!("{name:?} is no header's name"));
                    }
                    HashSource::Header(name.to_ascii_lowercase().into())
                }
            })
        }
        (None, _) | (Some(Algorithm::ConsistentHash), None) => BALANCING,
    }
}

fn policies(spec: &WebSocketRouteSpec, root: &FieldPath, faults: &mut Faults) -> Policies {
    let policies = Policies::of(spec);
    for (side, heartbeat) in [
        ("client", policies.heartbeat.client),
        ("endpoint", policies.heartbeat.endpoint),
    ] {
        let interval = heartbeat.interval;
        if !interval.is_zero() && interval < MIN_HEARTBEAT {
            let at = root.field("heartbeat").field(side).field("interval");
            faults.add(at, format!("{interval:?} is neither 0s nor at least {MIN_HEARTBEAT:?}"));
        }
    }
    policies
}

fn passive_health(spec: &WebSocketRouteSpec, root: &FieldPath, faults: &mut Faults) -> Option<Arc<Passive>> {
    let passive = policy::health::passive(spec)?;
    let (base, max) = (passive.base_ejection_time, passive.max_ejection_time);
    if max < base {
        let at = root.field("health").field("passive").field("maxEjectionTime");
        faults.add(at, format!("{max:?} is less than baseEjectionTime, {base:?}"));
    }
    Some(Arc::new(passive))
}
