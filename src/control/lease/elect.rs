//! Competes for the Lease of the class: does the calls that the [`Election`] asks for, tells the outcome, and says it in the
//! log.

use std::{convert::Infallible, sync::Arc};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Identity, PARTING, Timing,
    election::{Election, Outcome, Standing, Step},
    record::{Record, wall_clock},
    store::{Failure, Store},
    trouble::Trouble,
};
use crate::{control::Outlook, drain};

/// Competes for the Lease of the class until `retire` closes; then gives it back, and returns, at most a few seconds later.
/// `leading` is true only while the Lease is surely this process's, and false before it is given back.
pub async fn elect(
    leases: Api<Lease>,
    identity: Arc<Identity>,
    timing: Timing,
    leading: watch::Sender<bool>,
    outlook: Outlook,
    mut retire: drain::Watch,
) {
    let mut candidate = Candidate::new(leases, &identity, timing, leading, outlook);
    tokio::select! {
        biased;
        () = retire.closing() => {}
        never = candidate.compete() => match never {},
    }
    candidate.retire().await;
}

struct Candidate {
    store: Store,
    class: String,
    replica: String,
    election: Election,
    /// The Lease as it was last read or written; `None` if it was not there.
    lease: Option<Lease>,
    leading: watch::Sender<bool>,
    /// The name of whoever leads, for people.
    outlook: Outlook,
    /// As told.
    standing: Standing,
    trouble: Trouble,
}

impl Candidate {
    fn new(leases: Api<Lease>, identity: &Identity, timing: Timing, leading: watch::Sender<bool>, outlook: Outlook) -> Self {
        let store = Store::new(leases, identity.leader_lease(), identity.leader_labels());
        let mut random = fastrand::Rng::with_seed(getrandom::u64().unwrap_or_else(|_| fastrand::u64(..)));
        // The name alone does not do: a process that died and came back under it must not take the Lease of its former life
        // for its own, for another may be about to take it over; and two that were given one name must not both lead.
        let me = format!("{}_{:08x}", identity.replica, random.u32(..));
        let trouble = Trouble::new(&identity.namespace, store.name(), "this replica cannot lead");
        Self {
            store,
            class: identity.class.clone(),
            election: Election::new(me, timing, random, Instant::now()),
            lease: None,
            leading,
            outlook,
            replica: identity.replica.clone(),
            standing: Standing::Unknown,
            trouble,
        }
    }

    async fn compete(&mut self) -> Infallible {
        loop {
            let now = Instant::now();
            let step = self.election.next(now, wall_clock());
            self.tell(now);
            self.go(step, now).await;
            self.tell(Instant::now());
        }
    }

    async fn retire(&mut self) {
        self.election.retire(Instant::now());
        self.leading.send_if_modified(|leading| std::mem::replace(leading, false));
        let give_back = async {
            loop {
                let now = Instant::now();
                match self.election.next(now, wall_clock()) {
                    Step::Done => return,
                    step => self.go(step, now).await,
                }
            }
        };
        let is_done = timeout(PARTING, give_back).await.is_ok();
        let class = &self.class;
        match is_done {
            true if self.standing == Standing::Leading => {
                tracing::info!("no longer leads class {class}: gave its Lease back, for this process is going away");
            }
            true => {}
            false => tracing::warn!("could not give back the Lease of class {class}: nobody else leads before it expires"),
        }
    }

    /// Does the step.
    async fn go(&mut self, step: Step, sent: Instant) {
        let by = self.election.patience(sent);
        let is_read = step == Step::Read;
        let answer = match step {
            Step::Done => return,
            Step::Wait(until) => return sleep_until(until).await,
            Step::Read => self.store.read(by).await,
            Step::Create(record) => self.write(self.store.blank(), record, by).await,
            Step::Replace(record) => {
                let lease = self.lease.clone().unwrap_or_else(|| self.store.blank());
                self.write(lease, record, by).await
            }
        };
        let outcome = match answer {
            Ok(lease) => {
                let record = lease.as_ref().map(Record::of);
                self.lease = lease;
                match record {
                    Some(record) if !is_read => Outcome::Written(record),
                    record => Outcome::Read(record),
                }
            }
            Err(failure) => {
                self.trouble.met(&failure, Instant::now());
                match failure {
                    Failure::Conflict => Outcome::Conflict,
                    Failure::Forbidden(_) => Outcome::Refused,
                    Failure::Foreign(_) => Outcome::Foreign,
                    Failure::Missing(_) | Failure::Silent | Failure::Other(_) => Outcome::Failed,
                }
            }
        };
        let is_answered = matches!(outcome, Outcome::Read(_) | Outcome::Written(_));
        let now = Instant::now();
        self.election.took(sent, now, outcome);
        if is_answered && self.election.standing(now) != Standing::Unknown {
            self.trouble.is_over(); // who may read may not always write
        }
    }

    async fn write(&self, mut lease: Lease, record: Record, by: Instant) -> Result<Option<Lease>, Failure> {
        record.write(&mut lease);
        self.store.write(lease, by).await.map(Some)
    }

