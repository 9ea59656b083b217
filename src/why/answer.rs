//! What there is to say about a request, before it is text or a document.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Known, Request};
use crate::proxy::Shared;
use crate::proxy::error::Reason;
use crate::proxy::look::{self, guards};
use crate::routing::balancer::{self, Client, NoPick, PickedBy};
use crate::routing::endpoint::State;
use crate::routing::fallback::Fallback;
use crate::routing::filter::Asked;
use crate::routing::health::Moment;
use crate::routing::route::PersistBy;
use crate::routing::table::{Explanation, HostEntry};
use crate::routing::{Backend, BackendTls, Endpoint, Found, Rule};

/// The whole answer. Its keys are those of the document.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// What the client would get: 101, or the status of the refusal or of what the rule answers. 0: the endpoint's own answer to a
    /// plain request, or a file.
    #[serde(rename = "http.response.status_code")]
    pub status: u16,
    /// The reason of the refusal.
    #[serde(rename = "error.type", skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'static, str>>,
    /// The refusal in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What answers a plain request instead of an endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered: Option<String>,
    /// Path and host that the endpoint is asked for, where the rule rewrites them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewritten: Option<String>,
    #[serde(rename = "server.address")]
    pub host: String,
    #[serde(rename = "url.path")]
    pub path: String,
    /// The host entry whose rules were looked at.
    #[serde(rename = "host.entry", skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// The namespace whose routes the host entry belongs to, unless all may share it.
    #[serde(rename = "host.owner", skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleName>,
    pub considered: Vec<Considered>,
    /// Matches that are not among them.
    pub omitted: usize,
    /// Routes that name the host and are not served.
    pub rejected: Vec<Rejected>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
    /// What is asked before an endpoint is picked.
    pub guards: Vec<Guard>,
    pub candidates: Vec<Candidate>,
    #[serde(rename = "not_candidates")]
    pub others: Vec<Candidate>,
    pub policy: Vec<Policy>,
    /// Routes with which something is wrong.
    pub problems: usize,
}

/// A rule by its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleName {
    #[serde(rename = "holdfast.route.namespace")]
    namespace: String,
    #[serde(rename = "holdfast.route.name")]
    name: String,
    #[serde(rename = "holdfast.rule.name")]
    rule: String,
}

/// A match that was looked at, or not, and what became of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Considered {
    #[serde(flatten)]
    pub rule: RuleName,
    pub conditions: String,
    pub verdict: String,
}

/// A route that is not accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rejected {
    #[serde(rename = "holdfast.route.namespace")]
    namespace: String,
    #[serde(rename = "holdfast.route.name")]
    name: String,
    pub reason: String,
}

/// What was asked before the request was let in, or not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Guard {
    /// Its field below `spec`, or what of the process it is.
    #[serde(rename = "guard")]
    pub name: String,
    /// What was found, in a few words.
    pub value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<u64>,
    pub verdict: Cow<'static, str>,
}

/// An endpoint, and why it stands where it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Candidate {
    pub by: String,
    #[serde(rename = "holdfast.endpoint.pod")]
    pub name: String,
    #[serde(rename = "destination.address")]
    pub address: String,
    pub state: Cow<'static, str>,
    /// Its connections with this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open: Option<u32>,
}

/// A value that holds for the connection, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub name: String,
    pub value: String,
    pub origin: String,
}

impl Answer {
    /// What becomes of a request.
    pub fn of(known: &Known<'_>, request: &Request) -> Self {
        let explanation = known.table.explain(&request.handshake());
        let mut answer = Self::about(request, &explanation);
        answer.owner = owner(known, &explanation);
        answer.rejected = rejected(known, &request.host);
        let routes = known.judgement.routes().iter();
        answer.problems = routes.filter(|judged| !judged.verdict.is_clean()).count();
        // Whoever issues certificates asks in plain, before there is one to show.
        let challenge = known.table.challenge(&request.host, &request.path);
        if request.is_plain && challenge.is_none() && !known.certificates.allows_plain(&request.host) {
            let redirects = known.proxy.is_some_and(|proxy| proxy.settings.https_redirect);
            let reason = if redirects {
                Reason::RedirectedToHttps
            } else {
                Reason::TlsRequired
            };
            answer.refuse(reason, "a route gives the host a certificate");
            return answer;
        }
        if let Some(challenge) = &challenge {
            answer.considered.insert(0, Considered::challenge(challenge));
        }
        match challenge.as_ref().or(explanation.found.as_ref()) {
            Some(found) => answer.decide(known, request, found),
            None => answer.no_route(&explanation),
        }
        answer
    }

