//! `--to HOST:PORT --route NAMESPACE/NAME`: the policies of one route for the one endpoint that this process stands before.
//!
//! They come from a file, which is there before anything else is, or from the API server, whose word counts once it has been
//! heard. What the route matches and where it goes is of no interest here: whoever sends connections has looked at that.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Access, Message, StartError, Target,
    cluster::{self, Read},
    manifests::{self, Follower},
    metrics::Metrics,
    object::{Event, Key, Object, ObjectKind, Route},
    watch::{Failure, News},
};
use crate::{api::WebSocketRouteSpec, routing::ObjectName};

/// Where the policies of an endpoint come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySource {
    pub route: ObjectName,
    /// A file or folder with the route in it; followed.
    pub file: Option<PathBuf>,
    /// `None`: nobody but the file is asked.
    pub access: Option<Access>,
    /// When the route is listed again although nothing seems wrong, give or take a third.
    pub relist: Duration,
}

/// The policies, followed.
#[derive(Debug)]
pub(super) struct Policies {
    route: ObjectName,
    of_file: Option<Arc<Route>>,
    /// `None`: the API server has not been heard. `Some(None)`: it has no such route.
    of_cluster: Option<Option<Arc<Route>>>,
    /// What was said of it in the log.
    trouble: Option<Failure>,
    follower: Option<Follower>,
    tasks: JoinSet<()>,
}

