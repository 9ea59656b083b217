//! Tunnels on one epoll: opening, sending one fixed message, following what comes back. Says what happened, decides nothing.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::stream::{Stream, Target};
use crate::failure::{Failure, Result};
use crate::frame::{self, Follower};
use crate::handshake;
use crate::poller::{Poller, Ready};

pub struct Tunnels {
    target: Target,
    poller: Poller,
    /// By id; `None` where one has ended.
    tunnels: Vec<Option<Tunnel>>,
    scratch: Box<[u8]>,
    request: String,
    /// What a tunnel sends, and the payload in it.
    message: Vec<u8>,
    payload: usize,
    opened: usize,
}

struct Tunnel {
    stream: Stream,
    /// The head of the answer, until it is whole.
    answer: Option<Vec<u8>>,
    incoming: Follower,
    closing: bool,
    /// Messages not yet sent whole, and how much of the first is sent.
    queued: u32,
    sent: usize,
}

/// What a tunnel has to tell.
pub enum Happened {
    Opened,
    /// So many echoes arrived whole.
    Echoed(u32),
    /// It ended after a Close, as it was told to.
    Closed,
}

impl Tunnels {
    pub fn new(target: Target) -> Result<Self> {
        Ok(Self {
            poller: Poller::new()?,
            tunnels: Vec::new(),
            scratch: vec![0; SCRATCH].into(),
            request: handshake::request(&target.host()),
            target,
            message: Vec::new(),
            payload: 0,
            opened: 0,
        })
    }

    /// Places for tunnels, ended ones included.
    pub fn len(&self) -> usize {
        self.tunnels.len()
    }

    /// What tunnels send from now on. No message may be under way.
    pub fn set_message(&mut self, payload: usize) {
        self.message = frame::message(payload);
        self.payload = payload;
    }

    /// Connects and sends the handshake, in a new place.
    pub fn open(&mut self) -> Result<()> {
        self.tunnels.push(None);
        self.open_at(self.tunnels.len() - 1)
    }

