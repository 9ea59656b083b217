//! Whom a pick chooses, how often, and what it never does.

use std::collections::BTreeMap;

use super::*;
use crate::routing::{
    endpoint::State::{NotReady, Ready, Terminating},
    fixture::{self, backend, endpoint, headers, ready, rule, unresolved},
    route::Persistence,
    *,
};

/// The names of a pick's candidates.
fn names(pick: &Pick) -> Vec<&str> {
    pick.candidates.iter().map(|(endpoint, _)| endpoint.name()).collect()
}

fn nobody() -> HeaderMap {
    HeaderMap::new()
}

fn any(rule: &Rule) -> Result<Pick, NoPick> {
    pick(rule, &fixture::client(&nobody()))
}

/// How often each endpoint, or each reason for none, comes first in `count` picks.
fn tally(count: usize, mut next: impl FnMut(usize) -> Result<Pick, NoPick>) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for n in 0..count {
        let first = match next(n) {
            Ok(pick) => pick.candidates[0].0.name().to_owned(),
            Err(no) => format!("{no:?}"),
        };
        *tally.entry(first).or_default() += 1;
    }
    tally
}

fn assert_shares(tally: &BTreeMap<String, usize>, expected: &[(&str, usize)], tolerance: usize) {
    let names: Vec<_> = tally.keys().map(String::as_str).collect();
    let expected_names: Vec<_> = expected.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, expected_names);
    for (name, share) in expected {
        assert!(tally[*name].abs_diff(*share) <= tolerance, "{name}: {tally:?}");
    }
}

const ALGORITHMS: [Balancing; 4] = [
    Balancing::RoundRobin,
    Balancing::LeastConnections,
    Balancing::PowerOfTwo,
    Balancing::Random,
];

fn hashed() -> Balancing {
    Balancing::ConsistentHash(HashSource::ClientIp)
}

fn all_algorithms() -> impl Iterator<Item = Balancing> {
    ALGORITHMS.into_iter().chain([hashed()])
}

fn persist(by: PersistBy, on_unavailable: OnUnavailable) -> Option<Persistence> {
    Some(Persistence { by, on_unavailable })
}

const BY_ADDRESS: PersistBy = PersistBy::ClientIp {
    ipv4_prefix: 32,
    ipv6_prefix: 64,
};

/// The `n`th of many clients.
fn address(n: usize) -> IpAddr {
    IpAddr::from([10, 1, (n >> 8) as u8, n as u8])
}

fn pick_for(rule: &Rule, address: IpAddr) -> Result<Pick, NoPick> {
    let headers = nobody();
    let client = Client {
        address,
        ..fixture::client(&headers)
    };
    pick(rule, &client)
}

/// The first choices of 10,000 clients.
fn choices(rule: &Rule) -> Vec<String> {
    (0..10_000)
        .map(|n| pick_for(rule, address(n)).unwrap().candidates[0].0.name().to_owned())
        .collect()
}

fn moved(before: &[String], after: &[String]) -> usize {
    before.iter().zip(after).filter(|(before, after)| before != after).count()
}

#[test]
fn candidates_are_distinct_and_at_most_four() {
    for algorithm in all_algorithms() {
        for count in 1..=6 {
            let rule = rule(algorithm.clone(), None, vec![ready("a", 1, count)]);
            let set = rule.backends[0].endpoints.as_ref().unwrap().load();
            let _open: Vec<_> = set.usable()[1..].iter().map(|endpoint| endpoint.hold()).collect();
            for _ in 0..50 {
                let pick = any(&rule).unwrap();
                let mut names = names(&pick);
                assert_eq!(names.len(), count.min(MAX_CANDIDATES), "{algorithm:?}");
                names.sort_unstable();
                names.dedup();
                assert_eq!(names.len(), count.min(MAX_CANDIDATES), "{algorithm:?}");
            }
        }
    }
}

#[test]
fn only_usable_endpoints_are_picked() {
    for algorithm in all_algorithms() {
        let states = [NotReady, Ready, Terminating, Ready];
        let mixed = rule(algorithm.clone(), None, vec![backend("a", 1, &states)]);
        for _ in 0..20 {
            let pick = any(&mixed).unwrap();
            let mut names = names(&pick);
            names.sort_unstable();
            assert_eq!(names, ["a-1", "a-3"]);
        }
        let leaving = rule(algorithm, None, vec![backend("a", 1, &[NotReady, Terminating])]);
        assert_eq!(names(&any(&leaving).unwrap()), ["a-1"]);
    }
}