    /// What the rule that was found does with the request.
    fn decide(&mut self, known: &Known<'_>, request: &Request, found: &Found<'_>) {
        let rule = found.rule;
        self.rule = Some(RuleName::of(rule));
        self.policy = policies(known, rule);
        let asked = request.target();
        let guards = guards(rule, &request.asked(&asked), known.proxy);
        self.guards = guards.iter().map(Guard::of).collect();
        if let Some((guard, reason)) = guards.iter().find_map(|guard| Some((guard, guard.refuses()?))) {
            self.refuse(reason, &format!("{}: {}", guard.name, guard.value));
            return;
        }
        if !request.is_handshake && self.respond(rule, request, found.matched_path) {
            return;
        }
        self.rewritten = rewritten(rule, request, found.matched_path);
        self.pick(known, rule, request);
    }

    pub fn is_served(&self) -> bool {
        self.reason.is_none()
    }

    fn about(request: &Request, explanation: &Explanation<'_>) -> Self {
        let mut considered: Vec<Considered> = explanation
            .rules
            .iter()
            .map(|entry| Considered {
                rule: RuleName::of(entry.rule),
                conditions: entry.conditions.to_string(),
                verdict: entry.verdict.to_string(),
            })
            .collect();
        considered.extend(explanation.wider.iter().map(|(host, rule)| Considered {
            rule: RuleName::of(rule),
            conditions: host.to_string(),
            verdict: "wider host, not looked at".to_owned(),
        }));
        Self {
            status: if request.is_handshake { 101 } else { 0 },
            reason: None,
            message: String::new(),
            answered: None,
            rewritten: None,
            host: request.host.clone(),
            path: request.path.clone(),
            entry: explanation.host.as_ref().map(HostEntry::to_string),
            owner: None,
            rule: None,
            considered,
            omitted: explanation.omitted,
            rejected: Vec::new(),
            nearest: None,
            guards: Vec::new(),
            candidates: Vec::new(),
            others: Vec::new(),
            policy: Vec::new(),
            problems: 0,
        }
    }

    /// Whether a plain request is answered without an endpoint, and how.
    fn respond(&mut self, rule: &Rule, request: &Request, matched: &str) -> bool {
        let redirect = rule.filters.as_ref().and_then(|filters| filters.redirect.as_ref());
        let asked = Asked {
            scheme: if request.is_plain { "http" } else { "https" },
            host: &request.host,
            port: request.port,
            path: &request.path,
            query: request.query.as_deref(),
            matched,
        };
        if let Some((redirect, location)) = redirect.and_then(|redirect| Some((redirect, redirect.location(&asked)?))) {
            self.status = redirect.status.as_u16();
            self.answered = Some(format!("redirected to {location}"));
            return true;
        }
        match &rule.fallback {
            Fallback::Backend => return false,
            Fallback::Reject => self.refuse(Reason::UpgradeRequired, "the rule says fallback: Reject"),
            Fallback::Respond(respond) => {
                self.status = respond.status.as_u16();
                self.answered = Some("the rule says fallback: Respond".to_owned());
            }
            Fallback::Static(files) => {
                let folder = if files.path.is_empty() { "--static-root" } else { &files.path };
                self.answered = Some(format!("a file of {folder}, if it is there"));
            }
        }
        true
    }

    fn no_route(&mut self, explanation: &Explanation<'_>) {
        let message = match explanation.host {
            Some(_) => format!("no rule of {} matches {}", self.host, self.path),
            None => format!("no route serves {}", self.host),
        };
        self.refuse(Reason::NoRoute, &message);
        self.nearest = match (&explanation.nearest, explanation.nearest_host) {
            (Some(nearest), _) => {
                let letters = if nearest.distance == 1 {
                    "one letter".to_owned()
                } else {
                    format!("{} letters", nearest.distance)
                };
                Some(format!("{} {} ({letters})", RuleName::of(nearest.rule), nearest.conditions))
            }
            (None, Some(host)) => Some(format!("{host} (one letter)")),
            (None, None) => None,
        };
    }

    fn refuse(&mut self, reason: Reason, message: &str) {
        let answer = reason.answer();
        self.status = answer.status.as_u16();
        self.reason = Some(Cow::Borrowed(answer.word));
        message.clone_into(&mut self.message);
    }

