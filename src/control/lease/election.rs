//! The decision: when to look at the Lease of the class, when to write it, and whether this process leads. Pure: it is told
//! what an API call came to and says what to do next; the caller does the calls.
//!
//! Why two never lead at once. A leader counts from before it sent the last write that succeeded, and stops after the renew
//! deadline. Another counts the longer duration of the Lease from when it saw that write, which is later, and its own write
//! replaces exactly the state that it saw, else the API server refuses it. An identity is never used twice, so that the
//! record of a former life is another's record. The one gap is a Lease deleted by hand: a replica that never saw it takes the
//! name for free, and the old leader hears of it at its next renewal.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::{JITTER, SLOW, Timing, record::Record};

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Read,
    /// Make the Lease; it is not there.
    Create(Record),
    /// Replace the Lease as it was last seen.
    Replace(Record),
    /// Nothing before this time.
    Wait(Instant),
    /// Nothing any more: the Lease is given back.
    Done,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// `None`: the Lease is not there.
    Read(Option<Record>),
    Written(Record),
    /// It was not written, because it is no longer what was last seen.
    Conflict,
    /// It was not, because that is not allowed.
    Refused,
    /// It is not a Lease of this class.
    Foreign,
    /// Nobody knows whether it was done.
    Failed,
}

/// Who leads, as far as this replica knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    Leading,
    Following(String),
    #[default]
    Unknown,
}

/// One candidate's view of the election.
#[derive(Debug)]
pub(super) struct Election {
    me: String,
    timing: Timing,
    random: fastrand::Rng,
    /// The record that was last seen. It stays when the Lease is deleted: its holder may not know that yet.
    seen: Option<Seen>,
    view: View,
    /// Until then nobody else can lead.
    leads_until: Option<Instant>,
    /// No call before this time.
    due: Instant,
    /// A write was sent of which it is not known whether it was done.
    is_unsure: bool,
    /// The last write met another's.
    is_contested: bool,
    is_retiring: bool,
}

#[derive(Debug)]
struct Seen {
    record: Record,
    /// When this record was first seen.
    since: Instant,
}

/// What can be written over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    /// Read first.
    Unknown,
    Absent,
    Present,
}

impl Election {
    /// `me` must be this candidate's alone, and never have been anybody's.
    pub(super) fn new(me: String, timing: Timing, random: fastrand::Rng, now: Instant) -> Self {
        Self {
            me,
            timing,
            random,
            seen: None,
            view: View::Unknown,
            leads_until: None,
            due: now,
            is_unsure: false,
            is_contested: false,
            is_retiring: false,
        }
    }

    /// What to do now. `wall` is for people.
    pub(super) fn next(&mut self, now: Instant, wall: Timestamp) -> Step {
        if self.leads_until.is_some_and(|until| until <= now) {
            self.stop_leading();
            self.due = now;
        }
        if self.is_retiring && !self.may_be_mine() {
            return Step::Done;
        }
        if now < self.due {
            return Step::Wait(self.leads_until.map_or(self.due, |until| until.min(self.due)));
        }
        let step = match self.view {
            View::Unknown => Step::Read,
            View::Absent if self.is_retiring => Step::Done,
            View::Absent => Step::Create(self.claim(wall)),
            View::Present if self.is_retiring => Step::Replace(self.waiver(wall)),
            View::Present => Step::Replace(self.claim(wall)),
        };
        self.is_unsure |= matches!(step, Step::Create(_) | Step::Replace(_));
        step
    }

    /// Until when a call that begins now may last: two of them fit into the renew deadline, and none outlasts the leading.
    pub(super) fn patience(&self, now: Instant) -> Instant {
        let by = now + self.timing.renew_deadline / 2;
        self.leads_until.map_or(by, |until| until.min(by))
    }