#[test]
fn when_there_is_nothing_to_dial() {
    for algorithm in all_algorithms() {
        let picked = |backends| any(&rule(algorithm.clone(), None, backends)).map(|_| ()).unwrap_err();
        assert_eq!(picked(vec![]), NoPick::Unresolved);
        assert_eq!(picked(vec![unresolved("a", 1)]), NoPick::Unresolved);
        assert_eq!(picked(vec![unresolved("a", 1), ready("b", 0, 2)]), NoPick::Unresolved);
        assert_eq!(picked(vec![unresolved("a", 1), ready("b", 1, 0)]), NoPick::Unresolved);
        assert_eq!(picked(vec![ready("a", 1, 0)]), NoPick::NoReadyEndpoint);
        assert_eq!(picked(vec![backend("a", 1, &[NotReady])]), NoPick::NoReadyEndpoint);
        assert_eq!(picked(vec![ready("a", 0, 2), ready("b", 0, 2)]), NoPick::NoReadyEndpoint);
        assert_eq!(picked(vec![ready("a", 0, 2), unresolved("b", 0)]), NoPick::NoReadyEndpoint);
    }
}

#[test]
fn weights_are_shares_of_backends_however_many_endpoints_they_have() {
    fastrand::seed(1);
    for algorithm in all_algorithms() {
        let backends = vec![ready("a", 30, 1), ready("b", 10, 3), ready("c", 0, 5), ready("d", 5, 0)];
        let rule = rule(algorithm, None, backends);
        let tally = tally(12_000, |n| pick_for(&rule, address(n)));
        assert_shares(&tally, &[("a-0", 9_000), ("b-0", 1_000), ("b-1", 1_000), ("b-2", 1_000)], 250);
    }
}

#[test]
fn the_share_of_an_unresolved_backend_is_refused() {
    fastrand::seed(2);
    for algorithm in all_algorithms() {
        let rule = rule(algorithm, None, vec![ready("a", 1, 1), unresolved("b", 3)]);
        let tally = tally(8_000, |n| pick_for(&rule, address(n)));
        assert_shares(&tally, &[("Unresolved", 6_000), ("a-0", 2_000)], 250);
    }
}

#[test]
fn weights_hold_whatever_is_open() {
    fastrand::seed(3);
    for algorithm in [Balancing::LeastConnections, Balancing::PowerOfTwo] {
        let rule = rule(algorithm, None, vec![ready("old", 9, 1), ready("new", 1, 1)]);
        let old = rule.backends[0].endpoints.as_ref().unwrap().load();
        let _open: Vec<_> = (0..1_000).map(|_| old.usable()[0].hold()).collect();
        let tally = tally(10_000, |_| any(&rule));
        assert_shares(&tally, &[("new-0", 1_000), ("old-0", 9_000)], 150);
    }
}

#[test]
fn turns_are_exact_and_mixed() {
    let rule = rule(Balancing::RoundRobin, None, vec![ready("a", 90, 2), ready("b", 10, 1)]);
    let tally = tally(100, |_| any(&rule));
    assert_shares(&tally, &[("a-0", 45), ("a-1", 45), ("b-0", 10)], 0);

    let firsts: Vec<_> = (0..20).map(|_| names(&any(&rule).unwrap())[0].to_owned()).collect();
    let gaps = firsts.iter().enumerate().filter(|(_, name)| *name == "b-0").map(|(at, _)| at);
    let gaps: Vec<_> = gaps.collect();
    assert_eq!(gaps.len(), 2, "{firsts:?}");
    assert_eq!(gaps[1] - gaps[0], 10, "{firsts:?}");
}

#[test]
fn turns_hold_for_the_largest_weights() {
    let backends = vec![ready("a", u32::MAX, 1), ready("b", u32::MAX - 1, 1)];
    let rule = rule(Balancing::RoundRobin, None, backends);
    assert_shares(&tally(1_000, |_| any(&rule)), &[("a-0", 500), ("b-0", 500)], 5);
}

