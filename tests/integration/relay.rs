//! Relaying: what one side sends is what the other reads, byte for byte, however it is cut and whatever it is.

use std::time::Duration;

use fastrand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    time::timeout,
};

use crate::support::{BINARY, CLOSE, Gateway, PATIENCE, PING, RuleBuilder, Server, TEXT, frame, tunnel};

async fn start() -> (Server, Gateway) {
    let server = Server::start().await;
    let gateway = Gateway::start(RuleBuilder::to(&[server.address]).build());
    (server, gateway)
}

/// Frames of any kind but Close, masked or not, in minimal and in wider lengths; and how many messages they end.
fn random_frames(rng: &mut Rng) -> (Vec<u8>, u64) {
    let (mut stream, mut messages) = (Vec::new(), 0);
    for _ in 0..rng.usize(1..60) {
        let mut first = rng.u8(..);
        if first & 0x0F == CLOSE {
            first ^= 1;
        }
        let len = match rng.u8(..10) {
            0..=4 => rng.usize(..140),
            5..=7 => rng.usize(..5_000),
            8 => rng.usize(65_500..65_600),
            _ => rng.usize(..200_000),
        };
        let payload: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
        let mask = rng.bool().then(|| rng.u32(..).to_ne_bytes());
        let mut bytes = frame(first, &payload, mask);
        if len < 126 && rng.u8(..4) == 0 {
            // The same in a longer form than it needs to be.
            let bit = bytes[1] & 0x80;
            bytes.splice(1..2, [&[bit | 127][..], &(len as u64).to_be_bytes()].concat());
        }
        stream.extend(bytes);
        messages += u64::from(first & 0x88 == 0x80);
    }
    (stream, messages)
}

async fn write_in_pieces(half: &mut OwnedWriteHalf, stream: &[u8], mut rng: Rng) {
    let mut rest = stream;
    while !rest.is_empty() {
        let most = if rng.bool() { 16 } else { 40_000 };
        let len = rng.usize(1..=most).min(rest.len());
        half.write_all(&rest[..len]).await.unwrap();
        rest = &rest[len..];
        for _ in 0..rng.usize(..3) {
            tokio::task::yield_now().await;
        }
    }
}

async fn read_exactly(half: &mut OwnedReadHalf, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    timeout(PATIENCE, half.read_exact(&mut bytes))
        .await
        .expect("bytes are missing")
        .unwrap();
    bytes
}

#[tokio::test]
async fn any_stream_arrives_as_it_was_sent_in_both_directions_at_once() {
    let (server, gateway) = start().await;
    for seed in 0..40 {
        let mut rng = Rng::with_seed(seed);
        let (client, endpoint) = tunnel(&gateway, &server).await;
        let (mut client_reads, mut client_writes) = client.socket.into_split();
        let (mut endpoint_reads, mut endpoint_writes) = endpoint.socket.into_split();
        let (up, messages_up) = random_frames(&mut rng);
        let (down, messages_down) = random_frames(&mut rng);
        let (up_pace, down_pace) = (rng.fork(), rng.fork());
        let ((), (), got_up, got_down) = tokio::join!(
            write_in_pieces(&mut client_writes, &up, up_pace),
            write_in_pieces(&mut endpoint_writes, &down, down_pace),
            read_exactly(&mut endpoint_reads, up.len()),
            read_exactly(&mut client_reads, down.len()),
        );
        assert!(got_up == up && got_down == down, "seed {seed}: not what was sent");
        drop((client_reads, client_writes, endpoint_reads, endpoint_writes));
        let ended = gateway.record("ended").await;
        assert_eq!(ended["holdfast.messages.to_endpoint"], messages_up, "seed {seed}");
        assert_eq!(ended["holdfast.messages.to_client"], messages_down, "seed {seed}");
        assert_eq!(ended["holdfast.bytes.to_endpoint"], up.len(), "seed {seed}");
        assert_eq!(ended["holdfast.bytes.to_client"], down.len(), "seed {seed}");
    }
}

#[tokio::test]
async fn large_messages_pass() {
    let (server, gateway) = start().await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let message = vec![0xA5; 8 << 20];
    let (mut reader, sent) = (client, message.clone());
    let sending = tokio::spawn(async move {
        endpoint.send(BINARY, sent).await;
        endpoint
    });
    assert!(reader.frame().await.payload == message);
    (client, endpoint) = (reader, sending.await.unwrap());
    let sending = tokio::spawn(async move {
        client.send(BINARY, message).await;
        client
    });
    assert_eq!(endpoint.frame().await.payload.len(), 8 << 20);
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn what_only_the_two_sides_may_judge_passes() {
    let (server, gateway) = start().await;
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    for bytes in [
        frame(TEXT, &[0xC3, 0x28, 0xFF], Some([0; 4])), // no UTF-8
        frame(TEXT, b"unmasked", None),
        frame(0x83, b"reserved opcode", Some([1; 4])),
        frame(0xBF, b"reserved bits and opcode", Some([1; 4])),
        frame(PING, b"a ping in fragments", Some([1; 4])), // FIN is off
        frame(0x80 | PING, &[1; 300], Some([1; 4])),       // larger than a ping may be
        frame(0x80, b"a continuation of nothing", Some([1; 4])),
    ] {
        client.write(&bytes).await;
        assert_eq!(endpoint.bytes(bytes.len()).await, bytes);
        endpoint.write(&bytes).await;
        assert_eq!(client.bytes(bytes.len()).await, bytes);
    }
}

#[tokio::test]
async fn a_direction_that_is_no_framing_passes_and_nothing_is_put_into_it() {
    let server = Server::start().await;
    let mut gateway = Gateway::start(
        RuleBuilder::to(&[server.address])
            .change(|rule| rule.timeouts.close_handshake = Duration::from_secs(1))
            .build(),
    );
    let (mut client, mut endpoint) = tunnel(&gateway, &server).await;
    let nonsense = [&[BINARY, 127][..], &u64::MAX.to_be_bytes(), b"what is this?"].concat();
    endpoint.write(&nonsense).await;
    assert_eq!(client.bytes(nonsense.len()).await, nonsense);
    // A frame in it is none.
    let close = frame(0x80 | CLOSE, &1000_u16.to_be_bytes(), None);
    endpoint.write(&close).await;
    assert_eq!(client.bytes(close.len()).await, close);
    // The other direction is followed as ever.
    client.send(TEXT, "still here").await;
    assert_eq!(endpoint.frame().await.payload, b"still here");
    endpoint.write("more").await;
    assert_eq!(client.bytes(4).await, b"more");

    gateway.drain(Duration::ZERO);
    assert_eq!(endpoint.frame().await.code(), 1001);
    endpoint.shut_down().await;
    assert_eq!(client.rest().await, b"", "the client reads no Close");
    client.shut_down().await;
    let ended = gateway.record("ended").await;
    assert_eq!(ended["holdfast.end.cause"], "drain");
    assert_eq!(ended["holdfast.end.mid_frame"], true);
}