    /// A step that began at `sent` came to this `now`.
    pub(super) fn took(&mut self, sent: Instant, now: Instant, outcome: Outcome) {
        match outcome {
            Outcome::Read(Some(record)) => {
                self.see(record, now);
                self.is_unsure = false;
                if !self.is_mine() {
                    self.leads_until = None;
                }
                self.look_again(View::Present, now);
            }
            Outcome::Read(None) => {
                self.is_unsure = false;
                self.leads_until = None;
                self.look_again(View::Absent, now);
            }
            Outcome::Written(record) => {
                self.see(record, now);
                self.is_unsure = false;
                self.is_contested = false;
                self.view = View::Present;
                let until = sent + self.timing.renew_deadline;
                self.leads_until = (self.is_mine() && now < until).then_some(until);
                self.due = match self.leads_until {
                    Some(_) => now.max(sent + self.timing.retry),
                    None => now,
                };
            }
            Outcome::Conflict => {
                self.view = View::Unknown;
                // Who leads has to know at once what happened to its Lease, but must not fight over it.
                self.due = match self.is_leading(now) && !self.is_contested {
                    true => now,
                    false => now + self.pause(self.timing.retry),
                };
                self.is_contested = true;
            }
            Outcome::Failed | Outcome::Refused if self.is_leading(now) => {
                // The write may have been done: then the next one meets a conflict, and the Lease is read.
                self.due = now.max(sent + self.timing.retry);
            }
            Outcome::Failed => self.ask_again(now, self.timing.retry),
            Outcome::Refused => self.ask_again(now, SLOW),
            Outcome::Foreign => {
                self.seen = None;
                self.is_unsure = false;
                self.stop_leading();
                self.ask_again(now, SLOW);
            }
        }
    }

    pub(super) fn is_leading(&self, now: Instant) -> bool {
        self.leads_until.is_some_and(|until| now < until)
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        if self.is_leading(now) {
            return Standing::Leading;
        }
        let holder = self.seen.as_ref().and_then(|seen| seen.record.holder.clone());
        match holder {
            Some(holder) if holder != self.me && now < self.free_at(now) => Standing::Following(holder),
            _ => Standing::Unknown,
        }
    }

    /// Stops to lead at once; the steps from now on give the Lease back.
    pub(super) fn retire(&mut self, now: Instant) {
        self.is_retiring = true;
        self.leads_until = None;
        self.due = now;
        if self.is_unsure {
            self.view = View::Unknown;
        }
    }

    /// Whether the Lease says this candidate's name, or will, when a write is done that was not answered.
    pub(super) fn may_be_mine(&self) -> bool {
        self.is_mine() || self.is_unsure
    }

    fn is_mine(&self) -> bool {
        self.seen
            .as_ref()
            .is_some_and(|seen| seen.record.holder.as_ref() == Some(&self.me))
    }

    fn see(&mut self, record: Record, now: Instant) {
        if self.seen.as_ref().is_none_or(|seen| seen.record != record) {
            self.seen = Some(Seen { record, since: now });
        }
    }

    /// The Lease is as it is: writes now, or looks again when it may be free.
    fn look_again(&mut self, view: View, now: Instant) {
        let free_at = self.free_at(now);
        if free_at <= now {
            (self.view, self.due) = (view, now);
        } else {
            self.ask_again(now, self.timing.retry);
            self.due = self.due.min(free_at);
        }
    }

    /// When this candidate may take the Lease, as far as is known.
    fn free_at(&self, now: Instant) -> Instant {
        match &self.seen {
            Some(seen) if seen.record.holder.is_some() && !self.is_mine() => {
                seen.since + seen.record.duration.unwrap_or(self.timing.duration)
            }
            _ => now,
        }
    }

    fn ask_again(&mut self, now: Instant, pause: Duration) {
        self.view = View::Unknown;
        self.due = now + self.pause(pause);
    }

    fn stop_leading(&mut self) {
        self.leads_until = None;
        self.view = View::Unknown;
    }

    fn pause(&mut self, least: Duration) -> Duration {
        least.mul_f64(1.0 + JITTER * self.random.f64())
    }

    /// The record by which this candidate takes or keeps the Lease.
    fn claim(&self, wall: Timestamp) -> Record {
        let before = self.seen.as_ref().map(|seen| &seen.record);
        let mine = before.filter(|_| self.is_mine());
        Record {
            holder: Some(self.me.clone()),
            duration: Some(self.timing.duration),
            acquired: mine.and_then(|mine| mine.acquired).or(Some(wall)),
            renewed: Some(before.map_or(wall, |before| before.next_renewal(wall))),
            transitions: match (mine, before) {
                (Some(mine), _) => mine.transitions,
                (None, Some(before)) => before.transitions.saturating_add(1),
                (None, None) => 0,
            },
        }
    }

