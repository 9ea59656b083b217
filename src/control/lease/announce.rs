//! Keeps the replica's own Lease: that it is alive, and how far the table reaches that it serves.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{Api, ResourceExt};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Identity, PARTING, SLOW, VERSIONS_ANNOTATION,
    record::{Record, wall_clock},
    store::{Failure, Store},
    trouble::Trouble,
};
use crate::{control::versions::Versions, drain};

/// Keeps this replica's own Lease from when `served` says something until `retire` closes; then deletes it, and returns, at
/// most a few seconds later. What `served` says is written at once, but no more often than a few times a second.
pub async fn announce(
    leases: Api<Lease>,
    identity: Arc<Identity>,
    served: watch::Receiver<Option<Versions>>,
    mut retire: drain::Watch,
) {
    let mut notice = Notice::new(leases, &identity);
    tokio::select! {
        biased;
        () = retire.closing() => {}
        never = notice.keep(served) => match never {},
    }
    let is_done = timeout(PARTING, notice.withdraw()).await.unwrap_or(false);
    if !is_done {
        let name = notice.store.name();
        tracing::warn!("could not delete Lease {name}: others count this replica until it expires, for {DURATION:?}");
    }
}

struct Notice {
    store: Store,
    holder: String,
    owner: Option<OwnerReference>,
    /// As it was last read or written.
    lease: Option<Lease>,
    /// Whether it was ever tried to write it.
    is_begun: bool,
    trouble: Trouble,
}

impl Notice {
    fn new(leases: Api<Lease>, identity: &Identity) -> Self {
        let store = Store::new(leases, identity.replica_lease(), identity.replica_labels());
        let effect = "this replica is not counted where a route says whether it is programmed";
        let trouble = Trouble::new(&identity.namespace, store.name(), effect);
        let pod = identity.pod.as_ref();
        Self {
            store,
            holder: pod.map_or(&identity.replica, |pod| &pod.name).clone(),
            owner: pod.map(|pod| OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
                ..OwnerReference::default()
            }),
            lease: None,
            is_begun: false,
            trouble,
        }
    }

    async fn keep(&mut self, mut served: watch::Receiver<Option<Versions>>) -> Infallible {
        if served.wait_for(Option::is_some).await.is_err() {
            return pending().await; // there will be no table
        }
        let mut versions = String::new();
        loop {
            if let Some(now) = &*served.borrow_and_update() {
                versions = now.to_string();
            }
            let start = Instant::now();
            match self.write(&versions).await {
                Ok(()) => {
                    self.trouble.is_over();
                    sleep_until(start + PACE).await;
                    let due = sleep_until(start + PERIOD);
                    tokio::select! {
                        () = due => {}
                        Ok(()) = served.changed() => {}
                    }
                }
                Err(failure) => {
                    self.trouble.met(&failure, Instant::now());
                    let is_refused = matches!(failure, Failure::Forbidden(_) | Failure::Foreign(_));
                    sleep(if is_refused { SLOW } else { RETRY }).await;
                }
            }
        }
    }

    /// Writes the Lease over whatever stands there, if that is this replica's.
    async fn write(&mut self, versions: &str) -> Result<(), Failure> {
        self.is_begun = true;
        for _ in 0..TRIES {
            let lease = self.renewed(versions);
            match self.store.write(lease, Instant::now() + PATIENCE).await {
                Ok(lease) => {
                    self.lease = Some(lease);
                    return Ok(());
                }
                Err(Failure::Conflict) => self.lease = self.store.read(Instant::now() + PATIENCE).await?,
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::Conflict)
    }

    /// The Lease as it has to be written now.
    fn renewed(&self, versions: &str) -> Lease {
        let mut lease = self.lease.clone().unwrap_or_else(|| self.store.blank());
        let before = Record::of(&lease);
        let wall = wall_clock();
        let mine = before.holder.as_deref() == Some(&self.holder);
        let record = Record {
            holder: Some(self.holder.clone()),
            duration: Some(DURATION),
            acquired: before.acquired.filter(|_| mine).or(Some(wall)),
            renewed: Some(before.next_renewal(wall)),
            transitions: before.transitions,
        };
        record.write(&mut lease);
        // A pod of this name that is gone must not take the Lease with it.
        lease.metadata.owner_references = self.owner.clone().map(|owner| vec![owner]);
        lease
            .annotations_mut()
            .insert(VERSIONS_ANNOTATION.to_owned(), versions.to_owned());
        lease
    }

    /// Deletes the Lease. Returns whether it is gone.
    async fn withdraw(&mut self) -> bool {
        if !self.is_begun {
            return true;
        }
        loop {
            let by = Instant::now() + PATIENCE;
            let deleted = match self.lease.take() {
                Some(lease) => self.store.delete(&lease, by).await,
                None => match self.store.read(by).await {
                    Ok(None) | Err(Failure::Foreign(_)) => return true,
                    Ok(lease) => {
                        self.lease = lease;
                        continue;
                    }
                    Err(failure) => Err(failure),
                },
            };
            match deleted {
                Ok(()) => return true,
                Err(Failure::Forbidden(_)) => return false,
                Err(_) => sleep(PACE).await,
            }
        }
    }
}

