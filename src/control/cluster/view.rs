//! How much of the cluster is known, and how old that is. Turns what is heard into events.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::read::Read;
use crate::control::{
    index::Index,
    metrics::Metrics,
    object::{Event, Key, ObjectKind},
    status::Ledger,
    versions::{Scope, Versions},
    watch::{Failure, News},
};

/// What is known of the cluster.
#[derive(Debug)]
pub(in crate::control) struct View {
    /// Up to where the index includes everything.
    reached: Versions,
    /// What has not been listed yet.
    waiting: BTreeSet<Scope>,
    health: BTreeMap<Scope, Health>,
    /// Told of the state of each route.
    ledger: Arc<Ledger>,
}

/// Whether something is being heard.
#[derive(Clone, Copy, Debug)]
struct Health {
    /// When the API server last said anything about it; `None`: never.
    heard: Option<Instant>,
    failing: Option<Failing>,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    since: Instant,
    /// When that was last written to the log.
    said: Instant,
}

impl View {
    pub(in crate::control) fn new(scopes: Vec<Scope>, ledger: Arc<Ledger>) -> Self {
        let health = Health {
            heard: None,
            failing: None,
        };
        Self {
            reached: Versions::default(),
            health: scopes.iter().map(|scope| (scope.clone(), health)).collect(),
            waiting: scopes.into_iter().collect(),
            ledger,
        }
    }

    /// Whether everything that there is has been listed once.
    pub(in crate::control) fn is_complete(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Up to where the index includes everything.
    pub(in crate::control) fn reached(&self) -> &Versions {
        &self.reached
    }

    /// Takes in what was heard about `scope`; what it means for the index is returned.
    pub(in crate::control) fn take(&mut self, index: &Index, metrics: &Metrics, scope: Scope, news: News<Read>) -> Vec<Event> {
        if let News::Failed(failure) = news {
            metrics.watch_failed(scope.kind);
            self.failed(&scope, &failure);
            return Vec::new();
        }
        metrics.heard(scope.kind);
        self.heard(&scope);
        match news {
            News::All { objects, version } => {
                let events = self.all(index, &scope, objects);
                self.waiting.remove(&scope);
                self.reached.set(scope, version);
                events
            }
            News::Changed { object, version } => {
                self.reached.set(scope, version);
                vec![self.event(object)]
            }
            News::Gone { object, version } => {
                self.reached.set(scope, version);
                if object.key.kind == ObjectKind::WebSocketRoute {
                    self.ledger.gone(&object.key.name);
                }
                vec![Event::Delete(object.key)]
            }
            News::Heard(version) => {
                if let Some(version) = version {
                    self.reached.set(scope, version);
                }
                Vec::new()
            }
            News::Failed(_) => Vec::new(),
        }
    }

    /// Everything that is there now: what was known and is not among it is gone.
    fn all(&mut self, index: &Index, scope: &Scope, objects: Vec<Read>) -> Vec<Event> {
        let there: HashSet<&Key> = objects.iter().map(|read| &read.key).collect();
        let known = index.names(scope.kind).filter(|name| {
            let namespace = scope.namespace.as_ref();
            namespace.is_none_or(|namespace| *namespace == name.namespace)
        });
        let gone: Vec<Key> = known
            .map(|name| Key {
                kind: scope.kind,
                name: name.clone(),
            })
            .filter(|key| !there.contains(key))
            .collect();
        if scope.kind == ObjectKind::WebSocketRoute {
            gone.iter().for_each(|key| self.ledger.gone(&key.name));
        }
        let mut events: Vec<Event> = gone.into_iter().map(Event::Delete).collect();
        events.extend(objects.into_iter().map(|read| self.event(read)));
        events
    }

    fn event(&self, read: Read) -> Event {
        if let Some(complaint) = read.complaint {
            tracing::warn!("{}: cannot be used: {complaint}", read.key);
        }
        if read.key.kind == ObjectKind::WebSocketRoute {
            match read.state {
                Some(state) => self.ledger.seen(&read.key.name, state),
                None => self.ledger.gone(&read.key.name),
            }
        }
        read.object.map_or(Event::Delete(read.key), Event::Apply)
    }

    fn heard(&mut self, scope: &Scope) {
        let Some(health) = self.health.get_mut(scope) else { return };
        health.heard = Some(Instant::now());
        if let Some(failing) = health.failing.take() {
            tracing::info!("{scope}: heard of again after {:.1?}", failing.since.elapsed());
        }
    }

    /// Says so, at first and then now and then.
    fn failed(&mut self, scope: &Scope, failure: &Failure) {
        let Some(health) = self.health.get_mut(scope) else { return };
        let now = Instant::now();
        let is_new = health.failing.is_none();
        let failing = health.failing.get_or_insert(Failing { since: now, said: now });
        if !is_new && failing.said.elapsed() < REMIND {
            return;
        }
        failing.said = now;
        let hint = match (failure, scope.kind) {
            (Failure::Unknown, ObjectKind::WebSocketRoute) => "; install the definition: holdfast crd | kubectl apply -f -",
            (Failure::Refused { code: 403, .. }, _) => "; see docs/kubernetes.md for the rights that are needed",
            _ => "",
        };
        match health.heard {
            Some(heard) => tracing::warn!(
                "{scope}: {failure}{hint}; what was known {:.0?} ago stays in effect",
                heard.elapsed()
            ),
            None => tracing::warn!("{scope}: {failure}{hint}; not ready before it has been listed"),
        }
    }
}

/// How often it is said that something still fails.
const REMIND: Duration = Duration::from_secs(60);
