//! One Lease in the API server, by its name: reads, writes, and what can go wrong with them.

use std::{collections::BTreeMap, error::Error};

use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use tokio::time::{Instant, timeout_at};

use super::{CLASS_LABEL, REPLICA_LABEL};

/// Where the Lease of this name is kept. Touches it only if it has these labels, or is not there.
#[derive(Clone, Debug)]
pub(super) struct Store {
    api: Api<Lease>,
    name: String,
    labels: BTreeMap<String, String>,
}

/// Why a call did nothing, as far as is known.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It is no longer what it was, or there, or not there.
    #[error("somebody else was first")]
    Conflict,
    #[error("{0}")]
    Forbidden(String),
    #[error("{}", match .0 {
        Some(class) => format!("it belongs to class {class:?}, by its label {CLASS_LABEL}"),
        None => format!("it has no label {CLASS_LABEL}"),
    })]
    Foreign(Option<String>),
    /// What it is to be made in, or it itself.
    #[error("{0}")]
    Missing(String),
    #[error("the API server does not answer")]
    Silent,
    #[error("{0}")]
    Other(String),
}

impl Store {
    pub(super) fn new(api: Api<Lease>, name: String, labels: BTreeMap<String, String>) -> Self {
        Self { api, name, labels }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A Lease that is not written yet.
    pub(super) fn blank(&self) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        }
    }

    pub(super) async fn read(&self, by: Instant) -> Result<Option<Lease>, Failure> {
        match within(by, self.api.get_opt(&self.name)).await? {
            Some(lease) if !self.is_ours(&lease) => Err(Failure::Foreign(lease.labels().get(CLASS_LABEL).cloned())),
            lease => Ok(lease),
        }
    }

    /// Replaces the Lease, if it is still as it was read or written last; creates it, if this one never was.
    pub(super) async fn write(&self, mut lease: Lease, by: Instant) -> Result<Lease, Failure> {
        lease.labels_mut().extend(self.labels.clone());
        lease.meta_mut().managed_fields = None;
        let params = PostParams::default();
        match lease.resource_version() {
            None => within(by, self.api.create(&params, &lease)).await,
            Some(_) => match within(by, self.api.replace(&self.name, &params, &lease)).await {
                Err(Failure::Missing(_)) => Err(Failure::Conflict),
                written => written,
            },
        }
    }

    /// Deletes this very Lease; one of its name that was made later stays.
    pub(super) async fn delete(&self, lease: &Lease, by: Instant) -> Result<(), Failure> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: lease.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match within(by, self.api.delete(&self.name, &params)).await {
            Ok(_) | Err(Failure::Missing(_)) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    fn is_ours(&self, lease: &Lease) -> bool {
        [CLASS_LABEL, REPLICA_LABEL]
            .into_iter()
            .all(|label| lease.labels().get(label) == self.labels.get(label))
    }
}

/// Awaits a call of the API until `by`.
async fn within<T>(by: Instant, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failure> {
    match timeout_at(by, call).await {
        Ok(answer) => answer.map_err(Failure::from),
        Err(_) => Err(Failure::Silent),
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() => Self::Conflict,
            kube::Error::Api(status) if status.is_forbidden() => Self::Forbidden(status.message),
            kube::Error::Api(status) if status.is_not_found() => Self::Missing(status.message),
            kube::Error::Api(status) if !status.message.is_empty() => Self::Other(status.message),
            error => Self::Other(with_causes(&error)),
        }
    }
}

/// The error and what it comes from: "client error (Connect)" alone would tell nobody anything.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::lease::fake::{self, Server};

    fn store(server: &Server) -> Store {
        let identity = fake::identity("a");
        Store::new(server.leases(), identity.leader_lease(), identity.leader_labels())
    }

    fn soon() -> Instant {
        Instant::now() + std::time::Duration::from_secs(5)
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_made_replaced_and_deleted_only_as_it_was_seen() {
        let server = Server::default();
        let store = store(&server);
        assert_eq!(store.read(soon()).await.unwrap(), None);
        let made = store.write(store.blank(), soon()).await.unwrap();
        assert_eq!(made.labels()[CLASS_LABEL], "chat");
        assert!(matches!(store.write(store.blank(), soon()).await, Err(Failure::Conflict)));

        let replaced = store.write(made.clone(), soon()).await.unwrap();
        assert!(matches!(store.write(made.clone(), soon()).await, Err(Failure::Conflict)));
        store.delete(&replaced, soon()).await.unwrap();
        store.delete(&replaced, soon()).await.unwrap();
        assert!(matches!(store.write(replaced, soon()).await, Err(Failure::Conflict)));

        let again = store.write(store.blank(), soon()).await.unwrap();
        assert!(matches!(store.delete(&made, soon()).await, Err(Failure::Conflict)));
        assert_eq!(store.read(soon()).await.unwrap(), Some(again));
    }

    #[tokio::test(start_paused = true)]
    async fn anothers_lease_is_not_read_as_ours() {
        let server = Server::default();
        for (labels, expected) in [
            (vec![], "it has no label holdfast.dev/class"),
            (
                vec![(CLASS_LABEL, "web")],
                "it belongs to class \"web\", by its label holdfast.dev/class",
            ),
            (
                vec![(CLASS_LABEL, "chat"), (REPLICA_LABEL, "x")],
                "it belongs to class \"chat\"",
            ),
        ] {
            server.put("chat", &labels);
            let failure = store(&server).read(soon()).await.unwrap_err().to_string();
            assert!(failure.starts_with(expected), "{failure}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_ends() {
        let server = Server::default();
        server.hang(true);
        let by = soon();
        assert!(matches!(store(&server).read(by).await, Err(Failure::Silent)));
        assert_eq!(Instant::now(), by);
    }

    #[test]
    fn an_error_tells_its_causes() {
        let cause = std::io::Error::other("connection refused");
        let error = kube::Error::Service(Box::new(std::io::Error::other(cause)));
        assert_eq!(with_causes(&error), "ServiceError: connection refused");
    }
}
