//! Ends: each cause once, as both sides read it, as it is recorded and as it is counted.

use std::{collections::HashSet, time::Duration};

use futures::future::join_all;
use holdfast::{
    proxy::{end::Cause, recent::What},
    routing::{rate::Rate, tunnel_limits::SideLimits},
};

use serde_json::Value;

use crate::support::{BINARY, CLOSE, Gateway, PING, PONG, Peer, RuleBuilder, Server, heartbeat, tunnel, tunnel_limits};

/// What the two sides of a tunnel saw of its end.
struct Ended {
    gateway: Gateway,
    initiator: &'static str,
    /// Codes of the Close frames that they read.
    client: Option<u16>,
    endpoint: Option<u16>,
    mid_frame: bool,
}

/// Ends a tunnel for `cause`. A new cause does not compile without an entry here.
async fn produce(cause: Cause) -> Option<Ended> {
    let second = Duration::from_secs(1);
    let server = Server::start().await;
    let mut rule = RuleBuilder::to(&[server.address]);
    rule.timeouts.close_handshake = second;
    let mut queue_budget = 1 << 20;
    match cause {
        Cause::Closed | Cause::Reset | Cause::EndpointGone | Cause::Drain => {}
        Cause::HeartbeatLost => rule.heartbeat.client = heartbeat(1, 1),
        Cause::EndpointHeartbeatLost => rule.heartbeat.endpoint = heartbeat(1, 1),
        Cause::IdleTimeout => rule.timeouts.idle = second,
        Cause::MaxDuration => rule.timeouts.max_duration = second,
        Cause::ClientStalled | Cause::EndpointStalled => rule.timeouts.send = second,
        Cause::Memory => queue_budget = 1,
        Cause::MessageRate | Cause::ByteRate | Cause::ControlFlood | Cause::FrameTooLarge | Cause::MessageTooLarge => {
            rule.limits = tunnel_limits(Some(least(cause)), None);
        }
        Cause::EndpointMessageRate
        | Cause::EndpointByteRate
        | Cause::EndpointControlFlood
        | Cause::EndpointFrameTooLarge
        | Cause::EndpointMessageTooLarge => rule.limits = tunnel_limits(None, Some(least(cause))),
        // Packets that get lost: tests/faults, in a network of its own.
        Cause::ClientVanished | Cause::EndpointVanished => return None,
        // Only a defect produces it, and none is built in for tests.
        Cause::Internal => return None,
    }
    let mut gateway = Gateway::with(rule.build(), |settings| settings.queue_budget = queue_budget);
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let (initiator, client, endpoint, mid_frame) = match cause {
        Cause::Closed => {
            client.close(1000).await;
            let endpoint_saw = endpoint.frame().await.code();
            endpoint.close(1000).await;
            let client_saw = client.frame().await.code();
            ("client", Some(client_saw), Some(endpoint_saw), false)
        }
        Cause::Reset => {
            client.reset();
            let saw = endpoint.frame().await;
            assert_eq!(saw.reason(), cause.close_reason());
            ("client", None, Some(saw.code()), false)
        }
        Cause::EndpointGone => {
            drop(endpoint);
            let saw = client.frame().await;
            assert_eq!(saw.reason(), cause.close_reason());
            client.close(saw.code()).await;
            client.ends().await;
            ("endpoint", Some(saw.code()), None, false)
        }
        Cause::HeartbeatLost => {
            answer_one_ping(&mut client).await;
            let (client, endpoint) = holdfast_closes(cause, client, endpoint).await;
            ("holdfast", client, endpoint, false)
        }
        Cause::EndpointHeartbeatLost => {
            answer_one_ping(&mut endpoint).await;
            let (client, endpoint) = holdfast_closes(cause, client, endpoint).await;
            ("holdfast", client, endpoint, false)
        }
        Cause::IdleTimeout | Cause::MaxDuration | Cause::Drain => {
            if cause == Cause::Drain {
                gateway.drain(Duration::ZERO);
            }
            let (client, endpoint) = holdfast_closes(cause, client, endpoint).await;
            ("holdfast", client, endpoint, false)
        }
        Cause::ClientStalled | Cause::Memory => {
            endpoint.write(endless(None)).await;
            endpoint.fill(&[1; 60_000]).await;
            let saw = endpoint.frame().await;
            assert_eq!(saw.reason(), cause.close_reason());
            endpoint.close(1001).await;
            endpoint.ending().await;
            drop(client);
            ("holdfast", None, Some(saw.code()), true)
        }
        Cause::EndpointStalled => {
            client.write(endless(Some([1, 2, 3, 4]))).await;
            client.fill(&[1; 60_000]).await;
            let saw = client.frame().await;
            assert_eq!(saw.reason(), cause.close_reason());
            client.ending().await;
            drop(endpoint);
            ("holdfast", Some(saw.code()), None, true)
        }
        Cause::MessageRate | Cause::ByteRate | Cause::ControlFlood | Cause::FrameTooLarge | Cause::MessageTooLarge => {
            exceed(&mut client, &mut endpoint, cause).await;
            let (client, endpoint) = holdfast_closes(cause, client, endpoint).await;
            ("holdfast", client, endpoint, false)
        }
        Cause::EndpointMessageRate
        | Cause::EndpointByteRate
        | Cause::EndpointControlFlood
        | Cause::EndpointFrameTooLarge
        | Cause::EndpointMessageTooLarge => {
            exceed(&mut endpoint, &mut client, cause).await;
            let (client, endpoint) = holdfast_closes(cause, client, endpoint).await;
            ("holdfast", client, endpoint, false)
        }
        Cause::ClientVanished | Cause::EndpointVanished | Cause::Internal => unreachable!(),
    };
    Some(Ended {
        gateway,
        initiator,
        client,
        endpoint,
        mid_frame,
    })
}

