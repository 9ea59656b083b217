//! Asks the API server and the replicas for the facts. What may not be read is noted, and the rest goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, stream};
use http::{Method, Request};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Api, ListParams};
use kube::{Client, Error};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::dial::{Manner, dial};
use super::facts::{Cluster, Dial, Facts, Looked, State, Workload};
use super::judge::target;
use super::rights::{self, Whose};
use crate::api::WebSocketRoute;
use crate::cli::Failure;
use crate::cli::live::find::{Installation, refusal};
use crate::cli::live::{Answers, Reach, Replicas, Scope, Whom};
use crate::control::Access;

/// Gathers what can be known from here.
pub(super) async fn gather(reach: &Reach) -> Result<Facts, Failure> {
    match reach.whom()? {
        Whom::Process(address) => {
            let answers = Replicas::at(address, Scope::Process).get("/state").await?;
            Ok(facts(answers, None))
        }
        Whom::Pod(address) => {
            let answers = Replicas::at(address, Scope::Pod).get("/state").await?;
            let states = read(&answers);
            let client = Access::Pod.client().await;
            let Ok(client) = client else { return Ok(facts(answers, None)) };
            let state = states.first().cloned().unwrap_or_default();
            let namespace = state.namespace.clone();
            let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
            let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
            let own = look("pods", pods.get(state.pod.as_deref().unwrap_or_default())).await;
            let pods = own.map(|pod| vec![pod]);
            let whose = ("of this pod".to_owned(), Whose::Own);
            let cluster = cluster(client, namespace, pods, &states, whose, true).await;
            Ok(facts(answers, Some(cluster)))
        }
        Whom::Cluster(access) => {
            let found = reach.installation(&access).await?;
            let answers = ask(&found).await;
            let states = read(&answers);
            let Installation { client, namespace, pods } = found;
            let name = pods.first().and_then(|pod| pod.spec.as_ref()?.service_account_name.clone());
            let name = name.unwrap_or_else(|| "default".to_owned());
            let whose = Whose::Account {
                namespace: namespace.clone(),
                name: name.clone(),
            };
            let whose = (format!("{namespace}/{name}"), whose);
            let cluster = cluster(client, namespace, Ok(pods), &states, whose, access == Access::Pod).await;
            Ok(facts(answers, Some(cluster)))
        }
    }
}

fn facts(answers: Answers, cluster: Option<Cluster>) -> Facts {
    Facts {
        closing: answers.closing(),
        asked: answers.summary(),
        now: Timestamp::now().as_second(),
        states: read(&answers),
        silent: answers.failed,
        cluster,
    }
}

/// Asks every replica; twice, when their tables differ, for an edit may be on its way.
async fn ask(installation: &Installation) -> Answers {
    let Ok(replicas) = Replicas::of(installation) else {
        return Answers::default(); // no pod runs: that is said of the pods
    };
    let answers = replicas.ask(Method::GET, "/state", None).await;
    let states = read(&answers);
    let digest = |state: &State| state.table.as_ref().map(|table| table.digest.clone());
    if states.windows(2).all(|two| digest(&two[0]) == digest(&two[1])) {
        return answers;
    }
    sleep(SETTLING).await;
    replicas.ask(Method::GET, "/state", None).await
}

fn read(answers: &Answers) -> Vec<State> {
    let documents = answers.documents.iter().cloned();
    documents
        .filter_map(|document| serde_json::from_value(document).ok())
        .collect()
}

async fn cluster(
    client: Client,
    namespace: String,
    pods: Looked<Vec<Pod>>,
    states: &[State],
    (account, whose): (String, Whose),
    is_inside: bool,
) -> Cluster {
    let state = states.first().cloned().unwrap_or_default();
    let labels = pods.as_ref().ok().and_then(|pods| pods.first()?.metadata.labels.clone());
    let labels = labels.unwrap_or_else(|| BTreeMap::from([("app.kubernetes.io/name".to_owned(), "holdfast".to_owned())]));
    let rights = rights::needed(&state, &namespace);
    let (version, definition, rights, workload, services, budgets, host) = tokio::join!(
        look("the version", client.apiserver_version()),
        definition(&client),
        async {
            let reviewed = timeout(PATIENCE, rights::review(&client, &whose, rights)).await;
            reviewed.unwrap_or_else(|_| Err(SILENT.to_owned()))
        },
        workload(&client, &namespace, &labels),
        list::<Service>(&client, &namespace, "services"),
        list::<PodDisruptionBudget>(&client, &namespace, "poddisruptionbudgets"),
        tls_host(&client),
    );
    let selects = |service: &Service| {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| !selector.is_empty() && is_within(selector, &labels))
    };
    let services: Looked<Vec<Service>> = services.map(|all| all.into_iter().filter(selects).collect());
    let budgets = budgets.map(|all| {
        let selects = |budget: &PodDisruptionBudget| {
            let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            matches(selector, &labels)
        };
        all.into_iter().filter(selects).collect()
    });
    let pod = pods.as_ref().ok().and_then(|pods| pods.first());
    let dials = match &services {
        Ok(services) => dials(services, pod, &state, host.as_deref(), is_inside).await,
        Err(_) => Vec::new(),
    };
    Cluster {
        namespace,
        version: version.map(|version| version.git_version),
        definition,
        rights,
        account,
        pods,
        workload,
        services,
        dials,
        is_inside,
        budgets,
    }
}

