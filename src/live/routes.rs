//! `GET /routes`: each route as this replica has it, in three parts that belong together: what the control plane judges, what
//! the table serves, and what the data plane counts.
//!
//! Reads what others publish and count; takes no lock for longer than a look.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::Live;
use crate::{
    control::{Judged, Judgement},
    proxy::{
        RouteLimit,
        metrics::{Metrics, RuleMetrics},
    },
    routing::{
        Backend, BackendTls, Certificates, Endpoint, ObjectName, Rule, ServicePort, Snapshot, endpoint::State,
        fallback::Fallback, health::Moment, limits::Limits, query, table::Match,
    },
    web::{self, Answer},
};

/// Answers the request with this query.
pub(super) fn answer(live: &Live, query: Option<&str>) -> Answer {
    match Asked::of(query) {
        Ok(asked) => web::json(StatusCode::OK, &document(live, &asked)),
        Err(refusal) => web::text(StatusCode::BAD_REQUEST, refusal),
    }
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    /// In lower case; empty: everything.
    search: String,
    route: Option<ObjectName>,
    /// Only routes that are rejected or served with a warning.
    is_troubled: bool,
    limit: usize,
}

impl Asked {
    fn of(query: Option<&str>) -> Result<Self, String> {
        let text = |name| query::parameter(query, name).map(|value| String::from_utf8_lossy(&value).into_owned());
        let route = match text("route") {
            Some(route) => Some(object_name(&route).ok_or_else(|| format!("route={route}: write NAMESPACE/NAME\n"))?),
            None => None,
        };
        let limit = match text("limit") {
            Some(limit) => limit
                .parse()
                .map_err(|_| format!("limit={limit}: write a number up to {MAX_ROUTES}\n"))?,
            None => ROUTES,
        };
        Ok(Self {
            search: text("search").unwrap_or_default().to_lowercase(),
            route,
            is_troubled: match text("troubled").as_deref() {
                None | Some("false") => false,
                Some("true") => true,
                Some(other) => return Err(format!("troubled={other}: write true or false\n")),
            },
            limit: limit.min(MAX_ROUTES),
        })
    }
}

pub(super) fn object_name(text: &str) -> Option<ObjectName> {
    let (namespace, name) = text.split_once('/')?;
    let is_name = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
    is_name.then(|| ObjectName {
        namespace: namespace.into(),
        name: name.into(),
    })
}

fn document(live: &Live, asked: &Asked) -> Value {
    let judgement = live.judgements.load();
    let snapshot = live.proxy.published.load_full();
    let table = Served::of(&snapshot);
    let is_asked = |judged: &&Judged| match &asked.route {
        Some(route) => *route == judged.route.name,
        None => asked.search.is_empty() || table.texts(judged).any(|text| text.to_lowercase().contains(&asked.search)),
    };
    let is_clean = |judged: &&Judged| judged.verdict.is_accepted() && judged.verdict.is_clean();
    let found = judgement.routes().iter().filter(is_asked);
    let found: Vec<&Judged> = found.filter(|judged| !asked.is_troubled || !is_clean(judged)).collect();
    let mut view = View {
        live,
        judgement: &judgement,
        certificates: &snapshot.certificates,
        departed: departed(&live.metrics),
        moment: live.proxy.moment(),
        now: Timestamp::now(),
        endpoints_left: MAX_ENDPOINTS,
        with_policy: asked.route.is_some(),
    };
    let shown = found.iter().take(asked.limit);
    let routes: Vec<Value> = shown.map(|judged| view.route(judged, &table)).collect();
    let rejected = judgement.routes().iter().filter(|judged| !judged.verdict.is_accepted());
    let warned = judgement
        .routes()
        .iter()
        .filter(|judged| judged.verdict.is_accepted() && !judged.verdict.is_clean());
    json!({
        "version": 1,
        "replica": live.replica,
        "generation": snapshot.generation,
        "total": judgement.routes().len(),
        "rejected": rejected.count(),
        "warnings": warned.count(),
        "found": found.len(),
        "omitted": found.len() - routes.len(),
        "unrouted": counts(&[live.metrics.unrouted()]),
        "routes": routes,
    })
}

/// The table, by route.
struct Served<'a> {
    rules: HashMap<&'a ObjectName, Vec<&'a Arc<Rule>>>,
    matches: HashMap<*const Rule, Vec<&'a Match>>,
}