/// The limit of what `cause` is about, as low as it goes.
fn least(cause: Cause) -> SideLimits {
    let one = Some(Rate::new(1, Duration::from_secs(3600), 1));
    let mut limits = SideLimits::default();
    match cause {
        Cause::MessageRate | Cause::EndpointMessageRate => limits.messages = one,
        // The first frame that is sent, with its header, and not the header of the second.
        Cause::ByteRate => limits.bytes = Some(Rate::new(1, Duration::from_secs(3600), 2 + 4 + 1)),
        Cause::EndpointByteRate => limits.bytes = Some(Rate::new(1, Duration::from_secs(3600), 2 + 1)),
        Cause::ControlFlood | Cause::EndpointControlFlood => limits.control_frames = one,
        Cause::FrameTooLarge | Cause::EndpointFrameTooLarge => limits.max_frame = Some(1),
        Cause::MessageTooLarge | Cause::EndpointMessageTooLarge => limits.max_message = Some(1),
        _ => panic!("{cause:?} has no limit"),
    }
    limits
}

/// One side sends what it may, which passes, and then what is too much, which does not.
async fn exceed(from: &mut Peer, to: &mut Peer, cause: Cause) {
    let (first, allowed, excess) = match cause {
        Cause::ControlFlood | Cause::EndpointControlFlood => (0x80 | PING, "a", "b"),
        _ => (BINARY, "a", "bc"),
    };
    from.send(first, allowed).await;
    assert_eq!(to.frame().await.payload, allowed.as_bytes());
    from.send(first, excess).await;
}

/// The beginning of a frame in whose middle its receiver will always be.
fn endless(mask: Option<[u8; 4]>) -> Vec<u8> {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    [
        &[BINARY, bit | 127][..],
        &(1_u64 << 40).to_be_bytes(),
        &mask.map_or(vec![], Vec::from),
    ]
    .concat()
}

/// Answers the first ping that comes.
async fn answer_one_ping(peer: &mut Peer) {
    let ping = peer.frame().await;
    assert_eq!((ping.opcode(), ping.payload.len()), (PING, 8));
    peer.send(0x80 | PONG, ping.payload).await;
}

