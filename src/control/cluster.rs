//! A cluster as the source of routes: reaches the API server, follows every kind of object there, and takes what is heard
//! into events for the index. Never waits for the API server with anything that is already known.

mod access;
mod list;
mod read;
mod view;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, core::ObjectMeta};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};

pub use access::{Access, AccessError};
pub use list::{ListError, Listing, list};
pub(super) use read::{Read, RouteState};
use view::View;

use super::{
    Message,
    certificates::Alarm,
    convert,
    index::Index,
    lease::{self, Identity, Pod, Timing},
    metrics::Metrics,
    object::{Event, ObjectKind},
    path::FieldPath,
    publish::Publisher,
    status::{self, Ledger, Writer},
    tickets::{self, Keeper},
    versions::{Scope, Versions},
    watch::{News, Target, Watched, follow},
};
use crate::{
    drain::{self, Blocker},
    routing::{ObjectName, Tickets, health::Ejection},
};

/// How routes are read from a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub access: Access,
    /// The namespaces whose objects are looked at; empty: all.
    pub namespaces: Vec<String>,
    /// When everything is listed again although nothing seems wrong, give or take a third.
    pub relist: Duration,
    pub timing: Timing,
    /// This replica's name among those of its class.
    pub replica: String,
    /// Where the Leases of the class are; `None`: where the credentials belong.
    pub lease_namespace: Option<String>,
    /// The uid of the pod that this process runs in.
    pub pod_uid: Option<String>,
}

/// A kind and where an API server has it.
struct Collection {
    kind: ObjectKind,
    /// Group versions, the best one first.
    versions: &'static [&'static str],
    plural: &'static str,
    optional: bool,
    may_be_forbidden: bool,
    label_selector: Option<&'static str>,
    field_selector: Option<&'static str>,
}

impl Collection {
    /// URL paths of the objects in one namespace, or in all.
    fn paths(&self, namespace: Option<&str>) -> Vec<String> {
        let namespace = namespace.map_or_else(String::new, |namespace| format!("namespaces/{namespace}/"));
        let path = |version: &&str| format!("{version}/{namespace}{}", self.plural);
        self.versions.iter().map(path).collect()
    }

    /// The objects in one namespace, or in all, to be followed.
    fn target(&self, client: &Client, namespace: Option<&str>, relist: Duration) -> Target {
        Target {
            client: client.clone(),
            again: Arc::default(),
            paths: self.paths(namespace),
            optional: self.optional,
            may_be_forbidden: self.may_be_forbidden,
            label_selector: self.label_selector.map(str::to_owned),
            field_selector: self.field_selector.map(str::to_owned),
            relist,
        }
    }
}

/// What is followed: each kind in each namespace.
pub(super) fn scopes(namespaces: &[String]) -> Vec<Scope> {
    let namespaces: Vec<Option<Arc<str>>> = match namespaces {
        [] => vec![None],
        named => named.iter().map(|namespace| Some(Arc::from(namespace.as_str()))).collect(),
    };
    let of_kind = |collection: &Collection| {
        let kind = collection.kind;
        namespaces.clone().into_iter().map(move |namespace| Scope { kind, namespace })
    };
    COLLECTIONS.iter().flat_map(of_kind).collect()
}

/// A cluster that is being followed.
#[derive(Debug)]
pub(super) struct Session {
    view: View,
    ledger: Arc<Ledger>,
    /// What must be done about certificates.
    alarms: watch::Sender<Vec<(ObjectName, Alarm)>>,
    /// What this replica's table includes; `None` before the first.
    served: watch::Sender<Option<Versions>>,
    /// Rung when Secrets are to be listed again.
    secrets: Vec<Arc<Notify>>,
    tasks: JoinSet<()>,
    retire: drain::Watch,
}

