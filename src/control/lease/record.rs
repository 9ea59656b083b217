//! What a Lease says of its holder.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::{SignedDuration, Timestamp},
};

use crate::routing::rate::whole_seconds;

/// The record of a Lease. Two that are equal mean that its holder did not renew it in between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// `None`: free.
    pub(super) holder: Option<String>,
    /// For how long it holds without a renewal. `None`: it does not say.
    pub(super) duration: Option<Duration>,
    /// For people, as is `renewed`.
    pub(super) acquired: Option<Timestamp>,
    pub(super) renewed: Option<Timestamp>,
    /// How often the holder was another one than before.
    pub(super) transitions: i32,
}

impl Record {
    pub(super) fn of(lease: &Lease) -> Self {
        let Some(spec) = &lease.spec else { return Self::default() };
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        Self {
            holder: spec.holder_identity.clone().filter(|holder| !holder.is_empty()),
            duration: seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs),
            acquired: spec.acquire_time.as_ref().map(|time| time.0),
            renewed: spec.renew_time.as_ref().map(|time| time.0),
            transitions: spec.lease_transitions.unwrap_or_default(),
        }
    }

    /// Writes it into the Lease, whose other fields stay.
    pub(super) fn write(self, lease: &mut Lease) {
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        spec.holder_identity = self.holder;
        spec.lease_duration_seconds = self.duration.map(duration_seconds);
        spec.acquire_time = self.acquired.map(MicroTime);
        spec.renew_time = self.renewed.map(MicroTime);
        spec.lease_transitions = Some(self.transitions);
    }

    /// The time of a renewal at `wall`. It is never the one that stands there: whatever the wall clock does, those who watch
    /// must see a renewal.
    pub(super) fn next_renewal(&self, wall: Timestamp) -> Timestamp {
        match self.renewed {
            Some(renewed) if renewed == wall => wall.checked_add(SignedDuration::from_micros(1)).unwrap_or(wall),
            _ => wall,
        }
    }
}

/// The wall clock, as exact as a Lease can say it.
pub(super) fn wall_clock() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

/// As a Lease holds it: who waits for it must not wait too short a time.
fn duration_seconds(duration: Duration) -> i32 {
    i32::try_from(whole_seconds(duration)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = Record {
            holder: Some("a_1".to_owned()),
            duration: Some(Duration::from_secs(15)),
            acquired: Some(Timestamp::UNIX_EPOCH),
            renewed: Some(wall_clock()),
            transitions: 3,
        };
        let mut lease = Lease::default();
        record.clone().write(&mut lease);
        let text = serde_json::to_string(&lease).unwrap();
        assert_eq!(Record::of(&serde_json::from_str(&text).unwrap()), record);
        assert_eq!(duration_seconds(Duration::from_millis(1500)), 2);
    }

    #[test]
    fn nonsense_is_as_good_as_nothing() {
        let mut lease = Lease::default();
        assert_eq!(Record::of(&lease), Record::default());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(-1),
            ..LeaseSpec::default()
        });
        assert_eq!(Record::of(&lease), Record::default());
    }

    #[test]
    fn a_renewal_is_seen_though_the_wall_clock_stands() {
        let mut record = Record::default();
        assert_eq!(record.next_renewal(Timestamp::UNIX_EPOCH), Timestamp::UNIX_EPOCH);
        record.renewed = Some(Timestamp::UNIX_EPOCH);
        assert_ne!(record.next_renewal(Timestamp::UNIX_EPOCH), Timestamp::UNIX_EPOCH);
    }
}