impl<'a> Served<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let mut served = Self {
            rules: HashMap::new(),
            matches: HashMap::new(),
        };
        for (rule, conditions) in snapshot.table.matches() {
            let matches = served.matches.entry(Arc::as_ptr(rule)).or_default();
            if matches.is_empty() {
                served.rules.entry(&rule.id.route).or_default().push(rule);
            }
            matches.push(conditions);
        }
        served
    }

    fn rules(&self, route: &ObjectName) -> &[&'a Arc<Rule>] {
        self.rules.get(route).map(Vec::as_slice).unwrap_or_default()
    }

    fn matches(&self, rule: &Arc<Rule>) -> &[&'a Match] {
        self.matches.get(&Arc::as_ptr(rule)).map(Vec::as_slice).unwrap_or_default()
    }

    /// What a search looks at.
    fn texts<'b>(&'b self, judged: &'b Judged) -> impl Iterator<Item = Cow<'b, str>> {
        let name = std::iter::once(Cow::Owned(judged.route.name.to_string()));
        let hosts = judged.route.spec.hostnames.iter().map(|host| Cow::Borrowed(host.as_str()));
        let reasons = judged
            .verdict
            .findings()
            .map(|finding| Cow::Owned(finding.reason.to_string()));
        let backends = self.rules(&judged.route.name).iter().flat_map(|rule| &rule.backends);
        let services = backends.clone().map(|backend| Cow::Owned(backend.service.to_string()));
        let sets = backends.filter_map(|backend| Some(backend.endpoints.as_ref()?.load()));
        let endpoints = sets.flat_map(|set| {
            let members = set.members().iter();
            let texts = members.flat_map(|(endpoint, _)| [Cow::Owned(endpoint.name().to_owned()), Cow::Owned(address(endpoint))]);
            texts.collect::<Vec<Cow<'b, str>>>()
        });
        name.chain(hosts).chain(reasons).chain(services).chain(endpoints)
    }
}

/// What the routes of one document are made of.
struct View<'a> {
    live: &'a Live,
    judgement: &'a Judgement,
    certificates: &'a Certificates,
    /// Endpoints that may have left their Service and still have connections.
    departed: HashMap<ServicePort, Vec<Arc<Endpoint>>>,
    moment: Moment,
    now: Timestamp,
    /// That the document still has room for.
    endpoints_left: usize,
    with_policy: bool,
}