    /// The record by which it gives the Lease back.
    fn waiver(&self, wall: Timestamp) -> Record {
        Record {
            holder: None,
            duration: Some(Duration::from_secs(1)), // the API server wants one
            ..self.claim(wall)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::lease::fake::{DEADLINE, DURATION, RETRY, timing};

    /// An election and a clock that is moved by hand.
    struct Case {
        election: Election,
        now: Instant,
    }

    impl Case {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                election: Election::new("me".to_owned(), timing(), fastrand::Rng::with_seed(1), now),
                now,
            }
        }

        /// One that leads since `now`.
        fn leading() -> Self {
            let mut case = Self::new();
            case.answer(Outcome::Read(None));
            case.grant();
            assert!(case.election.is_leading(case.now));
            case
        }

        fn step(&mut self) -> Step {
            self.election.next(self.now, Timestamp::UNIX_EPOCH)
        }

        /// Waits for the next call, and returns it.
        fn call(&mut self) -> Step {
            loop {
                match self.step() {
                    Step::Wait(until) => self.now = until,
                    step => return step,
                }
            }
        }

        /// The next call is answered at once.
        fn answer(&mut self, outcome: Outcome) -> Step {
            let step = self.call();
            self.election.took(self.now, self.now, outcome);
            step
        }

        /// The next call is a write, which succeeds.
        fn grant(&mut self) -> Record {
            let (Step::Create(record) | Step::Replace(record)) = self.call() else {
                panic!("not a write");
            };
            self.election.took(self.now, self.now, Outcome::Written(record.clone()));
            record
        }

        /// The next call gets no answer, for as long as it may last.
        fn hang(&mut self) {
            self.call();
            let sent = self.now;
            self.now = self.election.patience(sent);
            self.election.took(sent, self.now, Outcome::Failed);
        }
    }

    fn held(by: &str, renewed: i64) -> Record {
        Record {
            holder: Some(by.to_owned()),
            duration: Some(DURATION),
            acquired: None,
            renewed: Timestamp::from_second(renewed).ok(),
            transitions: 4,
        }
    }

    #[test]
    fn a_free_lease_is_taken() {
        let mut case = Case::new();
        assert_eq!(case.answer(Outcome::Read(None)), Step::Read);
        assert!(matches!(case.step(), Step::Create(_)));
        let record = case.grant();
        assert!(case.election.is_leading(case.now));
        assert_eq!(record.holder.as_deref(), Some("me"));
        assert_eq!((record.duration, record.transitions), (Some(DURATION), 0));

        let mut case = Case::new();
        let released = Record {
            holder: None,
            ..held("", 0)
        };
        case.answer(Outcome::Read(Some(released)));
        assert!(matches!(case.step(), Step::Replace(Record { transitions: 5, .. })));
    }

    #[test]
    fn another_holder_is_waited_for_as_long_as_its_record_is_new() {
        let mut case = Case::new();
        let start = case.now;
        while case.now < start + Duration::from_secs(60) {
            let renewed = i64::try_from(case.now.duration_since(start).as_secs() / 10).unwrap();
            assert_eq!(case.answer(Outcome::Read(Some(held("other", renewed)))), Step::Read);
            assert_eq!(case.election.standing(case.now), Standing::Following("other".to_owned()));
        }
        let since = case.now;
        loop {
            let before = case.now;
            match case.call() {
                Step::Read => {
                    assert!(case.now <= before + RETRY.mul_f64(1.2), "a look every retry");
                    case.election.took(case.now, case.now, Outcome::Read(Some(held("other", 99))));
                }
                step => {
                    assert!(matches!(step, Step::Replace(Record { transitions: 5, .. })));
                    break;
                }
            }
        }
        let waited = case.now - since;
        assert!(waited >= DURATION && waited <= DURATION + RETRY.mul_f64(1.2), "{waited:?}");
        assert_eq!(case.election.standing(case.now), Standing::Unknown);
    }

