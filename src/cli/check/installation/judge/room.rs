//! Whether a replica can end in order, and how much room it has: descriptors, ports, memory, and time until certificates expire.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::facts::{Cluster, Facts, Share, State};
use super::super::{Item, Status};
use crate::cli::live::find::name;
use crate::cli::offline::counted;

pub(super) fn shutdown(facts: &Facts) -> Vec<Item> {
    let Some(state) = facts.states.first() else {
        return vec![Item::not_looked("no replica has answered")];
    };
    let cluster = facts.cluster.as_ref();
    let pods = cluster.and_then(|cluster| cluster.pods.as_ref().ok());
    let pod = pods.and_then(|pods| pods.iter().find(|pod| name(pod) == state.replica).or(pods.first()));
    let mut items = vec![grace(state, pod)];
    if let Some(cluster) = cluster.filter(|_| facts.is_ingress()) {
        items.extend(budget(cluster));
    }
    items
}

fn grace(state: &State, pod: Option<&Pod>) -> Item {
    let drain = &state.drain;
    let of_pod = pod.and_then(|pod| pod.spec.as_ref()?.termination_grace_period_seconds);
    let grace = of_pod.map(|seconds| seconds as f64).or(drain.grace_seconds);
    let needed = drain.delay_seconds + drain.window_seconds + drain.closing_seconds;
    let sum = format!(
        "{} + {} + {}",
        drain.delay_seconds, drain.window_seconds, drain.closing_seconds
    );
    match grace {
        None => Item::good(format!("takes {needed}s = {sum}")),
        Some(grace) if grace >= needed => Item::good(format!("grace {grace}s >= {sum}")),
        Some(grace) => {
            let text = format!("grace {grace}s is less than {sum}: the rest of the tunnels is cut");
            let object = pod.map_or_else(|| state.replica.clone(), |pod| format!("Pod {}", name(pod)));
            let fix = format!("make it {needed}, or --drain-window shorter; the chart computes it from drain");
            Item::problem("GracePeriodTooShort", text).at(object, "spec.terminationGracePeriodSeconds", fix)
        }
    }
}

/// Whether nodes are drained a few replicas at a time, and can be drained at all.
fn budget(cluster: &Cluster) -> Option<Item> {
    let budgets = match &cluster.budgets {
        Ok(budgets) => budgets,
        Err(why) => return Some(Item::not_looked(format!("PodDisruptionBudget: {why}"))),
    };
    let pods = cluster.pods.as_ref().map_or(0, Vec::len);
    let Some(budget) = budgets.first() else {
        let fix = "podDisruptionBudget.enabled of the chart";
        let text = "no PodDisruptionBudget: two nodes that are drained at once take two replicas";
        return (pods > 1).then(|| {
            Item::warning("DisruptionBudget", text).at(format!("PodDisruptionBudget in {}", cluster.namespace), "", fix)
        });
    };
    let object = format!(
        "PodDisruptionBudget {}/{}",
        cluster.namespace,
        budget.metadata.name.as_deref().unwrap_or_default()
    );
    match blocks(budget, pods) {
        None => Some(Item::good("a disruption budget")),
        Some(field) => Some(
            Item::warning(
                "DisruptionBudget",
                "the disruption budget lets no pod go: no node can be drained",
            )
            .at(object, format!("spec.{field}"), "set maxUnavailable to 1"),
        ),
    }
}

/// The field by which a budget never lets a pod go.
fn blocks(budget: &PodDisruptionBudget, pods: usize) -> Option<&'static str> {
    let spec = budget.spec.as_ref()?;
    let is = |value: &Option<IntOrString>, number: i32, text: &str| match value {
        Some(IntOrString::Int(value)) => *value == number,
        Some(IntOrString::String(value)) => value == text,
        None => false,
    };
    let all = i32::try_from(pods).unwrap_or(i32::MAX);
    if is(&spec.max_unavailable, 0, "0%") {
        return Some("maxUnavailable");
    }
    let keeps = matches!(&spec.min_available, Some(IntOrString::Int(least)) if *least >= all);
    (keeps || is(&spec.min_available, all, "100%")).then_some("minAvailable")
}

pub(super) fn headroom(facts: &Facts) -> Vec<Item> {
    let mut items = Vec::new();
    for (what, word, share, fix) in SHARES {
        items.extend(shares(facts, what, word, share, fix));
    }
    items.extend(certificates(facts));
    items.extend(tickets(facts));
    items
}

