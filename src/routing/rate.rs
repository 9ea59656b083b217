//! An even rate with bursts: the virtual scheduling form of the generic cell rate algorithm (ITU-T I.371), a leaky bucket that
//! remembers one moment, the one at which everything used so far would have come at the even pace.
//!
//! Whoever counts keeps a [`Used`]; moments are nanoseconds on any clock that only goes forward.

use std::time::Duration;

/// So many units in an interval, evenly, and so many at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds between two units, in parts of 2^20.
    pace: u128,
    /// How far, in nanoseconds, what has been used may be ahead of the even pace.
    tolerance: u64,
}

impl Rate {
    /// `count`, `interval` and `burst` are never zero; what would be is taken for the least that is not. What must be rounded is
    /// rounded so that never more is let through than this says.
    pub fn new(count: u32, interval: Duration, burst: u32) -> Self {
        let pace = (interval.as_nanos() << FRACTION).div_ceil(u128::from(count.max(1))).max(1);
        // In whole nanoseconds where they are fine enough: units that come one by one then fill a burst exactly.
        let pace = if pace < WHOLE {
            pace
        } else {
            pace.div_ceil(1 << FRACTION) << FRACTION
        };
        Self {
            pace,
            tolerance: span(pace, u64::from(burst.max(1))),
        }
    }

    /// Takes one unit of somebody who has used the rate up to `caught_up`, maybe while it was another one: nobody is further
    /// ahead than a burst of this one. Returns the new moment.
    ///
    /// # Errors
    /// It is too early; the time after which it would not be.
    pub fn admit(&self, caught_up: u64, now: u64) -> Result<u64, Duration> {
        let mut used = Used(caught_up.clamp(now, now.saturating_add(self.tolerance)));
        if used.take(self, 1, now) {
            return Ok(used.0);
        }
        let after = used.0.saturating_add(span(self.pace, 1));
        Err(Duration::from_nanos(after - now - self.tolerance))
    }
}

impl Rate {
    /// Units that somebody may take at once who has used the rate up to `caught_up`.
    pub fn left(&self, caught_up: u64, now: u64) -> u64 {
        Used(caught_up).left(self, now)
    }
}

/// What has been used of a [`Rate`]; nothing at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used(u64);

impl Used {
    /// Takes `units` if the rate allows them now. False: nothing was taken.
    pub fn take(&mut self, rate: &Rate, units: u64, now: u64) -> bool {
        let after = self.0.max(now).saturating_add(span(rate.pace, units));
        let allowed = after - now <= rate.tolerance;
        if allowed {
            self.0 = after;
        }
        allowed
    }

    /// Takes `units` whatever the rate allows; what is too much is owed. Whether nothing is.
    pub fn owe(&mut self, rate: &Rate, units: u64, now: u64) -> bool {
        self.0 = self.0.max(now).saturating_add(span(rate.pace, units));
        self.0 - now <= rate.tolerance
    }

    /// The moment from which nothing is owed.
    pub fn paid_at(self, rate: &Rate) -> u64 {
        self.0.saturating_sub(rate.tolerance)
    }

    /// Units that could be taken now.
    pub fn left(self, rate: &Rate, now: u64) -> u64 {
        let left = rate.tolerance.saturating_sub(self.0.saturating_sub(now));
        let units = (u128::from(left) << FRACTION) / rate.pace;
        u64::try_from(units).unwrap_or(u64::MAX)
    }
}

/// The time that `units` take at a pace, rounded up, so that small ones are not free.
fn span(pace: u128, units: u64) -> u64 {
    let span = pace.saturating_mul(u128::from(units)).div_ceil(1 << FRACTION);
    u64::try_from(span).unwrap_or(u64::MAX)
}

/// Bits behind the point of [`Rate::pace`]: exact to 0.1% at a million million units a second.
const FRACTION: u32 = 20;
/// A thousand nanoseconds, as a pace.
const WHOLE: u128 = 1000 << FRACTION;

