//! `GET /state`: what this process is, what it knows and how much room it has. `holdfast check` compares it across replicas.

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Map, Value, json};

use crate::{
    control::{Known, Outlook, View},
    headroom::{self, Share},
    proxy::Shared,
    readiness::Readiness,
    routing::{Snapshot, endpoint::Endpoint},
};

/// What `/state` tells beside what the live listener knows itself.
#[derive(Debug)]
pub struct State {
    pub about: About,
    pub readiness: Readiness,
    pub outlook: Outlook,
}

/// What does not change while the process runs.
#[derive(Clone, Debug)]
pub struct About {
    pub started: SystemTime,
    /// Where routes come from: `cluster`, `folder`, `single` or `sidecar`.
    pub mode: &'static str,
    pub class: String,
    /// The namespaces that are looked at; empty: all.
    pub watch_namespaces: Vec<String>,
    /// The Secret with the keys of session tickets, as namespace/name.
    pub ticket_secret: Option<String>,
    pub proxy_protocol: bool,
    pub pod: Option<String>,
    pub namespace: Option<String>,
    pub http: SocketAddr,
    pub https: Option<SocketAddr>,
    pub admin: SocketAddr,
    /// The pod's terminationGracePeriodSeconds, if it was told.
    pub grace: Option<Duration>,
    /// What a drain needs beside its delay and its window.
    pub closing: Duration,
    pub revision: Option<&'static str>,
}

impl State {
    /// The document, less what is the same in all documents of this listener.
    pub(super) fn fields(&self, proxy: &Shared) -> Map<String, Value> {
        let about = &self.about;
        let known = self.outlook.now();
        let missing = self.readiness.missing();
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        put("service.version", json!(env!("CARGO_PKG_VERSION")));
        put("vcs.ref.head.revision", json!(about.revision));
        put("k8s.pod.name", json!(about.pod));
        put("k8s.namespace.name", json!(about.namespace));
        put("started", json!(seconds(about.started)));
        put("mode", json!(about.mode));
        put("class", json!(about.class));
        put("watch_namespaces", json!(about.watch_namespaces));
        put("ready", json!(missing.is_empty()));
        put("waiting_for", json!(missing));
        put("table", table(&known, &proxy.published.load()));
        put("leads", json!(known.leads));
        put("leader", json!(known.leader));
        put("views", views(&known));
        put("certificates", certificates(&known));
        put(
            "tickets",
            json!({"secret": about.ticket_secret, "rotated": known.ticket_keys}),
        );
        put(
            "listeners",
            json!({
                "http": about.http, "https": about.https, "admin": about.admin,
                "proxy_protocol": about.proxy_protocol,
            }),
        );
        put("headroom", room(proxy));
        fields
    }

    /// What goes with the state of the drain.
    pub(super) fn shutdown(&self) -> Value {
        json!({
            "closing_seconds": self.about.closing.as_secs_f64(),
            "grace_seconds": self.about.grace.map(|grace| grace.as_secs_f64()),
        })
    }
}

fn table(known: &Known, snapshot: &Snapshot) -> Value {
    let Some(table) = &known.table else { return Value::Null };
    json!({
        "generation": table.generation,
        "digest": format!("{:016x}", table.digest),
        "published": seconds(table.published),
        "routes": table.routes,
        "rejected": table.rejected,
        "rules": snapshot.table.rules().count(),
    })
}

fn views(known: &Known) -> Value {
    let now = Instant::now();
    let view = |(what, view): (&String, &View)| {
        let age = view.heard.map(|heard| now.saturating_duration_since(heard).as_secs_f64());
        json!({
            "of": what,
            "age_seconds": age,
            "resource_version": view.version,
            "failure": view.failure,
        })
    };
    known.views.iter().map(view).collect()
}

/// Those that expire first are first.
fn certificates(known: &Known) -> Value {
    let mut certificates: Vec<_> = known.certificates.iter().collect();
    certificates.sort_by_key(|(_, expires)| **expires);
    let certificates = certificates.into_iter().take(MAX_CERTIFICATES);
    certificates
        .map(|(secret, expires)| json!({"secret": secret.to_string(), "expires": expires}))
        .collect()
}

fn room(proxy: &Shared) -> Value {
    let connections = Share {
        used: proxy.metrics.connections(),
        allowed: u64::try_from(proxy.settings.limit.connections).ok(),
    };
    let busiest = busiest(&proxy.published.load());
    let ports = Share {
        used: busiest.as_ref().map_or(0, |(_, open)| u64::from(*open)),
        allowed: headroom::source_ports().map(|range| range.len() as u64),
    };
    json!({
        "connections": share(connections),
        "fds": share(headroom::descriptors()),
        "memory": share(headroom::memory()),
        "ports": {"used": ports.used, "allowed": ports.allowed, "endpoint": busiest.map(|(name, _)| name)},
    })
}

fn share(share: Share) -> Value {
    json!({"used": share.used, "allowed": share.allowed})
}

/// The endpoint with the most connections, and how many. One on loopback is none: to it there are more source addresses than one.
fn busiest(snapshot: &Snapshot) -> Option<(String, u32)> {
    let is_far = |endpoint: &&Endpoint| !endpoint.addresses().iter().any(|address| address.ip().is_loopback());
    let mut most: Option<(String, u32)> = None;
    for backend in snapshot.table.rules().flat_map(|rule| &rule.backends) {
        let Some(cell) = &backend.endpoints else { continue };
        let set = cell.load();
        for endpoint in set.members().iter().map(|(endpoint, _)| &**endpoint).filter(is_far) {
            if endpoint.open() > most.as_ref().map_or(0, |(_, open)| *open) {
                most = Some((format!("{} {}", endpoint.key().service, endpoint.name()), endpoint.open()));
            }
        }
    }
    most
}

/// Since 1970.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Of certificates, those are told that expire first.
const MAX_CERTIFICATES: usize = 1000;
