//! What is known of an installation before it is judged.

use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::Deserialize;
use serde_json::Value;

use super::rights::Right;
use crate::cli::live::Missing;

/// Something that was looked at, or why it was not.
pub(super) type Looked<T> = Result<T, String>;

#[derive(Debug)]
pub(super) struct Facts {
    /// Of the last line.
    pub(super) closing: String,
    /// The same for a document.
    pub(super) asked: Value,
    /// Seconds since 1970.
    pub(super) now: i64,
    pub(super) states: Vec<State>,
    pub(super) silent: Vec<Missing>,
    /// `None`: one process was asked, and no API server.
    pub(super) cluster: Option<Cluster>,
}

/// What the API server says.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) namespace: String,
    pub(super) version: Looked<String>,
    /// The CustomResourceDefinition; `None`: it is not there.
    pub(super) definition: Looked<Option<Value>>,
    /// Each right that is needed, and whether it is there.
    pub(super) rights: Looked<Vec<(Right, bool)>>,
    /// Whose they are.
    pub(super) account: String,
    /// In the order of their names.
    pub(super) pods: Looked<Vec<Pod>>,
    pub(super) workload: Looked<Option<Workload>>,
    /// Those that select the pods.
    pub(super) services: Looked<Vec<Service>>,
    pub(super) dials: Vec<Dial>,
    /// Whether addresses of the cluster's own can be reached.
    pub(super) is_inside: bool,
    /// Those that select the pods.
    pub(super) budgets: Looked<Vec<PodDisruptionBudget>>,
}

/// What keeps the pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Workload {
    /// As `Deployment holdfast-system/holdfast`.
    pub(super) name: String,
    pub(super) desired: i32,
}

/// One port of a Service that was dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dial {
    /// As `Service holdfast-system/holdfast`.
    pub(super) service: String,
    pub(super) address: String,
    pub(super) port: i32,
    pub(super) outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Holdfast has answered with this.
    Answered {
        what: String,
        took: Duration,
    },
    /// Something else has.
    Foreign {
        what: String,
    },
    Refused {
        why: String,
    },
    Silent,
}

/// What a replica says at `/state`. What an older one does not say is empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct State {
    pub(super) replica: String,
    #[serde(rename = "service.version")]
    pub(super) version: String,
    pub(super) mode: String,
    pub(super) class: String,
    pub(super) watch_namespaces: Vec<String>,
    #[serde(rename = "k8s.pod.name")]
    pub(super) pod: Option<String>,
    #[serde(rename = "k8s.namespace.name")]
    pub(super) namespace: Option<String>,
    pub(super) ready: bool,
    pub(super) waiting_for: Vec<String>,
    pub(super) table: Option<Table>,
    pub(super) leads: bool,
    pub(super) leader: Option<String>,
    pub(super) views: Vec<View>,
    pub(super) certificates: Vec<Certificate>,
    pub(super) tickets: Tickets,
    pub(super) listeners: Listeners,
    pub(super) drain: Drain,
    pub(super) headroom: Headroom,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Table {
    pub(super) generation: u64,
    pub(super) digest: String,
    pub(super) routes: u64,
    pub(super) rejected: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct View {
    pub(super) of: String,
    pub(super) age_seconds: Option<f64>,
    pub(super) failure: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Certificate {
    pub(super) secret: String,
    pub(super) expires: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tickets {
    pub(super) secret: Option<String>,
    pub(super) rotated: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Listeners {
    pub(super) http: Option<SocketAddr>,
    pub(super) https: Option<SocketAddr>,
    pub(super) admin: Option<SocketAddr>,
    pub(super) proxy_protocol: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Drain {
    pub(super) stage: String,
    pub(super) delay_seconds: f64,
    pub(super) window_seconds: f64,
    pub(super) closing_seconds: f64,
    pub(super) grace_seconds: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Headroom {
    pub(super) connections: Share,
    pub(super) fds: Share,
    pub(super) memory: Share,
    pub(super) ports: Share,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Share {
    pub(super) used: f64,
    pub(super) allowed: Option<f64>,
    /// Of ports: the endpoint with the most connections.
    pub(super) endpoint: Option<String>,
}

impl Share {
    /// How much of it is used, from 0 to 1; `None`: nothing limits it.
    pub(super) fn ratio(&self) -> Option<f64> {
        self.allowed
            .filter(|allowed| *allowed > 0.0)
            .map(|allowed| self.used / allowed)
    }
}

impl Facts {
    /// Whether replicas of an ingress are meant, and no process beside an application or without a cluster.
    pub(super) fn is_ingress(&self) -> bool {
        self.states.first().is_none_or(|state| state.mode == "cluster")
    }
}
