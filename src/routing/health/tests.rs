//! When an endpoint is ejected, for how long, how it comes back, and that somebody is always left.

use proptest::prelude::*;

use super::*;
use crate::routing::{
    balancer::{Client, NoPick, PickedBy, pick},
    fixture::{by_cookie, client, cookie, endpoint, headers, ready, rule},
    persistence::set_cookie,
    route::{Backend, Balancing, HashSource, OnUnavailable, Persistence},
};

fn passive() -> Passive {
    Passive {
        failures: 3,
        window: secs(10),
        min_failure_percent: 50,
        codes: Box::new([503]),
        early_close_within: secs(1),
        base_ejection_time: secs(30),
        max_ejection_time: secs(100),
        max_ejection_percent: 50,
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(seconds: u64) -> Moment {
    Moment::after(secs(seconds))
}

/// A rule with passive health over one Service of so many endpoints.
fn watched(count: usize, change: impl FnOnce(&mut Passive, &mut Rule)) -> (Rule, Vec<Arc<Endpoint>>) {
    let backend = ready("s", 1, count);
    let members = backend.endpoints.as_ref().unwrap().load().usable().to_vec();
    let (mut passive, mut rule) = (passive(), rule(Balancing::RoundRobin, None, vec![backend]));
    change(&mut passive, &mut rule);
    rule.health = Some(Arc::new(passive));
    (rule, members)
}

fn fails(rule: &Rule, endpoint: &Endpoint, count: usize, failure: Failure, now: Moment) -> Vec<Change> {
    let note = |_| note(rule, endpoint, Seen::Failed(failure), now);
    (0..count).filter_map(note).collect()
}

fn eject(rule: &Rule, endpoint: &Endpoint, now: Moment) -> Duration {
    match fails(rule, endpoint, 3, Failure::ConnectionRefused, now).as_slice() {
        [Change::Ejected { time, .. }] => *time,
        other => panic!("{other:?}"),
    }
}

fn picked(rule: &Rule, now: Moment, tries: bool) -> Result<Vec<String>, NoPick> {
    let headers = headers(&[]);
    let client = Client {
        moment: now,
        tries,
        ..client(&headers)
    };
    let pick = pick(rule, &client)?;
    Ok(pick
        .candidates
        .iter()
        .map(|(endpoint, _)| endpoint.name().to_owned())
        .collect())
}

#[test]
fn failed_handshakes_in_a_row_eject_however_slowly_they_come() {
    let (rule, members) = watched(3, |_, _| ());
    for (n, seconds) in [0, 500, 1_000].into_iter().enumerate() {
        let change = note(&rule, &members[0], Seen::Failed(Failure::Status), at(seconds));
        match (n, change) {
            (0 | 1, None) => {}
            (
                2,
                Some(Change::Ejected {
                    reason,
                    failures,
                    time,
                    times,
                }),
            ) => {
                assert_eq!((reason, failures), (Failure::Status, vec![(Failure::Status, 3)]));
                assert_eq!((time, times), (secs(30), 1));
            }
            (n, other) => panic!("{n}: {other:?}"),
        }
    }
    assert_eq!(members[0].ejected_for(), Some(Failure::Status));
    assert!(members[0].is_ejected() && !members[1].is_ejected());
}

#[test]
fn an_answer_ends_the_row() {
    let (rule, members) = watched(3, |passive, _| passive.min_failure_percent = 100);
    for seconds in 0..20 {
        assert_eq!(fails(&rule, &members[0], 2, Failure::HandshakeTimeout, at(seconds)), []);
        assert_eq!(note(&rule, &members[0], Seen::Answered, at(seconds)), None);
    }
}

#[test]
fn tunnels_that_end_early_eject_though_every_handshake_was_answered() {
    let (rule, members) = watched(3, |_, _| ());
    let tunnel = |seconds| {
        assert_eq!(note(&rule, &members[0], Seen::Answered, at(seconds)), None);
        note(&rule, &members[0], Seen::Failed(Failure::EarlyClose), at(seconds))
    };
    assert_eq!((tunnel(0), tunnel(2)), (None, None));
    assert!(matches!(
        tunnel(4),
        Some(Change::Ejected {
            reason: Failure::EarlyClose,
            ..
        })
    ));
}

#[test]
fn a_few_failures_among_many_tunnels_do_not_count() {
    let (rule, members) = watched(3, |_, _| ());
    for n in 0..1_000 {
        assert_eq!(note(&rule, &members[0], Seen::Answered, at(n / 100)), None);
    }
    assert_eq!(fails(&rule, &members[0], 100, Failure::InternalError, at(10)), []);
    // Nor do old ones.
    let (rule, members) = watched(3, |_, _| ());
    for seconds in [0, 6, 12, 18, 24] {
        assert_eq!(fails(&rule, &members[0], 1, Failure::HeartbeatLost, at(seconds)), []);
    }
    // A burst does, of whatever kind; the most frequent names it.
    let (rule, members) = watched(3, |_, _| ());
    note(&rule, &members[0], Seen::Failed(Failure::Vanished), at(1));
    let changes = fails(&rule, &members[0], 2, Failure::InternalError, at(2));
    let [Change::Ejected { reason, failures, .. }] = changes.as_slice() else {
        panic!("{changes:?}")
    };
    assert_eq!(*reason, Failure::InternalError);
    assert_eq!(*failures, [(Failure::InternalError, 2), (Failure::Vanished, 1)]);
}

#[test]
fn ejections_grow_up_to_the_longest_and_are_forgotten_in_good_times() {
    let (rule, members) = watched(3, |_, _| ());
    let mut now = 0;
    let mut times = Vec::new();
    for _ in 0..5 {
        let time = eject(&rule, &members[0], at(now)).as_secs();
        times.push(time);
        now += time;
        assert!(
            matches!(note(&rule, &members[0], Seen::Answered, at(now)), Some(Change::Returned { after }) if after.as_secs() == time)
        );
    }
    assert_eq!(times, [30, 60, 90, 100, 100]);
    // Two base times well: two ejections forgotten of four that count.
    now += 60;
    assert_eq!(eject(&rule, &members[0], at(now)), secs(90));
    now += 90;
    note(&rule, &members[0], Seen::Answered, at(now));
    assert_eq!(eject(&rule, &members[0], at(now + 1_000)), secs(30));
}

#[test]
fn one_handshake_tries_it_and_then_all_follow() {
    let (rule, members) = watched(2, |_, _| ());
    eject(&rule, &members[0], at(0));
    let first = |seconds, tries| picked(&rule, at(seconds), tries).unwrap().remove(0);
    for seconds in 0..30 {
        assert_eq!(picked(&rule, at(seconds), true).unwrap(), ["s-1"]);
    }
    // A request that is no handshake is no trial.
    assert!((0..10).all(|_| first(30, false) == "s-1"));
    let trials = (0..10).filter(|_| first(30, true) == "s-0").count();
    assert_eq!(trials, 1);
    // Its client left, and nobody knows: after the time of a handshake another one tries.
    assert_eq!((0..10).filter(|_| first(32, true) == "s-0").count(), 1);
    assert!(matches!(
        note(&rule, &members[0], Seen::Failed(Failure::DialTimeout), at(33)),
        Some(Change::Ejected {
            times: 2,
            reason: Failure::DialTimeout,
            ..
        })
    ));
    assert!((0..10).all(|_| first(92, true) == "s-1"));
    assert_eq!((0..10).filter(|_| first(93, true) == "s-0").count(), 1);
    assert!(matches!(
        note(&rule, &members[0], Seen::Answered, at(93)),
        Some(Change::Returned { .. })
    ));
    assert_eq!((0..10).filter(|_| first(93, true) == "s-0").count(), 5);
}

#[test]
fn it_comes_back_on_trial() {
    let (rule, members) = watched(2, |_, _| ());
    eject(&rule, &members[0], at(0));
    note(&rule, &members[0], Seen::Answered, at(30));
    let changes = fails(&rule, &members[0], 1, Failure::EarlyClose, at(31));
    assert!(
        matches!(changes.as_slice(), [Change::Ejected { times: 2, .. }]),
        "{changes:?}"
    );
    note(&rule, &members[0], Seen::Answered, at(91));
    assert_eq!(fails(&rule, &members[0], 1, Failure::EarlyClose, at(102)), []);
}

#[test]
fn what_began_before_the_ejection_neither_ends_nor_prolongs_it() {
    let (rule, members) = watched(2, |_, _| ());
    eject(&rule, &members[0], at(0));
    for seen in [
        Seen::Answered,
        Seen::Failed(Failure::HandshakeTimeout),
        Seen::Failed(Failure::HeartbeatLost),
    ] {
        assert_eq!(note(&rule, &members[0], seen, at(29)), None);
    }
    assert_eq!(note(&rule, &members[0], Seen::Failed(Failure::HeartbeatLost), at(31)), None);
    assert!(members[0].is_ejected());
}

#[test]
fn the_last_is_never_ejected_nor_more_than_the_route_allows() {
    for (count, percent, most) in [
        (1, 100, 0),
        (2, 1, 1),
        (2, 100, 1),
        (3, 50, 1),
        (4, 50, 2),
        (10, 30, 3),
        (10, 100, 9),
    ] {
        let (rule, members) = watched(count, |passive, _| passive.max_ejection_percent = percent);
        let mut withheld = 0;
        for endpoint in &members {
            for change in fails(&rule, endpoint, 30, Failure::Status, at(1)) {
                withheld += usize::from(matches!(
                    change,
                    Change::Withheld {
                        reason: Failure::Status,
                        ..
                    }
                ));
            }
        }
        let out = members.iter().filter(|endpoint| endpoint.is_ejected()).count();
        // What is not ejected is told of once.
        assert_eq!((out, withheld), (most, count - most), "{count} endpoints, {percent}%");
    }
}

#[test]
fn where_all_are_out_all_are_taken() {
    let (rule, members) = watched(2, |_, _| ());
    eject(&rule, &members[0], at(0));
    let cell = rule.backends[0].endpoints.as_ref().unwrap();
    cell.store(EndpointSet::new(vec![(
        Arc::clone(&members[0]),
        crate::routing::endpoint::State::Ready,
    )]));
    assert_eq!(picked(&rule, at(1), true).unwrap(), ["s-0"]);
    assert_eq!(picked(&rule, at(31), true).unwrap(), ["s-0"]);
    assert_eq!(picked(&rule, at(31), true).unwrap(), ["s-0"]);
    assert_eq!(picked(&rule, at(31), false).unwrap(), ["s-0"]);
}

#[test]
fn a_rule_without_passive_health_neither_notes_nor_looks() {
    let (mut rule, members) = watched(2, |_, _| ());
    eject(&rule, &members[0], at(0));
    rule.health = None;
    assert_eq!(fails(&rule, &members[1], 100, Failure::Status, at(1)), []);
    assert_eq!(picked(&rule, at(1), true).unwrap().len(), 2);
}

#[test]
fn a_cookie_to_an_ejected_endpoint_follows_on_unavailable() {
    for (on_unavailable, expected) in [
        (OnUnavailable::Repick, Ok("s-1")),
        (OnUnavailable::Fail, Err(NoPick::PersistedUnavailable)),
    ] {
        let (rule, members) = watched(2, |_, rule| rule.persistence = by_cookie(cookie(), on_unavailable));
        let nobody = headers(&[]);
        let set = set_cookie(&rule, &client(&nobody), &members[0], "/", false).unwrap();
        let sent = headers(&[("cookie", set.split(';').next().unwrap())]);
        let first = |seconds| {
            let client = Client {
                moment: at(seconds),
                ..client(&sent)
            };
            pick(&rule, &client).map(|pick| (pick.candidates[0].0.name().to_owned(), pick.candidates[0].1))
        };
        assert_eq!(first(0), Ok(("s-0".to_owned(), PickedBy::Cookie)));
        eject(&rule, &members[0], at(0));
        assert_eq!(first(1).map(|(name, _)| name), expected.map(str::to_owned));
        // Its own client may be the one that tries it.
        assert_eq!(first(30), Ok(("s-0".to_owned(), PickedBy::Cookie)));
        assert_eq!(first(30).map(|(name, _)| name), expected.map(str::to_owned));
    }
}

#[test]
fn a_hash_moves_only_the_clients_of_the_ejected_endpoint() {
    let balancing = Balancing::ConsistentHash(HashSource::ClientIp);
    let (rule, members) = watched(4, |_, rule| rule.balancing = balancing);
    let first = |n: u8, seconds| {
        let headers = headers(&[]);
        let client = Client {
            address: [10, 0, 0, n].into(),
            moment: at(seconds),
            ..client(&headers)
        };
        pick(&rule, &client).unwrap().candidates[0].0.name().to_owned()
    };
    let before: Vec<_> = (0..=255).map(|n| first(n, 0)).collect();
    eject(&rule, &members[0], at(0));
    let trials: Vec<_> = (0..=255).filter(|n| first(*n, 40) == "s-0").collect();
    assert_eq!(trials.len(), 1);
    for (n, before) in (0..=255).zip(&before) {
        let moved = first(n, 1);
        assert_eq!(moved == *before, before != "s-0", "{n}: {before} {moved}");
        assert!(
            !trials.contains(&n) || before == "s-0",
            "a trial takes nobody from another endpoint"
        );
    }
}

#[test]
fn a_failing_owner_with_fail_is_refused_until_it_is_back() {
    let (rule, members) = watched(2, |_, rule| {
        rule.persistence = Some(Persistence {
            by: crate::routing::route::PersistBy::ClientIp {
                ipv4_prefix: 32,
                ipv6_prefix: 64,
            },
            on_unavailable: OnUnavailable::Fail,
        });
    });
    let owner = picked(&rule, at(0), true).unwrap().remove(0);
    let owner = members.iter().find(|endpoint| endpoint.name() == owner).unwrap();
    eject(&rule, owner, at(0));
    assert_eq!(picked(&rule, at(1), true), Err(NoPick::PersistedUnavailable));
    assert_eq!(picked(&rule, at(30), true).unwrap(), [owner.name()]);
}

#[test]
fn endpoints_that_leave_are_not_ejected() {
    let (rule, members) = watched(2, |_, _| ());
    let gone = endpoint("s", "gone");
    assert_eq!(fails(&rule, &gone, 100, Failure::ConnectionRefused, at(0)), []);
    assert!(!members.iter().any(|endpoint| endpoint.is_ejected()));
}

#[test]
fn threads_that_eject_at_once_leave_as_many_as_they_must() {
    for _ in 0..50 {
        let (rule, members) = watched(8, |passive, _| passive.max_ejection_percent = 100);
        std::thread::scope(|scope| {
            for endpoint in &members {
                scope.spawn(|| fails(&rule, endpoint, 3, Failure::Status, at(0)));
            }
        });
        assert_eq!(members.iter().filter(|endpoint| endpoint.is_ejected()).count(), 7);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Fail(usize, usize),
    Answer(usize),
    Pick(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let failure = 0..Failure::ALL.len();
    prop_oneof![
        (0_u64..40).prop_map(Step::Wait),
        (0_usize..12, failure).prop_map(|(endpoint, failure)| Step::Fail(endpoint, failure)),
        (0_usize..12).prop_map(Step::Answer),
        any::<bool>().prop_map(Step::Pick),
    ]
}

proptest! {
    #[test]
    fn somebody_is_always_left(
        count in 1_usize..12,
        percent in 1_usize..=100,
        failures in 1_u32..5,
        steps in prop::collection::vec(step(), 0..300),
    ) {
        let (rule, members) = watched(count, |passive, _| {
            passive.failures = failures;
            passive.max_ejection_percent = percent;
        });
        let mut now = 0;
        for step in steps {
            match step {
                Step::Wait(seconds) => now += seconds,
                Step::Fail(endpoint, failure) => {
                    let seen = Seen::Failed(Failure::ALL[failure]);
                    if let Some(Change::Ejected { time, times, failures, .. }) =
                        note(&rule, &members[endpoint % count], seen, at(now))
                    {
                        prop_assert!(time >= secs(30) && time <= secs(100) && times <= 4);
                        prop_assert!(!failures.is_empty());
                    }
                }
                Step::Answer(endpoint) => {
                    note(&rule, &members[endpoint % count], Seen::Answered, at(now));
                }
                Step::Pick(tries) => {
                    let picked = picked(&rule, at(now), tries).unwrap();
                    prop_assert!(!picked.is_empty());
                    let is_out = |name: &String| members.iter().any(|one| one.name() == name && one.is_out(at(now)));
                    // The first may have been claimed just now.
                    prop_assert!(!picked.iter().skip(1).any(is_out), "{picked:?}");
                }
            }
            let out = members.iter().filter(|endpoint| endpoint.is_ejected()).count();
            prop_assert!(out <= most_out(count, percent) && out < count);
        }
    }
}

#[test]
fn backends_of_other_services_do_not_count() {
    let (first, second) = (ready("a", 1, 2), ready("b", 1, 2));
    let of = |backend: &Backend| backend.endpoints.as_ref().unwrap().load().usable().to_vec();
    let (a, b) = (of(&first), of(&second));
    let mut rule = rule(Balancing::Random, None, vec![first, second]);
    rule.health = Some(Arc::new(passive()));
    eject(&rule, &a[0], at(0));
    eject(&rule, &b[1], at(0));
    for _ in 0..100 {
        let picked = picked(&rule, at(1), true).unwrap();
        assert!(
            !picked.contains(&"a-0".to_owned()) && !picked.contains(&"b-1".to_owned()),
            "{picked:?}"
        );
    }
}