#[test]
fn turns_between_equal_backends_alternate() {
    let rule = rule(Balancing::RoundRobin, None, vec![ready("a", 7, 1), ready("b", 7, 1)]);
    let firsts: Vec<_> = (0..10).map(|_| names(&any(&rule).unwrap())[0].to_owned()).collect();
    assert!(firsts.windows(2).all(|two| two[0] != two[1]), "{firsts:?}");
}

#[test]
fn turns_do_not_all_begin_with_the_first() {
    fastrand::seed(4);
    let first = |_| any(&rule(Balancing::RoundRobin, None, vec![ready("a", 1, 4)]));
    assert_shares(
        &tally(4_000, first),
        &[("a-0", 1_000), ("a-1", 1_000), ("a-2", 1_000), ("a-3", 1_000)],
        150,
    );
}

#[test]
fn turns_of_many_threads_are_still_exact() {
    let rule = rule(Balancing::RoundRobin, None, vec![ready("a", 1, 4)]);
    let tallies: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| tally(1_000, |_| any(&rule)))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for name in ["a-0", "a-1", "a-2", "a-3"] {
        let turns: usize = tallies.iter().map(|tally| tally.get(name).copied().unwrap_or(0)).sum();
        assert_eq!(turns, 1_000);
    }
}

#[test]
fn the_fewest_open_connections_win_and_ties_are_random() {
    fastrand::seed(5);
    let rule = rule(Balancing::LeastConnections, None, vec![ready("a", 1, 5)]);
    let set = rule.backends[0].endpoints.as_ref().unwrap().load();
    let hold = |place: usize, count: usize| -> Vec<_> { (0..count).map(|_| set.usable()[place].hold()).collect() };
    let _open = [hold(0, 3), hold(1, 1), hold(3, 2), hold(4, 4)];
    assert_eq!(names(&any(&rule).unwrap()), ["a-2", "a-1", "a-3", "a-0"]);

    let _more = [hold(2, 1)];
    let tally = tally(1_000, |_| any(&rule));
    assert_shares(&tally, &[("a-1", 500), ("a-2", 500)], 80);
}

#[test]
fn two_choices_even_out_what_is_open() {
    fastrand::seed(6);
    let rule = rule(Balancing::PowerOfTwo, None, vec![ready("a", 1, 10)]);
    let held: Vec<_> = (0..1_000).map(|_| any(&rule).unwrap().candidates[0].0.hold()).collect();
    let set = rule.backends[0].endpoints.as_ref().unwrap().load();
    let open: Vec<_> = set.usable().iter().map(|endpoint| endpoint.open()).collect();
    assert!(open.iter().all(|open| (95..=105).contains(open)), "{open:?}");
    drop(held);

    let _busy: Vec<_> = set.usable()[1..].iter().map(|endpoint| endpoint.hold()).collect();
    let tally = tally(1_000, |_| any(&rule));
    assert!((150..=250).contains(&tally["a-0"]), "two of ten draws: {tally:?}");
}

#[test]
fn retries_stay_with_the_backend_but_for_the_last() {
    fastrand::seed(7);
    for algorithm in all_algorithms() {
        let rule = rule(algorithm, None, vec![ready("a", 1, 5), ready("b", 1, 5)]);
        for n in 0..100 {
            let pick = pick_for(&rule, address(n)).unwrap();
            let backends: String = names(&pick).iter().map(|name| &name[..1]).collect();
            assert!(backends == "aaab" || backends == "bbba", "{backends}");
        }
    }
}

#[test]
fn retries_never_go_to_weight_zero_or_unresolved_backends() {
    fastrand::seed(8);
    for algorithm in all_algorithms() {
        let rule = rule(algorithm, None, vec![ready("a", 1, 1), ready("b", 0, 3), unresolved("c", 1)]);
        for n in 0..100 {
            match pick_for(&rule, address(n)) {
                Ok(pick) => assert_eq!(names(&pick), ["a-0"]),
                Err(no) => assert_eq!(no, NoPick::Unresolved),
            }
        }
    }
}

