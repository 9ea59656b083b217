//! Kubernetes Events about routes: few, and only when something has changed for whoever wrote the route.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Client,
    api::{Patch, PatchParams, PostParams},
    core::Request,
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::{
    api::{self, Condition, ConditionStatus, WebSocketRouteStatus},
    control::{
        certificates::Alarm,
        watch::{Meta, innermost},
    },
    routing::{ObjectName, health::Ejection},
};

/// Creates Events. Those that say the same of the same object become one with a count.
pub(super) struct Reporter {
    client: Client,
    /// This replica's name.
    replica: String,
    /// How often each was created.
    counts: HashMap<String, i32>,
    /// When what is told again and again was told last.
    told: HashMap<String, Instant>,
    /// Routes, by uid, that were said to be programmed.
    programmed: HashSet<String>,
}

/// Something worth telling.
#[derive(Debug, PartialEq, Eq)]
struct News {
    kind: &'static str,
    reason: &'static str,
    note: String,
}

impl Reporter {
    pub(super) fn new(client: Client, replica: String) -> Self {
        Self {
            client,
            replica,
            counts: HashMap::new(),
            told: HashMap::new(),
            programmed: HashSet::new(),
        }
    }

    /// Tells what has changed in a route's status. An Event that cannot be created is lost: the status says it all.
    pub(super) async fn report(
        &mut self,
        route: &ObjectName,
        metadata: &Meta,
        before: &WebSocketRouteStatus,
        now: &WebSocketRouteStatus,
    ) {
        self.forget();
        for news in news(before, now) {
            if news.reason != PROGRAMMED || self.programmed.insert(metadata.uid.clone()) {
                self.create(route, &metadata.uid, news).await;
            }
        }
    }

    /// Tells of a certificate, unless that was done within `pause`. Returns whether it did.
    pub(super) async fn alarm(&mut self, route: &ObjectName, uid: &str, alarm: &Alarm, pause: Duration) -> bool {
        self.forget();
        let (reason, note) = match alarm {
            Alarm::Invalid(note) => ("CertificateInvalid", note),
            Alarm::Expiring(note) => ("CertificateExpiring", note),
        };
        let news = News {
            kind: "Warning",
            reason,
            note: note.chars().take(NOTE).collect(),
        };
        self.remind(route, uid, news, pause).await
    }

    /// Tells of an ejected endpoint, of each and its reason once in a while: its ejections become one Event with a count. Returns
    /// whether it did.
    pub(super) async fn ejected(&mut self, uid: &str, ejection: &Ejection) -> bool {
        self.forget();
        let note = format!(
            "replica {} leaves out endpoint {} of Service {}: {} (health.passive); the other replicas judge by what they see",
            self.replica,
            ejection.endpoint,
            ejection.service,
            ejection.reason.word()
        );
        let news = News {
            kind: "Warning",
            reason: "EndpointEjected",
            note: note.chars().take(NOTE).collect(),
        };
        self.remind(&ejection.route, uid, news, EJECTION_PAUSE).await
    }

    /// Tells what may be told again and again, unless that was done within `pause`. Returns whether it did.
    async fn remind(&mut self, route: &ObjectName, uid: &str, news: News, pause: Duration) -> bool {
        let name = name(route, uid, &news);
        if self.told.get(&name).is_some_and(|at| at.elapsed() < pause) {
            return false;
        }
        self.told.insert(name, Instant::now());
        self.create(route, uid, news).await;
        true
    }

    fn forget(&mut self) {
        if self.programmed.len() + self.counts.len() + self.told.len() > REMEMBERED {
            (self.programmed, self.counts, self.told) = Default::default();
        }
    }

    /// Creates the Event, or counts it once more. One that the API server has forgotten meanwhile is created anew.
    async fn create(&mut self, route: &ObjectName, uid: &str, news: News) {
        if self.try_create(route, uid, &news).await == Some(404) && self.counts.remove(&name(route, uid, &news)).is_some() {
            self.try_create(route, uid, &news).await;
        }
    }

    /// Returns the status of a refusal.
    async fn try_create(&mut self, route: &ObjectName, uid: &str, news: &News) -> Option<u16> {
        let name = name(route, uid, news);
        let count = self.counts.entry(name.clone()).and_modify(|count| *count += 1).or_insert(1);
        let path = Request::new(format!("/apis/events.k8s.io/v1/namespaces/{}/events", route.namespace));
        let time = format!("{:.6}", Timestamp::now());
        let request = if *count > 1 {
            let series = json!({ "series": { "count": *count, "lastObservedTime": time } });
            path.patch(&name, &PatchParams::default(), &Patch::Merge(series))
        } else {
            let event = json!({
                "apiVersion": "events.k8s.io/v1",
                "kind": "Event",
                "metadata": { "name": &name, "namespace": &*route.namespace },
                "eventTime": time,
                "type": news.kind,
                "reason": news.reason,
                "note": news.note,
                "action": "Reconcile",
                "reportingController": "holdfast.dev/holdfast",
                "reportingInstance": &self.replica,
                "regarding": {
                    "apiVersion": format!("{}/{}", api::GROUP, api::VERSION),
                    "kind": api::KIND,
                    "namespace": &*route.namespace,
                    "name": &*route.name,
                    "uid": uid,
                },
            });
            path.create(&PostParams::default(), serde_json::to_vec(&event).unwrap_or_default())
        };
        let request = request.ok()?;
        let answer = timeout(CALL, self.client.request::<Value>(request)).await;
        if let Ok(Err(error)) = answer {
            tracing::debug!("WebSocketRoute {route}: no Event {}: {}", news.reason, innermost(&error));
            if let kube::Error::Api(status) = error {
                return Some(status.code);
            }
        }
        None
    }
}

