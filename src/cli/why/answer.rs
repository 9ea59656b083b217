//! What there is to say about a request, before it is text or a document.

use std::sync::Arc;

use serde::Serialize;

use crate::cli::offline::Offline;
use crate::control::policy::effective;
use crate::proxy::error::Reason;
use crate::routing::balancer::{self, Client, NoPick, PickedBy};
use crate::routing::endpoint::State;
use crate::routing::fallback::Fallback;
use crate::routing::filter::Asked;
use crate::routing::route::PersistBy;
use crate::routing::table::{Explanation, HostEntry};
use crate::routing::{Backend, BackendTls, Endpoint, Rule};

use super::Request;

/// The whole answer. Its keys are those of the document.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    /// What the client would get: 101, or the status of the refusal or of what the rule answers. 0: the endpoint's own answer to a
    /// plain request, or a file.
    #[serde(rename = "http.response.status_code")]
    pub(super) status: u16,
    /// The reason of the refusal.
    #[serde(rename = "error.type", skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'static str>,
    #[serde(skip)]
    pub(super) refusal: String,
    /// What answers a plain request instead of an endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) answered: Option<String>,
    /// Path and host that the endpoint is asked for, where the rule rewrites them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rewritten: Option<String>,
    #[serde(rename = "server.address")]
    pub(super) host: String,
    #[serde(rename = "url.path")]
    pub(super) path: String,
    #[serde(rename = "host.entry", skip_serializing_if = "Option::is_none")]
    pub(super) entry: Option<String>,
    #[serde(skip)]
    pub(super) entry_kind: String,
    /// The namespace whose routes the host entry belongs to, unless all may share it.
    #[serde(rename = "host.owner", skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<RuleName>,
    pub(super) considered: Vec<Considered>,
    pub(super) omitted: usize,
    /// Routes that name the host and are not served.
    pub(super) rejected: Vec<Rejected>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nearest: Option<String>,
    pub(super) candidates: Vec<Candidate>,
    #[serde(rename = "not_candidates")]
    pub(super) others: Vec<Candidate>,
    pub(super) policy: Vec<Policy>,
    /// Whether the rule's route says that endpoints are connected to by TLS.
    #[serde(skip)]
    says_tls: bool,
    #[serde(skip)]
    pub(super) problems: usize,
}

/// A rule by its names.
#[derive(Debug, Serialize)]
pub(super) struct RuleName {
    #[serde(rename = "holdfast.route.namespace")]
    namespace: String,
    #[serde(rename = "holdfast.route.name")]
    name: String,
    #[serde(rename = "holdfast.rule.name")]
    rule: String,
}

/// A match that was looked at, or not, and what became of it.
#[derive(Debug, Serialize)]
pub(super) struct Considered {
    #[serde(flatten)]
    pub(super) rule: RuleName,
    pub(super) conditions: String,
    pub(super) verdict: String,
    #[serde(skip)]
    pub(super) is_match: bool,
}

/// A route that is not accepted.
#[derive(Debug, Serialize)]
pub(super) struct Rejected {
    #[serde(rename = "holdfast.route.namespace")]
    namespace: String,
    #[serde(rename = "holdfast.route.name")]
    name: String,
    pub(super) reason: String,
}

/// An endpoint, and why it stands where it stands.
#[derive(Debug, Serialize)]
pub(super) struct Candidate {
    pub(super) by: String,
    #[serde(rename = "holdfast.endpoint.pod")]
    pub(super) name: String,
    #[serde(rename = "destination.address")]
    pub(super) address: String,
    pub(super) state: String,
}

/// A value that holds for the connection, and where it comes from.
#[derive(Debug, Serialize)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) origin: String,
}

impl Answer {
    pub(super) fn of(offline: &Offline, request: &Request) -> Self {
        let handshake = request.handshake();
        let explanation = offline.built.table.explain(&handshake);
        let mut answer = Self::about(request, &explanation);
        answer.owner = owner(offline, &explanation);
        answer.rejected = rejected(offline, &request.host);
        answer.problems =
            offline.manifests.problems.len() + offline.built.verdicts.iter().filter(|verdict| !verdict.is_clean()).count();
        if request.is_plain && !offline.built.certificates.allows_plain(&request.host) {
            answer.refuse(Reason::TlsRequired, "a route gives the host a certificate");
            return answer;
        }
        let Some(found) = &explanation.found else {
            answer.no_route(&explanation);
            return answer;
        };
        let rule = found.rule;
        answer.rule = Some(RuleName::of(rule));
        answer.policy = policies(offline, rule);
        answer.says_tls = offline
            .index
            .routes()
            .any(|route| route.name == rule.id.route && route.spec.backend_tls.as_ref().is_some_and(|tls| tls.mode.is_some()));
        if !request.is_handshake && answer.respond(rule, request, found.matched_path) {
            return answer;
        }
        answer.rewritten = rewritten(rule, request, found.matched_path);
        answer.pick(rule, &request.client());
        answer
    }