#[test]
fn one_service_in_two_backend_refs_counts_twice_and_its_endpoints_are_tried_once() {
    for algorithm in all_algorithms() {
        let same = |weight| Backend {
            service: fixture::service("a"),
            weight,
            endpoints: None,
            tls: super::super::BackendTls::Off,
        };
        let mut both = [same(1), same(1)];
        let cell = ready("a", 1, 2).endpoints;
        both.iter_mut().for_each(|backend| backend.endpoints = cell.clone());
        let rule = rule(algorithm, None, both.into_iter().chain([ready("b", 2, 1)]).collect());
        let tally = tally(4_000, |n| pick_for(&rule, address(n)));
        assert_shares(&tally, &[("a-0", 1_000), ("a-1", 1_000), ("b-0", 2_000)], 200);
        let pick = any(&rule).unwrap();
        assert_eq!(names(&pick).len(), 3);
    }
}

#[test]
fn a_hash_sends_a_client_to_the_same_endpoint_in_every_process() {
    let rule_of = || rule(hashed(), None, vec![ready("a", 2, 3), ready("b", 1, 3)]);
    fastrand::seed(9);
    let here = choices(&rule_of());
    fastrand::seed(10);
    assert_eq!(here, choices(&rule_of()));
    assert_eq!(here[..4], ["b-0", "a-2", "a-2", "a-2"]);
}

#[test]
fn an_endpoint_that_comes_takes_its_share_and_nobody_else_moves() {
    for backends in [2, 10, 50] {
        let of = |count| {
            choices(&rule(
                Balancing::Random,
                persist(BY_ADDRESS, OnUnavailable::Repick),
                vec![ready("a", 1, count)],
            ))
        };
        let (before, after) = (of(backends), of(backends + 1));
        let newcomer = format!("a-{backends}");
        let share = 10_000 / (backends + 1);
        assert!(
            moved(&before, &after).abs_diff(share) <= share / 5,
            "{}",
            moved(&before, &after)
        );
        assert!(
            before
                .iter()
                .zip(&after)
                .all(|(before, after)| before == after || *after == newcomer)
        );
    }
}

#[test]
fn an_endpoint_that_goes_gives_its_clients_to_their_second_candidates() {
    let states = |third| rule(hashed(), None, vec![backend("a", 1, &[Ready, Ready, third, Ready])]);
    let (before, after) = (states(Ready), states(NotReady));
    for n in 0..2_000 {
        let (before, after) = (pick_for(&before, address(n)).unwrap(), pick_for(&after, address(n)).unwrap());
        let rest: Vec<_> = names(&before).into_iter().filter(|name| *name != "a-2").collect();
        assert_eq!(rest, names(&after));
    }
}

#[test]
fn a_changed_weight_moves_only_the_difference() {
    let of = |weight| choices(&rule(hashed(), None, vec![ready("a", 50, 3), ready("b", weight, 2)]));
    let (before, after) = (of(10), of(25));
    let difference = 10_000 * 25 / 75 - 10_000 * 10 / 60;
    assert!(
        moved(&before, &after).abs_diff(difference) < difference / 10,
        "{}",
        moved(&before, &after)
    );
    let towards_b = |(before, after): (&String, &String)| before == after || after.starts_with('b');
    assert!(before.iter().zip(&after).all(towards_b));
}

#[test]
fn an_endpoint_more_moves_no_client_between_backends() {
    let of = |count| choices(&rule(hashed(), None, vec![ready("a", 1, 3), ready("b", 1, count)]));
    let (before, after) = (of(4), of(5));
    assert!(before.iter().zip(&after).all(|(before, after)| before[..1] == after[..1]));
    assert!(moved(&before, &after).abs_diff(1_000) < 150);
}

#[test]
fn address_prefixes_share_an_endpoint() {
    let by = PersistBy::ClientIp {
        ipv4_prefix: 24,
        ipv6_prefix: 48,
    };
    let rule = rule(Balancing::Random, persist(by, OnUnavailable::Repick), vec![ready("a", 1, 50)]);
    let of = |address: &str| {
        let pick = pick_for(&rule, address.parse().unwrap()).unwrap();
        assert_eq!(pick.candidates[0].1, PickedBy::ClientIp);
        pick.candidates[0].0.name().to_owned()
    };
    assert_eq!(of("192.0.2.1"), of("192.0.2.254"));
    assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.7"));
    assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
    assert_eq!(of("2001:db8:1::1"), of("2001:db8:1:ff::2"));
    assert_ne!(of("2001:db8:1::1"), of("2001:db8:2::1"));
}

