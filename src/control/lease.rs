//! Leases: which replica leads, which replicas are alive, and what each of them serves.
//!
//! Owns the Lease of the class, for which [`elect`] competes, the replica's own Lease, which [`announce`] keeps, and the view
//! of everybody's, [`Replicas`]. The control plane runs the two and feeds the third. Routing never depends on any of it: a
//! process without a single right on Leases serves all the same, it only never leads.
//!
//! All times are judged by this process's monotonic clock. The wall-clock times in a Lease are written for people, and are
//! never compared with a clock: a change of them is what counts, and for how long there was none.

mod announce;
mod elect;
mod election;
#[cfg(test)]
mod fake;
mod name;
mod record;
mod replicas;
#[cfg(test)]
mod simulation;
mod store;
mod trouble;

use std::{collections::BTreeMap, time::Duration};

pub(super) use announce::announce;
pub(super) use elect::elect;
pub(super) use replicas::Replicas;

/// Who this process is to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The class whose routes it serves: those of one class elect one leader.
    pub class: String,
    /// What sets this process apart from the others of its class: the name of its pod, else of its machine and process.
    pub replica: String,
    /// Where the Leases are.
    pub namespace: String,
    /// Owns the Lease of the replica, which so goes with it. `None` out of a cluster.
    pub pod: Option<Pod>,
}

/// The pod that a process runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub uid: String,
}

/// How fast a leader is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    duration: Duration,
    renew_deadline: Duration,
    retry: Duration,
}

/// The three times do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTiming {
    #[error("--lease-retry {0:?} is too short: {LEAST_RETRY:?} or more")]
    Retry(Duration),
    #[error(
        "--lease-renew-deadline {deadline:?} is too short for --lease-retry {retry:?}: it must be longer than {least:?}, \
         the longest pause between two tries"
    )]
    Deadline {
        deadline: Duration,
        retry: Duration,
        least: Duration,
    },
    #[error(
        "--lease-duration {duration:?} must be longer than --lease-renew-deadline {deadline:?}, or two replicas could lead at once"
    )]
    Duration { duration: Duration, deadline: Duration },
    #[error("--lease-duration {0:?} is too long: {MOST_DURATION:?} or less")]
    Endless(Duration),
}

impl Timing {
    /// A leader renews its Lease every `retry`, and stops to lead when it could not for `renew_deadline`; another takes over
    /// when it has seen no renewal for `duration`.
    ///
    /// # Errors
    /// When a leader would not have stopped before another takes over, or could not try twice.
    pub fn new(duration: Duration, renew_deadline: Duration, retry: Duration) -> Result<Self, InvalidTiming> {
        let deadline = renew_deadline;
        if retry < LEAST_RETRY {
            return Err(InvalidTiming::Retry(retry));
        }
        if duration > MOST_DURATION {
            return Err(InvalidTiming::Endless(duration));
        }
        if deadline >= duration {
            return Err(InvalidTiming::Duration { duration, deadline });
        }
        let least = longest_pause(retry);
        if deadline <= least {
            return Err(InvalidTiming::Deadline { deadline, retry, least });
        }
        Ok(Self {
            duration,
            renew_deadline,
            retry,
        })
    }
}

impl Identity {
    /// What a list or a watch of the replicas' Leases asks for. That of the leader is none of them: it changes too often.
    pub fn selector(&self) -> String {
        format!("{CLASS_LABEL}={},{REPLICA_LABEL}", name::label(&self.class))
    }

    /// The name of the Lease that a leader of the class holds.
    fn leader_lease(&self) -> String {
        name::object(&self.class)
    }

    /// The name of the replica's own Lease.
    fn replica_lease(&self) -> String {
        name::object(&format!("{}-{}", self.class, self.replica))
    }

    fn leader_labels(&self) -> BTreeMap<String, String> {
        [
            (CLASS_LABEL, name::label(&self.class)),
            ("app.kubernetes.io/name", "holdfast".to_owned()),
            ("app.kubernetes.io/managed-by", "holdfast".to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    fn replica_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.leader_labels();
        labels.insert(REPLICA_LABEL.to_owned(), name::label(&self.replica));
        labels
    }
}

/// `retry` and what may be added to it, so that the replicas do not all ask at the same moment.
fn longest_pause(retry: Duration) -> Duration {
    retry.mul_f64(1.0 + JITTER)
}

/// On each Lease of ours: its class. One without it is somebody else's.
const CLASS_LABEL: &str = "holdfast.dev/class";
/// On the Lease of a replica, and on no other.
const REPLICA_LABEL: &str = "holdfast.dev/replica";
/// On the Lease of a replica: how far the table reaches that it serves.
const VERSIONS_ANNOTATION: &str = "holdfast.dev/versions";
/// The part of a pause that is left to chance.
const JITTER: f64 = 0.2;
/// A shorter one would only be a load on the API server.
const LEAST_RETRY: Duration = Duration::from_millis(100);
/// A longer one would be a mistake.
const MOST_DURATION: Duration = Duration::from_secs(3600);
/// Between two tries of what is refused: it takes a person to change that.
const SLOW: Duration = Duration::from_secs(10);
/// How long a process that is going away may be busy with its Leases.
const PARTING: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn times_that_do_not_go_together_are_refused_with_their_flags() {
        assert!(Timing::new(seconds(15), seconds(10), seconds(2)).is_ok());
        for (duration, deadline, retry, expected) in [
            (
                10,
                10,
                2,
                "--lease-duration 10s must be longer than --lease-renew-deadline 10s",
            ),
            (
                15,
                2,
                2,
                "--lease-renew-deadline 2s is too short for --lease-retry 2s: it must be longer than 2.4s",
            ),
            (15, 10, 0, "--lease-retry 0ns is too short: 100ms or more"),
            (86_400, 10, 2, "--lease-duration 86400s is too long: 3600s or less"),
        ] {
            let error = Timing::new(seconds(duration), seconds(deadline), seconds(retry))
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn the_leases_of_a_class_are_known_by_its_label() {
        let identity = fake::identity("b");
        assert_eq!(identity.selector(), "holdfast.dev/class=chat,holdfast.dev/replica");
        assert_eq!(identity.leader_labels()[CLASS_LABEL], "chat");
        assert_eq!(identity.leader_labels().get(REPLICA_LABEL), None);
        assert_eq!(identity.replica_labels()[REPLICA_LABEL], "b");
        assert_eq!(
            (identity.leader_lease(), identity.replica_lease()),
            ("chat".to_owned(), "chat-b".to_owned())
        );
    }
}