    pub(super) fn is_served(&self) -> bool {
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
                is_match: entry.verdict == crate::routing::table::Verdict::Matched,
            })
            .collect();
        considered.extend(explanation.wider.iter().map(|(host, rule)| Considered {
            rule: RuleName::of(rule),
            conditions: host.to_string(),
            verdict: "wider host, not looked at".to_owned(),
            is_match: false,
        }));
        let (entry, entry_kind) = match explanation.host {
            Some(host @ HostEntry::Exact(_)) => (Some(host.to_string()), "exact".to_owned()),
            Some(host @ HostEntry::Wildcard(_)) => (Some(host.to_string()), format!("wildcard {host}")),
            Some(host @ HostEntry::Every) => (Some(host.to_string()), "every host".to_owned()),
            None => (None, "no route names it, a wildcard over it, or every host".to_owned()),
        };
        Self {
            status: if request.is_handshake { 101 } else { 0 },
            reason: None,
            refusal: String::new(),
            answered: None,
            rewritten: None,
            host: request.host.clone(),
            path: request.path.clone(),
            entry,
            entry_kind,
            owner: None,
            rule: None,
            considered,
            omitted: explanation.omitted,
            rejected: Vec::new(),
            nearest: None,
            candidates: Vec::new(),
            others: Vec::new(),
            policy: Vec::new(),
            says_tls: false,
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
        self.reason = Some(answer.word);
        message.clone_into(&mut self.refusal);
    }

    fn pick(&mut self, rule: &Rule, client: &Client<'_>) {
        let mut chosen: Vec<Arc<Endpoint>> = Vec::new();
        match balancer::pick(rule, client) {
            Ok(pick) => {
                for (endpoint, by) in pick.candidates {
                    self.candidates.push(Candidate::of(&endpoint, picked_by(rule, by), "ready"));
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
            self.lost(backend, &chosen);
        }
        let Some(first) = chosen.first() else { return };
        match rule.tls(first) {
            BackendTls::Off => {}
            BackendTls::On(tls) => self.policy.push(Policy {
                name: "backendTLS".to_owned(),
                value: tls.name().to_str().into_owned(),
                origin: if self.says_tls { "route" } else { "appProtocol" }.to_owned(),
            }),
            BackendTls::Unusable => self.refuse(
                Reason::EndpointTlsUnusable,
                "what TLS with its endpoints needs is missing; see holdfast check",
            ),
        }
    }

    /// The endpoints of a backendRef that are no candidates.
    fn lost(&mut self, backend: &Backend, chosen: &[Arc<Endpoint>]) {
        let Some(cell) = &backend.endpoints else { return };
        let set = cell.load();
        for (endpoint, state) in set
            .members()
            .iter()
            .filter(|(endpoint, _)| !chosen.iter().any(|one| Arc::ptr_eq(one, endpoint)))
        {
            let (state, why) = match state {
                State::Ready if backend.weight == 0 => ("ready", "weight 0: for clients that persistence sends only"),
                State::Ready => ("ready", "not among the first"),
                State::Terminating => ("terminating", "not for new connections"),
                State::NotReady => ("not ready", "not for new connections"),
            };
            self.others.push(Candidate::of(endpoint, why.to_owned(), state));
        }
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
    pub(super) fn with_word(&self) -> String {
        format!("{}/{} rule {:?}", self.namespace, self.name, self.rule)
    }
}

impl std::fmt::Display for RuleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} {:?}", self.namespace, self.name, self.rule)
    }
}

impl Candidate {
    fn of(endpoint: &Endpoint, by: String, state: &str) -> Self {
        Self {
            by,
            name: endpoint.name().to_owned(),
            address: endpoint.addresses().first().map(ToString::to_string).unwrap_or_default(),
            state: state.to_owned(),
        }
    }
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

fn owner(offline: &Offline, explanation: &Explanation<'_>) -> Option<String> {
    // Where hosts are not shared, all rules of one are of its owner.
    let first = explanation.rules.first().filter(|_| !offline.index.settings().share_hosts)?;
    Some(first.rule.id.route.namespace.to_string())
}

fn rejected(offline: &Offline, host: &str) -> Vec<Rejected> {
    let covers = |hostname: &String| match hostname.strip_prefix('*') {
        Some(suffix) => host.ends_with(suffix),
        None => hostname == host,
    };
    let named = offline
        .index
        .routes()
        .filter(|route| route.spec.hostnames.is_empty() || route.spec.hostnames.iter().any(covers));
    let verdicts = named.filter_map(|route| offline.verdict(&route.name));
    let rejected = verdicts.filter_map(|verdict| {
        Some(Rejected {
            namespace: verdict.route.namespace.to_string(),
            name: verdict.route.name.to_string(),
            reason: verdict.rejected.first()?.reason.to_string(),
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

fn policies(offline: &Offline, rule: &Rule) -> Vec<Policy> {
    let Some(route) = offline.index.routes().find(|route| route.name == rule.id.route) else {
        return Vec::new();
    };
    let values = effective(&route.spec, &offline.index.settings().defaults);
    let told = values.into_iter().filter(|value| !value.name.ends_with(".missed"));
    let shown = told.map(|effective| Policy {
        name: effective.name,
        value: effective.value,
        origin: effective.origin.to_string(),
    });
    shown.collect()
}

/// Routes that are shown though they are not served.
const MAX_REJECTED: usize = 8;
