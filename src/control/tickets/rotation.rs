//! When the keys are written, and which: decided here, without a clock and without the API server.
//!
//! A key is the next one for a period, then it encrypts for a period, then it decrypts for another. So it is known to every
//! replica long before the first ticket is made with it, whatever their clocks say: only the leader judges when it is time.

use std::{sync::Arc, time::Duration};

use zeroize::Zeroizing;

use super::Stored;
use crate::routing::{TicketKey, TicketKeys};

/// The Secret as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Missing,
    /// Without keys, or with something that is none.
    Unusable {
        why: Option<String>,
    },
    Usable(Stored),
}

/// What the leader does about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, for so long.
    Wait(Duration),
    /// Writes these.
    Write(Stored),
    /// Nobody can do anything before the Secret is another one.
    Rest,
}

/// Judges by what was found, for how long it has been known to this replica, what was in effect before it, and the time in
/// seconds since 1970.
///
/// `known_for` and `now` both have a say: this replica may have come a moment ago, and the clock of the leader before it may
/// have been wrong. A time that lies ahead counts as now, and nothing is rotated that others may not have read yet.
pub(super) fn judge(
    found: &Found,
    held: Option<&Stored>,
    known_for: Duration,
    now: i64,
    random: &mut impl FnMut() -> Option<TicketKey>,
) -> Step {
    let stored = match (found, held) {
        (Found::Missing, _) => return Step::Rest,
        // Whoever emptied it has not asked for the end of all sessions.
        (Found::Unusable { .. }, Some(held)) => return Step::Write(held.clone()),
        (Found::Unusable { .. }, None) => {
            let keys = random().map(|current| TicketKeys {
                next: random(),
                current,
                previous: None,
            });
            return keys.map_or(Step::Wait(AGAIN), |keys| write(keys, now));
        }
        (Found::Usable(stored), _) => stored,
    };
    let keys = &stored.keys;
    let Some(next) = &keys.next else {
        let Some(next) = random().map(Some) else {
            return Step::Wait(AGAIN);
        };
        let keys = TicketKeys::clone(keys);
        return write(TicketKeys { next, ..keys }, stored.rotated);
    };
    let age = Duration::from_secs(u64::try_from(now.saturating_sub(stored.rotated)).unwrap_or(0)).max(known_for);
    let rest = PERIOD.saturating_sub(age).max(SETTLING.saturating_sub(known_for));
    if !rest.is_zero() {
        return Step::Wait(rest);
    }
    let Some(after) = random() else {
        return Step::Wait(AGAIN);
    };
    let keys = TicketKeys {
        next: Some(after),
        current: next.clone(),
        previous: Some(keys.current.clone()),
    };
    write(keys, now)
}

fn write(keys: TicketKeys, rotated: i64) -> Step {
    Step::Write(Stored {
        keys: Arc::new(keys),
        rotated,
    })
}

/// A new key. `None`: the process has no source of randomness.
pub(super) fn random() -> Option<TicketKey> {
    let mut bytes = Zeroizing::new([0; TicketKey::LEN]);
    getrandom::fill(bytes.as_mut_slice()).ok()?;
    Some(TicketKey::new(bytes))
}

