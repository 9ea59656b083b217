//! The control plane: objects in, one published [`Snapshot`](crate::routing::Snapshot) out.
//!
//! `app` starts it with a [`Source`]: a folder, a cluster, or one endpoint. A source becomes a stream of [`Event`](object::Event)s; the [`Index`] takes them in;
//! [`build`] makes a table and verdicts of it; the table is published. A change of endpoints needs no new table: the index
//! swaps the Service's set. It never serves a connection and never waits for one.

mod authorities;
mod backend_tls;
mod build;
mod certificates;
mod cluster;
mod compile;
mod convert;
pub mod defaults;
mod endpoints;
mod index;
mod judged;
mod lease;
pub mod manifests;
pub mod metrics;
pub mod object;
mod outlook;
mod path;
pub mod policy;
mod publish;
mod resolve;
mod schema;
mod sidecar;
mod single;
mod status;
mod tickets;
mod verdict;
mod versions;
mod watch;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use prometheus::Registry;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until},
};

pub use build::{Built, build};
pub use cluster::{Access, AccessError, Cluster, ListError, Listing, list};
pub use index::{Change, Index, Settings};
pub use judged::{Judged, Judgement, Judgements};
pub use lease::{InvalidTiming, Timing};
pub use outlook::{Known, Outlook, TableState, View};
pub use path::{Fault, FieldPath, Step};
pub use resolve::lookup;
pub use sidecar::PolicySource;
pub use single::{InvalidTarget, Target};
pub use verdict::{Condition, Finding, Reason, Verdict};

use crate::{
    api::WebSocketRouteSpec,
    drain::{self, Blocker},
    readiness::Guard,
    routing::{ObjectName, Published, Tickets, health::Ejection},
};
use cluster::{Read, Session};
use defaults::{Defaults, InvalidDefaults};
use manifests::Follower;
use metrics::Metrics;
use object::Event;
use publish::Publisher;
use resolve::Resolver;
use sidecar::Policies;
use versions::Scope;
use watch::News;

/// Where routes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder of manifests, or one file of them; followed.
    Folder(PathBuf),
    /// One endpoint: every host and path goes there.
    Endpoint {
        /// As `HOST:PORT`.
        target: String,
        /// `None`: the defaults hold.
        policies: Option<Box<PolicySource>>,
    },
    /// The objects of a cluster; followed.
    Cluster(Box<Cluster>),
}

/// How routes are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Routes of other classes are ignored.
    pub class: String,
    /// Whether routes of every namespace may share a hostname.
    pub share_hosts: bool,
    /// The Secret whose certificate hosts without one of their own show.
    pub default_certificate: Option<ObjectName>,
    /// The Secret with the keys of session tickets.
    pub ticket_secret: Option<ObjectName>,
    /// Whether anybody listens for TLS.
    pub serves_tls: bool,
    /// The file that says what holds for routes that say nothing; followed.
    pub defaults: Option<PathBuf>,
}

