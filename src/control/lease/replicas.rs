//! Which replicas are alive, and what each of them serves. Pure: told the Leases of the class as they are seen.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use tokio::time::Instant;

use super::{REPLICA_LABEL, VERSIONS_ANNOTATION, record::Record};
use crate::control::versions::Versions;

/// The view of the replicas of one class.
#[derive(Debug)]
pub struct Replicas {
    /// By the name of the Lease.
    replicas: BTreeMap<String, Replica>,
    /// When anything was seen last.
    heard: Instant,
}

#[derive(Debug)]
struct Replica {
    record: Record,
    /// Since when this record was not renewed.
    since: Instant,
    versions: Versions,
}

impl Replicas {
    pub fn new(now: Instant) -> Self {
        Self {
            replicas: BTreeMap::new(),
            heard: now,
        }
    }

    /// The Lease is so now. Those that are of no replica are ignored.
    pub fn apply(&mut self, lease: &Lease, now: Instant) {
        self.hear(now);
        self.see(lease, now);
    }

    /// The Lease of this name is gone, and with it its replica.
    pub fn remove(&mut self, name: &str, now: Instant) {
        self.hear(now);
        self.replicas.remove(name);
    }

    /// These are all Leases of the class.
    pub fn replace_all<'a>(&mut self, leases: impl IntoIterator<Item = &'a Lease>, now: Instant) {
        self.hear(now);
        let mut names = Vec::new();
        for lease in leases {
            self.see(lease, now);
            names.push(lease.name_any());
        }
        self.replicas.retain(|name, _| names.contains(name));
    }

    /// The replicas that are alive, by name, with what they serve: nothing, if they do not say it in words known here.
    pub fn live(&self, now: Instant) -> impl Iterator<Item = (&str, &Versions)> {
        let now = self.judged_at(now);
        self.replicas
            .iter()
            .filter(move |(_, replica)| now < replica.expiry())
            .map(|(name, replica)| (replica.record.holder.as_deref().unwrap_or(name), &replica.versions))
    }

    /// When the next one of these expires, if nothing is seen until then.
    pub fn next_expiry(&self, now: Instant) -> Option<Instant> {
        let judged_at = self.judged_at(now);
        let expiries = self.replicas.values().map(Replica::expiry);
        expiries
            .filter(|expiry| judged_at < *expiry && *expiry <= self.heard + SILENCE)
            .min()
    }

    fn see(&mut self, lease: &Lease, now: Instant) {
        let name = lease.name_any();
        if !lease.labels().contains_key(REPLICA_LABEL) {
            self.replicas.remove(&name);
            return;
        }
        let record = Record::of(lease);
        let versions = lease.annotations().get(VERSIONS_ANNOTATION);
        let versions = versions.and_then(|versions| versions.parse().ok()).unwrap_or_default();
        let unchanged = self.replicas.get(&name).filter(|known| known.record == record);
        let since = unchanged.map_or(now, |known| known.since);
        self.replicas.insert(name, Replica { record, since, versions });
    }

    /// A view that was blind says nothing of those who could not be seen, and perhaps could not write: they get their whole
    /// time again.
    fn hear(&mut self, now: Instant) {
        if now > self.heard + SILENCE {
            for replica in self.replicas.values_mut() {
                replica.since = now;
            }
        }
        self.heard = now;
    }

    /// Nobody expires while nothing is seen.
    fn judged_at(&self, now: Instant) -> Instant {
        now.min(self.heard + SILENCE)
    }
}

impl Replica {
    fn expiry(&self) -> Instant {
        self.since + self.record.duration.unwrap_or(DURATION)
    }
}