/// From one rotation to the next. A ticket says that it is good for as long.
pub(super) const PERIOD: Duration = Duration::from_secs(12 * 3600);
/// What was not known for so long is not rotated: others may not have read it yet.
const SETTLING: Duration = Duration::from_secs(60);
/// When what failed is tried again.
const AGAIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;
    const LONG: Duration = Duration::from_secs(3600);

    /// Judges with keys 101, 102 and so on for new ones.
    fn judged(found: &Found, held: Option<&Stored>, known_for: Duration, now: i64) -> Step {
        let mut last = 100;
        judge(found, held, known_for, now, &mut || {
            last += 1;
            Some(key(last))
        })
    }

    fn key(byte: u8) -> TicketKey {
        TicketKey::new(Zeroizing::new([byte; 32]))
    }

    fn stored(keys: [u8; 3], rotated: i64) -> Stored {
        let [next, current, previous] = keys.map(|byte| (byte > 0).then(|| key(byte)));
        Stored {
            keys: Arc::new(TicketKeys {
                next,
                current: current.unwrap(),
                previous,
            }),
            rotated,
        }
    }

    fn hours(hours: u64) -> Duration {
        Duration::from_secs(hours * 3600)
    }

    #[test]
    fn an_empty_secret_is_filled_and_one_that_was_emptied_gets_its_keys_back() {
        let empty = Found::Unusable { why: None };
        assert_eq!(
            judged(&empty, None, Duration::ZERO, NOW),
            Step::Write(stored([102, 101, 0], NOW))
        );
        let held = stored([3, 2, 1], NOW - 50);
        assert_eq!(judged(&empty, Some(&held), Duration::ZERO, NOW), Step::Write(held));
        assert_eq!(judged(&Found::Missing, None, LONG, NOW), Step::Rest);
    }

    #[test]
    fn a_key_decrypts_for_a_period_encrypts_for_one_and_decrypts_for_another() {
        let mut at = NOW;
        let mut is = stored([2, 1, 0], at);
        let mut seen = Vec::new();
        let mut fresh = 2;
        for _ in 0..3 {
            let step = judged(&Found::Usable(is.clone()), None, hours(11), at + 11 * 3600);
            assert_eq!(step, Step::Wait(hours(1)));
            at += 12 * 3600;
            let step = judge(&Found::Usable(is.clone()), None, hours(12), at, &mut || {
                fresh += 1;
                Some(key(fresh))
            });
            let Step::Write(next) = step else { panic!("{step:?}") };
            assert_eq!(next.rotated, at);
            let byte = |key: &Option<TicketKey>| key.as_ref().map_or(0, |key| key.bytes()[0]);
            seen.push([byte(&next.keys.next), next.keys.current.bytes()[0], byte(&next.keys.previous)]);
            is = next;
        }
        assert_eq!(seen, [[3, 2, 1], [4, 3, 2], [5, 4, 3]]);
    }

    #[test]
    fn a_clock_that_is_wrong_neither_stops_the_rotation_nor_lets_it_race() {
        let days_ahead = Found::Usable(stored([3, 2, 1], NOW + 20 * 86_400));
        assert_eq!(judged(&days_ahead, None, hours(1), NOW), Step::Wait(hours(11)));
        assert!(matches!(judged(&days_ahead, None, hours(12), NOW), Step::Write(_)));
        // One that comes with a clock that is days ahead, again and again, waits until everybody can have read the keys.
        let long_ago = Found::Usable(stored([3, 2, 1], NOW - 20 * 86_400));
        assert_eq!(judged(&long_ago, None, Duration::ZERO, NOW), Step::Wait(SETTLING));
        assert!(matches!(judged(&long_ago, None, SETTLING, NOW), Step::Write(_)));
    }

    #[test]
    fn a_new_leader_goes_on_where_the_last_one_was() {
        let found = Found::Usable(stored([3, 2, 1], NOW - 5 * 3600));
        assert_eq!(judged(&found, None, Duration::ZERO, NOW), Step::Wait(hours(7)));
    }

    #[test]
    fn a_next_key_that_is_missing_is_added_and_nothing_rotated() {
        let found = Found::Usable(stored([0, 2, 1], NOW - 50 * 3600));
        assert_eq!(
            judged(&found, None, LONG, NOW),
            Step::Write(stored([101, 2, 1], NOW - 50 * 3600))
        );
    }

    #[test]
    fn without_randomness_nothing_is_written() {
        let found = Found::Usable(stored([3, 2, 1], NOW - 50 * 3600));
        assert_eq!(judge(&found, None, LONG, NOW, &mut || None), Step::Wait(AGAIN));
        let empty = Found::Unusable { why: None };
        assert_eq!(judge(&empty, None, LONG, NOW, &mut || None), Step::Wait(AGAIN));
        let lacking = Found::Usable(stored([0, 2, 1], NOW));
        assert_eq!(judge(&lacking, None, LONG, NOW, &mut || None), Step::Wait(AGAIN));
        assert_eq!(random().map(|key| key.bytes().len()), Some(32));
        assert_ne!(random(), random());
    }
}
