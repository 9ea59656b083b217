//! How commands ask the Holdfast that runs: who is meant ([`Reach`]), and one question to all of them at once ([`Replicas`]).
//!
//! A question is a path of the live listener. Each replica has its own time to answer; who does not is named, and the others'
//! answers count. This never decides what an answer means.

pub(super) mod find;
mod replica;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use http::Method;
use hyper::body::Bytes;
use kube::Api;
use serde_json::{Value, json};

use crate::app::LIVE;
use crate::cli::Failure;
use crate::control::Access;
use find::{Installation, Wanted};
use replica::Replica;

/// Which Holdfast is asked.
///
/// Unlike a process that serves, a command uses the kubeconfig of the home directory although nobody named it: it is kubectl's, and
/// whoever asks means the cluster that they look at. What it can change there, a drain, wants its replica named.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Reach {
    /// The process on this machine, or in this pod, with this live listener [default: in a pod, and where there is no
    /// kubeconfig, 127.0.0.1:9478]
    #[arg(long, value_name = "ADDRESS", env = "HOLDFAST_LIVE", help_heading = REACH, conflicts_with_all = ["namespace", "selector", "kubeconfig", "context"])]
    live: Option<SocketAddr>,
    /// The namespace of Holdfast's pods [default: the one that has any]
    #[arg(long, short, value_name = "NAME", help_heading = REACH)]
    namespace: Option<String>,
    /// Labels of the pods [default: app.kubernetes.io/name=holdfast]
    #[arg(long, short = 'l', value_name = "LABELS", help_heading = REACH)]
    selector: Option<String>,
    /// What gives access to the cluster [default: the files that KUBECONFIG names, else ~/.kube/config]
    #[arg(long, value_name = "FILE", help_heading = REACH)]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", help_heading = REACH)]
    context: Option<String>,
}

/// Who is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    /// One process of this machine.
    Process(SocketAddr),
    /// The one in this pod.
    Pod(SocketAddr),
    /// The replicas of a cluster.
    Cluster(Access),
}

/// What a command finds around it.
#[derive(Clone, Copy, Debug, Default)]
struct Surroundings {
    in_pod: bool,
    /// Whether KUBECONFIG names files, or there is one in the home directory.
    has_kubeconfig: bool,
}

impl Surroundings {
    fn look() -> Self {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let of_home = || std::env::home_dir().is_some_and(|home| home.join(".kube/config").is_file());
        Self {
            in_pod: is_set("KUBERNETES_SERVICE_HOST"),
            has_kubeconfig: is_set("KUBECONFIG") || of_home(),
        }
    }
}

impl Reach {
    /// Whether anybody has said whom to ask.
    pub(super) fn is_named(&self) -> bool {
        self.live.is_some() || self.names_cluster()
    }

    /// Whom these flags mean here.
    ///
    /// # Errors
    /// When pods are meant and nothing says of which cluster.
    pub(super) fn whom(&self) -> Result<Whom, Failure> {
        self.resolve(Surroundings::look(), self.names_cluster())
    }

    fn resolve(&self, around: Surroundings, wants_cluster: bool) -> Result<Whom, Failure> {
        let kubeconfig = Whom::Cluster(Access::Kubeconfig {
            file: self.kubeconfig.clone(),
            context: self.context.clone(),
        });
        let names_kubeconfig = self.kubeconfig.is_some() || self.context.is_some();
        match self.live {
            Some(address) if around.in_pod => Ok(Whom::Pod(address)),
            Some(address) => Ok(Whom::Process(address)),
            None if around.in_pod && !wants_cluster => Ok(Whom::Pod(LIVE)),
            None if names_kubeconfig || around.has_kubeconfig => Ok(kubeconfig),
            None if around.in_pod => Ok(Whom::Cluster(Access::Pod)),
            None if wants_cluster => Err(Failure::usage(
                "no kubeconfig says which cluster is meant: name one with --kubeconfig, or set KUBECONFIG",
            )),
            None => Ok(Whom::Process(LIVE)),
        }
    }

