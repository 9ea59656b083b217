//! Whether the replicas are there, are one release, route alike, are led, and how old what they know is.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use super::super::facts::{Facts, State};
use super::super::{Item, Status};
use crate::cli::live::find::{name, phase};
use crate::cli::offline::counted;

pub(super) fn replicas(facts: &Facts) -> Vec<Item> {
    let mut items = readiness(facts);
    items.extend(facts.silent.iter().map(|missing| {
        Item::warning(
            "ReplicaSilent",
            format!("{} does not answer: {}", missing.replica, missing.reason),
        )
        .at(
            format!("Pod {}", missing.replica),
            "",
            "look at its log; with --live elsewhere in the container, HOLDFAST_LIVE or the argument must say it",
        )
    }));
    let states = &facts.states;
    if states.is_empty() {
        return items;
    }
    let versions: BTreeSet<&str> = states.iter().map(|state| state.version.as_str()).collect();
    if versions.len() > 1 {
        let text = format!(
            "replicas are of versions {}",
            versions.into_iter().collect::<Vec<_>>().join(", ")
        );
        let fix = "wait for the rollout, or look why it does not go on: kubectl rollout status";
        items.push(Item::warning("VersionsDiffer", text).at("", "", fix));
    } else if states.len() > 1 {
        items.push(tables(states));
    }
    if facts.is_ingress() {
        items.push(leader(facts));
    }
    items
}

fn readiness(facts: &Facts) -> Vec<Item> {
    let version = facts
        .states
        .first()
        .map_or_else(String::new, |state| format!(", {}", state.version));
    let cluster = facts.cluster.as_ref();
    let pods = cluster.and_then(|cluster| cluster.pods.as_ref().ok());
    let by_state = || {
        let waits = facts.states.iter().filter(|state| !state.ready);
        let mut items: Vec<Item> = waits.map(|state| not_ready(&state.replica, &waiting(state))).collect();
        if items.is_empty() {
            items.push(Item::good(format!("ready{version}")));
        }
        items
    };
    let Some(pods) = pods else { return by_state() };
    let desired = cluster.and_then(|cluster| cluster.workload.as_ref().ok()?.clone());
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    let wanted = desired
        .as_ref()
        .map_or(pods.len(), |workload| usize::try_from(workload.desired).unwrap_or_default());
    let mut items = Vec::new();
    if ready >= wanted && ready > 0 {
        items.push(Item::good(format!("{ready}/{wanted} ready{version}")));
    } else {
        let object = desired.map_or_else(|| "pods".to_owned(), |workload| workload.name);
        items.push(
            Item::problem("ReplicaNotReady", format!("{ready}/{wanted} ready{version}")).at(
                object,
                "",
                "kubectl describe the pods that are not ready",
            ),
        );
    }
    let of = |pod: &&Pod| !is_ready(pod) && pod.metadata.deletion_timestamp.is_none();
    items.extend(pods.iter().filter(of).map(|pod| {
        let state = facts.states.iter().find(|state| state.replica == name(pod));
        let why = state.filter(|state| !state.ready).map_or_else(|| reason(pod), waiting);
        not_ready(name(pod), &why)
    }));
    items
}

fn not_ready(replica: &str, why: &str) -> Item {
    let fix = format!("kubectl logs {replica}: it says what it waits for");
    Item::warning("ReplicaNotReady", format!("{replica} is not ready: {why}")).at(format!("Pod {replica}"), "", fix)
}

