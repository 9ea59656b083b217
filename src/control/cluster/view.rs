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
#[derive(Debug, Default)]
struct Health {
    /// When the API server last said anything about it; `None`: never.
    heard: Option<Instant>,
    failing: Option<Failing>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    /// When that was last written to the log.
    said: Instant,
    /// And what.
    failure: Failure,
}

impl View {
    pub(in crate::control) fn new(scopes: Vec<Scope>, ledger: Arc<Ledger>) -> Self {
        Self {
            reached: Versions::default(),
            health: scopes.iter().map(|scope| (scope.clone(), Health::default())).collect(),
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
            metrics.outlook().failed(&scope.to_string(), failure.to_string());
            self.failed(&scope, failure);
            return Vec::new();
        }
        metrics.heard(scope.kind);
        metrics.outlook().heard(&scope.to_string(), news.version());
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
        // What is new comes first: a Service whose slices were replaced is never without endpoints in between.
        let mut events: Vec<Event> = objects.into_iter().map(|read| self.event(read)).collect();
        events.extend(gone.into_iter().map(Event::Delete));
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

    /// Says so: at first, when something else is the matter, and then now and then.
    fn failed(&mut self, scope: &Scope, failure: Failure) {
        let Some(health) = self.health.get_mut(scope) else { return };
        let now = Instant::now();
        let since = match &health.failing {
            Some(failing) if now < failing.said + failing.pause(&failure) => return,
            Some(failing) => failing.since,
            None => now,
        };
        let hint = match (&failure, scope.kind) {
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
        health.failing = Some(Failing {
            since,
            said: now,
            failure,
        });
    }
}

impl Failing {
    /// How long to say nothing of this failure.
    fn pause(&self, failure: &Failure) -> Duration {
        if failure.is_like(&self.failure) { REMIND } else { CALM }
    }
}

/// How often it is said that something still fails.
const REMIND: Duration = Duration::from_secs(60);
/// How often it may be said that it fails in another way: an API server that starts gives several answers.
const CALM: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::{
        control::{Outlook, Settings, defaults::Defaults, object::Object},
        routing::ObjectName,
    };

    fn scope() -> Scope {
        Scope {
            kind: ObjectKind::EndpointSlice,
            namespace: None,
        }
    }

    fn slice(name: &str) -> Read {
        let name = ObjectName {
            namespace: "chat".into(),
            name: name.into(),
        };
        let slice = crate::control::object::EndpointSlice {
            name: name.clone(),
            service: Some("chat".into()),
            ports: Vec::new(),
            endpoints: Vec::new(),
        };
        Read {
            key: Key {
                kind: ObjectKind::EndpointSlice,
                name,
            },
            object: Some(Object::EndpointSlice(slice)),
            complaint: None,
            state: None,
        }
    }

    #[test]
    fn what_a_list_has_not_is_deleted_after_what_it_has_is_there() {
        let mut index = Index::new(Settings {
            class: "holdfast".to_owned(),
            share_hosts: false,
            external_names: false,
            default_certificate: None,
            ticket_secret: None,
            defaults: Defaults::default(),
        });
        let metrics = Metrics::new(&Registry::new(), Outlook::default()).unwrap();
        let mut view = View::new(vec![scope()], Arc::default());
        let mut list = |names: &[&str]| {
            let objects = names.iter().map(|name| slice(name)).collect();
            let events = view.take(&index, &metrics, scope(), News::All { objects, version: 1 });
            let text = events.iter().map(|event| match event {
                Event::Apply(object) => format!("+{}", object.key().name.name),
                Event::Delete(key) => format!("-{}", key.name.name),
                Event::Resolved { .. } => String::new(),
            });
            let text = text.collect::<Vec<_>>().join(" ");
            for event in events {
                index.apply(event);
            }
            text
        };
        assert_eq!(list(&["a", "b"]), "+a +b");
        assert_eq!(list(&["b", "c"]), "+b +c -a");
    }

    #[test]
    fn a_failure_is_said_again_sooner_if_it_is_another_one() {
        let refused = |code| Failure::Refused {
            code,
            message: "no".to_owned(),
            retry_after: None,
        };
        let failing = Failing {
            since: Instant::now(),
            said: Instant::now(),
            failure: refused(403),
        };
        assert_eq!(failing.pause(&refused(403)), REMIND);
        assert_eq!(failing.pause(&refused(429)), CALM);
        assert_eq!(failing.pause(&Failure::Silent), CALM);
    }
}
