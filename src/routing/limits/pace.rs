//! An even pace with bursts: the generic cell rate algorithm (GCRA), which is a leaky bucket that remembers one number.
//!
//! The number is when the client will have caught up with its pace. Each handshake moves it one period on; one that would
//! move it more than a burst ahead of now is refused and moves nothing. Times are nanoseconds on any clock that only goes
//! forward.

use std::time::Duration;

use super::HandshakeRate;

/// A compiled rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Between two handshakes of the even pace; at least 1.
    period: u64,
    /// How far a client may be ahead of it and still begin one more.
    slack: u64,
}

impl Pace {
    /// Parts of a nanosecond are rounded up, so that never more are let in than the rate says.
    pub(super) fn of(rate: &HandshakeRate) -> Self {
        let period = rate.interval.as_nanos().div_ceil(u128::from(rate.requests.max(1)));
        let period = u64::try_from(period).unwrap_or(u64::MAX).max(1);
        Self {
            period,
            slack: period.saturating_mul(u64::from(rate.burst.saturating_sub(1))),
        }
    }

    /// When a client will have caught up that has not, with one more handshake now.
    ///
    /// # Errors
    /// It is too far ahead; the time after which it would be let in.
    pub(super) fn admit(self, caught_up: u64, now: u64) -> Result<u64, Duration> {
        // No client is further ahead than a burst of this pace, whatever another pace said before.
        let caught_up = caught_up.clamp(now, now.saturating_add(self.slack).saturating_add(self.period));
        let ahead = caught_up - now;
        if ahead > self.slack {
            return Err(Duration::from_nanos(ahead - self.slack));
        }
        Ok(caught_up.saturating_add(self.period))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::routing::limits::ClientKey;

    fn pace(requests: u32, interval: Duration, burst: u32) -> Pace {
        Pace::of(&HandshakeRate {
            requests,
            interval,
            burst,
            key: ClientKey::Header("x".into()),
        })
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_then_the_even_pace() {
        let pace = pace(10, Duration::from_secs(60), 3);
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
        let slow = pace(1, Duration::from_secs(3600), 5);
        let mut caught_up = 0;
        for _ in 0..5 {
            caught_up = slow.admit(caught_up, 0).unwrap();
        }
        let fast = pace(10, Duration::from_secs(1), 2);
        assert_eq!(fast.admit(caught_up, 0), Err(Duration::from_millis(100)));
    }

    #[test]
    fn the_longest_intervals_and_bursts_overflow_nothing() {
        let pace = pace(1, Duration::from_secs(99_999 * 3600), 1_000_000);
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
            let pace = pace(requests, Duration::from_nanos(interval), burst);
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
            let pace = pace(requests, Duration::from_nanos(interval), burst);
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
