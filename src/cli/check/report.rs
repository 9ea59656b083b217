//! What there is to say about manifests, before it is text or a document.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::api::WebSocketRouteSpec;
use crate::cli::offline::{Offline, counted};
use crate::cli::output::Tone;
use crate::control::defaults::Defaults;
use crate::control::manifests::{Location, Problem};
use crate::control::object::{Key, Object, ObjectKind, Route};
use crate::control::policy::{Effective, Origin, effective};
use crate::control::{Condition, Fault, Finding, Verdict};
use crate::routing::fallback::Fallback;
use crate::routing::filter::HeaderEdits;
use crate::routing::route::PersistBy;
use crate::routing::{BackendTls, ObjectName, Rule};

/// The whole answer.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) routes: Vec<RouteReport>,
    /// Files and objects other than routes that something is wrong with.
    pub(super) others: Vec<Other>,
    pub(super) rejected: usize,
    pub(super) warnings: usize,
    /// Objects by kind, and what was left out: `2 Services`.
    pub(super) counts: Vec<String>,
    /// What could not be looked at.
    pub(super) notes: Vec<String>,
}

/// What became of one route.
#[derive(Debug)]
pub(super) struct RouteReport {
    pub(super) name: ObjectName,
    pub(super) tone: Tone,
    /// It is not of the files: it is told of because they change what becomes of it.
    pub(super) of_cluster: bool,
    /// What it serves, if it does.
    pub(super) serves: String,
    pub(super) conditions: Vec<Condition>,
    /// The API server would refuse the object as it is.
    pub(super) refused: Vec<Remark>,
    /// What is wrong with one that it would take, by condition.
    pub(super) remarks: Vec<Remark>,
    pub(super) rules: Vec<String>,
    pub(super) values: Vec<Effective>,
}

/// A file or an object of another kind, and what is wrong with it.
#[derive(Debug)]
pub(super) struct Other {
    pub(super) name: String,
    pub(super) remarks: Vec<Remark>,
}

/// One thing that is wrong, where it stands and what to do.
#[derive(Clone, Debug)]
pub(super) struct Remark {
    /// The reason of the condition; none where the API server refuses.
    pub(super) reason: Option<String>,
    /// The condition, as `Accepted=False`.
    pub(super) condition: String,
    pub(super) location: Option<Location>,
    pub(super) fault: Fault,
    pub(super) fix: Option<String>,
}

impl Report {
    pub(super) fn of(offline: &Offline, class: &str) -> Self {
        let mut refused: BTreeMap<ObjectName, Vec<Remark>> = BTreeMap::new();
        let mut others: BTreeMap<String, Vec<Remark>> = BTreeMap::new();
        for problem in &offline.manifests.problems {
            match &problem.object {
                Some(Key {
                    kind: ObjectKind::WebSocketRoute,
                    name,
                }) => refused.entry(name.clone()).or_default().push(Remark::refused(problem)),
                Some(key) => others.entry(key.to_string()).or_default().push(Remark::refused(problem)),
                None => others
                    .entry(problem.location.file.display().to_string())
                    .or_default()
                    .push(Remark::refused(problem)),
            }
        }
        let rules = offline.rules();
        let mut routes: Vec<RouteReport> = Vec::new();
        let is_told = |name: &ObjectName| !offline.is_of_cluster(name) || offline.is_changed(name);
        for route in offline.index.routes().filter(|route| is_told(&route.name)) {
            let Some(verdict) = offline.verdict(&route.name) else {
                continue;
            };
            let rules = rules.get(&route.name).map(Vec::as_slice).unwrap_or_default();
            let mut told = RouteReport::of(
                route,
                verdict,
                rules,
                &offline.index.settings().defaults,
                refused.remove(&route.name).unwrap_or_default(),
            );
            told.of_cluster = offline.is_of_cluster(&route.name);
            routes.push(told);
        }
        routes.extend(refused.into_iter().map(|(name, remarks)| RouteReport::refused(name, remarks)));
        routes.sort_by(|a, b| a.name.cmp(&b.name));
        let others: Vec<Other> = others.into_iter().map(|(name, remarks)| Other { name, remarks }).collect();
        let of_tone = |tone| routes.iter().filter(|route| route.tone == tone).count();
        Self {
            rejected: of_tone(Tone::Bad) + others.len(),
            warnings: of_tone(Tone::Warning),
            counts: counts(offline, class, routes.iter().filter(|route| !route.of_cluster).count()),
            notes: Vec::new(),
            routes,
            others,
        }
    }