/// The fullest replica's share in one line; those that have little left, one by one.
fn shares(facts: &Facts, what: &'static str, word: &'static str, share: &fn(&State) -> &Share, fix: &'static str) -> Vec<Item> {
    let full: Vec<(&State, f64)> = facts
        .states
        .iter()
        .filter_map(|state| Some((state, share(state).ratio()?)))
        .collect();
    let most = full.iter().map(|(_, ratio)| *ratio).reduce(f64::max);
    let Some(most) = most else { return Vec::new() };
    if most < LITTLE {
        return vec![Item::good(format!("{what} {:.0}%", most * 100.0))];
    }
    let short = full.into_iter().filter(|(_, ratio)| *ratio >= LITTLE);
    short
        .map(|(state, ratio)| {
            let share = share(state);
            let status = if ratio >= NEXT_TO_NOTHING {
                Status::Problem
            } else {
                Status::Warning
            };
            let endpoint = share
                .endpoint
                .as_ref()
                .map_or_else(String::new, |endpoint| format!(" towards {endpoint}"));
            let text = format!(
                "{}: {what} {:.0}%, {:.0} of {:.0}{endpoint}",
                state.replica,
                ratio * 100.0,
                share.used,
                share.allowed.unwrap_or_default()
            );
            Item::found(status, word, text).at(format!("Pod {}", state.replica), "", fix)
        })
        .collect()
}

fn certificates(facts: &Facts) -> Vec<Item> {
    let mut all: Vec<(&str, i64)> = facts
        .states
        .iter()
        .flat_map(|state| &state.certificates)
        .map(|certificate| (certificate.secret.as_str(), certificate.expires))
        .collect();
    all.sort_unstable();
    all.dedup_by_key(|(secret, _)| *secret); // of two that differ, the one that expires first
    if all.is_empty() {
        return Vec::new();
    }
    let soon: Vec<Item> = all
        .iter()
        .filter(|(_, expires)| *expires - facts.now <= NEAR)
        .map(|(secret, expires)| {
            let left = *expires - facts.now;
            let (status, text) = match left {
                ..=0 => (Status::Problem, format!("{secret} has expired {}d ago", -left / DAY)),
                left => (Status::Warning, format!("{secret} expires in {}d", left / DAY)),
            };
            Item::found(status, "CertificateExpiring", text).at(
                format!("Secret {secret}"),
                "data[tls.crt]",
                "renew it; with cert-manager, kubectl describe the Certificate that fills the Secret",
            )
        })
        .collect();
    if soon.is_empty() {
        return vec![Item::good(format!(
            "{}, none expires within 14d",
            counted(all.len(), "certificate")
        ))];
    }
    soon
}

fn tickets(facts: &Facts) -> Option<Item> {
    let of_tls = facts.states.iter().filter(|state| state.listeners.https.is_some());
    let mut with_secret = of_tls.filter_map(|state| Some((state, state.tickets.secret.as_ref()?)));
    let (state, secret) = with_secret.find(|(state, _)| {
        let rotated = state.tickets.rotated;
        rotated.is_none_or(|rotated| state.mode == "cluster" && facts.now - rotated > OLD_KEYS)
    })?;
    let text = match state.tickets.rotated {
        None => format!("{}: replicas share no keys of session tickets", state.replica),
        Some(rotated) => format!(
            "{}: the keys of session tickets were last rotated {}h ago",
            state.replica,
            (facts.now - rotated) / 3600
        ),
    };
    Some(Item::warning("TicketKeys", text).at(
        format!("Secret {secret}"),
        "data",
        "the leader fills and rotates it: look at its log, and at the right to patch this Secret",
    ))
}

type Of = (&'static str, &'static str, fn(&State) -> &Share, &'static str);

const SHARES: &[Of] = &[
    (
        "fds",
        "FdsShort",
        |state| &state.headroom.fds,
        "more replicas, or a higher limit on file descriptors",
    ),
    (
        "ports",
        "PortsShort",
        |state| &state.headroom.ports,
        "more endpoints or replicas, or net.ipv4.ip_local_port_range",
    ),
    (
        "memory",
        "MemoryShort",
        |state| &state.headroom.memory,
        "more replicas, or a larger resources.limits.memory",
    ),
    (
        "connections",
        "ConnectionsShort",
        |state| &state.headroom.connections,
        "more replicas, or a larger --max-connections",
    ),
];

/// From here on a share is worth a warning; as the alerts.
const LITTLE: f64 = 0.8;
/// And here a problem.
const NEXT_TO_NOTHING: f64 = 0.95;
const DAY: i64 = 24 * 3600;
const NEAR: i64 = 14 * DAY;
/// Three times the period after which the leader rotates.
const OLD_KEYS: i64 = 36 * 3600;