impl View<'_> {
    fn route(&mut self, judged: &Judged, table: &Served<'_>) -> Value {
        let (route, verdict) = (&judged.route, &judged.verdict);
        let rules = table.rules(&route.name);
        let conditions: Vec<Value> = self
            .live
            .judgements
            .conditions(judged)
            .iter()
            .map(|condition| {
                json!({
                    "type": condition.kind,
                    "status": condition.status,
                    "reason": condition.reason,
                    "message": condition.message,
                })
            })
            .collect();
        let mut shown = json!({
            "holdfast.route.namespace": &*route.name.namespace,
            "holdfast.route.name": &*route.name.name,
            "hostnames": route.spec.hostnames,
            "class_name": route.spec.class_name,
            "object_generation": route.generation,
            "accepted": verdict.is_accepted(),
            "conditions": conditions,
            "open": self.live.metrics.open(&route.name),
            "limits": rules.first().map_or(Value::Array(Vec::new()), |rule| self.limits(rule, rules)),
            "tls": if verdict.is_accepted() { self.tls(judged) } else { Value::Array(Vec::new()) },
            "rules": rules.iter().map(|rule| self.rule(rule, table.matches(rule))).collect::<Vec<_>>(),
        });
        if let (true, Value::Object(fields)) = (self.with_policy, &mut shown) {
            let policy = self.judgement.effective(route).into_iter();
            let policy =
                policy.map(|value| json!({"name": value.name, "value": value.value, "origin": value.origin.to_string()}));
            fields.insert("policy".to_owned(), policy.collect());
        }
        shown
    }

    fn rule(&mut self, rule: &Arc<Rule>, matches: &[&Match]) -> Value {
        let metrics: Vec<_> = self.live.metrics.known(&rule.id).into_iter().collect();
        let mut shown = json!({
            "holdfast.rule.name": &*rule.id.rule,
            "matches": matches.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "fallback": fallback(&rule.fallback),
            "algorithm": rule.balancing.to_string(),
            "backends": rule.backends.iter().map(|backend| self.backend(rule, backend)).collect::<Vec<_>>(),
        });
        if let (Value::Object(shown), Value::Object(counts)) = (&mut shown, counts(&metrics)) {
            shown.extend(counts);
        }
        shown
    }

    fn backend(&mut self, rule: &Rule, backend: &Backend) -> Value {
        let mut endpoints = Vec::new();
        let (mut usable, mut total) = (0, 0);
        if let Some(cell) = &backend.endpoints {
            let set = cell.load();
            (usable, total) = (set.usable().len(), set.members().len());
            let members = set.members().iter().map(|(endpoint, state)| (endpoint, Some(*state)));
            let present: HashSet<_> = set.members().iter().map(|(endpoint, _)| endpoint.key()).collect();
            let departed = self.departed.get(&backend.service).into_iter().flatten();
            let departed = departed.filter(|endpoint| !present.contains(endpoint.key()));
            let all = members.chain(departed.map(|endpoint| (endpoint, None)));
            endpoints = all
                .take(self.endpoints_left.min(MAX_OF_BACKEND))
                .map(|(endpoint, state)| self.endpoint(rule, endpoint, state))
                .collect();
            self.endpoints_left -= endpoints.len();
        }
        json!({
            "service": backend.service.to_string(),
            "weight": backend.weight,
            "resolved": backend.endpoints.is_some(),
            "tls": match &backend.tls {
                BackendTls::Off => Value::Null,
                BackendTls::On(tls) => json!(tls.name().to_str()),
                BackendTls::Unusable => json!("unusable"),
            },
            "endpoints_usable": usable,
            "endpoints_total": total,
            "endpoints": endpoints,
        })
    }

    /// No state: it has left its Service.
    fn endpoint(&self, rule: &Rule, endpoint: &Endpoint, state: Option<State>) -> Value {
        let ejected = endpoint.ejected_until().filter(|_| rule.health.is_some() && state.is_some());
        let word = match (ejected, state) {
            (Some(_), _) => "ejected",
            (None, Some(state)) => state.word(),
            (None, None) => "gone",
        };
        let mut shown = json!({
            "holdfast.endpoint.pod": endpoint.name(),
            "destination.address": address(endpoint),
            "state": word,
            "open": endpoint.open(),
        });
        if let (Some(until), Value::Object(fields)) = (ejected, &mut shown) {
            let left = until.since(self.moment);
            let at = self.now + SignedDuration::try_from(left).unwrap_or_default();
            fields.insert(
                "ejected_for".to_owned(),
                json!(endpoint.ejected_for().map(|failure| failure.word())),
            );
            fields.insert("ejected_until".to_owned(), json!(seconds(at)));
            // Then it waits for a handshake that tries it.
            fields.insert("ejected_seconds_left".to_owned(), json!(left.as_secs_f64()));
        }
        shown
    }

    /// What the route's limits allow, and how much of it is used; they are the same for all of its rules.
    fn limits(&self, rule: &Rule, rules: &[&Arc<Rule>]) -> Value {
        let Some(limits) = rule.limits.as_deref() else {
            return Value::Array(Vec::new());
        };
        let metrics: Vec<_> = rules.iter().filter_map(|rule| self.live.metrics.known(&rule.id)).collect();
        let shown = RouteLimit::ALL.into_iter().filter_map(|limit| {
            let (used, allowed) = match limit {
                RouteLimit::Connections => (Some(self.live.metrics.open(&rule.id.route)), limits.max_connections?.into()),
                RouteLimit::ConnectionsPerEndpoint => (Some(fullest(rules)), limits.max_connections_per_endpoint?.into()),
                RouteLimit::ConnectionsPerClient => (None, limits.max_connections_per_client.as_ref()?.count.into()),
                RouteLimit::HandshakeRate => (None, limits.handshake_rate.as_ref().map(|_| Value::Null)?),
                RouteLimit::HeaderBytes => (None, limits.max_header_bytes?.into()),
            };
            Some(limit_row(limit, used, allowed, limits, &metrics))
        });
        shown.collect()
    }

    /// The certificates of the hosts for which the route has them, by Secret.
    fn tls(&self, judged: &Judged) -> Value {
        let spec = &judged.route.spec;
        let named = spec.tls.iter().flat_map(|tls| match tls.hosts.as_slice() {
            [] => spec.hostnames.as_slice(),
            hosts => hosts,
        });
        let every = ["".to_owned()];
        let every = every.iter().filter(|_| !spec.tls.is_empty() && spec.hostnames.is_empty());
        let hosts: BTreeSet<&String> = named.chain(every).collect();
        let mut secrets: BTreeMap<&ObjectName, (Vec<&str>, &crate::routing::HostTls)> = BTreeMap::new();
        for host in hosts {
            if let Some(tls) = self.certificates.of(host) {
                secrets.entry(&tls.secret).or_insert((Vec::new(), tls)).0.push(host);
            }
        }
        let shown = secrets.into_iter().map(|(secret, (hosts, tls))| {
            let certificate = tls.certificate.as_ref();
            let expires = certificate.and_then(|certificate| Timestamp::from_second(certificate.expires()).ok());
            json!({
                "secret": secret.to_string(),
                "hosts": hosts.iter().map(|host| if host.is_empty() { "*" } else { host }).collect::<Vec<_>>(),
                "usable": certificate.is_some(),
                "expires": expires.map(seconds),
                "plain": if tls.allows_plain { "served" } else { "refused" },
            })
        });
        shown.collect()
    }
}