fn waiting(state: &State) -> String {
    match state.waiting_for.as_slice() {
        [] => "it says that it is".to_owned(),
        parts => format!("it waits for {}", parts.join(", ")),
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What Kubernetes says of a pod that is not ready.
fn reason(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let containers = status
        .into_iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let waiting = containers.filter_map(|container| container.state.as_ref()?.waiting.as_ref());
    for waiting in waiting {
        if let Some(reason) = &waiting.reason {
            return reason.clone();
        }
    }
    let mut conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    let scheduled = conditions.find(|condition| condition.type_ == "PodScheduled" && condition.status != "True");
    scheduled
        .and_then(|condition| condition.message.clone())
        .unwrap_or_else(|| phase(pod).to_owned())
}

fn tables(states: &[State]) -> Item {
    let digest = |state: &State| state.table.as_ref().map(|table| table.digest.clone()).unwrap_or_default();
    let first = digest(&states[0]);
    let others: Vec<&str> = states
        .iter()
        .filter(|state| digest(state) != first)
        .map(|state| state.replica.as_str())
        .collect();
    if others.is_empty() {
        let generation = states.iter().filter_map(|state| Some(state.table.as_ref()?.generation)).max();
        return Item::good(format!("same table, generation {}", generation.unwrap_or_default()));
    }
    let text = format!("{} and {} have different tables", states[0].replica, others.join(", "));
    Item::warning("TablesDiffer", text).at(
        "",
        "",
        "if it lasts, look which replica's view is old, and whether all read the same --defaults",
    )
}

fn leader(facts: &Facts) -> Item {
    let states = &facts.states;
    let leaders: Vec<&str> = states
        .iter()
        .filter(|state| state.leads)
        .map(|state| state.replica.as_str())
        .collect();
    let named = states.iter().find_map(|state| state.leader.as_deref());
    match (leaders.as_slice(), named) {
        ([one], _) => Item::good(format!("leader {one}")),
        ([], Some(other)) => Item::good(format!("leader {other}")),
        ([], None) => Item::problem("NoLeader", "no replica leads: nobody writes the status of routes").at(
            format!("Lease {}", states.first().map_or("holdfast", |state| state.class.as_str())),
            "spec.holderIdentity",
            "look at the replicas' logs, and whether the ServiceAccount may create and update Leases in its namespace",
        ),
        (several, _) => Item::warning("NoLeader", format!("{} all say that they lead", several.join(", "))).at(
            "",
            "",
            "if it lasts, their Leases are in different namespaces: give each installation a class of its own",
        ),
    }
}

pub(super) fn view(facts: &Facts) -> Vec<Item> {
    let states = &facts.states;
    let Some(first) = states.first() else {
        return vec![Item::not_looked("no replica has answered")];
    };
    let mut items = Vec::new();
    let from_cluster = matches!(first.mode.as_str(), "cluster" | "sidecar");
    if from_cluster {
        let ages: Vec<f64> = states
            .iter()
            .flat_map(|state| &state.views)
            .filter_map(|view| view.age_seconds)
            .collect();
        if let (Some(newest), Some(oldest)) = (ages.iter().copied().reduce(f64::min), ages.iter().copied().reduce(f64::max)) {
            items.push(Item::good(format!("newest event {newest:.0}s ago")));
            if oldest <= STALE {
                items.push(Item::good(format!("no watch older than {oldest:.0}s")));
            }
        }
        items.extend(states.iter().flat_map(stale));
    }
    let table = states.iter().find_map(|state| state.table.as_ref());
    if let Some(table) = table {
        items.push(Item::good(counted(
            usize::try_from(table.routes).unwrap_or(usize::MAX),
            "route",
        )));
        if table.rejected > 0 {
            let count = usize::try_from(table.rejected).unwrap_or(usize::MAX);
            let text = format!("{} rejected, which nobody is served by", counted(count, "route"));
            items.push(Item::warning("Invalid", text).at("", "", "kubectl get wsr -A shows them; kubectl describe says why"));
        }
    }
    items
}

/// What one replica has not heard of for too long, or cannot.
fn stale(state: &State) -> Vec<Item> {
    let is_old = |age: Option<f64>| age.is_none_or(|age| age > STALE);
    let bad = state
        .views
        .iter()
        .filter(|view| view.failure.is_some() || is_old(view.age_seconds));
    bad.map(|view| {
        let status = if is_old(view.age_seconds) {
            Status::Problem
        } else {
            Status::Warning
        };
        let age = view
            .age_seconds
            .map_or_else(|| "never heard of".to_owned(), |age| format!("heard of {age:.0}s ago"));
        let why = view
            .failure
            .as_ref()
            .map_or_else(String::new, |failure| format!(": {failure}"));
        Item::found(status, "ViewStale", format!("{}: {} {age}{why}", state.replica, view.of)).at(
            format!("Pod {}", state.replica),
            "",
            "what was known stays in effect; look at the rights above, and whether the pod reaches the API server",
        )
    })
    .collect()
}

/// A watch is renewed, and so heard of, every 45 seconds; as the alert HoldfastViewStale.
const STALE: f64 = 180.0;