    /// Tells where this replica stands, if that is news.
    fn tell(&mut self, now: Instant) {
        let standing = self.election.standing(now);
        if standing == self.standing {
            return;
        }
        let leads = standing == Standing::Leading;
        self.leading
            .send_if_modified(|leading| std::mem::replace(leading, leads) != leads);
        let leader = match &standing {
            Standing::Leading => Some(self.replica.clone()),
            Standing::Following(other) => Some(replica_of(other).to_owned()),
            Standing::Unknown => None,
        };
        self.outlook.with(|known| known.leader = leader);
        let class = &self.class;
        match (&self.standing, &standing) {
            (_, Standing::Leading) => tracing::info!("this replica leads class {class} now"),
            (Standing::Leading, Standing::Following(other)) => {
                tracing::info!("no longer leads class {class}: {other} took over");
            }
            (Standing::Leading, Standing::Unknown) => {
                tracing::info!("no longer leads class {class}: its Lease is not renewed, or gone");
            }
            (_, Standing::Following(other)) => tracing::info!("{other} leads class {class}"),
            (_, Standing::Unknown) => {} // an election is on
        }
        self.standing = standing;
    }
}

/// The replica's name in an identity.
fn replica_of(identity: &str) -> &str {
    identity.rsplit_once('_').map_or(identity, |(replica, _)| replica)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::lease::{
        CLASS_LABEL, SLOW,
        fake::{self, DEADLINE, DURATION, RETRY, Server, timing},
    };

    /// A replica that competes.
    struct Replica {
        leading: watch::Receiver<bool>,
        shutdown: drain::Trigger,
        _blocker: drain::Blocker,
        task: tokio::task::JoinHandle<()>,
    }

    impl Replica {
        fn start(server: &Server, name: &str) -> Self {
            let (told, leading) = watch::channel(false);
            let (shutdown, retire, blocker) = drain::new();
            let identity = Arc::new(fake::identity(name));
            Self {
                leading,
                shutdown,
                _blocker: blocker,
                task: tokio::spawn(elect(server.leases(), identity, timing(), told, Outlook::default(), retire)),
            }
        }

        fn leads(&self) -> bool {
            *self.leading.borrow()
        }

        /// Returns how long it took until it leads, or does not.
        async fn until(&mut self, leads: bool) -> Duration {
            let start = Instant::now();
            let told = self.leading.wait_for(|now| *now == leads);
            timeout(Duration::from_secs(120), told).await.unwrap().unwrap();
            start.elapsed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_leads_and_another_takes_over_when_it_died() {
        let server = Server::default();
        let mut first = Replica::start(&server, "a");
        first.until(true).await;
        let lease = server.get("chat").unwrap();
        assert_eq!(lease.metadata.labels.as_ref().unwrap()[CLASS_LABEL], "chat");
        assert!(Record::of(&lease).holder.unwrap().starts_with("a_"));

        let mut second = Replica::start(&server, "b");
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(first.leads() && !second.leads());
        assert_eq!(server.writes_by("b"), 0);

        first.task.abort();
        let took = second.until(true).await;
        assert!(took > DURATION - RETRY && took < Duration::from_secs(25), "{took:?}");
        assert_eq!(Record::of(&server.get("chat").unwrap()).transitions, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_goes_hands_over_at_once() {
        let server = Server::default();
        let mut first = Replica::start(&server, "a");
        first.until(true).await;
        let mut second = Replica::start(&server, "b");
        tokio::time::sleep(Duration::from_secs(20)).await;
        first.shutdown.close(Duration::ZERO);
        first.until(false).await;
        first.task.await.unwrap();
        assert_eq!(Record::of(&server.get("chat").unwrap()).holder, None);
        let took = second.until(true).await;
        assert!(took < 2 * RETRY, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_goes_stops_to_lead_before_the_api_server_answers() {
        let server = Server::default();
        let mut replica = Replica::start(&server, "a");
        replica.until(true).await;
        server.hang(true);
        let start = Instant::now();
        replica.shutdown.close(Duration::ZERO);
        assert_eq!(replica.until(false).await, Duration::ZERO);
        replica.task.await.unwrap();
        assert!(start.elapsed() <= PARTING);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_api_server_ends_the_leading_in_time_and_only_that() {
        let server = Server::default();
        let mut replica = Replica::start(&server, "a");
        replica.until(true).await;
        server.hang(true);
        let took = replica.until(false).await;
        assert!(
            took <= DEADLINE && took > DEADLINE - RETRY - Duration::from_millis(2),
            "{took:?}"
        );
        tokio::time::sleep(Duration::from_secs(60)).await;
        server.hang(false);
        replica.until(true).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_of_the_same_name_waits_for_the_lease_of_its_former_life() {
        let server = Server::default();
        let mut first = Replica::start(&server, "a");
        first.until(true).await;
        first.task.abort();
        let took = Replica::start(&server, "a").until(true).await;
        assert!(took >= DURATION, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn somebody_elses_lease_is_left_alone() {
        let server = Server::default();
        server.put("chat", &[]);
        let before = server.get("chat");
        let mut replica = Replica::start(&server, "a");
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(!replica.leads());
        assert_eq!(server.get("chat"), before);
        server.remove("chat");
        let took = replica.until(true).await;
        assert!(took < 2 * SLOW, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_rights_it_goes_on_slowly_and_leads_when_they_come() {
        let server = Server::default();
        server.forbid(true);
        let mut replica = Replica::start(&server, "a");
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(server.calls() <= 11, "{}", server.calls());
        server.forbid(false);
        replica.until(true).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_label_that_somebody_adds_stays_and_does_not_end_the_leading() {
        let server = Server::default();
        let mut replica = Replica::start(&server, "a");
        replica.until(true).await;
        server.label("chat", "team", "web");
        let lost = timeout(Duration::from_secs(60), replica.leading.wait_for(|leading| !leading)).await;
        assert!(lost.is_err());
        assert_eq!(server.get("chat").unwrap().metadata.labels.unwrap()["team"], "web");
    }
}