#[test]
fn a_hash_is_of_the_named_value_and_without_one_the_balancer_decides() {
    fastrand::seed(11);
    let given = headers(&[("x-session", "s1")]);
    let empty = headers(&[("x-session", "")]);
    let none = nobody();
    let client = |headers, query, path| Client {
        path,
        query,
        ..fixture::client(headers)
    };
    let present = client(&given, Some("a=1&room=x%20y"), "/rooms/1");
    let header = HashSource::Header("x-session".into());
    let query = HashSource::QueryParam("room".into());
    for (source, absent) in [
        (header.clone(), vec![client(&none, None, "/"), client(&empty, None, "/")]),
        (
            query,
            vec![
                client(&none, None, "/"),
                client(&none, Some("room="), "/"),
                client(&none, Some("rooms=1"), "/"),
            ],
        ),
        (HashSource::Path, vec![]),
        (HashSource::ClientIp, vec![]),
    ] {
        let rule = rule(Balancing::ConsistentHash(source.clone()), None, vec![ready("a", 1, 30)]);
        let fixed = tally(200, |_| pick(&rule, &present));
        assert_eq!(fixed.len(), 1, "{source:?}");
        for absent in absent {
            assert!(tally(200, |_| pick(&rule, &absent)).len() > 10, "{source:?}");
        }
    }
    let same = client(&none, Some("room=x+y&room=z"), "/other");
    let rule_of = |source| rule(Balancing::ConsistentHash(source), None, vec![ready("a", 1, 30)]);
    let by_room = rule_of(HashSource::QueryParam("room".into()));
    assert_eq!(
        names(&pick(&by_room, &same).unwrap()),
        names(&pick(&by_room, &present).unwrap())
    );

    let persisted = rule(
        Balancing::Random,
        persist(PersistBy::Header("x-session".into()), OnUnavailable::Repick),
        vec![ready("a", 1, 30)],
    );
    let pick_of = |client| pick(&persisted, client).unwrap();
    assert_eq!(names(&pick_of(&present)), names(&pick(&rule_of(header), &present).unwrap()));
    assert!(pick_of(&present).candidates.iter().all(|(_, by)| *by == PickedBy::Header));
    assert!(pick_of(&same).candidates.iter().all(|(_, by)| *by == PickedBy::Algorithm));
}

#[test]
fn on_fail_a_client_gets_its_own_endpoint_or_none() {
    let of = |states: &[endpoint::State]| {
        rule(
            Balancing::Random,
            persist(BY_ADDRESS, OnUnavailable::Fail),
            vec![backend("a", 1, states)],
        )
    };
    let (all, one_less) = (of(&[Ready; 4]), of(&[Ready, Ready, NotReady, Ready]));
    let mut refused = 0;
    for n in 0..1_000 {
        let own = pick_for(&all, address(n)).unwrap();
        assert_eq!(own.candidates.len(), 1);
        match pick_for(&one_less, address(n)) {
            Ok(pick) => assert_eq!(names(&pick), names(&own)),
            Err(no) => {
                assert_eq!(no, NoPick::PersistedUnavailable);
                assert_eq!(names(&own), ["a-2"]);
                refused += 1;
            }
        }
    }
    assert!((200..=300).contains(&refused), "{refused}");
    assert_eq!(any(&of(&[])).unwrap_err(), NoPick::NoReadyEndpoint);
    assert_eq!(any(&of(&[Terminating])).unwrap().candidates.len(), 1);
    let lost = rule(
        Balancing::Random,
        persist(BY_ADDRESS, OnUnavailable::Fail),
        vec![unresolved("a", 1)],
    );
    assert_eq!(any(&lost).unwrap_err(), NoPick::Unresolved);
}

#[test]
fn endpoints_that_come_and_go_are_seen_at_the_next_pick() {
    let rule = rule(Balancing::PowerOfTwo, None, vec![ready("a", 1, 0)]);
    let cell = rule.backends[0].endpoints.clone().unwrap();
    assert_eq!(any(&rule).unwrap_err(), NoPick::NoReadyEndpoint);
    let pod = endpoint("a", "uid");
    cell.store(EndpointSet::new(vec![(Arc::clone(&pod), Ready)]));
    assert!(Arc::ptr_eq(&any(&rule).unwrap().candidates[0].0, &pod));
    cell.store(EndpointSet::new(vec![(pod, NotReady)]));
    assert_eq!(any(&rule).unwrap_err(), NoPick::NoReadyEndpoint);
}