    fn pick(&mut self, known: &Known<'_>, rule: &Rule, request: &Request) {
        let moment = known.proxy.filter(|_| rule.health.is_some()).map(Shared::moment);
        let look = Look {
            client: request.client(moment.unwrap_or_default()),
            is_running: known.proxy.is_some(),
            limit: rule
                .limits
                .as_deref()
                .filter(|limits| request.is_handshake && !limits.is_dry_run)
                .and_then(|limits| limits.max_connections_per_endpoint),
        };
        let mut chosen: Vec<Arc<Endpoint>> = Vec::new();
        match balancer::rehearse(rule, &look.client, look.limit) {
            Ok(pick) => {
                for (endpoint, by) in pick.candidates {
                    let state = look.state(rule, &endpoint, State::Ready);
                    self.candidates.push(look.candidate(&endpoint, picked_by(rule, by), state));
                    chosen.push(endpoint);
                }
            }
            Err(NoPick::Unresolved) => self.refuse(
                Reason::UnresolvedBackend,
                "its backendRef cannot be resolved; see holdfast check",
            ),
            Err(NoPick::NoReadyEndpoint) => self.refuse(Reason::NoReadyEndpoint, "no endpoint takes new connections"),
            Err(NoPick::EndpointsFull) => self.refuse(
                Reason::EndpointConnectionLimit,
                "every endpoint has as many connections as it may",
            ),
            Err(NoPick::PersistedUnavailable) => {
                self.refuse(
                    Reason::SessionUnavailable,
                    "the client's own endpoint takes no new connections, and onUnavailable is Fail",
                );
            }
        }
        for backend in &rule.backends {
            self.lost(&look, rule, backend, &chosen);
        }
        let Some(first) = chosen.first() else { return };
        let says_tls = known.judgement.get(&rule.id.route).is_some_and(|judged| {
            let tls = judged.route.spec.backend_tls.as_ref();
            tls.is_some_and(|tls| tls.mode.is_some())
        });
        match rule.tls(first) {
            BackendTls::Off => {}
            BackendTls::On(tls) => self.policy.push(Policy {
                name: "backendTLS".to_owned(),
                value: tls.name().to_str().into_owned(),
                origin: if says_tls { "route" } else { "appProtocol" }.to_owned(),
            }),
            BackendTls::Unusable => self.refuse(
                Reason::EndpointTlsUnusable,
                "what TLS with its endpoints needs is missing; see holdfast check",
            ),
        }
    }

    /// The endpoints of a backendRef that are no candidates.
    fn lost(&mut self, look: &Look<'_>, rule: &Rule, backend: &Backend, chosen: &[Arc<Endpoint>]) {
        let Some(cell) = &backend.endpoints else { return };
        let set = cell.load();
        let members = set.members().iter();
        let lost = members.filter(|(endpoint, _)| !chosen.iter().any(|one| Arc::ptr_eq(one, endpoint)));
        for (endpoint, state) in lost.take(MAX_LOST) {
            let is_full = || look.limit.filter(|limit| endpoint.open() >= *limit);
            let why = match (state, endpoint.ejected_until().filter(|_| rule.health.is_some())) {
                (State::Terminating | State::NotReady, _) => "not for new connections".to_owned(),
                (State::Ready, Some(until)) => ejected(endpoint, until, look.client.moment),
                (State::Ready, None) if backend.weight == 0 => "weight 0: for clients that persistence sends only".to_owned(),
                (State::Ready, None) => match is_full() {
                    Some(limit) => format!("it has {limit} connections, as many as it may"),
                    None => "not among the first".to_owned(),
                },
            };
            let state = look.state(rule, endpoint, *state);
            self.others.push(look.candidate(endpoint, why, state));
        }
    }
}

/// How endpoints are looked at for one request.
struct Look<'a> {
    client: Client<'a>,
    /// Whether connections are known.
    is_running: bool,
    /// Connections that an endpoint may have.
    limit: Option<u32>,
}

impl Look<'_> {
    fn state(&self, rule: &Rule, endpoint: &Endpoint, state: State) -> &'static str {
        match state {
            State::Ready if rule.health.is_some() && endpoint.is_ejected() => "ejected",
            state => state.word(),
        }
    }

    fn candidate(&self, endpoint: &Endpoint, by: String, state: &'static str) -> Candidate {
        Candidate {
            by,
            name: endpoint.name().to_owned(),
            address: endpoint.addresses().first().map(ToString::to_string).unwrap_or_default(),
            state: Cow::Borrowed(state),
            open: self.is_running.then(|| endpoint.open()),
        }
    }
}

/// Why passive health leaves an endpoint out, and for how long.
fn ejected(endpoint: &Endpoint, until: Moment, now: Moment) -> String {
    let reason = endpoint.ejected_for().map_or("failures", |failure| failure.word());
    match until.since(now) {
        Duration::ZERO => format!("{reason}; the next handshake tries it"),
        left => format!("{reason}; tried again in {}s", left.as_secs().max(1)),
    }
}