/// Both sides do as they should when Holdfast ends their tunnel; returns the codes that they read.
async fn holdfast_closes(cause: Cause, mut client: Peer, mut endpoint: Peer) -> (Option<u16>, Option<u16>) {
    let client_saw = next_close(&mut client).await;
    assert_eq!(client_saw.reason(), cause.close_reason());
    client.close(client_saw.code()).await;
    let endpoint_saw = next_close(&mut endpoint).await;
    assert_eq!(endpoint_saw.reason(), cause.close_reason());
    endpoint.close(endpoint_saw.code()).await;
    client.ends().await;
    drop(client);
    endpoint.shut_down().await;
    endpoint.ends().await;
    (Some(client_saw.code()), Some(endpoint_saw.code()))
}

/// The next Close, with unanswered pings in front of it.
async fn next_close(peer: &mut Peer) -> crate::support::Frame {
    loop {
        let frame = peer.frame().await;
        match frame.opcode() {
            PING => {}
            CLOSE => return frame,
            _ => panic!("{frame:?}"),
        }
    }
}

#[tokio::test]
async fn every_cause_is_read_recorded_and_counted() {
    let produced: HashSet<Cause> = join_all(Cause::ALL.map(|case| Box::pin(one_cause(case))))
        .await
        .into_iter()
        .flatten()
        .collect();
    let elsewhere = [Cause::ClientVanished, Cause::EndpointVanished, Cause::Internal];
    let missing: Vec<_> = Cause::ALL
        .into_iter()
        .filter(|cause| !produced.contains(cause) && !elsewhere.contains(cause))
        .collect();
    assert!(missing.is_empty(), "never produced: {missing:?}");
}

async fn one_cause(cause: Cause) -> Option<Cause> {
    let Ended {
        gateway,
        initiator,
        client,
        endpoint,
        mid_frame,
    } = produce(cause).await?;
    let codes = cause.codes();
    if cause != Cause::Closed && !mid_frame {
        assert_eq!((client, endpoint), (codes.client, codes.endpoint), "{cause:?}");
    }
    let record = gateway.record("ended").await;
    assert_eq!(record["holdfast.end.cause"], cause.word());
    assert_eq!(record["holdfast.end.initiator"], initiator, "{cause:?}");
    let code = |code: Option<u16>| serde_json::to_value(code).unwrap();
    assert_eq!(record["holdfast.close.client.code"], code(client), "{cause:?}");
    assert_eq!(record["holdfast.close.endpoint.code"], code(endpoint), "{cause:?}");
    assert_eq!(
        record["holdfast.end.mid_frame"].as_bool().unwrap_or(false),
        mid_frame,
        "{cause:?}"
    );
    let recent = gateway.recent().await;
    let [entry] = &recent[..] else {
        panic!("{cause:?}: {recent:?}")
    };
    let What::Tunnel(remembered) = entry.what else {
        panic!("{entry:?}")
    };
    assert_eq!((entry.word(), entry.initiator().word()), (cause.word(), initiator));
    let end = remembered.end;
    assert_eq!(
        (end.told_client, end.told_endpoint, end.mid_frame),
        (client, endpoint, mid_frame),
        "{cause:?}"
    );
    for (said, name) in [(end.client_said, "client"), (end.endpoint_said, "endpoint")] {
        assert_eq!(code(said), record[format!("holdfast.close.{name}.received")], "{cause:?}");
    }
    assert_eq!(format!("{:016x}", entry.id), record["holdfast.connection.id"]);
    assert_eq!(
        remembered.bytes.map(Value::from),
        [&record["holdfast.bytes.to_endpoint"], &record["holdfast.bytes.to_client"]].map(Value::clone)
    );
    let labels = [format!("initiator=\"{initiator}\""), format!("cause=\"{}\"", cause.word())];
    assert_eq!(
        gateway.metric("holdfast_ends_total", &[&labels[0], &labels[1]]),
        1.0,
        "{cause:?}"
    );
    assert_eq!(gateway.metric("holdfast_ends_total", &[]), 1.0, "{cause:?}");
    assert_eq!(gateway.metric("holdfast_connections_active", &[]), 0.0, "{cause:?}");
    Some(cause)
}
