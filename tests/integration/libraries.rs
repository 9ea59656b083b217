//! Client and server libraries that people use, through a tunnel.

use futures::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    accept_async, client_async, tungstenite,
    tungstenite::{
        Bytes, Message,
        protocol::{
            CloseFrame,
            frame::{
                Frame,
                coding::{CloseCode, Data, OpCode},
            },
        },
    },
};

use crate::support::{Gateway, RuleBuilder};

/// An endpoint that sends every message back, made of tungstenite.
async fn echo(listener: TcpListener) -> Option<CloseFrame> {
    let (socket, _) = listener.accept().await.unwrap();
    let mut socket = accept_async(socket).await.unwrap();
    let mut close = None;
    while let Some(message) = socket.next().await {
        match message.unwrap() {
            message @ (Message::Text(_) | Message::Binary(_)) => socket.send(message).await.unwrap(),
            Message::Close(frame) => close = frame,
            _ => {}
        }
    }
    close
}

#[tokio::test]
async fn tungstenite_on_both_sides_with_large_and_fragmented_messages() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::start(RuleBuilder::to(&[listener.local_addr().unwrap()]).build());
    let endpoint = tokio::spawn(echo(listener));
    let socket = TcpStream::connect(gateway.address).await.unwrap();
    let (mut client, _) = client_async("ws://test/chat", socket).await.unwrap();

    for len in [0, 1, 125, 126, 65_535, 65_536, 5 << 20] {
        let message = Message::Binary(Bytes::from(vec![len as u8; len]));
        client.send(message.clone()).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), message);
    }
    for (piece, opcode, last) in [
        ("one ", Data::Text, false),
        ("two ", Data::Continue, false),
        ("three", Data::Continue, true),
    ] {
        let frame = Frame::message(piece, OpCode::Data(opcode), last);
        client.send(Message::Frame(frame)).await.unwrap();
    }
    assert_eq!(client.next().await.unwrap().unwrap(), Message::text("one two three"));
    client.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();
    assert_eq!(
        client.next().await.unwrap().unwrap(),
        Message::Pong(Bytes::from_static(b"there?"))
    );

    let close = CloseFrame {
        code: CloseCode::Library(4321),
        reason: "enough".into(),
    };
    client.close(Some(close.clone())).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Close(Some(close.clone())));
    assert!(matches!(
        client.next().await,
        None | Some(Err(tungstenite::Error::ConnectionClosed))
    ));
    assert_eq!(endpoint.await.unwrap(), Some(close));

    let ended = gateway.record("ended").await;
    assert_eq!(ended["holdfast.end.cause"], "closed");
    assert_eq!(ended["holdfast.end.initiator"], "client");
    assert_eq!(ended["holdfast.messages.to_client"], 8);
}
