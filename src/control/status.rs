//! The status of routes: what is to be said about each is decided here and written by the [`writer`], if this replica leads.
//!
//! Accepted and ResolvedRefs follow from the objects alone. Programmed says that every live replica serves the generation;
//! once it has been true it stays so for that generation. Numbers that move are never part of a status.

mod event;
mod ledger;
mod writer;

use std::hash::{DefaultHasher, Hash, Hasher};

pub(super) use ledger::Ledger;
pub(super) use writer::{Writer, write};

use super::verdict::{Reason, Verdict};
use crate::api::{Condition, ConditionStatus, WebSocketRouteStatus};

/// Whether the replicas serve a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Programmed {
    Yes,
    /// This process does, and there are no others that it knows of.
    Alone,
    /// Not yet all; which ones do not.
    Pending(String),
    /// It is not accepted.
    Never,
}

/// What the status of a route of this generation should be. The times of its conditions are empty.
pub(super) fn desired(verdict: &Verdict, generation: i64, programmed: &Programmed) -> WebSocketRouteStatus {
    let of = |kind: &str, status, reason: Reason, message: &str| Condition {
        kind: kind.to_owned(),
        status,
        observed_generation: Some(generation),
        last_transition_time: String::new(),
        reason: reason.to_string(),
        message: shortened(message),
    };
    let truth = |yes| if yes { ConditionStatus::True } else { ConditionStatus::False };
    let mut conditions: Vec<Condition> = verdict
        .conditions()
        .iter()
        .map(|condition| of(condition.kind, truth(condition.status), condition.reason, &condition.message))
        .collect();
    conditions.push(match programmed {
        Programmed::Yes => of(
            PROGRAMMED,
            ConditionStatus::True,
            Reason::Programmed,
            "every replica serves this generation",
        ),
        Programmed::Alone => of(
            PROGRAMMED,
            ConditionStatus::True,
            Reason::Programmed,
            "this process serves it",
        ),
        Programmed::Pending(message) => of(PROGRAMMED, ConditionStatus::Unknown, Reason::Pending, message),
        Programmed::Never => of(
            PROGRAMMED,
            ConditionStatus::False,
            Reason::Invalid,
            "the route is not accepted; see the condition Accepted",
        ),
    });
    WebSocketRouteStatus {
        observed_generation: Some(generation),
        conditions,
    }
}

/// A digest of everything in a status that we write, times excepted: equal digests say the same.
pub(super) fn digest(status: &WebSocketRouteStatus) -> u64 {
    let mut conditions: Vec<&Condition> = status
        .conditions
        .iter()
        .filter(|condition| OURS.contains(&condition.kind.as_str()))
        .collect();
    conditions.sort_by(|a, b| a.kind.cmp(&b.kind));
    let mut hasher = DefaultHasher::new();
    status.observed_generation.hash(&mut hasher);
    for condition in conditions {
        let status = condition.status as u8;
        (
            &condition.kind,
            status,
            condition.observed_generation,
            &condition.reason,
            &condition.message,
        )
            .hash(&mut hasher);
    }
    hasher.finish()
}

/// The generation that a status says to be programmed.
pub(super) fn programmed(status: &WebSocketRouteStatus) -> Option<i64> {
    let programmed = status.conditions.iter().find(|condition| condition.kind == PROGRAMMED)?;
    programmed
        .observed_generation
        .filter(|_| programmed.status == ConditionStatus::True)
}

/// What a status says of why a route is not programmed yet.
pub(super) fn pending(status: &WebSocketRouteStatus) -> Option<&str> {
    let programmed = status.conditions.iter().find(|condition| condition.kind == PROGRAMMED)?;
    (programmed.status == ConditionStatus::Unknown).then_some(&*programmed.message)
}

/// Gives the conditions their times: those of `before` where the state is still the same.
fn timed(mut status: WebSocketRouteStatus, before: &WebSocketRouteStatus, now: &str) -> WebSocketRouteStatus {
    for condition in &mut status.conditions {
        let same = |old: &&Condition| old.kind == condition.kind && old.status == condition.status;
        let old = before.conditions.iter().find(same);
        condition.last_transition_time = old.map_or(now, |old| &old.last_transition_time).to_owned();
    }
    status
}

/// A message that an API server takes.
fn shortened(message: &str) -> String {
    match message.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}...", &message[..end]),
        None => message.to_owned(),
    }
}

const PROGRAMMED: &str = "Programmed";
/// The types of our conditions.
const OURS: [&str; 4] = ["Accepted", "ResolvedRefs", PROGRAMMED, "Conflicted"];
/// Characters of a message; an API server takes 32,768, and nobody reads as many.
const MAX_MESSAGE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::ObjectName;

    fn clean() -> Verdict {
        Verdict {
            route: ObjectName {
                namespace: "chat".into(),
                name: "chat".into(),
            },
            generation: Some(3),
            rejected: Vec::new(),
            unresolved: Vec::new(),
            shadowed: Vec::new(),
        }
    }

    fn words(status: &WebSocketRouteStatus) -> Vec<String> {
        let word = |condition: &Condition| format!("{}={:?} {}", condition.kind, condition.status, condition.reason);
        status.conditions.iter().map(word).collect()
    }

    #[test]
    fn a_status_says_what_became_of_the_route() {
        let status = |programmed| desired(&clean(), 3, &programmed);
        assert_eq!(
            words(&status(Programmed::Yes)),
            [
                "Accepted=True Accepted",
                "ResolvedRefs=True ResolvedRefs",
                "Programmed=True Programmed"
            ]
        );
        let pending = status(Programmed::Pending("1/2 replicas, waiting for b".to_owned()));
        assert_eq!(words(&pending)[2], "Programmed=Unknown Pending");
        assert_eq!(words(&status(Programmed::Never))[2], "Programmed=False Invalid");
        assert_eq!(programmed(&status(Programmed::Yes)), Some(3));
        assert_eq!(programmed(&pending), None);
    }

    #[test]
    fn a_digest_looks_at_all_but_times_order_and_conditions_of_others() {
        let status = desired(&clean(), 3, &Programmed::Yes);
        let mut same = timed(status.clone(), &WebSocketRouteStatus::default(), "2026-01-01T00:00:00Z");
        same.conditions.reverse();
        same.conditions.push(Condition {
            kind: "Reviewed".to_owned(),
            ..same.conditions[0].clone()
        });
        assert_eq!(digest(&status), digest(&same));
        for other in [
            desired(&clean(), 4, &Programmed::Yes),
            desired(&clean(), 3, &Programmed::Never),
            desired(&clean(), 3, &Programmed::Pending(String::new())),
        ] {
            assert_ne!(digest(&status), digest(&other));
        }
    }

    #[test]
    fn a_time_is_that_of_the_last_transition() {
        let pending = Programmed::Pending("1/2".to_owned());
        let first = timed(desired(&clean(), 3, &pending), &WebSocketRouteStatus::default(), "first");
        let second = timed(desired(&clean(), 4, &Programmed::Yes), &first, "second");
        let times: Vec<&str> = second
            .conditions
            .iter()
            .map(|condition| condition.last_transition_time.as_str())
            .collect();
        assert_eq!(times, ["first", "first", "second"]);
    }

    #[test]
    fn a_message_is_never_longer_than_an_api_server_takes() {
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened(&"ä".repeat(5_000)).chars().count(), MAX_MESSAGE + 3);
    }
}