    /// The cluster that is meant, whether or not a process is.
    pub(super) fn cluster(&self) -> Result<Access, Failure> {
        let reach = Self {
            live: None,
            ..self.clone()
        };
        match reach.resolve(Surroundings::look(), true)? {
            Whom::Cluster(access) => Ok(access),
            Whom::Process(_) | Whom::Pod(_) => Err(Failure::usage("name a cluster with --kubeconfig")),
        }
    }

    fn names_cluster(&self) -> bool {
        self.namespace.is_some() || self.selector.is_some() || self.kubeconfig.is_some() || self.context.is_some()
    }

    /// Finds the pods of a cluster.
    pub(super) async fn installation(&self, access: &Access) -> Result<Installation, Failure> {
        let wanted = Wanted {
            namespace: self.namespace.as_deref(),
            selector: self.selector.as_deref(),
        };
        Installation::find(access, wanted).await
    }
}

/// The replicas that a command asks. Connections are kept, so that asking again and again is cheap.
#[derive(Debug)]
pub(super) struct Replicas {
    replicas: Vec<Replica>,
    scope: Scope,
    patience: Duration,
}

/// How much of an installation is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Scope {
    /// One process.
    #[default]
    Process,
    /// One process, in the pod that the command runs in.
    Pod,
    /// All pods of one.
    Cluster,
}

impl Replicas {
    /// Finds them; asks none of them anything yet.
    pub(super) async fn find(reach: &Reach) -> Result<Self, Failure> {
        match reach.whom()? {
            Whom::Process(address) => Ok(Self::at(address, Scope::Process)),
            Whom::Pod(address) => Ok(Self::at(address, Scope::Pod)),
            Whom::Cluster(access) => Self::of(&reach.installation(&access).await?),
        }
    }

    /// Looks who is there now, for a command that goes on while pods come and go. Who was known keeps its connection; where nobody
    /// can be found, those that were known stay.
    pub(super) async fn find_again(&mut self, reach: &Reach) {
        if self.scope != Scope::Cluster {
            return;
        }
        let Ok(mut found) = Self::find(reach).await else { return };
        for replica in &mut found.replicas {
            if let Some(known) = self.replicas.iter_mut().find(|known| known.name == replica.name) {
                std::mem::swap(replica, known);
            }
        }
        *self = found;
    }

    /// The one in this pod of a cluster, also from within another pod.
    pub(super) async fn in_pod(reach: &Reach, pod: &str) -> Result<Self, Failure> {
        match reach.resolve(Surroundings::look(), true)? {
            Whom::Cluster(access) => Self::of(&reach.installation(&access).await?)?.only(pod),
            Whom::Process(_) | Whom::Pod(_) => Err(Failure::usage(
                "--live, or HOLDFAST_LIVE, names a process of this machine, and POD one of a cluster: name one of the two",
            )),
        }
    }

    /// Those of an installation.
    ///
    /// # Errors
    /// When none of its pods runs.
    pub(super) fn of(installation: &Installation) -> Result<Self, Failure> {
        let pods = Api::namespaced(installation.client.clone(), &installation.namespace);
        let namespace = &installation.namespace;
        let replica = |(name, port): (&str, u16)| Replica::in_pod(pods.clone(), namespace, name, port);
        let replicas: Vec<Replica> = installation.running().map(replica).collect();
        if replicas.is_empty() {
            let pods = installation.pods.iter();
            let pods: Vec<String> = pods
                .map(|pod| format!("{} is {}", find::name(pod), find::phase(pod)))
                .collect();
            return Err(Failure::no(format!(
                "namespace {namespace}: no pod of Holdfast runs: {}",
                pods.join(", ")
            )));
        }
        Ok(Self {
            replicas,
            scope: Scope::Cluster,
            patience: BY_FORWARD,
        })
    }