/// Why the control plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("--manifests {}: {error}", folder.display())]
    Folder { folder: PathBuf, error: io::Error },
    #[error("--to {0}")]
    Target(#[from] InvalidTarget),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Defaults(#[from] InvalidDefaults),
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// What a source says.
#[derive(Debug)]
enum Message {
    /// Changes that belong together.
    Events(Vec<Event>),
    /// Everything that was there at the start has been said.
    Synced,
    /// So many things could not be read.
    Trouble(usize),
    /// The defaults of all routes are others now.
    Defaults(Defaults),
    /// Something was heard from the API server.
    Cluster(Scope, Box<News<Read>>),
}

impl Source {
    /// Checks what can be checked before anything is bound.
    ///
    /// # Errors
    /// When the folder or the credentials cannot be read, or the endpoint is none.
    pub fn check(&self) -> Result<(), StartError> {
        match self {
            Self::Folder(folder) => manifests::probe(folder).map_err(|error| StartError::Folder {
                folder: folder.clone(),
                error,
            }),
            Self::Endpoint { target, policies } => {
                target.parse::<Target>()?;
                match policies.as_ref().and_then(|policies| policies.file.clone()) {
                    Some(file) => Self::Folder(file).check(),
                    None => Ok(()),
                }
            }
            Self::Cluster(cluster) => Ok(cluster.access.check()?),
        }
    }
}

/// What a control plane is given by whoever starts it.
#[derive(Debug)]
pub struct Wiring {
    /// Where tables are published.
    pub published: Published,
    /// Where it is put what became of each route.
    pub judgements: Judgements,
    /// Where the keys of session tickets are put.
    pub tickets: Tickets,
    pub registry: Registry,
    /// Told what the control plane knows of itself.
    pub outlook: Outlook,
    /// Endpoints that the proxy has ejected.
    pub ejections: mpsc::Receiver<Ejection>,
    /// Dropped with the first table.
    pub synced: Guard,
    /// Files are to be read again.
    pub reload: Arc<Notify>,
    /// When it closes, this replica gives up the lead and is counted no longer; then the blocker is dropped.
    pub retire: (drain::Watch, Blocker),
}

/// Starts reading the source, and returns what must run for as long as the process does: it publishes the table, for the
/// first time when everything that is there has been read.
///
/// # Errors
/// When the source cannot be read, or the registry has these metrics already.
pub async fn start(
    source: &Source,
    options: Options,
    wiring: Wiring,
) -> Result<impl Future<Output = ()> + Send + use<>, StartError> {
    source.check()?;
    let metrics = Metrics::new(&wiring.registry, wiring.outlook)?;
    let (out, messages) = mpsc::channel(MESSAGES);
    let defaults = options.defaults.as_deref().map_or(Ok(Defaults::default()), Defaults::read)?;
    let defaults_file = options
        .defaults
        .map(|file| defaults::follow(file, defaults.clone(), out.clone()));
    let feed = match source {
        Source::Folder(folder) => {
            let follower = manifests::follow(folder.clone(), out);
            Feed::Folder(follower.map_err(|error| StartError::Folder {
                folder: folder.clone(),
                error,
            })?)
        }
        Source::Endpoint { target, policies } => Feed::Endpoint {
            target: target.parse::<Target>()?,
            policies: match policies {
                Some(source) => Some(Box::new(Policies::follow(source, &options.class, &out).await?)),
                None => None,
            },
            _open: out,
        },
        Source::Cluster(cluster) => {
            let tickets = options.ticket_secret.clone().filter(|_| options.serves_tls);
            let tickets = tickets.map(|secret| (secret, Tickets::clone(&wiring.tickets)));
            let session = Session::start(
                cluster,
                &options.class,
                out,
                &metrics,
                tickets,
                wiring.ejections,
                wiring.retire,
            );
            Feed::Cluster(Box::new(session.await?))
        }
    };
    if let Feed::Cluster(session) = &feed {
        wiring.judgements.in_cluster(Arc::clone(session.ledger()));
    }
    let settings = Settings {
        class: options.class,
        share_hosts: options.share_hosts,
        external_names: !matches!(feed, Feed::Cluster(_)),
        default_certificate: options.default_certificate,
        ticket_secret: options.ticket_secret,
        defaults,
    };
    let plane = Plane {
        index: Index::new(settings),
        publisher: Publisher::new(wiring.published, wiring.judgements, metrics, options.serves_tls),
        tickets: wiring.tickets,
        feed,
        defaults_file,
        due: None,
        expiry: None,
        is_synced: false,
        synced: Some(wiring.synced),
    };
    Ok(plane.run(messages, wiring.reload))
}

/// What must be kept while it is read.
#[derive(Debug)]
enum Feed {
    Folder(Follower),
    Endpoint {
        target: Target,
        policies: Option<Box<Policies>>,
        /// One endpoint never ends: nobody sends, and the channel stays open.
        _open: mpsc::Sender<Message>,
    },
    Cluster(Box<Session>),
}

impl Feed {
    /// Returns when it has failed for good.
    async fn failed(&mut self) {
        match self {
            Self::Cluster(session) => session.failed().await,
            Self::Endpoint {
                policies: Some(policies),
                ..
            } => policies.failed().await,
            Self::Folder(_) | Self::Endpoint { .. } => std::future::pending().await,
        }
    }
}

/// The one owner of the index.
#[derive(Debug)]
struct Plane {
    index: Index,
    publisher: Publisher,
    /// Where the keys of session tickets are put that a folder has.
    tickets: Tickets,
    feed: Feed,
    defaults_file: Option<defaults::Follower>,
    /// When to build.
    due: Option<Instant>,
    /// When the next certificate expires.
    expiry: Option<Instant>,
    is_synced: bool,
    /// Until the first table is published.
    synced: Option<Guard>,
}

impl Plane {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>, reload: Arc<Notify>) {
        let (answers, mut answered) = mpsc::channel(MESSAGES);
        let mut resolver = Resolver::new(answers);
        if let Feed::Endpoint {
            target, policies: None, ..
        } = &self.feed
        {
            let events = target.events(&single::unnamed(), WebSocketRouteSpec::default());
            self.apply(events, &mut resolver);
            self.is_complete(&resolver);
        }
        loop {
            let due = [self.due, self.expiry].into_iter().flatten().min();
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => self.take(message, &mut resolver),
                    None => return, // the source has ended
                },
                Some(answer) = answered.recv() => {
                    if let Some(event) = resolver.take(answer) {
                        self.take(Message::Events(vec![event]), &mut resolver);
                    }
                    if self.synced.is_some() && self.is_synced && resolver.is_settled() {
                        self.due = Some(Instant::now());
                    }
                }
                () = reload.notified() => self.reload(),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.publish(),
                () = self.feed.failed() => return,
            }
        }
    }

    fn reload(&self) {
        if let Some(file) = &self.defaults_file {
            file.reload();
        }
        match &self.feed {
            Feed::Folder(follower) => follower.reload(),
            Feed::Endpoint {
                policies: Some(policies),
                ..
            } => policies.reload(),
            Feed::Endpoint { .. } | Feed::Cluster(_) if self.defaults_file.is_some() => {}
            Feed::Endpoint { .. } | Feed::Cluster(_) => tracing::info!("nothing to reload"),
        }
    }

    fn publish(&mut self) {
        self.due = None;
        let now = jiff::Timestamp::now().as_second();
        self.index.set_now(now);
        self.index.forget_unreferenced();
        self.publisher.publish(&self.index);
        let expires_in = self
            .index
            .next_expiry()
            .map(|expiry| Duration::from_secs(expiry.saturating_sub(now).unsigned_abs()));
        self.expiry = expires_in.map(|wait| Instant::now() + wait.min(LOOK_AT_CLOCK));
        self.synced = None;
        if let Feed::Cluster(session) = &self.feed {
            self.index.forget_secrets(); // a cluster can be asked again, and keys are nobody's business without need
            session.published(&self.publisher, self.index.alarms());
        }
    }

    fn take(&mut self, message: Message, resolver: &mut Resolver) {
        let Some(message) = self.take_policies(message, resolver) else {
            return;
        };
        match message {
            Message::Trouble(count) => self.publisher.metrics().trouble(count),
            Message::Synced => self.is_complete(resolver),
            Message::Events(events) => {
                events.iter().for_each(|event| self.publisher.metrics().event(event));
                self.apply(events, resolver);
            }
            Message::Defaults(defaults) => {
                let change = self.index.set_defaults(defaults);
                self.changed(change, resolver);
            }
            Message::Cluster(scope, news) => {
                let Feed::Cluster(session) = &mut self.feed else { return };
                let events = session.take(&self.index, self.publisher.metrics(), scope, *news);
                let is_complete = session.is_complete();
                self.apply(events, resolver);
                if is_complete && !self.is_synced {
                    self.is_complete(resolver);
                }
                if let (Feed::Cluster(session), None) = (&self.feed, self.due) {
                    session.still_published();
                }
            }
        }
    }

    /// Puts into effect what a folder says of the keys of session tickets. In a cluster their keeper does.
    fn take_ticket_keys(&self) {
        let Some(keys) = self.index.ticket_keys() else { return };
        if self.tickets.load().as_ref() != Some(keys) {
            tracing::info!("--ticket-secret: its keys are in effect");
            self.tickets.store(Some(Arc::clone(keys)));
            self.publisher.metrics().ticket_keys(0);
        }
    }

    /// Takes in what there is to know of the policies of one endpoint. It is served once they are known.
    fn take_policies(&mut self, message: Message, resolver: &mut Resolver) -> Option<Message> {
        let Feed::Endpoint {
            target,
            policies: Some(policies),
            ..
        } = &mut self.feed
        else {
            return Some(message);
        };
        let metrics = self.publisher.metrics();
        let events = match message {
            Message::Events(events) => policies.take_file(target, events),
            Message::Cluster(_, news) => policies.take_cluster(target, metrics, *news),
            Message::Synced => {
                policies.file_was_read();
                Vec::new()
            }
            other => return Some(other),
        };
        let is_known = policies.is_known();
        self.apply(events, resolver);
        if is_known && !self.is_synced {
            self.is_complete(resolver);
        }
        None
    }

    /// Everything that was there at the start is known.
    fn is_complete(&mut self, resolver: &Resolver) {
        self.is_synced = true;
        let secret = self.index.settings().ticket_secret.as_ref();
        if let (Some(secret), None, Feed::Folder(_)) = (secret, self.index.ticket_keys(), &self.feed) {
            tracing::warn!(
                "--ticket-secret: there is no Secret {secret} with keys, of type {}, in the folder; until then a session is \
                 resumed only by the process that began it",
                tickets::SECRET
            );
        }
        // The first table waits for addresses, so that ready means ready; but not for ever.
        let patience = if resolver.is_settled() {
            Duration::ZERO
        } else {
            FIRST_ANSWERS
        };
        self.due = Some(Instant::now() + patience);
    }

    fn apply(&mut self, events: Vec<Event>, resolver: &mut Resolver) {
        self.index.set_now(jiff::Timestamp::now().as_second());
        let mut change = Change::Nothing;
        for event in events {
            change = change.max(self.index.apply(event));
        }
        self.take_ticket_keys();
        self.changed(change, resolver);
    }

    fn changed(&mut self, change: Change, resolver: &mut Resolver) {
        if change == Change::Table {
            resolver.want(self.index.external_hosts());
            let is_lacking = self.index.lacks_secrets();
            if let (true, Feed::Cluster(session)) = (is_lacking, &self.feed) {
                session.read_secrets();
            }
            if self.is_synced {
                // A host is not refused for the moment that reading its Secret takes.
                let due = Instant::now() + if is_lacking { SECRETS } else { DEBOUNCE };
                self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
            }
        }
    }
}