/// Longer than any view is silent that works: the replica that has it writes its own Lease more often.
const SILENCE: Duration = Duration::from_secs(15);
/// Of a Lease that does not say how long it holds.
const DURATION: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn lease(name: &str, renewed: i64, versions: &str) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.name = Some(format!("chat-{name}"));
        lease.labels_mut().insert(REPLICA_LABEL.to_owned(), name.to_owned());
        lease
            .annotations_mut()
            .insert(VERSIONS_ANNOTATION.to_owned(), versions.to_owned());
        let record = Record {
            holder: Some(name.to_owned()),
            duration: Some(DURATION),
            renewed: Timestamp::from_second(renewed).ok(),
            ..Record::default()
        };
        record.write(&mut lease);
        lease
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn live(replicas: &Replicas, now: Instant) -> BTreeSet<&str> {
        replicas.live(now).map(|(name, _)| name).collect()
    }

    #[test]
    fn replicas_live_as_long_as_they_renew() {
        let start = Instant::now();
        let mut replicas = Replicas::new(start);
        replicas.replace_all(&[lease("a", 0, "Service=1"), lease("b", 0, "Service=2")], start);
        let served: Vec<_> = replicas
            .live(start)
            .map(|(name, versions)| (name, versions.to_string()))
            .collect();
        assert_eq!(served, [("a", "Service=1".to_owned()), ("b", "Service=2".to_owned())]);
        for second in (10..60).step_by(10) {
            let now = start + seconds(second);
            replicas.apply(&lease("a", i64::try_from(second).unwrap(), ""), now);
            replicas.apply(&lease("b", 0, "Service=3"), now); // seen again, not renewed
            let expected: &[&str] = if second < 30 { &["a", "b"] } else { &["a"] };
            assert_eq!(live(&replicas, now), expected.iter().copied().collect(), "{second}");
        }
    }

    #[test]
    fn the_next_expiry_is_told_when_it_can_come() {
        let start = Instant::now();
        let mut replicas = Replicas::new(start);
        assert_eq!(replicas.next_expiry(start), None);
        replicas.replace_all(&[lease("a", 0, ""), lease("b", 0, "")], start);
        assert_eq!(replicas.next_expiry(start), None, "not before anything else is seen");
        for second in [10, 20] {
            replicas.apply(&lease("a", second, ""), start + seconds(second.unsigned_abs()));
        }
        let expiry = start + seconds(30);
        assert_eq!(replicas.next_expiry(start + seconds(20)), Some(expiry));
        assert_eq!(live(&replicas, expiry - Duration::from_millis(1)).len(), 2);
        assert_eq!(live(&replicas, expiry), ["a"].into());
        assert_eq!(replicas.next_expiry(expiry), None);
    }

    #[test]
    fn wall_times_mean_nothing() {
        for day in [-86_400, 86_400] {
            let start = Instant::now();
            let mut replicas = Replicas::new(start);
            replicas.apply(&lease("a", day, ""), start);
            replicas.apply(&lease("a", -day, ""), start + seconds(14));
            replicas.apply(&lease("b", 0, ""), start + seconds(28));
            assert_eq!(live(&replicas, start + seconds(43)), ["a", "b"].into());
        }
    }

    #[test]
    fn nobody_expires_while_the_view_is_blind_nor_right_after_it() {
        let start = Instant::now();
        let mut replicas = Replicas::new(start);
        replicas.replace_all(&[lease("a", 0, ""), lease("b", 0, "")], start);
        assert_eq!(live(&replicas, start + seconds(3600)), ["a", "b"].into());
        let back = start + seconds(3600);
        replicas.replace_all(&[lease("a", 1, ""), lease("b", 0, "")], back);
        assert_eq!(
            live(&replicas, back + seconds(1)),
            ["a", "b"].into(),
            "b could not write either"
        );
        for second in [10, 20, 30] {
            replicas.apply(&lease("a", 1 + second, ""), back + seconds(second.unsigned_abs()));
        }
        assert_eq!(live(&replicas, back + seconds(30)), ["a"].into());
    }

    #[test]
    fn a_lease_that_goes_takes_its_replica_with_it() {
        let now = Instant::now();
        let mut replicas = Replicas::new(now);
        replicas.replace_all(&[lease("a", 0, ""), lease("b", 0, ""), lease("c", 0, "")], now);
        replicas.remove("chat-a", now);
        assert_eq!(live(&replicas, now), ["b", "c"].into());
        replicas.replace_all(&[lease("c", 0, "")], now);
        assert_eq!(live(&replicas, now), ["c"].into());
    }

    #[test]
    fn the_lease_of_the_class_is_no_replica_and_unknown_words_are_no_version() {
        let now = Instant::now();
        let mut replicas = Replicas::new(now);
        let mut leader = lease("a", 0, "");
        leader.labels_mut().clear();
        replicas.apply(&leader, now);
        assert_eq!(replicas.live(now).count(), 0);
        replicas.apply(&lease("b", 0, "what is this"), now);
        assert!(replicas.live(now).all(|(_, versions)| *versions == Versions::default()));
    }
}
