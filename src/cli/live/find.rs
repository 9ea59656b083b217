//! Finds the pods of Holdfast in a cluster: which are meant, and where in each the live listener is.
//!
//! Asks the API server for pods and nothing else, and never connects to one.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{Api, ListParams};
use kube::{Client, Error};
use tokio::time::timeout;

use crate::app::LIVE;
use crate::cli::Failure;
use crate::control::Access;

/// Pods of Holdfast in one namespace, in the order of their names.
pub(in crate::cli) struct Installation {
    pub(in crate::cli) client: Client,
    pub(in crate::cli) namespace: String,
    /// Also those that do not run.
    pub(in crate::cli) pods: Vec<Pod>,
}

/// Which pods are meant.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted<'a> {
    /// `None`: the one that has any.
    pub(super) namespace: Option<&'a str>,
    /// `None`: those of an ingress; with a namespace that has none, those with Holdfast beside an application.
    pub(super) selector: Option<&'a str>,
}

impl Installation {
    /// Asks the API server for them.
    pub(super) async fn find(access: &Access, wanted: Wanted<'_>) -> Result<Self, Failure> {
        let client = access.client().await.map_err(|error| Failure::usage(error.to_string()))?;
        let found = timeout(PATIENCE, list(&client, wanted)).await;
        let pods = found.unwrap_or_else(|_| Err(Failure::no(format!("the API server says nothing for {PATIENCE:?}"))))?;
        let (namespace, pods) = choose(pods, wanted)?;
        Ok(Self { client, namespace, pods })
    }

    /// The pods that run, each with the port of its live listener. One that is being deleted counts: it still has tunnels.
    pub(in crate::cli) fn running(&self) -> impl Iterator<Item = (&str, u16)> {
        let runs = |pod: &&Pod| phase(pod) == "Running";
        self.pods.iter().filter(runs).map(|pod| (name(pod), live_port(pod)))
    }
}

/// The container in which Holdfast runs: an ingress' only one, or a sidecar.
pub(in crate::cli) fn container(pod: &Pod) -> Option<&Container> {
    let spec = pod.spec.as_ref()?;
    let stays = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(stays);
    let all = || sidecars.clone().chain(&spec.containers);
    all()
        .find(|container| container.name == NAME)
        .or_else(|| all().find(|container| image(container) == NAME))
}

/// What a flag of the container says: of its arguments, else of its environment.
pub(in crate::cli) fn flag<'a>(container: &'a Container, name: &str) -> Option<&'a str> {
    let mut words = container.command.iter().chain(&container.args).flatten().map(String::as_str);
    while let Some(word) = words.next() {
        match word.strip_prefix("--").and_then(|word| word.strip_prefix(name)) {
            Some("") => return words.next(),
            Some(value) if value.starts_with('=') => return Some(&value[1..]),
            _ => {}
        }
    }
    let variable = format!("HOLDFAST_{}", name.to_ascii_uppercase().replace('-', "_"));
    let mut environment = container.env.iter().flatten();
    environment.find(|entry| entry.name == variable)?.value.as_deref()
}

pub(in crate::cli) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub(in crate::cli) fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status.and_then(|status| status.phase.as_deref()).unwrap_or("Unknown")
}

