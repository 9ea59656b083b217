//! Leases in memory behind a real client: what the API server does with them, and what it does when it is not well.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use http::{Method, Request, Response, StatusCode};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, client::Body};
use serde_json::json;
use tokio::sync::watch;

use super::{Identity, Timing};

pub(super) const DURATION: Duration = Duration::from_secs(15);
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
pub(super) const RETRY: Duration = Duration::from_secs(2);

pub(super) fn timing() -> Timing {
    Timing::new(DURATION, DEADLINE, RETRY).unwrap()
}

/// A replica of class `chat` in namespace `holdfast`.
pub(super) fn identity(replica: &str) -> Identity {
    Identity {
        class: "chat".to_owned(),
        replica: replica.to_owned(),
        namespace: "holdfast".to_owned(),
        pod: None,
    }
}

/// An API server that knows Leases of one namespace. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    state: Arc<Mutex<State>>,
    /// Whether calls are left without an answer.
    hanging: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    leases: BTreeMap<String, Lease>,
    revision: u64,
    calls: usize,
    /// The holders that were written.
    writers: Vec<String>,
    forbids: bool,
}

impl Server {
    pub(super) fn leases(&self) -> Api<Lease> {
        let server = self.clone();
        let service = tower::service_fn(move |request| server.clone().serve(request));
        Api::namespaced(Client::new(service, "holdfast"), "holdfast")
    }

    /// From now on nothing is done and answered, or everything again.
    pub(super) fn hang(&self, hangs: bool) {
        self.hanging.send_replace(hangs);
    }

    /// From now on everything is refused, or nothing any longer.
    pub(super) fn forbid(&self, forbids: bool) {
        self.state().forbids = forbids;
    }

    pub(super) fn calls(&self) -> usize {
        self.state().calls
    }

    /// How many writes named a holder that begins so.
    pub(super) fn writes_by(&self, holder: &str) -> usize {
        self.state()
            .writers
            .iter()
            .filter(|writer| writer.starts_with(holder))
            .count()
    }

    pub(super) fn get(&self, name: &str) -> Option<Lease> {
        self.state().leases.get(name).cloned()
    }

    pub(super) fn remove(&self, name: &str) {
        self.state().leases.remove(name);
    }

    /// Somebody else makes a Lease.
    pub(super) fn put(&self, name: &str, labels: &[(&str, &str)]) {
        let mut lease = Lease::default();
        lease.metadata.name = Some(name.to_owned());
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        lease.metadata.labels = Some(labels.collect());
        self.state().store(name, lease);
    }

    /// Somebody else sets a label.
    pub(super) fn label(&self, name: &str, key: &str, value: &str) {
        let mut lease = self.get(name).unwrap();
        lease
            .metadata
            .labels
            .get_or_insert_default()
            .insert(key.to_owned(), value.to_owned());
        self.state().store(name, lease);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn serve(self, request: Request<Body>) -> Result<Response<Body>, kube::Error> {
        self.state().calls += 1;
        let _ = self.hanging.subscribe().wait_for(|hangs| !hangs).await;
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await?;
        let path = head.uri.path();
        assert!(
            path.starts_with("/apis/coordination.k8s.io/v1/namespaces/holdfast/leases"),
            "{path}"
        );
        let name = path.split('/').nth(7);
        let (status, answer) = match self.state().answer(&head.method, name, &body) {
            Ok(lease) => (StatusCode::OK, serde_json::to_value(lease).unwrap()),
            Err((status, reason)) => (
                status,
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "code": status.as_u16(), "reason": reason, "message": format!("leases: {reason}")}),
            ),
        };
        let answer = Body::from(serde_json::to_vec(&answer).unwrap());
        Ok(Response::builder().status(status).body(answer).unwrap())
    }
}

type Refusal = (StatusCode, &'static str);

impl State {
    fn answer(&mut self, method: &Method, name: Option<&str>, body: &[u8]) -> Result<Lease, Refusal> {
        const CONFLICT: Refusal = (StatusCode::CONFLICT, "Conflict");
        const MISSING: Refusal = (StatusCode::NOT_FOUND, "NotFound");
        if self.forbids {
            return Err((StatusCode::FORBIDDEN, "Forbidden"));
        }
        let known = name.and_then(|name| self.leases.get(name)).cloned();
        match (method, name) {
            (&Method::POST, None) => {
                let lease: Lease = serde_json::from_slice(body).unwrap();
                let name = lease.metadata.name.clone().unwrap();
                if self.leases.contains_key(&name) {
                    return Err((StatusCode::CONFLICT, "AlreadyExists"));
                }
                Ok(self.write(&name, lease))
            }
            (&Method::GET, Some(_)) => known.ok_or(MISSING),
            (&Method::PUT, Some(name)) => {
                let lease: Lease = serde_json::from_slice(body).unwrap();
                let known = known.ok_or(MISSING)?;
                match known.metadata.resource_version == lease.metadata.resource_version {
                    true => Ok(self.write(name, lease)),
                    false => Err(CONFLICT),
                }
            }
            (&Method::DELETE, Some(name)) => {
                let known = known.ok_or(MISSING)?;
                let asked: serde_json::Value = serde_json::from_slice(body).unwrap();
                let uid = asked["preconditions"]["uid"].as_str().map(str::to_owned);
                if uid.is_some() && uid != known.metadata.uid {
                    return Err(CONFLICT);
                }
                self.leases.remove(name);
                Ok(known)
            }
            (method, name) => panic!("{method} of {name:?}"),
        }
    }

    fn write(&mut self, name: &str, lease: Lease) -> Lease {
        let spec = lease.spec.as_ref();
        self.writers
            .push(spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default());
        self.store(name, lease)
    }

    fn store(&mut self, name: &str, mut lease: Lease) -> Lease {
        self.revision += 1;
        lease.metadata.resource_version = Some(self.revision.to_string());
        lease.metadata.uid.get_or_insert_with(|| format!("uid-{}", self.revision));
        self.leases.insert(name.to_owned(), lease.clone());
        lease
    }
}