    /// Connects and sends the handshake, in the place of a tunnel that ended.
    pub fn open_at(&mut self, id: usize) -> Result<()> {
        // Many source addresses: one has only some 28,000 ports, and a port rests for a minute after its connection.
        let source = Ipv4Addr::new(127, 0, 1, (self.opened % 200) as u8 + 1);
        self.opened += 1;
        let connect = || -> io::Result<Stream> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::from((source, 0)).into())?;
            socket.connect_timeout(&self.target.address.into(), CONNECT)?;
            socket.set_nonblocking(true)?;
            socket.set_tcp_nodelay(true)?;
            let mut stream = Stream::new(socket.into(), &self.target)?;
            stream.write_all(self.request.as_bytes())?;
            Ok(stream)
        };
        let stream =
            connect().map_err(|error| Failure::new(format_args!("open a connection to {}", self.target.address), error))?;
        self.poller.add(&stream, id)?;
        let answer = Some(Vec::new());
        self.tunnels[id] = Some(Tunnel {
            stream,
            answer,
            incoming: Follower::default(),
            closing: false,
            queued: 0,
            sent: 0,
        });
        Ok(())
    }

    /// Sends the message; what the socket refuses goes out as it can.
    pub fn send(&mut self, id: usize) -> Result<()> {
        let tunnel = self.tunnels[id]
            .as_mut()
            .ok_or_else(|| Failure::says("a tunnel ended that should have stayed"))?;
        tunnel.queued += 1;
        if tunnel.queued > 1 || tunnel.flush(&self.message)? {
            return Ok(());
        }
        self.poller.watch(&tunnel.stream, id, true)
    }

    /// Sends a Close.
    pub fn close(&mut self, id: usize) -> Result<()> {
        let tunnel = self.tunnels[id]
            .as_mut()
            .ok_or_else(|| Failure::says("a tunnel ended before its Close"))?;
        tunnel.closing = true;
        tunnel
            .stream
            .write_all(&frame::close())
            .map_err(|error| Failure::new("send a Close", error))
    }

    /// The next that happens, with the tunnel's id; `None` when nothing did until `deadline`.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<(usize, Happened)>> {
        loop {
            let wait = deadline.saturating_duration_since(Instant::now());
            let Some(ready) = self.poller.next(Some(wait))? else {
                if wait.is_zero() {
                    return Ok(None);
                }
                continue;
            };
            if let Some(happened) = self.serve(&ready)? {
                return Ok(Some((ready.token, happened)));
            }
        }
    }

    fn serve(&mut self, ready: &Ready) -> Result<Option<Happened>> {
        let Some(tunnel) = self.tunnels[ready.token].as_mut() else {
            return Ok(None);
        };
        if ready.writable {
            if tunnel.flush(&self.message)? {
                self.poller.watch(&tunnel.stream, ready.token, false)?;
            }
            return Ok(None);
        }
        let got = match tunnel.stream.read(&mut self.scratch) {
            Ok(0) => return self.ended(ready.token),
            Ok(got) => got,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                if tunnel.stream.is_behind() {
                    self.poller.watch(&tunnel.stream, ready.token, true)?;
                }
                return Ok(None);
            }
            Err(error) => return Err(Failure::new("read from a tunnel", error)),
        };
        let bytes = &self.scratch[..got];
        if tunnel.answer.is_some() {
            return tunnel.answered(bytes);
        }
        let completed = tunnel.incoming.follow(bytes);
        if completed.messages > 0 && completed.payload != self.payload {
            return Err(Failure::says(format!(
                "an echo has {} bytes instead of {}",
                completed.payload, self.payload
            )));
        }
        if completed.close {
            // The client ends its connection at once: waiting for the other side to do so first, as RFC 6455, 7.1.1 asks,
            // would measure how long a proxy waits too.
            return self.ended(ready.token);
        }
        Ok((completed.messages > 0).then_some(Happened::Echoed(completed.messages)))
    }

    fn ended(&mut self, id: usize) -> Result<Option<Happened>> {
        match self.tunnels[id].take() {
            Some(tunnel) if tunnel.closing => Ok(Some(Happened::Closed)),
            Some(Tunnel {
                answer: Some(answer), ..
            }) => Err(Failure::new(
                "open a tunnel",
                format_args!("the answer ended after {:?}", String::from_utf8_lossy(&answer)),
            )),
            _ => Err(Failure::says("a tunnel ended without a Close")),
        }
    }
}

impl Tunnel {
    /// Whether everything queued is sent.
    fn flush(&mut self, message: &[u8]) -> Result<bool> {
        while self.queued > 0 {
            match self.stream.write(&message[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(false),
                Err(error) => return Err(Failure::new("write to a tunnel", error)),
            }
            if self.sent == message.len() {
                self.sent = 0;
                self.queued -= 1;
            }
        }
        self.stream
            .flush()
            .map_err(|error| Failure::new("write to a tunnel", error))?;
        Ok(!self.stream.is_behind())
    }

    fn answered(&mut self, bytes: &[u8]) -> Result<Option<Happened>> {
        let Some(answer) = &mut self.answer else { return Ok(None) };
        answer.extend_from_slice(bytes);
        match handshake::end_of_head(answer) {
            None if answer.len() < handshake::MAX_HEAD => Ok(None),
            // The endpoint says nothing before it is spoken to, so nothing may follow the head.
            Some(end) if end == answer.len() && handshake::is_accepted(answer) => {
                self.answer = None;
                Ok(Some(Happened::Opened))
            }
            _ => Err(Failure::new(
                "open a tunnel",
                format_args!("the answer was {:?}", String::from_utf8_lossy(answer)),
            )),
        }
    }
}

const SCRATCH: usize = 256 * 1024;
const CONNECT: Duration = Duration::from_secs(5);