/// Messages that wait before a source does.
const MESSAGES: usize = 64;
/// Changes that come within this time become one table.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// A clock may be set: what expires later than this is looked at again.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(24 * 3600);
/// How long a table may wait for Secrets that it newly needs.
const SECRETS: Duration = Duration::from_secs(2);
/// How long the first table may wait for names to be resolved.
const FIRST_ANSWERS: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use http::HeaderMap;

    use super::*;
    use crate::{
        readiness::Readiness,
        routing::{Handshake, Snapshot},
    };

    /// A running control plane.
    struct Running {
        published: Published,
        reload: Arc<Notify>,
        _task: tokio::task::JoinHandle<()>,
    }

    fn endpoint(target: &str) -> Source {
        Source::Endpoint {
            target: target.to_owned(),
            policies: None,
        }
    }

    async fn started(source: Source) -> Running {
        let published: Published = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        let reload: Arc<Notify> = Arc::default();
        let readiness = Readiness::default();
        let options = Options {
            class: "holdfast".to_owned(),
            share_hosts: false,
            default_certificate: None,
            ticket_secret: None,
            serves_tls: false,
            defaults: None,
        };
        let (_trigger, watch, blocker) = drain::new();
        let wiring = Wiring {
            judgements: Judgements::default(),
            published: Arc::clone(&published),
            tickets: Tickets::default(),
            ejections: mpsc::channel(1).1,
            outlook: Outlook::default(),
            registry: Registry::new(),
            synced: readiness.wait_for("routes"),
            reload: Arc::clone(&reload),
            retire: (watch, blocker),
        };
        let plane = start(&source, options, wiring).await.unwrap();
        let task = tokio::spawn(plane);
        until(|| readiness.missing().is_empty()).await;
        Running {
            published,
            reload,
            _task: task,
        }
    }

    async fn until(condition: impl Fn() -> bool) {
        let met = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), met).await.unwrap();
    }

    fn endpoints(published: &Published, path: &str) -> Option<Vec<String>> {
        let snapshot = published.load();
        let handshake = Handshake {
            host: "localhost",
            path,
            query: None,
            headers: &HeaderMap::new(),
        };
        let rule = snapshot.table.find(&handshake)?.rule;
        let set = rule.backends.first()?.endpoints.as_ref()?.load();
        Some(
            set.usable()
                .iter()
                .map(|endpoint| endpoint.addresses()[0].to_string())
                .collect(),
        )
    }

    #[tokio::test]
    async fn the_quickstart_is_served() {
        let Running { published, .. } = &started(Source::Folder("examples/quickstart".into())).await;
        assert_eq!(published.load().generation, 1);
        assert_eq!(endpoints(published, "/other"), None);
        assert_eq!(
            endpoints(published, "/echo"),
            Some(vec!["127.0.0.1:9001".to_owned(), "127.0.0.1:9002".to_owned()])
        );
    }

    #[tokio::test]
    async fn one_endpoint_is_served_without_any_file() {
        let Running { published, .. } = &started(endpoint("127.0.0.1:3000")).await;
        assert_eq!(endpoints(published, "/any/path"), Some(vec!["127.0.0.1:3000".to_owned()]));
    }

    fn route(path: &str) -> String {
        format!(
            "apiVersion: holdfast.dev/v1alpha1\nkind: WebSocketRoute\nmetadata: {{name: a}}\n\
             spec: {{rules: [{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: a, port: 80}}]}}]}}\n"
        )
    }

    fn service(port: u16) -> String {
        let labels = "labels: {kubernetes.io/service-name: a}";
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: [{{port: 80}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a, {labels}}}\n\
             addressType: IPv4\nports: [{{port: {port}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n"
        )
    }

    #[tokio::test]
    async fn edits_of_a_folder_become_tables_and_those_of_endpoints_do_not_even_need_one() {
        let folder = std::env::temp_dir().join(format!("holdfast-control-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let write = |file: &str, text: &str| std::fs::write(folder.join(file), text).unwrap();
        write("route.yaml", &route("/one"));
        write("service.yaml", &service(9001));
        let running = started(Source::Folder(folder.clone())).await;
        let at = |path: &str| endpoints(&running.published, path);
        let to = |port: u16| Some(vec![format!("127.0.0.1:{port}")]);
        assert_eq!(at("/one"), to(9001));

        write("route.yaml", &route("/two"));
        until(|| at("/two") == to(9001)).await;
        assert_eq!(at("/one"), None);

        let generation = running.published.load().generation;
        write("next", &service(9002));
        std::fs::rename(folder.join("next"), folder.join("service.yaml")).unwrap();
        until(|| at("/two") == to(9002)).await;
        assert_eq!(running.published.load().generation, generation);

        write("route.yaml", "kind: [");
        write("other.yaml", &route("/other").replace("{name: a}\n", "{name: other}\n"));
        until(|| at("/other").is_some()).await;
        assert_eq!(at("/two"), to(9002), "a broken file keeps its last good state");

        std::fs::remove_file(folder.join("route.yaml")).unwrap();
        running.reload.notify_one();
        until(|| at("/two").is_none()).await;
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_source_that_cannot_be_read_is_said_with_its_flag() {
        let folder = Source::Folder("/nowhere".into()).check().unwrap_err().to_string();
        assert!(folder.starts_with("--manifests /nowhere: "), "{folder}");
        let target = endpoint("localhost").check().unwrap_err().to_string();
        assert!(target.starts_with("--to localhost: the port is missing"), "{target}");
    }
}