/// What the API server says against a call, in a few words.
pub(in crate::cli) fn refusal(error: &Error) -> String {
    if let Error::Api(status) = error {
        return format!("{} {}", status.code, status.message);
    }
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// The pods that may be meant.
async fn list(client: &Client, wanted: Wanted<'_>) -> Result<Vec<Pod>, Failure> {
    let selector = wanted.selector.unwrap_or(INGRESS);
    if let Some(namespace) = wanted.namespace {
        let of_namespace = Api::namespaced(client.clone(), namespace);
        let pods = pods_of(&of_namespace, Some(selector))
            .await
            .map_err(|error| refused(namespace, &error))?;
        if pods.is_empty() && wanted.selector.is_none() {
            let mut all = pods_of(&of_namespace, None)
                .await
                .map_err(|error| refused(namespace, &error))?;
            all.retain(|pod| container(pod).is_some());
            return Ok(all);
        }
        return Ok(pods);
    }
    match pods_of(&Api::all(client.clone()), Some(selector)).await {
        Err(Error::Api(status)) if status.code == 403 => {}
        Err(error) => return Err(Failure::no(refusal(&error))),
        Ok(pods) => return Ok(pods),
    }
    let own = client.default_namespace();
    let pods = pods_of(&Api::namespaced(client.clone(), own), Some(selector)).await;
    match pods.map_err(|error| refused(own, &error))? {
        none if none.is_empty() => Err(Failure::no(format!(
            "you may list pods in namespace {own}, not in all, and there is none with {selector}; name Holdfast's namespace with -n"
        ))),
        pods => Ok(pods),
    }
}

async fn pods_of(api: &Api<Pod>, selector: Option<&str>) -> Result<Vec<Pod>, Error> {
    let mut params = ListParams::default().limit(MAX_PODS);
    params.label_selector = selector.map(str::to_owned);
    Ok(api.list(&params).await?.items)
}

fn refused(namespace: &str, error: &Error) -> Failure {
    match error {
        Error::Api(status) if status.code == 403 => Failure::no(format!(
            "you may not list pods in namespace {namespace}; name Holdfast's namespace with -n, or see docs/operate.md for the rights"
        )),
        error => Failure::no(refusal(error)),
    }
}

/// Those that are meant, if that is clear: they are of one namespace, and of one installation there.
fn choose(mut pods: Vec<Pod>, wanted: Wanted<'_>) -> Result<(String, Vec<Pod>), Failure> {
    pods.retain(|pod| !matches!(phase(pod), "Succeeded" | "Failed"));
    pods.sort_by(|a, b| name(a).cmp(name(b)));
    let of = |key: fn(&Pod) -> Option<&str>| {
        let found: BTreeSet<&str> = pods.iter().filter_map(key).collect();
        found.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let namespaces = of(|pod| pod.metadata.namespace.as_deref());
    match namespaces.as_slice() {
        [] => return Err(Failure::no(none(wanted))),
        [_] => {}
        several => {
            return Err(Failure::usage(format!(
                "Holdfast runs in namespaces {}; name one with -n",
                several.join(", ")
            )));
        }
    }
    let instances = of(|pod| Some(pod.metadata.labels.as_ref()?.get(INSTANCE)?.as_str()));
    if wanted.selector.is_none() && instances.len() > 1 {
        return Err(Failure::usage(format!(
            "namespace {} has several installations: {}; name one with -l {INSTANCE}=NAME",
            namespaces.concat(),
            instances.join(", ")
        )));
    }
    Ok((namespaces.concat(), pods))
}

fn none(wanted: Wanted<'_>) -> String {
    let place = wanted
        .namespace
        .map_or_else(|| "the cluster".to_owned(), |namespace| format!("namespace {namespace}"));
    match wanted.selector {
        Some(selector) => format!("{place} has no pod with {selector}"),
        None if wanted.namespace.is_some() => format!("{place} has no pod with {INGRESS}, and none with a container {NAME}"),
        None => format!(
            "{place} has no pod with {INGRESS}; name the namespace of a sidecar with -n, other labels with -l, or a process of this \
             machine with --live"
        ),
    }
}

/// The port of the live listener.
fn live_port(pod: &Pod) -> u16 {
    let named = container(pod).and_then(|container| flag(container, "live"));
    let address = named.and_then(|address| address.parse::<SocketAddr>().ok());
    address.map_or(LIVE.port(), |address| address.port())
}

/// The last part of an image's name, without tag and digest.
fn image(container: &Container) -> &str {
    let image = container.image.as_deref().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split(['@', ':']).next().unwrap_or_default()
}

/// What a container or an image of Holdfast is called.
const NAME: &str = "holdfast";
/// The pods of an ingress have this label, unless the chart's nameOverride says otherwise.
const INGRESS: &str = "app.kubernetes.io/name=holdfast";
/// On each of them, the release that it is of.
const INSTANCE: &str = "app.kubernetes.io/instance";
/// More are not asked for.
const MAX_PODS: u32 = 500;
/// For finding all of them.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(namespace: &str, name: &str, instance: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name, "labels": {INSTANCE: instance}},
            "status": {"phase": "Running"},
        }))
        .unwrap()
    }

    fn with(containers: Value) -> Pod {
        let pod = json!({"metadata": {"name": "a"}, "spec": containers});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn pods_of_one_namespace_and_one_installation_are_meant() {
        let one = Wanted::default();
        let (namespace, pods) = choose(vec![pod("web", "b", "x"), pod("web", "a", "x")], one).unwrap();
        assert_eq!((namespace.as_str(), name(&pods[0])), ("web", "a"));
        let two = choose(vec![pod("web", "a", "x"), pod("edge", "b", "x")], one).unwrap_err();
        assert_eq!(
            (two.code, two.text.as_str()),
            (2, "Holdfast runs in namespaces edge, web; name one with -n")
        );
        let both = || vec![pod("web", "a", "x"), pod("web", "b", "y")];
        let told = choose(both(), one).unwrap_err().text;
        assert!(told.contains("several installations: x, y"), "{told}");
        let all = Wanted {
            selector: Some("a=b"),
            ..one
        };
        assert_eq!(choose(both(), all).unwrap().1.len(), 2);
        assert!(choose(Vec::new(), one).unwrap_err().text.contains("has no pod with"));
    }

    #[test]
    fn the_live_listener_is_where_the_container_says() {
        for (container, port) in [
            (json!({"name": "holdfast", "args": ["--live=127.0.0.1:7000"]}), 7000),
            (
                json!({"name": "holdfast", "args": ["--live", "[::1]:7001", "--http=[::]:80"]}),
                7001,
            ),
            (
                json!({"name": "holdfast", "command": ["holdfast", "--live=127.0.0.1:7002"]}),
                7002,
            ),
            (
                json!({"name": "x", "image": "r.example/a/holdfast:1", "env": [{"name": "HOLDFAST_LIVE", "value": "127.0.0.1:7003"}]}),
                7003,
            ),
            (json!({"name": "holdfast", "args": ["--live-not=1.2.3.4:5"]}), 9478),
            (json!({"name": "app", "args": ["--live=127.0.0.1:1"]}), 9478),
        ] {
            let pod = with(json!({"containers": [{"name": "first", "image": "app"}, container]}));
            assert_eq!(live_port(&pod), port, "{container}");
        }
        let sidecar = json!({"name": "holdfast", "restartPolicy": "Always", "args": ["--live=127.0.0.1:7004"]});
        let pod = with(json!({"containers": [{"name": "app"}], "initContainers": [sidecar]}));
        assert_eq!(live_port(&pod), 7004);
        let done = json!({"name": "holdfast", "args": ["--live=127.0.0.1:7005"]});
        let pod = with(json!({"containers": [{"name": "app"}], "initContainers": [done]}));
        assert!(container(&pod).is_none(), "an init container that ends serves nothing");
    }
}
