//! What one endpoint has done, and what that comes to. Pure; the caller brings the time.

use std::{collections::VecDeque, time::Duration};

use super::{Change, Failure, Moment, Passive, Seen};

/// The record of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Failed handshakes since the last one that was answered.
    in_a_row: u32,
    /// The latest failures, at most [`KEPT`].
    failures: VecDeque<(Moment, Failure)>,
    answered: Rate,
    failed: Rate,
    /// While it is out: since when, and until when at least.
    out: Option<(Moment, Moment)>,
    /// Ejections in short order.
    times: u32,
    /// When it last came back.
    returned: Moment,
    /// Until when one failure is as good as many, because it came back on trial.
    on_trial: Moment,
    /// Until when nothing is said of an ejection that may not be.
    hushed: Moment,
    reason: Option<Failure>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    Eject,
    Return,
}

impl Record {
    /// Takes in what was seen.
    pub(super) fn judge(&mut self, passive: &Passive, seen: Seen, now: Moment) -> Option<Judgement> {
        if let Some((_, until)) = self.out {
            return match seen {
                // Whatever began before it was ejected says nothing new.
                _ if now < until => None,
                Seen::Answered => Some(Judgement::Return),
                Seen::Failed(failure) => failure.is_of_handshake().then_some(Judgement::Eject),
            };
        }
        let failure = match seen {
            Seen::Answered => {
                self.in_a_row = 0;
                self.answered.add(now, passive.window);
                return None;
            }
            Seen::Failed(failure) => failure,
        };
        if failure.is_of_handshake() {
            self.in_a_row = self.in_a_row.saturating_add(1);
        }
        if failure == Failure::EarlyClose {
            self.answered.take_back(); // its 101 was worth nothing
        }
        self.failed.add(now, passive.window);
        if self.failures.len() == KEPT {
            self.failures.pop_front();
        }
        self.failures.push_back((now, failure));
        self.is_too_much(passive, now).then_some(Judgement::Eject)
    }

    fn is_too_much(&self, passive: &Passive, now: Moment) -> bool {
        if self.in_a_row >= passive.failures {
            return true;
        }
        let needed = if now < self.on_trial { 1 } else { passive.failures };
        let first = usize::try_from(needed)
            .ok()
            .and_then(|needed| self.failures.len().checked_sub(needed));
        let first = first.and_then(|first| self.failures.get(first));
        let (failed, answered) = (self.failed.of(now, passive.window), self.answered.of(now, passive.window));
        first.is_some_and(|(at, _)| now.since(*at) <= passive.window)
            && failed * 100 >= (failed + answered) * u64::from(passive.min_failure_percent)
    }

    pub(super) fn is_out(&self) -> bool {
        self.out.is_some()
    }

    pub(super) fn reason(&self) -> Option<Failure> {
        self.reason
    }

    /// Leaves it out, and says until when.
    pub(super) fn eject(&mut self, passive: &Passive, seen: Seen, now: Moment) -> (Change, Moment) {
        let base = passive.base_ejection_time;
        let most = whole(passive.max_ejection_time.as_millis().div_ceil(base.as_millis().max(1)));
        if self.out.is_none() {
            // For each base time that it was well one ejection is forgotten.
            let well = now.since(self.returned).as_millis() / base.as_millis().max(1);
            self.times = self.times.saturating_sub(whole(well));
        }
        if let (Some(_), Seen::Failed(failure)) = (self.out, seen) {
            self.failures.push_back((now, failure));
        }
        self.times = self.times.saturating_add(1).min(most.max(1));
        let time = base.saturating_mul(self.times).min(passive.max_ejection_time);
        let (since, until) = (self.out.map_or(now, |(since, _)| since), now.plus(time));
        self.out = Some((since, until));
        let (reason, failures) = self.counted(passive, now);
        self.reason = Some(reason);
        self.forget();
        let change = Change::Ejected {
            reason,
            failures,
            time,
            times: self.times,
        };
        (change, until)
    }

    /// Takes it back, on trial; says how long it was out.
    pub(super) fn come_back(&mut self, passive: &Passive, now: Moment) -> Duration {
        let since = self.out.take().map_or(now, |(since, _)| since);
        self.returned = now;
        self.on_trial = now.plus(passive.window);
        self.answered.add(now, passive.window);
        now.since(since)
    }

    /// It stays, though it should not. Something to say of it: once per window.
    pub(super) fn withhold(&mut self, passive: &Passive, now: Moment) -> Option<(Failure, Vec<(Failure, usize)>)> {
        let counted = self.counted(passive, now);
        self.forget(); // so that it is asked for again only after as many failures
        if now < self.hushed {
            return None;
        }
        self.hushed = now.plus(passive.window);
        Some(counted)
    }

    /// The failures that led to a judgement, by number, and the most frequent.
    fn counted(&self, passive: &Passive, now: Moment) -> (Failure, Vec<(Failure, usize)>) {
        let in_a_row = usize::try_from(self.in_a_row).unwrap_or(usize::MAX);
        let old = self.failures.len().saturating_sub(in_a_row);
        let recent = self.failures.iter().enumerate();
        let recent = recent.filter(|(place, (at, _))| *place >= old || now.since(*at) <= passive.window);
        let recent: Vec<Failure> = recent.map(|(_, (_, failure))| *failure).collect();
        let count = |failure: Failure| recent.iter().filter(|one| **one == failure).count();
        let counts = Failure::ALL.into_iter().map(|failure| (failure, count(failure)));
        let counts: Vec<_> = counts.filter(|(_, count)| *count > 0).collect();
        let most = counts.iter().max_by_key(|(_, count)| *count);
        let reason = most.map_or(Failure::ConnectionRefused, |(failure, _)| *failure);
        (reason, counts)
    }

    fn forget(&mut self) {
        self.in_a_row = 0;
        self.failures = VecDeque::new();
        self.answered = Rate::default();
        self.failed = Rate::default();
    }
}

fn whole(number: u128) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Counts events over a sliding window: those of the current one, and of the one before as much as it still covers, as if
/// they had been even.
#[derive(Debug, Default)]
struct Rate {
    since: Moment,
    now: u32,
    before: u32,
}

impl Rate {
    fn add(&mut self, now: Moment, window: Duration) {
        self.turn(now, window);
        self.now = self.now.saturating_add(1);
    }

    fn take_back(&mut self) {
        match (self.now, self.before) {
            (0, before) => self.before = before.saturating_sub(1),
            (now, _) => self.now = now - 1,
        }
    }

    fn turn(&mut self, now: Moment, window: Duration) {
        let age = now.since(self.since);
        if age < window {
            return;
        }
        let is_next = age < window.saturating_mul(2);
        self.before = if is_next { self.now } else { 0 };
        self.since = if is_next { self.since.plus(window) } else { now };
        self.now = 0;
    }

    /// Events within the window that ends now.
    fn of(&self, now: Moment, window: Duration) -> u64 {
        let (age, window) = (now.since(self.since).as_millis(), window.as_millis().max(1));
        let share = |count: u32, over: u128| {
            let covered = window.saturating_sub(over.min(window));
            u64::try_from((u128::from(count) * covered).div_ceil(window)).unwrap_or(u64::MAX)
        };
        share(self.now, age.saturating_sub(window)) + share(self.before, age)
    }
}

/// Failures that are remembered one by one: as many as a route may ask for.
const KEPT: usize = 100;