fn limit_row(limit: RouteLimit, used: Option<u32>, allowed: Value, limits: &Limits, metrics: &[Arc<RuleMetrics>]) -> Value {
    let refused = metrics.iter().map(|rule| rule.refused(limit)[usize::from(limits.is_dry_run)]);
    json!({
        "limit": limit.word(),
        "used": used,
        "allowed": allowed,
        "dry_run": limits.is_dry_run,
        "refused": refused.sum::<u64>(),
    })
}

/// Connections of the endpoint that has the most.
fn fullest(rules: &[&Arc<Rule>]) -> u32 {
    let cells = rules
        .iter()
        .flat_map(|rule| &rule.backends)
        .filter_map(|backend| backend.endpoints.as_ref());
    let fullest = cells.filter_map(|cell| cell.load().members().iter().map(|(endpoint, _)| endpoint.open()).max());
    fullest.max().unwrap_or_default()
}

/// Open tunnels, handshakes by status, refusals by reason, and ends by cause.
fn counts(rules: &[Arc<RuleMetrics>]) -> Value {
    let (mut codes, mut refusals, mut ends) = (BTreeMap::new(), BTreeMap::new(), Map::new());
    for ((code, reason), count) in rules.iter().flat_map(|rule| rule.answers()) {
        *codes.entry(code).or_default() += count;
        if reason != "accepted" {
            *refusals.entry(reason).or_default() += count;
        }
    }
    for (cause, count) in rules.iter().flat_map(|rule| rule.causes()).filter(|(_, count)| *count > 0) {
        ends.insert(cause.word().to_owned(), json!(count));
    }
    let open = rules
        .iter()
        .map(|rule| rule.active.load(std::sync::atomic::Ordering::Relaxed));
    let codes: Map<String, Value> = codes
        .into_iter()
        .map(|(code, count): (u16, u64)| (code.to_string(), json!(count)))
        .collect();
    let refusals: BTreeMap<&str, u64> = refusals;
    json!({"open": open.sum::<u64>(), "handshakes": codes, "refusals": refusals, "ends": ends})
}

fn departed(metrics: &Metrics) -> HashMap<ServicePort, Vec<Arc<Endpoint>>> {
    let mut departed: HashMap<ServicePort, Vec<Arc<Endpoint>>> = HashMap::new();
    for endpoint in metrics.dialled_endpoints().into_iter().filter(|endpoint| endpoint.open() > 0) {
        departed.entry(endpoint.key().service.clone()).or_default().push(endpoint);
    }
    departed
}

fn address(endpoint: &Endpoint) -> String {
    endpoint.addresses().first().map(SocketAddr::to_string).unwrap_or_default()
}

fn fallback(of: &Fallback) -> &'static str {
    match of {
        Fallback::Backend => "Backend",
        Fallback::Reject => "Reject",
        Fallback::Respond(_) => "Respond",
        Fallback::Static(_) => "Static",
    }
}

fn seconds(at: Timestamp) -> String {
    format!("{at:.0}")
}

/// Where nobody says how many.
const ROUTES: usize = 100;
/// In one document.
const MAX_ROUTES: usize = 1000;
/// Endpoints in one document: with all that is said of each it stays within a few megabytes.
const MAX_ENDPOINTS: usize = 20_000;
/// Endpoints of one backend.
const MAX_OF_BACKEND: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_read_or_refused() {
        let asked = |query: &str| Asked::of(Some(query));
        let all = Asked {
            search: String::new(),
            route: None,
            is_troubled: false,
            limit: ROUTES,
        };
        assert_eq!(Asked::of(None), Ok(all));
        let chat = asked("search=Chat%2Fa&route=chat/front&limit=5000").unwrap();
        assert_eq!((chat.search.as_str(), chat.limit), ("chat/a", MAX_ROUTES));
        assert_eq!(chat.route.unwrap().to_string(), "chat/front");
        for (query, word) in [
            ("route=chat", "NAMESPACE/NAME"),
            ("route=a/b/c", "NAMESPACE/NAME"),
            ("limit=many", "a number"),
            ("troubled=very", "true or false"),
        ] {
            assert!(asked(query).unwrap_err().contains(word), "{query}");
        }
    }
}