impl Session {
    /// Starts following everything, and competing for the lead. `out` is told what is heard; the keys of `tickets` are kept in
    /// the Secret of that name; `ejections` are told in Events; `retire` ends the part in the lead, and the blocker is dropped when that has been given back.
    pub(super) async fn start(
        cluster: &Cluster,
        class: &str,
        out: mpsc::Sender<Message>,
        metrics: &Metrics,
        tickets: Option<(ObjectName, Tickets)>,
        ejections: mpsc::Receiver<Ejection>,
        (retire, blocker): (drain::Watch, Blocker),
    ) -> Result<Self, AccessError> {
        let client = cluster.access.client().await?;
        let identity = Arc::new(cluster.identity(class, client.default_namespace()));
        let ledger = Arc::new(Ledger::default());
        let mut tasks = JoinSet::new();
        let secrets = follow_all(&client, cluster, &Arc::from(class), &out, &mut tasks);

        let (served, serving) = watch::channel(None);
        let (alarms, alarmed) = watch::channel(Vec::new());
        let (lead, leading) = watch::channel(false);
        let leases: Api<Lease> = Api::namespaced(client.clone(), &identity.namespace);
        let candidate = lease::elect(
            leases.clone(),
            Arc::clone(&identity),
            cluster.timing,
            lead,
            metrics.outlook().clone(),
            retire.clone(),
        );
        let candidate = once_serving(serving.clone(), retire.clone(), candidate);
        let notice = lease::announce(leases, Arc::clone(&identity), serving.clone(), retire.clone());
        tasks.spawn(async move {
            tokio::join!(candidate, notice);
            drop(blocker);
        });
        let (told, leases) = mpsc::channel(LEASES);
        tasks.spawn(follow(lease_target(&client, cluster, &identity), lease_of, |news| news, told));
        if let Some((secret, tickets)) = tickets {
            let (told, news) = mpsc::channel(LEASES);
            let target = tickets::target(&client, &secret, cluster.relist);
            tasks.spawn(follow(target, tickets::watched, |news| news, told));
            let keeper = Keeper {
                client: client.clone(),
                secret,
                leading: leading.clone(),
                tickets,
                metrics: metrics.clone(),
            };
            tasks.spawn(tickets::keep(keeper, news));
        }
        tasks.spawn(status::write(Writer {
            client,
            ledger: Arc::clone(&ledger),
            replica: identity.replica.clone(),
            served: serving,
            alarms: alarmed,
            ejections,
            leading: leading.clone(),
            leases,
        }));
        tasks.spawn(count(leading, metrics.clone()));
        Ok(Self {
            view: View::new(scopes(&cluster.namespaces), Arc::clone(&ledger)),
            ledger,
            alarms,
            served,
            secrets,
            tasks,
            retire,
        })
    }

    /// What the API server holds of routes.
    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Takes in what was heard; what it means for the index is returned.
    pub(super) fn take(&mut self, index: &Index, metrics: &Metrics, scope: Scope, news: News<Read>) -> Vec<Event> {
        self.view.take(index, metrics, scope, news)
    }

    /// Whether everything that there is has been listed once.
    pub(super) fn is_complete(&self) -> bool {
        self.view.is_complete()
    }

    /// A table has been published that includes everything that was heard.
    pub(super) fn published(&self, publisher: &Publisher, alarms: Vec<(ObjectName, Alarm)>) {
        self.alarms
            .send_if_modified(|known| std::mem::replace(known, alarms) != *known);
        self.ledger.judged(publisher.judged());
        self.served.send_replace(Some(self.view.reached().clone()));
    }

    /// The published table includes everything that was heard, too. Nobody waits for that: it is said when there is more.
    pub(super) fn still_published(&self) {
        self.served.send_if_modified(|served| {
            if served.is_some() {
                *served = Some(self.view.reached().clone());
            }
            false
        });
    }

    /// Lists Secrets again.
    pub(super) fn read_secrets(&self) {
        self.secrets.iter().for_each(|bell| bell.notify_one());
    }

    /// Returns when a part has ended that must not.
    pub(super) async fn failed(&mut self) {
        loop {
            match self.tasks.join_next().await {
                Some(_) if self.retire.is_closing() => {}
                Some(_) => return,
                None => std::future::pending().await,
            }
        }
    }
}

impl Cluster {
    fn identity(&self, class: &str, default_namespace: &str) -> Identity {
        Identity {
            class: class.to_owned(),
            replica: self.replica.clone(),
            namespace: self.lease_namespace.clone().unwrap_or_else(|| default_namespace.to_owned()),
            pod: self.pod_uid.clone().map(|uid| Pod {
                name: self.replica.clone(),
                uid,
            }),
        }
    }
}

/// Competes for the lead from the first table on: who knows nothing yet, and perhaps never will, must not keep the lead from
/// somebody who does.
async fn once_serving(
    mut serving: watch::Receiver<Option<Versions>>,
    mut retire: drain::Watch,
    candidate: impl Future<Output = ()>,
) {
    let is_serving = async {
        let _ = serving.wait_for(Option::is_some).await;
    };
    tokio::select! {
        biased;
        () = retire.closing() => {}
        () = is_serving => candidate.await,
    }
}

/// Returns what has Secrets listed again.
fn follow_all(
    client: &Client,
    cluster: &Cluster,
    class: &Arc<str>,
    out: &mpsc::Sender<Message>,
    tasks: &mut JoinSet<()>,
) -> Vec<Arc<Notify>> {
    let mut secrets = Vec::new();
    for scope in scopes(&cluster.namespaces) {
        let Some(collection) = COLLECTIONS.iter().find(|collection| collection.kind == scope.kind) else {
            continue;
        };
        let target = collection.target(client, scope.namespace.as_deref(), cluster.relist);
        if scope.kind == ObjectKind::Secret {
            secrets.push(Arc::clone(&target.again));
        }
        let (kind, class) = (scope.kind, Arc::clone(class));
        let read = move |object| read::read(kind, &class, object);
        let wrap = move |news| Message::Cluster(scope.clone(), Box::new(news));
        tasks.spawn(follow(target, read, wrap, out.clone()));
    }
    secrets
}