    /// A reason to explain, if there is any.
    pub(super) fn reason(&self) -> Option<&str> {
        let remarks = self.routes.iter().flat_map(|route| &route.remarks);
        remarks.filter_map(|remark| remark.reason.as_deref()).next()
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "routes": self.routes.iter().map(RouteReport::json).collect::<Vec<_>>(),
            "others": self.others.iter().map(|other| json!({
                "name": other.name,
                "findings": other.remarks.iter().map(Remark::json).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
            "rejected": self.rejected,
            "warnings": self.warnings,
            "notes": self.notes,
        })
    }
}

impl RouteReport {
    fn of(route: &Route, verdict: &Verdict, rules: &[&Rule], defaults: &Defaults, refused: Vec<Remark>) -> Self {
        let tone = match () {
            () if !verdict.is_accepted() || !refused.is_empty() => Tone::Bad,
            () if verdict.is_clean() => Tone::Good,
            () => Tone::Warning,
        };
        let remark = |condition: &'static str| move |finding: &Finding| Remark::of(route, condition, finding);
        let remarks = verdict.rejected.iter().map(remark("Accepted=False"));
        let remarks = remarks.chain(verdict.unresolved.iter().map(remark("ResolvedRefs=False")));
        let remarks = remarks.chain(verdict.shadowed.iter().map(remark("Conflicted=True")));
        Self {
            name: route.name.clone(),
            tone,
            of_cluster: false,
            serves: serves(&route.spec),
            conditions: verdict.conditions(),
            refused,
            remarks: remarks.collect(),
            rules: rules.iter().map(|rule| describe(rule)).collect(),
            values: values(&route.spec, rules, defaults),
        }
    }

    fn refused(name: ObjectName, refused: Vec<Remark>) -> Self {
        Self {
            name,
            tone: Tone::Bad,
            of_cluster: false,
            serves: String::new(),
            conditions: Vec::new(),
            refused,
            remarks: Vec::new(),
            rules: Vec::new(),
            values: Vec::new(),
        }
    }

    fn json(&self) -> Value {
        let values = self.values.iter().map(|value| {
            (
                value.name.clone(),
                json!({"value": value.value, "origin": value.origin.to_string()}),
            )
        });
        json!({
            "holdfast.route.namespace": &*self.name.namespace,
            "holdfast.route.name": &*self.name.name,
            "accepted": self.tone != Tone::Bad,
            "of_cluster": self.of_cluster,
            "conditions": self.conditions.iter().map(|condition| json!({
                "type": condition.kind,
                "status": if condition.status { "True" } else { "False" },
                "reason": condition.reason.to_string(),
                "message": condition.message,
            })).collect::<Vec<_>>(),
            "findings": self.refused.iter().chain(&self.remarks).map(Remark::json).collect::<Vec<_>>(),
            "rules": self.rules,
            "effective": values.collect::<Map<String, Value>>(),
        })
    }
}

impl Remark {
    fn of(route: &Route, condition: &str, finding: &Finding) -> Self {
        Self {
            reason: Some(finding.reason.to_string()),
            condition: condition.to_owned(),
            location: route.origin.as_ref().map(|origin| origin.locate(&finding.fault)),
            fault: finding.fault.clone(),
            fix: finding.fix.clone(),
        }
    }

    fn refused(problem: &Problem) -> Self {
        Self {
            reason: None,
            condition: "refused".to_owned(),
            location: Some(problem.location.clone()),
            fault: problem.fault.clone(),
            fix: None,
        }
    }

