//! What may pass through a tunnel, compiled: how much each side may send, and how large.

use std::time::Duration;

/// The limits of one rule's tunnels. `None`: that side may send what it likes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelLimits {
    pub from_client: Option<SideLimits>,
    pub from_endpoint: Option<SideLimits>,
}

/// What one side may send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SideLimits {
    pub messages: Option<Rate>,
    /// Of frames, with their headers, as they are on the wire below TLS.
    pub bytes: Option<Rate>,
    /// Pings and Pongs, and fragments that carry nothing.
    pub control_frames: Option<Rate>,
    /// Payload of one frame, compressed or not.
    pub max_frame: Option<u64>,
    /// Payload of all frames of one message.
    pub max_message: Option<u64>,
    pub on_exceeded: OnExceeded,
    /// Whether what would be too much is only counted, as the other limits of the rule say of theirs.
    pub is_dry_run: bool,
}

/// What becomes of a side that sends more messages or bytes than its rates allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExceeded {
    /// Its tunnel ends.
    #[default]
    Close,
    /// It is not read until its rate allows more.
    Delay,
}

/// So many units in an interval, evenly, and so many at once after a pause.
///
/// This is the virtual scheduling form of the generic cell rate algorithm (ITU-T I.371): what has been used is one moment,
/// the one at which everything used so far would have come at the even pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds between two units, in parts of 2^20.
    pace: u128,
    /// How far, in nanoseconds, what has been used may be ahead of the even pace.
    tolerance: u64,
}

impl Rate {
    /// `count`, `interval` and `burst` are never zero; what would be is taken for the least that is not.
    pub fn new(count: u32, interval: Duration, burst: u32) -> Self {
        let pace = ((interval.as_nanos() << FRACTION) / u128::from(count.max(1))).max(1);
        Self {
            pace,
            tolerance: span(pace, u64::from(burst.max(1))),
        }
    }
}

/// What has been used of a [`Rate`]; nothing at first. Moments are nanoseconds on one clock.
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
}