    /// The one at an address.
    pub(super) fn at(address: SocketAddr, scope: Scope) -> Self {
        Self {
            replicas: vec![Replica::at(address)],
            scope,
            patience: BY_ADDRESS,
        }
    }

    /// Gives each no more than this for an answer.
    pub(super) fn within(mut self, patience: Duration) -> Self {
        self.patience = patience.min(self.patience);
        self
    }

    /// Only that of this pod.
    ///
    /// # Errors
    /// When there is none.
    fn only(mut self, pod: &str) -> Result<Self, Failure> {
        let names = self.names().join(", ");
        self.replicas.retain(|replica| replica.name == pod);
        if self.replicas.is_empty() {
            return Err(Failure::no(format!("no pod {pod} of Holdfast runs; these do: {names}")));
        }
        Ok(self)
    }

    /// By pod, or by address.
    pub(super) fn names(&self) -> Vec<&str> {
        self.replicas.iter().map(|replica| replica.name.as_str()).collect()
    }

    pub(super) fn scope(&self) -> Scope {
        self.scope
    }

    /// Asks all of them for the document at this path (with its query).
    ///
    /// # Errors
    /// When none has answered.
    pub(super) async fn get(&self, path: &str) -> Result<Answers, Failure> {
        self.ask(Method::GET, path, None).await.or_none()
    }

    /// The same with a question that does not fit a path, or an order.
    ///
    /// # Errors
    /// When none has answered.
    pub(super) async fn post(&self, path: &str, body: Option<&Value>) -> Result<Answers, Failure> {
        self.ask(Method::POST, path, body).await.or_none()
    }

    /// Asks all of them, and takes it that perhaps none answers.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Answers {
        let body = body.map(|body| Bytes::from(body.to_string()));
        let asked = self
            .replicas
            .iter()
            .map(|replica| replica.ask(&method, path, body.as_ref(), self.patience));
        let answered: Vec<_> = stream::iter(asked).buffered(AT_ONCE).collect().await;
        let mut answers = Answers {
            scope: self.scope,
            ..Answers::default()
        };
        for (replica, answer) in self.replicas.iter().zip(answered) {
            match answer {
                Ok(document) => answers.documents.push(document),
                Err(reason) => answers.failed.push(Missing {
                    replica: replica.name.clone(),
                    reason,
                }),
            }
        }
        answers
    }
}

/// What the replicas have answered to one question.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// One document for each replica that answered, in the order of their names; `replica` in it names whose it is.
    pub(super) documents: Vec<Value>,
    pub(super) failed: Vec<Missing>,
    scope: Scope,
}

/// A replica without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) replica: String,
    /// In a few words: `timeout`.
    pub(super) reason: String,
}

impl Answers {
    /// One answer is enough: it says that it is not everybody's.
    fn or_none(self) -> Result<Self, Failure> {
        if !self.documents.is_empty() {
            return Ok(self);
        }
        let each: Vec<String> = self
            .failed
            .iter()
            .map(|missing| format!("{}: {}", missing.replica, missing.reason))
            .collect();
        let hint = match self.scope {
            Scope::Cluster => "",
            Scope::Pod => "; is Holdfast in this pod? --live names the address of its live listener, -n the namespace of others",
            Scope::Process => {
                "; is a Holdfast running here? --live names the address of its live listener, --kubeconfig or KUBECONFIG a cluster"
            }
        };
        Err(Failure::no(format!("{}{hint}", each.join("; "))))
    }

    /// How many of how many have answered, for the last line of an answer: `3/3 replicas`, or
    /// `2/3 replicas, holdfast-c: timeout`.
    pub(super) fn closing(&self) -> String {
        let asked = self.documents.len() + self.failed.len();
        let mut text = format!(
            "{}/{asked} replica{}",
            self.documents.len(),
            if asked == 1 { "" } else { "s" }
        );
        if self.scope == Scope::Pod {
            text.push_str(", this pod only");
        }
        for missing in &self.failed {
            text.push_str(&format!(", {}: {}", missing.replica, missing.reason));
        }
        text
    }