    fn json(&self) -> Value {
        let span = self.location.as_ref().map(|location| location.span);
        json!({
            "reason": self.reason,
            "condition": self.condition,
            "field": self.fault.path.to_string(),
            "message": self.fault.message,
            "fix": self.fix,
            "code.file.path": self.location.as_ref().map(|location| location.file.display().to_string()),
            "code.line.number": span.map(|span| span.line),
            "code.column.number": span.map(|span| span.column),
        })
    }
}

fn serves(spec: &WebSocketRouteSpec) -> String {
    let hosts = if spec.hostnames.is_empty() {
        "every host".to_owned()
    } else {
        spec.hostnames.join(", ")
    };
    format!("{} on {hosts}", counted(spec.rules.len(), "rule"))
}

fn describe(rule: &Rule) -> String {
    let backends = rule.backends.iter().map(|backend| {
        let endpoints = backend.endpoints.as_ref().map_or_else(
            || "unresolved".to_owned(),
            |cell| {
                let set = cell.load();
                format!("{} of {} ready", set.usable().len(), counted(set.members().len(), "endpoint"))
            },
        );
        let tls = match &backend.tls {
            BackendTls::Off => String::new(),
            BackendTls::On(tls) => format!(", TLS with {}", tls.name().to_str()),
            BackendTls::Unusable => ", TLS that cannot be used".to_owned(),
        };
        format!("{} weight {} ({endpoints}{tls})", backend.service, backend.weight)
    });
    let backends = backends.collect::<Vec<_>>().join(", ");
    format!("rule {:?} -> {backends}{}", &*rule.id.rule, besides(rule))
}

/// What a rule does besides sending handshakes to endpoints.
fn besides(rule: &Rule) -> String {
    let mut words = Vec::new();
    if let Some(filters) = &rule.filters {
        let nothing = HeaderEdits::default();
        words.extend((filters.request != nothing).then_some("changes request headers"));
        words.extend((filters.response != nothing).then_some("changes answer headers"));
        words.extend(filters.rewrite.as_ref().map(|_| "rewrites what the endpoint is asked for"));
        words.extend(filters.redirect.as_ref().map(|_| "redirects plain requests"));
    }
    words.extend(match rule.fallback {
        Fallback::Backend => None,
        Fallback::Reject => Some("answers plain requests 426"),
        Fallback::Respond(_) => Some("answers plain requests itself"),
        Fallback::Static(_) => Some("answers plain requests with files"),
    });
    words.iter().map(|word| format!("; {word}")).collect()
}

fn values(spec: &WebSocketRouteSpec, rules: &[&Rule], defaults: &Defaults) -> Vec<Effective> {
    let mut values = effective(spec, defaults);
    let origin = |policy, is_given| match is_given {
        true => Origin::Route,
        false if defaults.gives(spec, policy) => Origin::Defaults,
        false => Origin::BuiltIn,
    };
    if let Some(rule) = rules.first() {
        values.push(Effective {
            name: "loadBalancing.algorithm".to_owned(),
            value: rule.balancing.to_string(),
            origin: origin(
                "loadBalancing",
                spec.load_balancing
                    .as_ref()
                    .is_some_and(|balancing| balancing.algorithm.is_some()),
            ),
        });
    }
    let persistence: BTreeSet<String> = rules
        .iter()
        .filter_map(|rule| rule.persistence.as_ref())
        .map(|by| persisted(&by.by))
        .collect();
    values.push(Effective {
        name: "sessionPersistence".to_owned(),
        value: if persistence.is_empty() {
            "none".to_owned()
        } else {
            persistence.into_iter().collect::<Vec<_>>().join(", ")
        },
        origin: origin("sessionPersistence", spec.session_persistence.is_some()),
    });
    values.extend(backend_tls(spec, rules));
    values
}

/// Whether connections to endpoints use TLS, where anybody says something of it.
fn backend_tls(spec: &WebSocketRouteSpec, rules: &[&Rule]) -> Option<Effective> {
    let said = spec.backend_tls.as_ref().and_then(|tls| tls.mode);
    let backends = rules.iter().flat_map(|rule| &rule.backends);
    let by_service = backends.into_iter().any(|backend| backend.tls != BackendTls::Off);
    let (value, origin) = match said {
        Some(mode) => (format!("{mode:?}"), Origin::Route),
        None if by_service => ("by appProtocol".to_owned(), Origin::BuiltIn),
        None => return None,
    };
    Some(Effective {
        name: "backendTLS.mode".to_owned(),
        value,
        origin,
    })
}

fn persisted(by: &PersistBy) -> String {
    match by {
        PersistBy::Cookie(cookie) => format!("Cookie {}", cookie.name),
        PersistBy::ClientIp {
            ipv4_prefix,
            ipv6_prefix,
        } => format!("ClientIP /{ipv4_prefix} /{ipv6_prefix}"),
        PersistBy::Header(name) => format!("Header {name}"),
    }
}

fn counts(offline: &Offline, class: &str, routes: usize) -> Vec<String> {
    let of_kind = |kind| {
        offline
            .manifests
            .objects
            .iter()
            .filter(|(object, _)| object.key().kind == kind)
            .count()
    };
    let foreign = offline.manifests.objects.iter().filter(|(object, _)| match object {
        Object::Route(route) => route.spec.class_name.as_ref().is_some_and(|named| named != class),
        _ => false,
    });
    let mut counts = vec![counted(routes, "route")];
    for kind in ObjectKind::ALL.into_iter().filter(|kind| *kind != ObjectKind::WebSocketRoute) {
        match of_kind(kind) {
            0 => {}
            count => counts.push(counted(count, kind.word())),
        }
    }
    match foreign.count() {
        0 => {}
        count => counts.push(format!("{} of another class", counted(count, "route"))),
    }
    match offline.routes_beside() {
        0 => {}
        count => counts.push(format!("{} of the cluster", counted(count, "route"))),
    }
    match offline.manifests.skipped {
        0 => {}
        count => counts.push(format!("{} of other kinds", counted(count, "object"))),
    }
    counts
}
