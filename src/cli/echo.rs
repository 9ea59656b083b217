//! `holdfast echo`: an endpoint that sends every message back, for demos, `helm test` and tests.
//!
//! One process can stand for several endpoints, one per `--listen`. A plain HTTP request gets a text that says who answers and
//! which headers arrived. Pure echo: nothing a client sends makes it do anything else. Every connection, head and message is
//! bounded.

mod request;

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use futures::{SinkExt, StreamExt};
use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::cli::output::ColorChoice;
use crate::cli::{Failure, INTERRUPTED, Interrupts, block_on};
use crate::telemetry::Lines;

use request::{Request, Wish, answer};

/// Arguments of `holdfast echo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen; repeat it for several endpoints in one process. Port 0 takes a free one.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9001")]
    listen: Vec<SocketAddr>,
    /// What the endpoint calls itself in X-Echo-Endpoint, one per --listen [default: POD_NAME, or echo-PORT].
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: Vec<String>,
    /// A subprotocol it speaks; repeatable. `any` accepts the first that a client offers.
    #[arg(long, value_name = "NAME")]
    subprotocol: Vec<String>,
    /// Say nothing about single connections.
    #[arg(long, short)]
    quiet: bool,
}

/// Serves until SIGINT or SIGTERM, then closes every WebSocket with 1001. 2 when an address cannot be bound.
#[must_use]
pub fn run(args: &Args, color: ColorChoice) -> ExitCode {
    block_on(color, serve(args))
}

async fn serve(args: &Args) -> Result<u8, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let (lines, _flush) = Lines::new("echo-log", io::stdout(), QUEUE)?;
    let endpoints = bind(args, &lines).await?;
    for (listener, endpoint) in &endpoints {
        lines.send(format!("listening on ws://{} as {}\n", listener.local_addr()?, endpoint.name));
    }
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (stop, stopping) = watch::channel(false);
    for (listener, endpoint) in endpoints {
        tokio::spawn(accept(
            listener,
            Arc::new(endpoint),
            Arc::clone(&connections),
            stopping.clone(),
        ));
    }
    interrupts.next().await;
    let _ = stop.send(true);
    tokio::select! {
        _ = timeout(GOODBYE * 2, connections.acquire_many(u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX))) => Ok(0),
        () = interrupts.next() => Ok(INTERRUPTED),
    }
}

/// One endpoint: what its connections share.
struct Endpoint {
    name: String,
    subprotocols: Vec<String>,
    log: Option<Lines>,
}

async fn bind(args: &Args, lines: &Lines) -> Result<Vec<(TcpListener, Endpoint)>, Failure> {
    let pod = std::env::var("POD_NAME").ok().filter(|_| args.listen.len() == 1);
    let mut endpoints = Vec::new();
    for (i, address) in args.listen.iter().enumerate() {
        let cannot = |error: io::Error| Failure::usage(format!("cannot listen on {address}: {error}"));
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let port = listener.local_addr().map_err(cannot)?.port();
        let name = args
            .name
            .get(i)
            .or(pod.as_ref())
            .cloned()
            .unwrap_or_else(|| format!("echo-{port}"));
        let log = (!args.quiet).then(|| lines.clone());
        endpoints.push((
            listener,
            Endpoint {
                name,
                subprotocols: args.subprotocol.clone(),
                log,
            },
        ));
    }
    Ok(endpoints)
}

async fn accept(
    listener: TcpListener,
    endpoint: Arc<Endpoint>,
    connections: Arc<Semaphore>,
    mut stopping: watch::Receiver<bool>,
) {
    loop {
        // Above the bound, clients wait in the listener's own queue.
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stopping) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                let connection = Connection {
                    stream,
                    peer,
                    buffer: BytesMut::new(),
                    endpoint: Arc::clone(&endpoint),
                };
                let stopping = stopping.clone();
                tokio::spawn(async move {
                    connection.run(stopping).await;
                    drop(permit);
                });
            }
            Err(error) => {
                endpoint.log(&format!("cannot accept: {error}"));
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

impl Endpoint {
    fn log(&self, what: &str) {
        if let Some(log) = &self.log {
            log.send(format!("{:.3} {} {what}\n", Timestamp::now(), self.name));
        }
    }
}

/// A connection from accept to its end, while it still speaks HTTP.
struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    buffer: BytesMut,
    endpoint: Arc<Endpoint>,
}