/// What the endpoint is asked for, where that is not what the client asked for.
fn rewritten(rule: &Rule, request: &Request, matched: &str) -> Option<String> {
    let rewrite = rule.filters.as_ref()?.rewrite.as_ref()?;
    let path = rewrite.path.as_ref().map(|edit| edit.apply(&request.path, matched));
    let host = rewrite.host.as_ref().and_then(|host| host.to_str().ok());
    Some(format!(
        "{}{}",
        host.unwrap_or(&request.host),
        path.as_deref().unwrap_or(&request.path)
    ))
}

impl RuleName {
    fn of(rule: &Rule) -> Self {
        Self {
            namespace: rule.id.route.namespace.to_string(),
            name: rule.id.route.name.to_string(),
            rule: rule.id.rule.to_string(),
        }
    }
}

impl RuleName {
    /// `chat/chat rule "chat"`.
    pub fn with_word(&self) -> String {
        format!("{}/{} rule {:?}", self.namespace, self.name, self.rule)
    }
}

impl std::fmt::Display for RuleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} {:?}", self.namespace, self.name, self.rule)
    }
}

impl Considered {
    fn challenge(found: &Found<'_>) -> Self {
        Self {
            rule: RuleName::of(found.rule),
            conditions: format!("Exact {}", found.matched_path),
            verdict: "matched: a challenge of ACME goes first".to_owned(),
        }
    }

    /// Whether it is the one that serves the request.
    pub fn is_match(&self) -> bool {
        self.verdict.starts_with("matched")
    }
}

impl Guard {
    fn of(guard: &look::Guard) -> Self {
        let verdict = match (guard.refusal, guard.refuses()) {
            (None, _) => "lets it in",
            (Some(_), None) => "would refuse it (dry run)",
            (Some(_), Some(_)) => "refuses it",
        };
        Self {
            name: guard.name.to_owned(),
            value: guard.value.clone(),
            used: guard.used,
            allowed: guard.allowed,
            verdict: Cow::Borrowed(verdict),
        }
    }

    pub fn refuses(&self) -> bool {
        self.verdict == "refuses it"
    }
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

fn owner(known: &Known<'_>, explanation: &Explanation<'_>) -> Option<String> {
    // Where hosts are not shared, all rules of one are of its owner.
    let first = explanation.rules.first().filter(|_| !known.judgement.share_hosts)?;
    Some(first.rule.id.route.namespace.to_string())
}

fn rejected(known: &Known<'_>, host: &str) -> Vec<Rejected> {
    let covers = |hostname: &String| match hostname.strip_prefix('*') {
        Some(suffix) => host.ends_with(suffix),
        None => hostname == host,
    };
    let rejected = known.judgement.routes().iter().filter(|judged| !judged.verdict.is_accepted());
    let named = rejected.filter(|judged| {
        let hostnames = &judged.route.spec.hostnames;
        hostnames.is_empty() || hostnames.iter().any(covers)
    });
    let rejected = named.filter_map(|judged| {
        Some(Rejected {
            namespace: judged.route.name.namespace.to_string(),
            name: judged.route.name.name.to_string(),
            reason: judged.verdict.rejected.first()?.reason.to_string(),
        })
    });
    rejected.take(MAX_REJECTED).collect()
}

fn picked_by(rule: &Rule, by: PickedBy) -> String {
    match by {
        PickedBy::Cookie => "cookie".to_owned(),
        PickedBy::ClientIp => "client address".to_owned(),
        PickedBy::Header => match rule.persistence.as_ref().map(|persistence| &persistence.by) {
            Some(PersistBy::Header(name)) => format!("header {name}"),
            _ => "header".to_owned(),
        },
        PickedBy::Algorithm => rule.balancing.to_string(),
    }
}

fn policies(known: &Known<'_>, rule: &Rule) -> Vec<Policy> {
    let Some(judged) = known.judgement.get(&rule.id.route) else {
        return Vec::new();
    };
    let values = known.judgement.effective(&judged.route).into_iter();
    let told = values.filter(|value| !value.name.ends_with(".missed"));
    let shown = told.map(|effective| Policy {
        name: effective.name,
        value: effective.value,
        origin: effective.origin.to_string(),
    });
    shown.collect()
}

/// Routes that are shown though they are not served.
const MAX_REJECTED: usize = 8;
/// Endpoints of a backendRef that are shown though they are no candidates.
const MAX_LOST: usize = 100;
