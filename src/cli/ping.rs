//! `holdfast ping URL`: a WebSocket client that numbers its messages.
//!
//! It shows the handshake, times each echo, and says how the connection ended and what was lost. With `--count 0` it goes on for
//! ever and reconnects as a well-behaved client does: after a growing, random pause, with the cookies it was given.

mod cookies;
mod end;
mod report;
mod target;
pub(in crate::cli) mod tls;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use http::{HeaderName, HeaderValue};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::cli::output::{ColorChoice, Format, Screen};
use crate::cli::{Failure, INTERRUPTED, Interrupts, NO, block_on, duration};

use cookies::Jar;
use end::End;
use report::Report;
use target::{MAX_SIZE, Refusal, Socket, Target, header, message, number};
use tls::Trust;

/// Arguments of `holdfast ping`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to: ws://HOST[:PORT][/PATH] or wss://HOST[:PORT][/PATH].
    url: String,
    /// How many messages to send; 0 goes on until SIGINT and reconnects.
    #[arg(long, short = 'c', value_name = "N", default_value_t = 4)]
    count: u64,
    /// Between two messages; at least 1ms.
    #[arg(long, short, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    interval: Duration,
    /// How long to wait for a connection, for the handshake, for an echo.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// A header of the handshake, 'Name: value'; repeatable. Host, Cookie and Origin too.
    #[arg(long, short = 'H', value_name = "HEADER", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// A subprotocol to offer; repeatable.
    #[arg(long, value_name = "NAME")]
    subprotocol: Vec<String>,
    /// Bytes per message, up to 16777216; short ones are as long as their number needs.
    #[arg(long, short, value_name = "BYTES", default_value_t = 0, value_parser = size)]
    size: usize,
    #[command(flatten)]
    trust: Trust,
    /// Show the headers of the answer.
    #[arg(long, short)]
    verbose: bool,
    /// The shape of the answer; json and yaml are one document at the end.
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
}

/// Pings. 0 when all came back and ended well, 1 when not, 130 on a second SIGINT.
#[must_use]
pub fn run(args: &Args, color: ColorChoice) -> ExitCode {
    block_on(color, async {
        let target = Target::parse(&args.url).map_err(Failure::usage)?;
        let connector = target.is_secure().then(|| args.trust.connector());
        let connector = connector.transpose().map_err(Failure::usage)?;
        let report = Report::new(Screen::stdout(color), args.output, args.verbose, args.url.clone());
        let interrupts = Interrupts::listen()?;
        Ping {
            args,
            target,
            connector,
            report,
            interrupts,
            jar: Jar::default(),
            token: fastrand::u64(..),
            next: 1,
        }
        .run()
        .await
    })
}

struct Ping<'a> {
    args: &'a Args,
    target: Target,
    /// Where the URL asks for TLS.
    connector: Option<TlsConnector>,
    report: Report,
    interrupts: Interrupts,
    jar: Jar,
    /// Tells the messages of this run from others'.
    token: u64,
    /// The number of the next message.
    next: u64,
}

/// Why a conversation stopped.
enum Stop {
    /// All is sent and answered, or given up.
    Done,
    /// SIGINT or SIGTERM.
    Interrupted,
    /// The connection ended.
    Ended(End),
}