    /// The same for a document, under the key `replicas`.
    pub(super) fn summary(&self) -> Value {
        let failed: Vec<Value> = self
            .failed
            .iter()
            .map(|missing| json!({"replica": missing.replica, "error": missing.reason}))
            .collect();
        json!({
            "asked": self.documents.len() + self.failed.len(),
            "answered": self.documents.len(),
            "failed": failed,
        })
    }
}

/// Where the help lists these flags.
const REACH: &str = "Which Holdfast";
/// How long one replica may take for one answer.
const BY_ADDRESS: Duration = Duration::from_secs(5);
/// The same by way of an API server and a kubelet.
const BY_FORWARD: Duration = Duration::from_secs(10);
/// Replicas that are asked at once.
const AT_ONCE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_not_answered_is_named_and_one_answer_is_enough() {
        let failed = |replica: &str| Missing {
            replica: replica.to_owned(),
            reason: "timeout".to_owned(),
        };
        let mut answers = Answers {
            documents: vec![json!({}), json!({})],
            ..Answers::default()
        };
        assert_eq!(answers.closing(), "2/2 replicas");
        answers.failed.push(failed("holdfast-c"));
        assert_eq!(answers.closing(), "2/3 replicas, holdfast-c: timeout");
        assert_eq!(
            answers.summary(),
            json!({"asked": 3, "answered": 2, "failed": [{"replica": "holdfast-c", "error": "timeout"}]})
        );
        answers.documents.clear();
        let told = answers.or_none().unwrap_err();
        assert_eq!(told.code, crate::cli::NO);
        assert!(told.text.starts_with("holdfast-c: timeout; "), "{}", told.text);
        let own = Answers {
            documents: vec![json!({})],
            scope: Scope::Pod,
            ..Answers::default()
        };
        assert_eq!(own.closing(), "1/1 replica, this pod only");
    }

    #[test]
    fn in_a_pod_it_is_that_pod_and_elsewhere_what_kubectl_would_use() {
        let (home, pod) = (
            Surroundings {
                in_pod: false,
                has_kubeconfig: true,
            },
            Surroundings {
                in_pod: true,
                has_kubeconfig: false,
            },
        );
        let nothing = Surroundings::default();
        let of_kubeconfig = |context: Option<&str>| {
            Ok(Whom::Cluster(Access::Kubeconfig {
                file: None,
                context: context.map(str::to_owned),
            }))
        };
        let plain = Reach::default();
        let named = Reach {
            namespace: Some("edge".to_owned()),
            ..Reach::default()
        };
        let context = Reach {
            context: Some("prod".to_owned()),
            ..Reach::default()
        };
        let live: SocketAddr = "127.0.0.1:7".parse().unwrap();
        let of_live = Reach {
            live: Some(live),
            ..Reach::default()
        };
        let both = Surroundings {
            in_pod: true,
            has_kubeconfig: true,
        };
        for (reach, around, expected) in [
            (&plain, nothing, Ok(Whom::Process(LIVE))),
            (&plain, home, of_kubeconfig(None)),
            (&plain, pod, Ok(Whom::Pod(LIVE))),
            (&plain, both, Ok(Whom::Pod(LIVE))),
            (&named, home, of_kubeconfig(None)),
            (&named, pod, Ok(Whom::Cluster(Access::Pod))),
            (&named, nothing, Err(2)),
            (&context, nothing, of_kubeconfig(Some("prod"))),
            (&of_live, home, Ok(Whom::Process(live))),
            (&of_live, pod, Ok(Whom::Pod(live))),
        ] {
            let whom = reach.resolve(around, reach.names_cluster()).map_err(|failure| failure.code);
            assert_eq!(whom, expected, "{reach:?} {around:?}");
        }
    }
}
