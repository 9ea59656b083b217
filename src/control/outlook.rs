//! What the control plane knows of itself, for whoever asks: how far and how fresh its view is, which table it has published,
//! who leads.
//!
//! Its parts write it where they also count; the live listener reads it. Nothing is ever decided by it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use sha2::{Digest, Sha256};

use super::{defaults::Defaults, judged::Judged, object::Route, verdict::Verdict};
use crate::routing::{Certificate, ObjectName};

/// What is known now. A clone is the same one.
#[derive(Clone, Debug, Default)]
pub struct Outlook(Arc<Mutex<Known>>);

/// A moment of it.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// `None`: none has been published yet.
    pub table: Option<TableState>,
    /// Whether this replica writes the status of routes.
    pub leads: bool,
    /// The replica that does; `None`: none is known to.
    pub leader: Option<String>,
    /// By what is watched, such as `Service` or `Service/chat`; in a folder, by kind.
    pub views: BTreeMap<String, View>,
    /// When each certificate in use expires, in seconds since 1970, by its Secret.
    pub certificates: BTreeMap<ObjectName, i64>,
    /// When the keys of session tickets were last rotated, in seconds since 1970; `None`: replicas share none.
    pub ticket_keys: Option<i64>,
}

/// The published table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableState {
    /// How many this process has published.
    pub generation: u64,
    /// The same in two replicas of one release that route alike. Endpoints are not in it, which come and go by the second.
    pub digest: u64,
    pub published: SystemTime,
    pub routes: usize,
    /// Of them, those that are not served.
    pub rejected: usize,
}

/// How one kind of object is heard of.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// When something was last said about it; `None`: never.
    pub heard: Option<Instant>,
    /// The resourceVersion that the view includes; 0: there are none, or they may not be read.
    pub version: Option<u64>,
    /// Why it cannot be asked for now.
    pub failure: Option<String>,
}

impl Outlook {
    /// What is known at this moment.
    #[must_use]
    pub fn now(&self) -> Known {
        self.with(|known| known.clone())
    }

    pub(super) fn with<T>(&self, with: impl FnOnce(&mut Known) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Something was said about `what`.
    pub(super) fn heard(&self, what: &str, version: Option<u64>) {
        self.with(|known| {
            let view = known.views.entry(what.to_owned()).or_default();
            view.heard = Some(Instant::now());
            view.version = version.or(view.version);
            view.failure = None;
        });
    }

    /// It could not be asked for.
    pub(super) fn failed(&self, what: &str, failure: String) {
        self.with(|known| known.views.entry(what.to_owned()).or_default().failure = Some(failure));
    }
}

/// The digest of a table: of what each route says, and what became of it. What has not changed is not read again.
#[derive(Debug, Default)]
pub(super) struct Digests(BTreeMap<ObjectName, Digested>);

#[derive(Debug)]
struct Digested {
    route: Arc<Route>,
    verdict: Arc<Verdict>,
    digest: u64,
}

impl Digests {
    /// Takes in what there is now, in place of what there was.
    pub(super) fn take(&mut self, all: &[Judged]) {
        let mut now = BTreeMap::new();
        for Judged { route, verdict } in all {
            let before = self.0.remove(&route.name);
            let same = before.filter(|before| Arc::ptr_eq(&before.route, route) && Arc::ptr_eq(&before.verdict, verdict));
            let digested = same.unwrap_or_else(|| Digested {
                route: Arc::clone(route),
                verdict: Arc::clone(verdict),
                digest: of_route(route, verdict),
            });
            now.insert(route.name.clone(), digested);
        }
        self.0 = now;
    }

    /// Of everything.
    pub(super) fn digest<'a>(&self, defaults: &Defaults, certificates: impl Iterator<Item = &'a Arc<Certificate>>) -> u64 {
        let routes = self.0.values().map(|digested| digested.digest);
        let certificates = certificates.map(|certificate| {
            let secret = certificate.secret();
            let expires = certificate.expires().to_string();
            short(&[secret.namespace.as_bytes(), secret.name.as_bytes(), expires.as_bytes()])
        });
        let defaults = short(&[format!("{defaults:?}").as_bytes()]);
        routes.chain(certificates).fold(defaults, |sum, digest| sum ^ digest)
    }
}

fn of_route(route: &Route, verdict: &Verdict) -> u64 {
    let spec = serde_json::to_vec(&route.spec).unwrap_or_default();
    let conditions = verdict.conditions().into_iter().map(|condition| {
        let (kind, status, reason) = (condition.kind, condition.status, condition.reason);
        format!("{kind}={status} {reason} {}", condition.message)
    });
    let conditions = conditions.collect::<Vec<_>>().join("\n");
    short(&[
        route.name.namespace.as_bytes(),
        route.name.name.as_bytes(),
        &route.created.to_be_bytes(),
        &spec,
        conditions.as_bytes(),
    ])
}

fn short(parts: &[&[u8]]) -> u64 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize();
    digest.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::WebSocketRouteSpec;

    fn route(name: &str, host: &str) -> Judged {
        let name = ObjectName {
            namespace: "chat".into(),
            name: name.into(),
        };
        let spec = WebSocketRouteSpec {
            hostnames: vec![host.to_owned()],
            ..WebSocketRouteSpec::default()
        };
        let route = Route {
            name: name.clone(),
            created: 7,
            generation: Some(1),
            spec,
            unreadable: Vec::new(),
            origin: None,
        };
        let verdict = Verdict {
            route: name,
            generation: Some(1),
            rejected: Vec::new(),
            unresolved: Vec::new(),
            shadowed: Vec::new(),
        };
        Judged {
            route: Arc::new(route),
            verdict: Arc::new(verdict),
        }
    }

    fn digest(digests: &mut Digests, routes: &[Judged]) -> u64 {
        digests.take(routes);
        digests.digest(&Defaults::default(), std::iter::empty())
    }

    #[test]
    fn tables_of_the_same_routes_have_one_digest_however_they_came_about() {
        let mut one = Digests::default();
        let before = digest(&mut one, &[route("a", "a.example"), route("b", "b.example")]);
        assert_ne!(digest(&mut one, &[route("a", "a.example"), route("b", "c.example")]), before);
        assert_ne!(digest(&mut one, &[route("a", "a.example")]), before);
        let back = digest(&mut one, &[route("a", "a.example"), route("b", "b.example")]);
        assert_eq!(back, before);
        assert_eq!(
            digest(&mut Digests::default(), &[route("b", "b.example"), route("a", "a.example")]),
            before
        );
    }

    #[test]
    fn what_is_heard_again_fails_no_longer() {
        let outlook = Outlook::default();
        outlook.failed("Service", "silent".to_owned());
        let view = outlook.now().views["Service"].clone();
        assert!(view.heard.is_none() && view.failure.is_some());
        outlook.heard("Service", Some(7));
        outlook.heard("Service", None);
        let view = outlook.now().views["Service"].clone();
        assert!(view.heard.is_some() && view.failure.is_none() && view.version == Some(7));
    }
}
