//! A handshake that an endpoint has refused goes to the next one, if the route asks for it.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use holdfast::routing::retry::Retry;

use crate::{
    actor::{Act, Actor, in_turn, opened},
    support::{Gateway, RuleBuilder, closed_port, handshake},
};

fn gateway(endpoints: &[SocketAddr], attempts: u8, change: impl FnOnce(&mut RuleBuilder)) -> Gateway {
    let rule = RuleBuilder::to(endpoints).change(|rule| {
        rule.retry = Some(Retry {
            attempts,
            per_try_timeout: Duration::ZERO,
            codes: Box::new([502, 503]),
        });
        change(rule);
    });
    Gateway::start(in_turn(rule))
}

#[tokio::test]
async fn the_client_gets_its_101_while_one_endpoint_is_well() {
    let bad = [Act::Refuse(503), Act::Hang, Act::Babble];
    let mut actors = vec![Actor::start(Act::Serve).await];
    for act in bad {
        actors.push(Actor::start(act).await);
    }
    let addresses: Vec<_> = actors.iter().map(|actor| actor.address).collect();
    let gateway = gateway(&addresses, 3, |_| ());
    let mut attempts = HashSet::new();
    for n in 1..=60 {
        assert_eq!(opened(&gateway, handshake("/", "")).await.status, 101);
        assert_eq!(actors[0].asked(), n);
        let opened = gateway.record("opened").await;
        attempts.insert(opened["holdfast.handshake.attempts"].as_u64().unwrap_or(1));
        if (1..=4).all(|count| attempts.contains(&count)) {
            break;
        }
    }
    assert_eq!(attempts.len(), 4, "{attempts:?}");
    let retries = |reason: &str| gateway.metric("holdfast_handshake_retries_total", &[&format!("reason=\"{reason}\"")]);
    for (actor, reason) in actors[1..]
        .iter()
        .zip(["endpoint", "endpoint_closed", "endpoint_protocol_error"])
    {
        assert_eq!(retries(reason), actor.asked() as f64, "{reason}");
    }
}

#[tokio::test]
async fn one_that_is_silent_for_too_long_is_left() {
    let (silent, well) = (Actor::start(Act::Silent).await, Actor::start(Act::Serve).await);
    let gateway = gateway(&[silent.address, well.address], 1, |rule| {
        rule.retry.as_mut().unwrap().per_try_timeout = Duration::from_millis(200);
    });
    for _ in 0..500 {
        if silent.asked() == 3 {
            break;
        }
        assert_eq!(opened(&gateway, handshake("/", "")).await.status, 101);
    }
    assert_eq!(
        gateway.metric("holdfast_handshake_retries_total", &["reason=\"handshake_timeout\""]),
        3.0
    );
}

#[tokio::test]
async fn the_last_answer_is_the_client_s_and_no_endpoint_is_asked_twice() {
    let actors = [Actor::start(Act::Refuse(503)).await, Actor::start(Act::Refuse(502)).await];
    // A third one cannot be reached, and has nothing to say.
    let addresses = [actors[0].address, actors[1].address, closed_port()];
    let gateway = gateway(&addresses, 3, |_| ());
    let mut last = HashSet::new();
    for n in 1..=60 {
        let answer = opened(&gateway, handshake("/", "")).await;
        assert_eq!((actors[0].asked(), actors[1].asked()), (n, n));
        assert!(
            answer.header("proxy-status").unwrap().contains("received-status"),
            "{answer:?}"
        );
        last.insert(answer.status);
        let refused = gateway.record("refused").await;
        assert_eq!(
            (&refused["holdfast.handshake.attempts"], &refused["error.type"]),
            (&2.into(), &"endpoint".into())
        );
        if last.len() == 2 {
            break;
        }
    }
    assert_eq!(last, HashSet::from([502, 503]));
}

#[tokio::test]
async fn as_many_are_asked_as_the_route_allows() {
    let mut actors = Vec::new();
    for _ in 0..4 {
        actors.push(Actor::start(Act::Refuse(503)).await);
    }
    let addresses: Vec<_> = actors.iter().map(|actor| actor.address).collect();
    for (attempts, asked) in [(1, 2), (2, 3), (3, 4)] {
        let before: usize = actors.iter().map(Actor::asked).sum();
        let gateway = gateway(&addresses, attempts, |_| ());
        assert_eq!(opened(&gateway, handshake("/", "")).await.status, 503);
        assert_eq!(actors.iter().map(Actor::asked).sum::<usize>() - before, asked);
    }
}

#[tokio::test]
async fn what_is_not_listed_is_the_client_s_at_once() {
    for act in [Act::Refuse(401), Act::Refuse(500), Act::Refuse(301)] {
        let (one, other) = (Actor::start(act).await, Actor::start(act).await);
        let gateway = gateway(&[one.address, other.address], 3, |_| ());
        let answer = opened(&gateway, handshake("/", "")).await;
        assert_eq!(Act::Refuse(answer.status), act);
        assert_eq!(one.asked() + other.asked(), 1);
        let refused = gateway.record("refused").await;
        assert_eq!(refused["holdfast.handshake.attempts"], serde_json::Value::Null);
    }
}

#[tokio::test]
async fn it_all_happens_within_the_handshake_s_time() {
    let mut actors = Vec::new();
    for _ in 0..4 {
        actors.push(Actor::start(Act::Silent).await);
    }
    let addresses: Vec<_> = actors.iter().map(|actor| actor.address).collect();
    let gateway = gateway(&addresses, 3, |rule| {
        rule.retry.as_mut().unwrap().per_try_timeout = Duration::from_secs(20);
        rule.timeouts.handshake = Duration::from_millis(500);
    });
    let answer = opened(&gateway, handshake("/", "")).await;
    assert_eq!((answer.status, answer.reason()), (504, Some("handshake_timeout")));
    assert_eq!(actors.iter().map(Actor::asked).sum::<usize>(), 1);
}