    #[test]
    fn the_duration_in_the_record_counts_and_not_ones_own() {
        let mut case = Case::new();
        let start = case.now;
        let long = Record {
            duration: Some(4 * DURATION),
            ..held("other", 0)
        };
        while case.answer(Outcome::Read(Some(long.clone()))) == Step::Read {}
        assert!(case.now >= start + 4 * DURATION);
    }

    #[test]
    fn times_in_the_record_mean_nothing() {
        for day in [-86_400, 86_400] {
            let mut case = Case::new();
            let start = case.now;
            while case.answer(Outcome::Read(Some(held("other", day)))) == Step::Read {}
            let waited = case.now - start;
            assert!(waited >= DURATION && waited < DURATION + 2 * RETRY, "{waited:?}");
        }
    }

    #[test]
    fn a_leader_renews_every_retry_and_keeps_what_it_has() {
        let mut case = Case::leading();
        let first = case.election.seen.as_ref().unwrap().record.clone();
        for _ in 0..100 {
            let before = case.now;
            let record = case.grant();
            assert_eq!(case.now, before + RETRY);
            assert_eq!((record.acquired, record.transitions), (first.acquired, first.transitions));
            assert!(case.election.is_leading(case.now));
        }
    }

    #[test]
    fn a_leader_that_cannot_renew_stops_at_the_deadline_and_comes_back() {
        let mut case = Case::leading();
        let since = case.now;
        while case.election.is_leading(case.now) {
            match case.step() {
                Step::Wait(until) => case.now = until,
                _ => case.election.took(case.now, case.now, Outcome::Failed),
            }
        }
        assert_eq!(case.now, since + DEADLINE);
        assert_eq!(case.answer(Outcome::Read(Some(held("me", 0)))), Step::Read);
        case.grant();
        assert!(case.election.is_leading(case.now), "nobody else took it");
    }

    #[test]
    fn a_call_that_hangs_does_not_outlast_the_deadline() {
        let mut case = Case::leading();
        let since = case.now;
        let mut calls = 0;
        while case.election.is_leading(case.now) {
            case.hang();
            calls += 1;
        }
        assert_eq!(case.now, since + DEADLINE);
        assert!(calls > 1, "one that hangs does not spoil the next one's chance");
    }

    #[test]
    fn an_answer_that_comes_after_the_deadline_is_worth_nothing() {
        let mut case = Case::new();
        case.answer(Outcome::Read(None));
        let Step::Create(record) = case.call() else {
            panic!("not a write")
        };
        let sent = case.now;
        case.now += DEADLINE;
        case.election.took(sent, case.now, Outcome::Written(record));
        assert!(!case.election.is_leading(case.now));
        case.grant();
        assert!(case.election.is_leading(case.now));
    }

    #[test]
    fn a_leader_counts_from_before_it_asked() {
        let mut case = Case::leading();
        let Step::Replace(record) = case.call() else {
            panic!("not a write")
        };
        let sent = case.now;
        case.now += Duration::from_secs(4);
        case.election.took(sent, case.now, Outcome::Written(record));
        assert!(case.election.is_leading(sent + DEADLINE - Duration::from_millis(1)));
        assert!(!case.election.is_leading(sent + DEADLINE));
    }

    #[test]
    fn a_leader_that_meets_a_conflict_looks_at_once_and_believes_the_record() {
        let mut case = Case::leading();
        case.answer(Outcome::Conflict);
        assert_eq!(case.step(), Step::Read);
        assert!(case.election.is_leading(case.now), "somebody may only have set a label");
        let seen = case.election.seen.as_ref().unwrap().record.clone();
        case.election.took(case.now, case.now, Outcome::Read(Some(seen)));
        assert!(matches!(case.step(), Step::Replace(_)), "it is renewed at once");
        case.grant();

        case.answer(Outcome::Conflict);
        case.answer(Outcome::Read(Some(held("other", 0))));
        assert_eq!(case.election.standing(case.now), Standing::Following("other".to_owned()));
    }

    #[test]
    fn conflicts_do_not_become_a_storm() {
        let mut case = Case::leading();
        let since = case.now;
        let mut calls = 0;
        while case.now < since + Duration::from_secs(60) {
            let outcome = match case.call() {
                Step::Read => Outcome::Read(Some(held("me", 0))),
                _ => Outcome::Conflict,
            };
            case.election.took(case.now, case.now, outcome);
            calls += 1;
        }
        assert!(calls <= 2 * 60 / 2 + 2, "{calls}");
    }