/// For how long the others count a replica that says nothing.
const DURATION: Duration = Duration::from_secs(30);
/// Between two renewals when nothing changes.
const PERIOD: Duration = Duration::from_secs(10);
/// The shortest time between two writes.
const PACE: Duration = Duration::from_millis(200);
/// After a failure.
const RETRY: Duration = Duration::from_secs(2);
/// For one call.
const PATIENCE: Duration = Duration::from_secs(5);
/// To write over what changes meanwhile.
const TRIES: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::lease::{
        CLASS_LABEL, Pod, REPLICA_LABEL,
        fake::{self, Server},
    };

    struct Running {
        server: Server,
        served: watch::Sender<Option<Versions>>,
        shutdown: drain::Trigger,
        _blocker: drain::Blocker,
        task: tokio::task::JoinHandle<()>,
    }

    fn start(server: Server, uid: &str) -> Running {
        let (served, receiver) = watch::channel(None);
        let (shutdown, retire, blocker) = drain::new();
        let mut identity = fake::identity("a");
        identity.pod = Some(Pod {
            name: "pod-a".to_owned(),
            uid: uid.to_owned(),
        });
        Running {
            task: tokio::spawn(announce(server.leases(), Arc::new(identity), receiver, retire)),
            server,
            served,
            shutdown,
            _blocker: blocker,
        }
    }

    impl Running {
        fn serve(&self, versions: &str) {
            self.served.send_replace(Some(versions.parse().unwrap()));
        }

        fn versions(&self) -> Option<String> {
            self.server.get("chat-a")?.annotations().get(VERSIONS_ANNOTATION).cloned()
        }

        fn writes(&self) -> usize {
            self.server.writes_by("pod-a")
        }
    }

    async fn pass(duration: Duration) {
        sleep(duration + Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_says_what_it_serves_from_its_first_table_until_it_goes() {
        let replica = start(Server::default(), "1");
        pass(Duration::from_secs(60)).await;
        assert_eq!(replica.server.calls(), 0);

        replica.serve("Service=1");
        pass(Duration::ZERO).await;
        assert_eq!(replica.versions().as_deref(), Some("Service=1"));
        let lease = replica.server.get("chat-a").unwrap();
        assert_eq!(
            (&*lease.labels()[CLASS_LABEL], &*lease.labels()[REPLICA_LABEL]),
            ("chat", "a")
        );
        assert_eq!(
            (&*lease.owner_references()[0].kind, &*lease.owner_references()[0].uid),
            ("Pod", "1")
        );
        let record = Record::of(&lease);
        assert_eq!((record.holder.as_deref(), record.duration), (Some("pod-a"), Some(DURATION)));

        pass(PERIOD * 6).await;
        assert_eq!(replica.writes(), 7);
        let renewed = Record::of(&replica.server.get("chat-a").unwrap());
        assert_eq!(renewed.acquired, record.acquired);
        assert_ne!(renewed.renewed, record.renewed);

        replica.shutdown.close(Duration::ZERO);
        replica.task.await.unwrap();
        assert_eq!(replica.server.get("chat-a"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_written_at_once_but_not_each_when_there_are_many() {
        let replica = start(Server::default(), "1");
        replica.serve("Service=1");
        pass(Duration::from_secs(1)).await;
        replica.serve("Service=2");
        pass(Duration::ZERO).await;
        assert_eq!(replica.versions().as_deref(), Some("Service=2"));
        let before = replica.writes();
        for version in 3..=100 {
            replica.serve(&format!("Service={version}"));
            pass(Duration::from_millis(9)).await;
        }
        pass(PACE).await;
        assert_eq!(replica.versions().as_deref(), Some("Service=100"));
        assert!(replica.writes() - before <= 6, "{}", replica.writes() - before);
    }

    #[tokio::test(start_paused = true)]
    async fn the_lease_of_a_former_life_is_taken_over_and_one_that_was_deleted_is_made_again() {
        let first = start(Server::default(), "1");
        first.serve("Service=1");
        pass(PACE).await;
        first.task.abort();
        let second = start(first.server.clone(), "2");
        second.serve("Service=2");
        pass(PACE).await;
        assert_eq!(second.versions().as_deref(), Some("Service=2"));
        let lease = second.server.get("chat-a").unwrap();
        assert_eq!(lease.owner_references().len(), 1);
        assert_eq!(lease.owner_references()[0].uid, "2");

        second.server.remove("chat-a");
        pass(PERIOD).await;
        assert_eq!(second.versions().as_deref(), Some("Service=2"));
    }

    #[tokio::test(start_paused = true)]
    async fn somebody_elses_lease_is_neither_written_nor_deleted() {
        let server = Server::default();
        server.put("chat-a", &[]);
        let before = server.get("chat-a");
        let replica = start(server, "1");
        replica.serve("Service=1");
        pass(Duration::from_secs(60)).await;
        replica.shutdown.close(Duration::ZERO);
        replica.task.await.unwrap();
        assert_eq!(replica.server.get("chat-a"), before);
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_hangs_or_refuses_delays_what_is_said_and_a_departure_hardly() {
        let replica = start(Server::default(), "1");
        replica.serve("Service=1");
        pass(PACE).await;
        replica.server.hang(true);
        replica.serve("Service=2");
        pass(Duration::from_secs(60)).await;
        replica.server.hang(false);
        pass(RETRY + PATIENCE).await;
        assert_eq!(replica.versions().as_deref(), Some("Service=2"));

        replica.server.forbid(true);
        pass(Duration::from_secs(30)).await;
        let calls = replica.server.calls();
        pass(Duration::from_secs(100)).await;
        assert!(replica.server.calls() - calls <= 11);
        replica.server.forbid(false);
        replica.server.hang(true);
        let start = Instant::now();
        replica.shutdown.close(Duration::ZERO);
        replica.task.await.unwrap();
        assert!(start.elapsed() <= PARTING);
    }
}
