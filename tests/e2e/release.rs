//! An installation of the chart, and ways to it.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1 as core;
use kube::{Api, ResourceExt, api::ListParams};

use crate::{cluster::Cluster, wait::until};

/// A release of charts/holdfast, in a namespace of this name, with a class of this name. The CustomResourceDefinition is there already.
pub struct Release<'a> {
    cluster: &'a Cluster,
    pub namespace: String,
}

impl<'a> Release<'a> {
    /// One that is there already.
    pub fn of(cluster: &'a Cluster, namespace: &str) -> Self {
        Self {
            cluster,
            namespace: namespace.to_owned(),
        }
    }

    /// Installs it with these values (`--set`), above those of [`QUICK`], and returns when it is ready. What begins with `--` is a flag
    /// of Helm's instead.
    pub async fn install(cluster: &'a Cluster, namespace: &str, values: &[&str]) -> Self {
        let release = Self::of(cluster, namespace);
        release.run(&["install"], values).await;
        release
    }

    /// `helm upgrade` to these values, above those of [`QUICK`]; returns when the rollout is complete.
    pub async fn upgrade(&self, values: &[&str]) {
        self.run(&["upgrade"], values).await;
    }

    /// `helm rollback` to a revision; 0: the one before. Returns when the rollout is complete.
    pub async fn rollback(&self, revision: u32) {
        let revision = revision.to_string();
        let args = ["rollback", NAME, &revision, "--namespace", &self.namespace, "--wait", TIMEOUT];
        self.cluster.helm(&args).await;
    }

    /// `helm test` with its logs. What it said.
    pub async fn test(&self) -> String {
        self.cluster
            .helm(&["test", NAME, "--namespace", &self.namespace, "--logs", "--timeout=90s"])
            .await
    }

    /// `helm uninstall`; returns when the pods are gone.
    pub async fn uninstall(&self) {
        let args = ["uninstall", NAME, "--namespace", &self.namespace, "--wait", TIMEOUT];
        self.cluster.helm(&args).await;
        until("the pods of the release are gone", async || {
            let pods = self.pods().await;
            if pods.is_empty() { Ok(()) } else { Err(pods.len()) }
        })
        .await;
    }

    /// Its pods, those that end too.
    pub async fn pods(&self) -> Vec<core::Pod> {
        let pods: Api<core::Pod> = Api::namespaced(self.cluster.client().await, &self.namespace);
        let own = ListParams::default().labels("app.kubernetes.io/name=holdfast,app.kubernetes.io/instance=holdfast");
        pods.list(&own).await.unwrap().items
    }

    /// The names of those that are ready and do not end.
    pub async fn ready(&self) -> Vec<String> {
        let pods = self.pods().await;
        let is_ready = |pod: &&core::Pod| {
            let conditions = pod
                .status
                .as_ref()
                .and_then(|status| status.conditions.as_ref())
                .into_iter()
                .flatten();
            let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
            pod.metadata.deletion_timestamp.is_none() && ready.any(|condition| condition.status == "True")
        };
        pods.iter().filter(is_ready).map(ResourceExt::name_any).collect()
    }

    /// Where a new connection goes: to one of the ready pods, as the Service's load balancer has it. `None`: nobody is ready.
    pub fn pick(&self) -> Option<SocketAddr> {
        self.cluster.services().pick(&self.namespace, NAME, 80)
    }

    async fn run(&self, verb: &[&str], values: &[&str]) {
        let class = format!("class={}", self.namespace);
        let mut args = verb.to_vec();
        args.extend([
            NAME,
            CHART,
            "--namespace",
            &self.namespace,
            "--wait",
            TIMEOUT,
            "--set",
            &class,
        ]);
        for value in QUICK.iter().chain(values) {
            if !value.starts_with("--") {
                args.push("--set");
            }
            args.push(value);
        }
        self.cluster.helm(&args).await;
    }
}

/// The name of every release, and of its objects.
const NAME: &str = "holdfast";
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/holdfast");
const TIMEOUT: &str = "--timeout=120s";
/// What makes a rollout take seconds, and shares the cluster with other releases.
pub const QUICK: [&str; 5] = [
    "crds.enabled=false",
    "drain.delay=2",
    "drain.window=5",
    "minReadySeconds=1",
    "readinessProbe.periodSeconds=1",
];
