//! A kubelet's part in a port-forward: a WebSocket that carries connections to ports of a pod.

use std::{collections::HashMap, io};

use futures::{SinkExt as _, StreamExt as _};
use http::{Request, Response, StatusCode, header};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinSet,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

/// A WebSocket with two channels for each port: data, and errors.
pub fn forward<F>(
    mut request: Request<Incoming>,
    ports: Vec<u16>,
    connect: impl Fn(u16) -> F + Send + 'static,
) -> Result<Response<()>, &'static str>
where
    F: Future<Output = io::Result<TcpStream>> + Send,
{
    let headers = request.headers();
    let value = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let offers = value(header::SEC_WEBSOCKET_PROTOCOL)
        .split(',')
        .any(|offer| offer.trim() == PROTOCOL);
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| offers);
    let Some(accept) = key.map(|key| derive_accept_key(key.as_bytes())) else {
        return Err("this kubelet forwards ports by WebSocket and v4.channel.k8s.io only");
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let _ = serve_ports(upgrade, &ports, connect).await;
    });
    let answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "Upgrade")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .header(header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL);
    Ok(answer.body(()).unwrap())
}

async fn serve_ports<F>(upgrade: OnUpgrade, ports: &[u16], connect: impl Fn(u16) -> F) -> io::Result<()>
where
    F: Future<Output = io::Result<TcpStream>> + Send,
{
    let stream = TokioIo::new(upgrade.await.map_err(io::Error::other)?);
    let (mut to, mut from) = WebSocketStream::from_raw_socket(stream, Role::Server, None).await.split();
    let (frames, mut queue) = mpsc::channel::<Vec<u8>>(16);
    let mut writers: HashMap<u8, OwnedWriteHalf> = HashMap::new();
    let mut readers = JoinSet::new();
    for (number, port) in ports.iter().enumerate() {
        let (data, errors) = (u8::try_from(2 * number).unwrap(), u8::try_from(2 * number + 1).unwrap());
        for channel in [data, errors] {
            let _ = frames.send([&[channel][..], &port.to_le_bytes()].concat()).await;
        }
        match connect(*port).await.map(TcpStream::into_split) {
            Ok((reader, writer)) => {
                writers.insert(data, writer);
                readers.spawn(read(reader, data, frames.clone()));
            }
            Err(error) => {
                let text = format!("port {port}: {error}");
                let _ = frames.send([&[errors], text.as_bytes()].concat()).await;
            }
        }
    }
    drop(frames);
    let sending = async {
        while let Some(frame) = queue.recv().await {
            if to.send(Message::Binary(frame.into())).await.is_err() {
                return;
            }
        }
        let _ = to.close().await; // every connection has ended from the other side
    };
    let receiving = async {
        while let Some(Ok(message)) = from.next().await {
            if let Message::Binary(frame) = message
                && let Some((channel, bytes)) = frame.split_first()
                && let Some(writer) = writers.get_mut(channel)
                && writer.write_all(bytes).await.is_err()
            {
                writers.remove(channel);
            }
        }
    };
    tokio::select! {
        () = sending => {}
        () = receiving => {}
    }
    Ok(())
}

async fn read(mut reader: OwnedReadHalf, channel: u8, frames: mpsc::Sender<Vec<u8>>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(len @ 1..) = reader.read(&mut buffer).await {
        if frames.send([&[channel], &buffer[..len]].concat()).await.is_err() {
            return;
        }
    }
}

const PROTOCOL: &str = "v4.channel.k8s.io";