/// An answer of the API server, or what to say in its place.
async fn look<T>(what: &str, asked: impl Future<Output = Result<T, Error>>) -> Looked<T> {
    match timeout(PATIENCE, asked).await {
        Err(_) => Err(SILENT.to_owned()),
        Ok(Err(Error::Api(status))) if status.code == 403 => Err(format!("may not read {what}")),
        Ok(Err(error)) => Err(refusal(&error)),
        Ok(Ok(answer)) => Ok(answer),
    }
}

async fn list<K>(client: &Client, namespace: &str, what: &str) -> Looked<Vec<K>>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let listed = look(what, api.list(&ListParams::default().limit(MAX_OBJECTS))).await;
    listed.map(|list| list.items)
}

async fn definition(client: &Client) -> Looked<Option<Value>> {
    let request = Request::get(DEFINITION).body(Vec::new()).map_err(|error| error.to_string())?;
    match timeout(PATIENCE, client.request::<Value>(request)).await {
        Ok(Err(Error::Api(status))) if status.code == 404 => Ok(None),
        Ok(answer) => look("customresourcedefinitions", async { answer }).await.map(Some),
        Err(_) => Err(SILENT.to_owned()),
    }
}

/// The Deployment or the DaemonSet whose pods have these labels.
async fn workload(client: &Client, namespace: &str, labels: &BTreeMap<String, String>) -> Looked<Option<Workload>> {
    let (deployments, daemons) = tokio::join!(
        list::<Deployment>(client, namespace, "deployments"),
        list::<DaemonSet>(client, namespace, "daemonsets"),
    );
    let deployment = deployments?.into_iter().find_map(|deployment| {
        let spec = deployment.spec.filter(|spec| matches(Some(&spec.selector), labels))?;
        Some(Workload {
            name: format!("Deployment {namespace}/{}", deployment.metadata.name?),
            desired: spec.replicas.unwrap_or(1),
        })
    });
    if deployment.is_some() {
        return Ok(deployment);
    }
    Ok(daemons?.into_iter().find_map(|daemons| {
        daemons.spec.filter(|spec| matches(Some(&spec.selector), labels))?;
        Some(Workload {
            name: format!("DaemonSet {namespace}/{}", daemons.metadata.name?),
            desired: daemons.status?.desired_number_scheduled,
        })
    }))
}

/// A host that a route has a certificate for, so that a TLS handshake can succeed.
async fn tls_host(client: &Client) -> Option<String> {
    let routes: Api<WebSocketRoute> = Api::all(client.clone());
    let listed = look("websocketroutes", routes.list(&ListParams::default().limit(MAX_OBJECTS))).await;
    let with_tls = listed.ok()?.items.into_iter().filter(|route| !route.spec.tls.is_empty());
    let mut hosts = with_tls.flat_map(|route| route.spec.hostnames);
    hosts.find(|host| !host.starts_with('*'))
}

/// Dials every port of the Services at every address that can be reached from here.
async fn dials(services: &[Service], pod: Option<&Pod>, state: &State, host: Option<&str>, is_inside: bool) -> Vec<Dial> {
    let mut planned = Vec::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let name = format!(
            "Service {}/{}",
            service.metadata.namespace.as_deref().unwrap_or_default(),
            service.metadata.name.as_deref().unwrap_or_default()
        );
        let tcp = |port: &&ServicePort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        for port in spec.ports.iter().flatten().filter(tcp) {
            let of_balancer = balancers(service).into_iter().map(|address| (address, false));
            let inner = spec
                .cluster_ip
                .clone()
                .filter(|ip| is_inside && ip != "None" && !ip.is_empty());
            for (address, is_inner) in of_balancer.chain(inner.map(|ip| (ip, true))) {
                planned.push((name.clone(), address, port.clone(), is_inner));
            }
        }
    }
    planned.truncate(MAX_DIALS);
    let dialled = planned.into_iter().map(|(service, address, port, is_inner)| async move {
        let leads_to = target(&port, pod);
        let https = state.listeners.https.map(|https| https.port());
        let manner = Manner {
            tls: (leads_to.is_some() && leads_to == https).then_some(host.unwrap_or("holdfast-check.invalid")),
            proxy_header: is_inner && state.listeners.proxy_protocol,
        };
        let outcome = dial(&address, u16::try_from(port.port).unwrap_or_default(), manner).await;
        Dial {
            service,
            address,
            port: port.port,
            outcome,
        }
    });
    stream::iter(dialled).buffered(AT_ONCE).collect().await
}

/// The addresses of a Service's load balancer.
fn balancers(service: &Service) -> Vec<String> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|balancer| balancer.ingress.as_ref());
    let ingress = ingress.into_iter().flatten();
    ingress
        .filter_map(|one| one.ip.clone().or_else(|| one.hostname.clone()))
        .collect()
}

fn matches(selector: Option<&LabelSelector>, labels: &BTreeMap<String, String>) -> bool {
    let Some(selector) = selector else { return false };
    // Expressions are left to the API server's own judgement: one that is there does not rule the pods out.
    selector.match_labels.as_ref().is_none_or(|wanted| is_within(wanted, labels))
        && (selector.match_labels.is_some() || selector.match_expressions.is_some())
}

fn is_within(wanted: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

const DEFINITION: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/websocketroutes.holdfast.dev";
const SILENT: &str = "the API server says nothing";
/// For one answer of the API server.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an edit may be under way from one replica to the next.
const SETTLING: Duration = Duration::from_secs(1);
/// Objects of one kind that are looked at.
const MAX_OBJECTS: u32 = 200;
/// Ports that are dialled.
const MAX_DIALS: usize = 32;
/// Dials at once.
const AT_ONCE: usize = 8;