/// Rounded up: who waits for so long does not wait too short a time.
pub fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_passes_at_once_and_the_rest_at_the_pace() {
        let rate = Rate::new(100, Duration::from_secs(1), 5);
        let (mut used, mut passed) = (Used::default(), Vec::new());
        for millis in 0..100 {
            while used.take(&rate, 1, SECOND + millis * 1_000_000) {
                passed.push(millis);
            }
        }
        assert_eq!(passed, [0, 0, 0, 0, 0, 10, 20, 30, 40, 50, 60, 70, 80, 90]);
    }

    #[test]
    fn what_is_owed_is_paid_at_the_pace() {
        let rate = Rate::new(10, Duration::from_secs(1), 10);
        let mut used = Used::default();
        assert!(used.owe(&rate, 10, SECOND));
        assert_eq!((used.left(&rate, SECOND), used.paid_at(&rate)), (0, SECOND));
        assert!(!used.owe(&rate, 5, SECOND));
        assert_eq!(used.paid_at(&rate), SECOND + SECOND / 2);
        assert_eq!(used.left(&rate, SECOND * 2), 5);
        assert_eq!(used.left(&rate, SECOND * 9), 10, "a pause saves no more than the burst");
    }

    #[test]
    fn the_fastest_and_the_slowest_rates_are_themselves() {
        let fast = Rate::new(1_000_000_000, Duration::from_millis(100), 1_000_000_000);
        let mut used = Used::default();
        assert!(used.take(&fast, 1_000_000_000, 0) && !used.take(&fast, 1000, 0));
        let slow = Rate::new(1, Duration::from_secs(3600), 1);
        let mut used = Used::default();
        assert!(used.take(&slow, 1, 0) && !used.take(&slow, 1, 3599 * SECOND) && used.take(&slow, 1, 3600 * SECOND));
    }

    proptest! {
        #[test]
        fn no_span_of_time_takes_more_than_its_share_and_a_burst(
            count in 1..100_000u32,
            burst in 1..1000u32,
            steps in prop::collection::vec((0..50_000_000u64, 1..50u64), 1..200),
        ) {
            let rate = Rate::new(count, Duration::from_secs(1), burst);
            let (mut used, mut now, mut taken) = (Used::default(), 0, 0);
            for (pause, units) in steps {
                now += pause;
                let left = used.left(&rate, now);
                let allowed = used.take(&rate, units, now);
                prop_assert_eq!(allowed, units <= left, "{} of {}", units, left);
                taken += if allowed { units } else { 0 };
                let share = u128::from(now) * u128::from(count) / u128::from(SECOND);
                prop_assert!(u128::from(taken) <= share + u128::from(burst) + 1);
            }
        }
    }

    #[test]
    fn a_burst_of_units_that_come_one_by_one_is_a_burst_whatever_the_pace() {
        for (count, burst) in [(3, 3), (7, 7), (10, 3), (999, 999), (123_457, 1000)] {
            let rate = Rate::new(count, Duration::from_secs(1), burst);
            let (mut used, mut taken) = (Used::default(), 0);
            while used.take(&rate, 1, SECOND) {
                taken += 1;
            }
            assert_eq!(taken, burst, "{count} a second");
        }
    }

    #[test]
    fn a_burst_then_the_even_pace() {
        let pace = Rate::new(10, Duration::from_secs(60), 3);
        let mut caught_up = 0;
        let start = 5 * SECOND;
        for _ in 0..3 {
            caught_up = pace.admit(caught_up, start).unwrap();
        }
        assert_eq!(pace.admit(caught_up, start), Err(Duration::from_secs(6)));
        assert_eq!(pace.admit(caught_up, start + 2 * SECOND), Err(Duration::from_secs(4)));
        let later = start + 6 * SECOND;
        caught_up = pace.admit(caught_up, later).unwrap();
        assert_eq!(pace.admit(caught_up, later), Err(Duration::from_secs(6)));
        let pause = later + 60 * SECOND;
        for _ in 0..3 {
            caught_up = pace.admit(caught_up, pause).unwrap();
        }
        assert!(pace.admit(caught_up, pause).is_err(), "a pause saves up no more than a burst");
    }

    #[test]
    fn a_new_pace_forgets_the_debts_of_a_slower_one() {
        let slow = Rate::new(1, Duration::from_secs(3600), 5);
        let mut caught_up = 0;
        for _ in 0..5 {
            caught_up = slow.admit(caught_up, 0).unwrap();
        }
        let fast = Rate::new(10, Duration::from_secs(1), 2);
        assert_eq!(fast.admit(caught_up, 0), Err(Duration::from_millis(100)));
    }

    #[test]
    fn the_longest_intervals_and_bursts_overflow_nothing() {
        let pace = Rate::new(1, Duration::from_secs(99_999 * 3600), 1_000_000);
        let mut caught_up = u64::MAX;
        for now in [0, SECOND, u64::MAX - 1, u64::MAX] {
            caught_up = pace.admit(caught_up, now).unwrap_or(caught_up);
        }
        assert!(pace.admit(0, u64::MAX).is_ok());
    }

    /// A bucket that leaks, in exact fractions: what a rate means.
    struct Bucket {
        requests: u128,
        interval: u128,
        burst: u128,
        /// In handshakes times the interval.
        level: u128,
        last: u128,
    }

    impl Bucket {
        fn admit(&mut self, now: u128) -> bool {
            self.level = self.level.saturating_sub((now - self.last) * self.requests);
            self.last = now;
            let is_room = self.level + self.interval <= self.burst * self.interval;
            if is_room {
                self.level += self.interval;
            }
            is_room
        }
    }

    proptest! {
        #[test]
        fn it_does_what_a_leaking_bucket_does(
            requests in 1..50_u32,
            periods_of_micros in 1..100_000_u64,
            burst in 1..20_u32,
            gaps in prop::collection::vec(prop_oneof![Just(0), 0..400_000_000_u64, 0..4_000_000_u64], 1..200),
        ) {
            // A whole number of nanoseconds in each period, so that nothing is rounded.
            let interval = u64::from(requests) * periods_of_micros * 1_000;
            let pace = Rate::new(requests, Duration::from_nanos(interval), burst);
            let (mut now, mut caught_up) = (SECOND, 0);
            let mut bucket = Bucket {
                requests: requests.into(),
                interval: interval.into(),
                burst: burst.into(),
                level: 0,
                last: now.into(),
            };
            for gap in gaps {
                now += gap;
                let admitted = pace.admit(caught_up, now);
                prop_assert_eq!(admitted.is_ok(), bucket.admit(now.into()), "at {}", now);
                match admitted {
                    Ok(next) => caught_up = next,
                    Err(wait) => {
                        let wait = u64::try_from(wait.as_nanos()).unwrap();
                        prop_assert!(pace.admit(caught_up, now + wait).is_ok());
                        prop_assert!(pace.admit(caught_up, now + wait - 1).is_err());
                    }
                }
            }
        }

        #[test]
        fn no_stretch_of_time_has_more_than_the_rate_says(
            requests in 1..1_000_000_u32,
            interval in 1..10_000_000_000_u64,
            burst in 1..10_u32,
            gaps in prop::collection::vec(0..20_000_000_u64, 1..200),
        ) {
            let pace = Rate::new(requests, Duration::from_nanos(interval), burst);
            let (mut now, mut caught_up) = (0, 0);
            let mut admitted: Vec<u64> = Vec::new();
            for gap in gaps {
                now += gap;
                if let Ok(next) = pace.admit(caught_up, now) {
                    caught_up = next;
                    admitted.push(now);
                }
            }
            for (index, from) in admitted.iter().enumerate() {
                for (more, to) in admitted[index..].iter().enumerate() {
                    let paced = u128::from(to - from) * u128::from(requests) / u128::from(interval);
                    prop_assert!((more as u128) < u128::from(burst) + paced);
                }
            }
        }
    }
}