    #[test]
    fn a_deleted_lease_is_lost_and_who_saw_its_holder_waits_for_it() {
        let mut case = Case::leading();
        case.answer(Outcome::Conflict);
        case.answer(Outcome::Read(None));
        assert!(!case.election.is_leading(case.now));
        assert!(matches!(case.step(), Step::Create(_)));

        let mut case = Case::new();
        let start = case.now;
        case.answer(Outcome::Read(Some(held("other", 0))));
        while case.answer(Outcome::Read(None)) == Step::Read {}
        assert!(case.now >= start + DURATION, "the other may not know yet");
    }

    #[test]
    fn a_record_of_a_former_life_is_anothers() {
        let mut case = Case::new();
        case.answer(Outcome::Read(Some(held("me_before", 0))));
        assert!(matches!(case.step(), Step::Wait(_)));
        assert!(!case.election.is_leading(case.now));
    }

    #[test]
    fn anothers_lease_is_never_written() {
        let mut case = Case::new();
        let start = case.now;
        for _ in 0..100 {
            assert_eq!(case.answer(Outcome::Foreign), Step::Read);
        }
        assert!(case.now >= start + 99 * SLOW);
        let mut case = Case::leading();
        case.answer(Outcome::Conflict);
        case.answer(Outcome::Foreign);
        assert!(!case.election.is_leading(case.now));
    }

    #[test]
    fn without_rights_it_asks_slowly_but_a_leader_until_its_deadline() {
        let mut case = Case::new();
        let start = case.now;
        case.answer(Outcome::Refused);
        assert_eq!(case.call(), Step::Read);
        assert!(case.now >= start + SLOW);

        let mut case = Case::leading();
        case.answer(Outcome::Refused);
        assert!(matches!(case.call(), Step::Replace(_)));
        assert!(case.election.is_leading(case.now));
    }

    #[test]
    fn a_lease_is_given_back() {
        let mut case = Case::leading();
        case.now += Duration::from_secs(1);
        case.election.retire(case.now);
        assert!(!case.election.is_leading(case.now));
        let Step::Replace(record) = case.step() else {
            panic!("not a write")
        };
        assert_eq!((&record.holder, record.duration), (&None, Some(Duration::from_secs(1))));
        case.election.took(case.now, case.now, Outcome::Written(record));
        assert_eq!(case.step(), Step::Done);
    }

    #[test]
    fn what_is_anothers_is_not_given_back() {
        let mut case = Case::new();
        case.answer(Outcome::Read(Some(held("other", 0))));
        case.election.retire(case.now);
        assert_eq!(case.step(), Step::Done);
        let mut case = Case::new();
        case.election.retire(case.now);
        assert_eq!(case.step(), Step::Done);
    }

    #[test]
    fn a_write_without_an_answer_is_looked_for_before_it_is_given_back() {
        for (found, expected) in [(Some("me"), true), (Some("other"), false), (None, false)] {
            let mut case = Case::new();
            case.answer(Outcome::Read(None));
            assert!(matches!(case.call(), Step::Create(_)));
            case.election.retire(case.now); // in the middle of the call
            let found = found.map(|holder| held(holder, 0));
            assert_eq!(case.answer(Outcome::Read(found)), Step::Read);
            assert_eq!(matches!(case.step(), Step::Replace(Record { holder: None, .. })), expected);
            assert_eq!(case.step() == Step::Done, !expected);
        }
    }

    #[test]
    fn a_conflict_while_giving_back_is_looked_at() {
        let mut case = Case::leading();
        case.election.retire(case.now);
        case.answer(Outcome::Conflict);
        assert_eq!(case.answer(Outcome::Read(Some(held("me", 7)))), Step::Read);
        assert!(matches!(case.step(), Step::Replace(Record { holder: None, .. })));
        case.answer(Outcome::Conflict);
        case.answer(Outcome::Read(Some(held("other", 8))));
        assert_eq!(case.step(), Step::Done);
    }
}