impl Connection {
    async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let upgraded = tokio::select! {
            upgraded = self.http() => upgraded,
            () = stopped(&mut stopping) => return,
        };
        match upgraded {
            Ok(Some(request)) => self.websocket(&request, stopping).await,
            Ok(None) => finish(self.stream).await,
            Err(error) => self.endpoint.log(&format!("ended  {} before a request: {error}", self.peer)),
        }
    }

    /// Answers requests until one has become a WebSocket; `None` when the connection has nothing more to say.
    async fn http(&mut self) -> io::Result<Option<Request>> {
        loop {
            let Some(request) = self.request().await? else {
                return Ok(None);
            };
            match request.wish(&self.endpoint.name, &self.endpoint.subprotocols) {
                Wish::WebSocket(head) => {
                    self.stream.write_all(head.as_bytes()).await?;
                    return Ok(Some(request));
                }
                Wish::Refused(whole) => {
                    self.stream.write_all(whole.as_bytes()).await?;
                    return Ok(None);
                }
                Wish::Plain { body, keep_alive } => {
                    self.skip(body.unwrap_or(0)).await?;
                    self.endpoint
                        .log(&format!("plain  {} {} {}", self.peer, request.method, request.path()));
                    self.stream
                        .write_all(request.describe(&self.endpoint.name, keep_alive).as_bytes())
                        .await?;
                    if !keep_alive {
                        return Ok(None);
                    }
                }
            }
        }
    }

    async fn request(&mut self) -> io::Result<Option<Request>> {
        loop {
            match Request::parse(&self.buffer) {
                Ok(Some((request, length))) => {
                    self.buffer.advance(length);
                    return Ok(Some(request));
                }
                Ok(None) if self.buffer.len() < MAX_HEAD => {}
                _ => {
                    let whole = answer("400 Bad Request", &self.endpoint.name, "", "not a request\n", false);
                    self.stream.write_all(whole.as_bytes()).await?;
                    return Ok(None);
                }
            }
            if timeout(HEAD_WAIT, self.stream.read_buf(&mut self.buffer)).await?? == 0 {
                return Ok(None);
            }
        }
    }

    async fn skip(&mut self, mut left: u64) -> io::Result<()> {
        loop {
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            self.buffer.advance(here);
            left -= here as u64;
            if left == 0 || timeout(HEAD_WAIT, self.stream.read_buf(&mut self.buffer)).await?? == 0 {
                return Ok(());
            }
        }
    }

    async fn websocket(self, request: &Request, stopping: watch::Receiver<bool>) {
        let Self {
            stream,
            peer,
            buffer,
            endpoint,
        } = self;
        endpoint.log(&format!("opened {peer} {}", request.path()));
        let opened = Instant::now();
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let socket = WebSocketStream::from_partially_read(stream, buffer.to_vec(), Role::Server, Some(config)).await;
        let mut echo = Echo {
            socket,
            messages: 0,
            bytes: 0,
        };
        let end = echo.run(stopping).await;
        let Echo { messages, bytes, socket } = echo;
        finish(socket.into_inner()).await;
        let age = opened.elapsed().as_secs_f64();
        endpoint.log(&format!(
            "ended  {peer} {end}; {messages} messages, {bytes} bytes, {age:.1} s"
        ));
    }
}

/// A connection that has become a WebSocket.
struct Echo {
    socket: WebSocketStream<TcpStream>,
    messages: u64,
    bytes: u64,
}

impl Echo {
    /// Echoes until the end, and says what the end was.
    async fn run(&mut self, mut stopping: watch::Receiver<bool>) -> String {
        loop {
            let next = tokio::select! {
                next = self.socket.next() => next,
                () = stopped(&mut stopping) => return self.close(CloseCode::Away, "endpoint is stopping").await,
            };
            match next {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    self.messages += 1;
                    self.bytes += message.len() as u64;
                    tokio::select! {
                        biased; // what can be sent is, and the Close comes after it
                        sent = self.socket.send(message) => if let Err(error) = sent {
                            return format!("reset: {error}");
                        },
                        () = stopped(&mut stopping) => return "cut while it was stopping".to_owned(),
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    // Reading on sends the answer, which carries the same code.
                    let _ = timeout(GOODBYE, self.socket.next()).await;
                    return format!("closed {}", close_text(frame.as_ref()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return self.fail(&error).await,
                None => return "reset: no Close".to_owned(),
            }
        }
    }

    /// Ends a connection that broke a rule; one that only broke off is told nothing.
    async fn fail(&mut self, error: &WsError) -> String {
        let code = match error {
            WsError::Capacity(_) => CloseCode::Size,
            WsError::Utf8(_) => CloseCode::Invalid,
            WsError::Protocol(_) => CloseCode::Protocol,
            _ => return format!("reset: {error}"),
        };
        self.close(code, "").await;
        format!("failed {code}: {error}")
    }

    async fn close(&mut self, code: CloseCode, reason: &'static str) -> String {
        let _ = timeout(GOODBYE, async {
            self.socket
                .close(Some(CloseFrame {
                    code,
                    reason: reason.into(),
                }))
                .await?;
            while self.socket.next().await.transpose()?.is_some() {}
            Ok::<_, WsError>(())
        })
        .await;
        format!("closed {code} by this endpoint")
    }
}

/// Ends the sending side and reads what is still under way, so that the last bytes arrive instead of a reset.
async fn finish(mut stream: TcpStream) {
    let mut discard = [0; 4096];
    let _ = timeout(GOODBYE, async {
        stream.shutdown().await?;
        while stream.read(&mut discard).await? > 0 {}
        Ok::<_, io::Error>(())
    })
    .await;
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    if stopping.wait_for(|stop| *stop).await.is_err() {
        pending::<()>().await;
    }
}

fn close_text(frame: Option<&CloseFrame>) -> String {
    match frame {
        None => "without a code".to_owned(),
        Some(frame) if frame.reason.is_empty() => frame.code.to_string(),
        Some(frame) => format!("{} {:?}", frame.code, frame.reason.as_str()),
    }
}

/// A name goes into a header line.
fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("use visible ASCII characters without spaces".to_owned());
    }
    Ok(text.to_owned())
}

/// Connections of all endpoints together.
const MAX_CONNECTIONS: usize = 10_000;
/// Bytes of one request head.
const MAX_HEAD: usize = 16 * 1024;
/// Bytes of one message.
const MAX_MESSAGE: usize = 16 << 20;
/// Small: many connections, short messages.
const READ_BUFFER: usize = 4096;
/// Log lines that may wait for a slow reader.
const QUEUE: usize = 4096;
/// How long a client may be silent before, inside and between requests.
const HEAD_WAIT: Duration = Duration::from_secs(30);
/// How long the other side may take to end a connection that this side has ended.
const GOODBYE: Duration = Duration::from_millis(500);
/// Between attempts when accepting fails, for want of file descriptors mostly.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