impl Policies {
    /// Starts to follow.
    pub(super) async fn follow(source: &PolicySource, class: &str, out: &mpsc::Sender<Message>) -> Result<Self, StartError> {
        let follower = source.file.as_ref().map(|file| {
            manifests::follow(file.clone(), out.clone()).map_err(|error| StartError::Folder {
                folder: file.clone(),
                error,
            })
        });
        let mut tasks = JoinSet::new();
        if let Some(access) = &source.access {
            match cluster::follow_route(access, &source.route, class, source.relist, out.clone()).await {
                Ok(following) => drop(tasks.spawn(following)),
                Err(error) if source.file.is_some() => tracing::warn!(%error, "the policies of the file stay in effect"),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self {
            route: source.route.clone(),
            of_file: None,
            of_cluster: None,
            trouble: None,
            follower: follower.transpose()?,
            tasks,
        })
    }

    pub(super) fn reload(&self) {
        match &self.follower {
            Some(follower) => follower.reload(),
            None => tracing::info!("nothing to reload"),
        }
    }

    /// Returns when a part has ended that must not.
    pub(super) async fn failed(&mut self) {
        match self.tasks.join_next().await {
            Some(_) => {}
            None => std::future::pending().await,
        }
    }

    /// Whether anybody has said anything of them: that there are none, too, if it is the API server.
    pub(super) fn is_known(&self) -> bool {
        self.of_file.is_some() || self.of_cluster.is_some()
    }

    /// The file has been read for the first time.
    pub(super) fn file_was_read(&self) {
        if self.of_file.is_none() {
            tracing::warn!(route = %self.route, "--manifests has no such WebSocketRoute; nothing is served until its policies are known");
        }
    }

    /// Takes in what a file says. What it means for the endpoint is returned, and what is not of files as it is.
    pub(super) fn take_file(&mut self, target: &Target, events: Vec<Event>) -> Vec<Event> {
        let mut taken = Vec::new();
        for event in events {
            match event {
                Event::Apply(Object::Route(route)) if route.name == self.route => self.of_file = Some(route),
                Event::Delete(Key {
                    kind: ObjectKind::WebSocketRoute,
                    name,
                }) if name == self.route => self.of_file = None,
                Event::Resolved { .. } => taken.push(event),
                Event::Apply(_) | Event::Delete(_) => {}
            }
        }
        if self.is_known() {
            taken.extend(self.events(target));
        }
        taken
    }

    /// Takes in what the API server says.
    pub(super) fn take_cluster(&mut self, target: &Target, metrics: &Metrics, news: News<Read>) -> Vec<Event> {
        let version = news.version();
        let told = match news {
            News::Failed(failure) => {
                metrics.watch_failed(ObjectKind::WebSocketRoute);
                metrics
                    .outlook()
                    .failed(ObjectKind::WebSocketRoute.word(), failure.to_string());
                if self.trouble.as_ref() != Some(&failure) {
                    tracing::warn!(route = %self.route, %failure, "the API server cannot be asked; what is known stays in effect");
                    self.trouble = Some(failure);
                }
                return Vec::new();
            }
            News::Heard(_) => None,
            News::All { objects, .. } => Some(objects.into_iter().find(|read| read.key.name == self.route)),
            News::Changed { object, .. } => Some(Some(object)),
            News::Gone { .. } => Some(None),
        };
        metrics.heard(ObjectKind::WebSocketRoute);
        metrics.outlook().heard(ObjectKind::WebSocketRoute.word(), version);
        if self.trouble.take().is_some() {
            tracing::info!(route = %self.route, "the API server answers again");
        }
        let Some(found) = told else {
            return Vec::new();
        };
        self.of_cluster = Some(match found {
            None => None,
            Some(Read {
                object: Some(Object::Route(route)),
                ..
            }) if route.unreadable.is_empty() => Some(route),
            Some(Read { complaint, .. }) => {
                let complaint = complaint
                    .unwrap_or_else(|| "it is of another class, or of a version that this build does not know".to_owned());
                tracing::warn!(route = %self.route, "{complaint}; the policies that are known stay in effect");
                self.of_cluster.take().flatten().or_else(|| self.of_file.clone())
            }
        });
        if self.of_cluster == Some(None) {
            tracing::warn!(route = %self.route, "the cluster has no such WebSocketRoute; the defaults hold until it has");
        }
        self.events(target)
    }

    /// The endpoint as it is to be served now.
    pub(super) fn events(&self, target: &Target) -> Vec<Event> {
        let route = self.of_cluster.clone().unwrap_or_else(|| self.of_file.clone());
        let spec = route.as_deref().map(|route| policies(&route.spec)).unwrap_or_default();
        target.events(&self.route, spec)
    }
}

/// What of a spec concerns the one endpoint: how its connections are treated.
fn policies(spec: &WebSocketRouteSpec) -> WebSocketRouteSpec {
    WebSocketRouteSpec {
        class_name: None,
        hostnames: Vec::new(),
        tls: Vec::new(),
        rules: Vec::new(),
        session_persistence: None,
        load_balancing: None,
        backend_tls: None,
        retry: None,
        health: None,
        ..spec.clone()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::control::manifests::objects;

    fn name() -> ObjectName {
        ObjectName {
            namespace: "chat".into(),
            name: "chat".into(),
        }
    }

    fn route(idle: &str) -> Object {
        let text = format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: WebSocketRoute\nmetadata: {{name: chat, namespace: chat}}\n\
             spec:\n  hostnames: [chat.example.com]\n  timeouts: {{idle: {idle}}}\n  sessionPersistence: {{type: Cookie}}\n  \
             rules: [{{matches: [{{path: {{value: /chat}}}}], backendRefs: [{{name: chat, port: 80}}]}}]\n"
        );
        objects(&text).remove(0)
    }

    fn read(object: Option<Object>) -> Read {
        Read {
            key: Key {
                kind: ObjectKind::WebSocketRoute,
                name: name(),
            },
            complaint: object.is_none().then(|| "spec.rules is required".to_owned()),
            object,
            state: None,
        }
    }

    fn all(objects: Vec<Read>) -> News<Read> {
        News::All { objects, version: 1 }
    }

    /// The idle timeout that is in effect; the rest is as it must be.
    fn idle(events: &[Event]) -> Option<String> {
        let route = events.iter().find_map(|event| match event {
            Event::Apply(Object::Route(route)) => Some(route),
            _ => None,
        })?;
        assert_eq!(route.name, name());
        let spec = &route.spec;
        assert!(spec.hostnames.is_empty() && spec.session_persistence.is_none() && spec.rules.len() == 1);
        assert!(spec.rules[0].matches.is_empty());
        spec.timeouts.as_ref()?.idle.map(|idle| idle.to_string())
    }

    #[tokio::test]
    async fn the_file_counts_until_the_api_server_has_been_heard() {
        let target: Target = "127.0.0.1:9000".parse().unwrap();
        let metrics = Metrics::new(&Registry::new(), crate::control::Outlook::default()).unwrap();
        let source = PolicySource {
            route: name(),
            file: None,
            access: None,
            relist: Duration::from_secs(60),
        };
        let (out, _messages) = mpsc::channel(1);
        let mut policies = Policies::follow(&source, "holdfast", &out).await.unwrap();
        assert_eq!(idle(&policies.events(&target)), None);
        let apply = |idle| vec![Event::Apply(route(idle))];
        assert_eq!(idle(&policies.take_file(&target, apply("1h"))).as_deref(), Some("1h"));

        let take = |policies: &mut Policies, news| policies.take_cluster(&target, &metrics, news);
        assert!(take(&mut policies, News::Failed(Failure::Silent)).is_empty());
        let told = take(&mut policies, all(vec![read(Some(route("2h")))]));
        assert_eq!(idle(&told).as_deref(), Some("2h"));
        assert_eq!(idle(&policies.take_file(&target, apply("3h"))).as_deref(), Some("2h"));
        let broken = News::Changed {
            object: read(None),
            version: 2,
        };
        assert_eq!(
            idle(&take(&mut policies, broken)).as_deref(),
            Some("2h"),
            "what is known stays"
        );
        assert_eq!(idle(&take(&mut policies, all(Vec::new()))), None);
    }
}