/// Follows one route and nothing else; `out` is told what is heard.
///
/// # Errors
/// When the credentials cannot be read.
pub(super) async fn follow_route(
    access: &Access,
    route: &ObjectName,
    class: &str,
    relist: Duration,
    out: mpsc::Sender<Message>,
) -> Result<impl Future<Output = ()> + Send + use<>, AccessError> {
    let scope = Scope {
        kind: ObjectKind::WebSocketRoute,
        namespace: Some(Arc::clone(&route.namespace)),
    };
    let collection = COLLECTIONS.iter().find(|collection| collection.kind == scope.kind);
    let target = Target {
        client: access.client().await?,
        again: Arc::default(),
        paths: collection
            .map(|routes| routes.paths(Some(&route.namespace)))
            .unwrap_or_default(),
        optional: false,
        may_be_forbidden: false,
        label_selector: None,
        field_selector: Some(format!("metadata.name={}", route.name)),
        relist,
    };
    let class = class.to_owned();
    let read = move |object| read::read(ObjectKind::WebSocketRoute, &class, object);
    let wrap = move |news| Message::Cluster(scope.clone(), Box::new(news));
    Ok(follow(target, read, wrap, out))
}

/// The Leases of the replicas of our class.
fn lease_target(client: &Client, cluster: &Cluster, identity: &Identity) -> Target {
    Target {
        client: client.clone(),
        again: Arc::default(),
        paths: vec![format!(
            "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
            identity.namespace
        )],
        optional: false,
        may_be_forbidden: false,
        field_selector: None,
        label_selector: Some(identity.selector()),
        relist: cluster.relist,
    }
}

fn lease_of(watched: Watched) -> Lease {
    let Watched { metadata, mut fields } = watched;
    let spec = fields.remove("spec").unwrap_or_default();
    Lease {
        metadata: ObjectMeta {
            name: Some(metadata.name),
            labels: Some(metadata.labels),
            annotations: Some(metadata.annotations),
            ..ObjectMeta::default()
        },
        spec: convert::from_value(spec, &FieldPath::of(["spec"])).ok(),
    }
}

/// Keeps the metric that says who leads.
async fn count(mut leading: watch::Receiver<bool>, metrics: Metrics) {
    loop {
        metrics.leading(*leading.borrow_and_update());
        if leading.changed().await.is_err() {
            metrics.leading(false);
            return std::future::pending().await;
        }
    }
}

/// News of Leases, or of the ticket keys, that wait before their reader does.
const LEASES: usize = 64;

const COLLECTIONS: [Collection; 6] = [
    Collection {
        kind: ObjectKind::WebSocketRoute,
        versions: &["/apis/holdfast.dev/v1alpha1"],
        plural: "websocketroutes",
        optional: false,
        may_be_forbidden: false,
        label_selector: None,
        field_selector: None,
    },
    Collection {
        kind: ObjectKind::Service,
        versions: &["/api/v1"],
        plural: "services",
        optional: false,
        may_be_forbidden: false,
        label_selector: None,
        field_selector: None,
    },
    Collection {
        kind: ObjectKind::EndpointSlice,
        versions: &["/apis/discovery.k8s.io/v1"],
        plural: "endpointslices",
        optional: false,
        may_be_forbidden: false,
        label_selector: None,
        field_selector: None,
    },
    Collection {
        kind: ObjectKind::ReferenceGrant,
        versions: &[
            "/apis/gateway.networking.k8s.io/v1",
            "/apis/gateway.networking.k8s.io/v1beta1",
        ],
        plural: "referencegrants",
        optional: true,
        may_be_forbidden: false,
        label_selector: None,
        field_selector: None,
    },
    Collection {
        kind: ObjectKind::Secret,
        versions: &["/api/v1"],
        plural: "secrets",
        optional: false,
        may_be_forbidden: true, // who serves no TLS need not be allowed to read any
        label_selector: None,
        field_selector: Some("type=kubernetes.io/tls"),
    },
    Collection {
        kind: ObjectKind::Ingress,
        versions: &["/apis/networking.k8s.io/v1"],
        plural: "ingresses",
        optional: true,
        may_be_forbidden: true, // without cert-manager, or with another way to prove who owns a host
        label_selector: Some("acme.cert-manager.io/http01-solver=true"),
        field_selector: None,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_followed_in_every_namespace() {
        assert_eq!(scopes(&[]).len(), ObjectKind::ALL.len());
        let named = scopes(&["chat".to_owned(), "web".to_owned()]);
        assert_eq!(named.len(), 2 * ObjectKind::ALL.len());
        let text: Vec<String> = named.iter().map(ToString::to_string).collect();
        assert!(text.contains(&"EndpointSlice/web".to_owned()), "{text:?}");
    }

    #[test]
    fn paths_are_those_of_an_api_server() {
        let paths = |index: usize, namespace| COLLECTIONS[index].paths(namespace);
        assert_eq!(paths(1, None), ["/api/v1/services"]);
        assert_eq!(
            paths(3, Some("chat")),
            [
                "/apis/gateway.networking.k8s.io/v1/namespaces/chat/referencegrants",
                "/apis/gateway.networking.k8s.io/v1beta1/namespaces/chat/referencegrants"
            ]
        );
    }
}