/// The same for what is the same news of the same object.
fn name(route: &ObjectName, uid: &str, news: &News) -> String {
    let mut hasher = DefaultHasher::new();
    (uid, news.reason, &news.note).hash(&mut hasher);
    format!("{}.{:016x}", route.name, hasher.finish())
}

/// What has changed for whoever wrote the route.
fn news(before: &WebSocketRouteStatus, now: &WebSocketRouteStatus) -> Vec<News> {
    let mut news = Vec::new();
    let mut warn = |reason, condition: &Condition| {
        news.push(News {
            kind: "Warning",
            reason,
            note: condition.message.chars().take(NOTE).collect(),
        });
    };
    for condition in &now.conditions {
        let known =
            |old: &Condition| old.kind == condition.kind && old.status == condition.status && old.message == condition.message;
        if before.conditions.iter().any(known) {
            continue;
        }
        match (condition.kind.as_str(), condition.status) {
            ("Accepted", ConditionStatus::False) => warn("Rejected", condition),
            ("ResolvedRefs", ConditionStatus::False) if condition.reason == "RefNotPermitted" => {
                warn("RefNotPermitted", condition)
            }
            _ => {}
        }
    }
    if super::programmed(before).is_none() && super::programmed(now).is_some() {
        news.push(News {
            kind: "Normal",
            reason: PROGRAMMED,
            note: "every replica serves the route".to_owned(),
        });
    }
    news
}

const PROGRAMMED: &str = "Programmed";
/// How long a call may take.
const CALL: Duration = Duration::from_secs(5);
/// How soon the same ejection is told again.
const EJECTION_PAUSE: Duration = Duration::from_secs(60);
/// What is remembered of Events at most.
const REMEMBERED: usize = 16 * 1024;
/// Characters of a note; an API server takes 1,024.
const NOTE: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn status(conditions: &[(&str, ConditionStatus, &str, &str)]) -> WebSocketRouteStatus {
        let condition = |(kind, status, reason, message): &(&str, ConditionStatus, &str, &str)| Condition {
            kind: (*kind).to_owned(),
            status: *status,
            observed_generation: Some(1),
            last_transition_time: String::new(),
            reason: (*reason).to_owned(),
            message: (*message).to_owned(),
        };
        WebSocketRouteStatus {
            observed_generation: Some(1),
            conditions: conditions.iter().map(condition).collect(),
        }
    }

    #[test]
    fn refusals_and_the_first_success_are_news() {
        use ConditionStatus::{False, True, Unknown};
        let none = status(&[]);
        let rejected = status(&[
            ("Accepted", False, "HostnameConflict", "taken"),
            ("Programmed", False, "Invalid", ""),
        ]);
        let pending = status(&[("Accepted", True, "Accepted", ""), ("Programmed", Unknown, "Pending", "1/2")]);
        let done = status(&[("Accepted", True, "Accepted", ""), ("Programmed", True, "Programmed", "")]);
        let unpermitted = status(&[("ResolvedRefs", False, "RefNotPermitted", "no grant")]);
        let missing = status(&[("ResolvedRefs", False, "BackendNotFound", "no Service")]);
        let reasons = |before, now| news(before, now).into_iter().map(|news| news.reason).collect::<Vec<_>>();
        assert_eq!(reasons(&none, &rejected), ["Rejected"]);
        assert!(reasons(&rejected, &rejected).is_empty());
        assert!(reasons(&none, &pending).is_empty());
        assert_eq!(reasons(&pending, &done), ["Programmed"]);
        assert!(reasons(&done, &done).is_empty());
        assert_eq!(reasons(&none, &unpermitted), ["RefNotPermitted"]);
        assert!(
            reasons(&none, &missing).is_empty(),
            "it may come any moment; the condition says it"
        );
    }

    #[test]
    fn the_same_news_of_the_same_object_has_one_name() {
        let route = ObjectName {
            namespace: "chat".into(),
            name: "chat".into(),
        };
        let of = |note: &str| News {
            kind: "Warning",
            reason: "Rejected",
            note: note.to_owned(),
        };
        assert_eq!(name(&route, "a", &of("x")), name(&route, "a", &of("x")));
        assert_ne!(name(&route, "a", &of("x")), name(&route, "b", &of("x")));
        assert_ne!(name(&route, "a", &of("x")), name(&route, "a", &of("y")));
    }
}