impl Ping<'_> {
    async fn run(mut self) -> Result<u8, Failure> {
        let mut pause = FIRST_PAUSE;
        loop {
            let again = match self.connect().await? {
                None => false,
                Some(Err(refusal)) => self.again_after(&refusal),
                Some(Ok(socket)) => {
                    pause = FIRST_PAUSE;
                    match self.hold(socket).await? {
                        Some(again) => again,
                        None => return Ok(INTERRUPTED),
                    }
                }
            };
            if !again || self.paused(pause).await {
                return Ok(if self.report.finish()? { 0 } else { NO });
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A connection, or why there is none; `None` when it was interrupted.
    async fn connect(&mut self) -> Result<Option<Result<Socket, Refusal>>, Failure> {
        let connect = self.target.connect(
            self.connector.as_ref(),
            &self.args.header,
            &self.args.subprotocol,
            &self.jar,
            self.args.timeout,
        );
        let connected = tokio::select! {
            connected = connect => connected,
            () = self.interrupts.next() => return Ok(None),
        };
        match connected {
            Ok(opened) => {
                let changed = self.jar.learn(self.target.path(), &opened.headers);
                self.report.opened(&opened, &changed)?;
                Ok(Some(Ok(opened.socket)))
            }
            Err(refusal) => {
                self.report.refused(&refusal)?;
                Ok(Some(Err(refusal)))
            }
        }
    }

    /// A name that never resolved is a mistyped one, not an outage.
    fn again_after(&self, refusal: &Refusal) -> bool {
        let mistyped = matches!(refusal, Refusal::Unresolved { .. }) && !self.report.ever_open();
        self.args.count == 0 && !mistyped
    }

    /// Waits before the next attempt, between half of `pause` and all of it. True when it was interrupted.
    async fn paused(&mut self, pause: Duration) -> bool {
        tokio::select! {
            () = sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)) => false,
            () = self.interrupts.next() => true,
        }
    }

    /// One connection from its opening to its end: whether to connect again; `None` when interrupted twice.
    async fn hold(&mut self, mut socket: Socket) -> Result<Option<bool>, Failure> {
        let (end, again) = match self.converse(&mut socket).await? {
            Stop::Ended(end) => (Some(end), self.args.count == 0),
            Stop::Done | Stop::Interrupted => (self.close(&mut socket).await?, false),
        };
        let Some(end) = end else { return Ok(None) };
        self.report.ended(&end)?;
        // Without reconnects, a connection that ended before all was sent was no success.
        if self.args.count > 0 && !matches!(end, End::Closed { by_us: true, .. }) {
            self.report.unfinished();
        }
        Ok(Some(again))
    }

    /// Sends and listens until there is nothing more to do.
    async fn converse(&mut self, socket: &mut Socket) -> Result<Stop, Failure> {
        let wait = self.args.timeout;
        let mut ticks = self.ticks();
        loop {
            let all_sent = self.args.count > 0 && self.next > self.args.count;
            let late = self.report.next_late(wait);
            if all_sent && late.is_none() {
                return Ok(Stop::Done);
            }
            tokio::select! {
                received = socket.next() => if let Some(stop) = self.received(socket, received).await? {
                    return Ok(stop);
                },
                _ = ticks.tick(), if !all_sent && self.report.waiting() < MAX_WAITING => {
                    if let Err(end) = self.send(socket).await {
                        return Ok(Stop::Ended(end));
                    }
                }
                () = at(late) => self.report.tell_late(wait)?,
                () = self.interrupts.next() => return Ok(Stop::Interrupted),
            }
        }
    }

    fn ticks(&self) -> Interval {
        let mut ticks = interval(self.args.interval.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }

    async fn send(&mut self, socket: &mut Socket) -> Result<(), End> {
        self.report.sent(self.next);
        let message = message(self.token, self.next, self.args.size);
        self.next += 1;
        match timeout(self.args.timeout, socket.send(message)).await {
            Ok(sent) => sent.map_err(|error| End::broken(&error)),
            Err(_) => Err(End::Cut("the other side takes nothing".to_owned())),
        }
    }

    /// Takes one event of the socket; the end, if it was that.
    async fn received(
        &mut self,
        socket: &mut Socket,
        received: Option<Result<Message, WsError>>,
    ) -> Result<Option<Stop>, Failure> {
        match received {
            Some(Ok(Message::Close(frame))) => {
                // Flushing sends the answer.
                let _ = timeout(GOODBYE, socket.flush()).await;
                Ok(Some(Stop::Ended(End::closed(frame.as_ref(), false))))
            }
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                self.report.echoed(number(self.token, &message))?;
                Ok(None)
            }
            Some(Ok(_)) => Ok(None),
            Some(Err(error)) => Ok(Some(Stop::Ended(End::broken(&error)))),
            None => Ok(Some(Stop::Ended(End::Cut("end of stream".to_owned())))),
        }
    }

    /// Closes with 1000 and waits for the answer; echoes may still come before it. `None` when interrupted meanwhile.
    async fn close(&mut self, socket: &mut Socket) -> Result<Option<End>, Failure> {
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        let deadline = Instant::now() + GOODBYE;
        if timeout(GOODBYE, socket.close(Some(frame))).await.is_err() {
            return Ok(Some(End::Cut("the other side takes nothing".to_owned())));
        }
        loop {
            tokio::select! {
                received = socket.next() => match received {
                    Some(Ok(Message::Close(frame))) => return Ok(Some(End::closed(frame.as_ref(), true))),
                    Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                        self.report.echoed(number(self.token, &message))?;
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Ok(Some(End::broken(&error))),
                    None => return Ok(Some(End::Cut("end of stream".to_owned()))),
                },
                () = at(Some(deadline)) => return Ok(Some(End::Cut("no answer to our Close".to_owned()))),
                () = self.interrupts.next() => return Ok(None),
            }
        }
    }
}

/// Waits until then, or for ever.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

fn size(text: &str) -> Result<usize, String> {
    let size: usize = text.parse().map_err(|_| "write a number of bytes".to_owned())?;
    if size > MAX_SIZE {
        Err(format!("at most {MAX_SIZE}"))
    } else {
        Ok(size)
    }
}

/// Echoes that may be outstanding before sending waits for them.
const MAX_WAITING: usize = 1000;
/// How long the other side may take to answer our Close, or to end the connection after its own.
const GOODBYE: Duration = Duration::from_secs(5);
/// The pause before the first attempt to reconnect; doubled with each failed one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
