//! TLS towards clients and towards endpoints: a stream over rustls' unbuffered API, from the first byte of the handshake on.
//!
//! Made by `connection` and `upstream`, which wait for its handshake; then it takes the place of a TCP socket. It owns no
//! buffer while nothing is under way: the socket is read in large pieces into the worker's scratch, and what is kept is the
//! beginning of a record, decrypted bytes that the reader had no room for, and ciphertext that the socket refused, which is
//! never encrypted twice. It knows nothing of HTTP or frames.

mod acceptor;
mod connector;
mod gate;
mod handshake;
mod queue;
mod tickets;

use std::{
    cell::RefCell,
    fmt, io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use rustls::{
    CommonState, ProtocolVersion,
    client::{ClientConnectionData, UnbufferedClientConnection},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

pub use acceptor::{Acceptor, Config};
pub use connector::{Connector, reason};
use gate::Gate;
pub use handshake::Handshake;

use queue::Queue;

/// A connection with TLS, whichever side of it we are.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + fmt::Debug {
    /// The socket below.
    fn tcp(&self) -> &TcpStream;

    /// Bytes of ciphertext that the socket has not accepted.
    fn unsent(&self) -> usize;

    /// Whether neither side can say anything more: before TLS 1.3, whoever ends one direction ends both (RFC 5246, 7.2.1).
    fn is_over(&self) -> bool;

    /// Reads what there is, at most `into`. 0: nothing comes any more, and the peer has said so.
    ///
    /// # Errors
    /// `UnexpectedEof` where TCP ended without a close_notify; `InvalidData` where the peer broke the protocol, which it is
    /// told by an alert.
    fn poll_receive(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Encrypts all of `bytes`, and sends what the socket accepts. Returns how many bytes of ciphertext were kept.
    ///
    /// # Errors
    /// Those of the socket; `BrokenPipe` after the end of our direction.
    fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<usize>;

    /// Offers the socket what it refused. Ready once nothing is left.
    ///
    /// # Errors
    /// Those of the socket.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Says that nothing more comes from us, once; it goes out behind everything else.
    fn say_goodbye(&mut self);

    /// Gives up what the socket has not accepted; returns how many bytes that were. Nothing can be sent after it.
    fn give_up(&mut self) -> usize;
}

/// A session of rustls: its two sides are two types, which do the same by the same names.
pub trait Session: Unpin {
    type Data;

    /// Takes in ciphertext, and says what is to be done next.
    fn process<'session, 'bytes>(
        &'session mut self,
        incoming: &'bytes mut [u8],
    ) -> UnbufferedStatus<'session, 'bytes, Self::Data>;

    fn state(&self) -> &CommonState;
}

/// The session of a connection that a client opened.
pub type ToClient = UnbufferedServerConnection;

/// The session of a connection to an endpoint.
pub type ToEndpoint = UnbufferedClientConnection;

impl Session for ToClient {
    type Data = ServerConnectionData;

    fn process<'session, 'bytes>(
        &'session mut self,
        incoming: &'bytes mut [u8],
    ) -> UnbufferedStatus<'session, 'bytes, ServerConnectionData> {
        self.process_tls_records(incoming)
    }

    fn state(&self) -> &CommonState {
        self
    }
}

impl Session for ToEndpoint {
    type Data = ClientConnectionData;

    fn process<'session, 'bytes>(
        &'session mut self,
        incoming: &'bytes mut [u8],
    ) -> UnbufferedStatus<'session, 'bytes, ClientConnectionData> {
        self.process_tls_records(incoming)
    }

    fn state(&self) -> &CommonState {
        self
    }
}

/// A connection, with the session of our side.
pub struct Tls<S> {
    socket: TcpStream,
    session: S,
    scratch: Rc<Scratch>,
    /// The beginning of a record, or of a handshake message: what the session has not taken yet.
    partial: Vec<u8>,
    /// Decrypted, and not read yet.
    unread: Queue,
    /// Encrypted, and not accepted by the socket yet.
    unsent: Queue,
    /// Whether the peer has said that nothing more comes from it.
    has_ended: bool,
    /// Whether our close_notify is among what was sent.
    has_said_goodbye: bool,
    /// Whether ciphertext was given up: what would come after it means nothing to the peer.
    is_broken: bool,
}

/// Which TLS a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Tls12,
    Tls13,
}

impl Version {
    /// As OpenTelemetry writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

/// Where the connections of one worker read and write ciphertext.
#[derive(Debug)]
struct Scratch {
    incoming: RefCell<Box<[u8]>>,
    outgoing: RefCell<Box<[u8]>>,
}

impl<S> fmt::Debug for Tls<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Default for Scratch {
    fn default() -> Self {
        let scratch = || RefCell::new(vec![0; SCRATCH].into_boxed_slice());
        Self {
            incoming: scratch(),
            outgoing: scratch(),
        }
    }
}

impl<S: Session> Tls<S> {
    /// A connection whose handshake is yet to come. `early`: what was read from the socket before.
    fn new(socket: TcpStream, session: S, scratch: Rc<Scratch>, early: &[u8]) -> Self {
        Self {
            socket,
            session,
            scratch,
            partial: early.to_vec(),
            unread: Queue::default(),
            unsent: Queue::default(),
            has_ended: false,
            has_said_goodbye: false,
            is_broken: false,
        }
    }
}

impl<S: Session> Connection for Tls<S> {
    fn tcp(&self) -> &TcpStream {
        &self.socket
    }

    fn unsent(&self) -> usize {
        self.unsent.len()
    }

    fn is_over(&self) -> bool {
        self.has_ended && self.session.state().protocol_version() != Some(ProtocolVersion::TLSv1_3)
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.unread.is_empty() {
            return Poll::Ready(Ok(self.unread.take(into)));
        }
        let scratch = Rc::clone(&self.scratch);
        let mut incoming = scratch.incoming.borrow_mut();
        while !self.has_ended {
            let kept = self.partial.len();
            let room = incoming_room(kept, into.len(), incoming.len())?;
            incoming[..kept].copy_from_slice(&self.partial);
            let mut buffer = ReadBuf::new(&mut incoming[kept..room]);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
            let read = buffer.filled().len();
            if read == 0 {
                self.has_ended = true;
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let result = self.take_in(&mut incoming[..kept + read], into);
            if self.is_over() {
                self.say_goodbye();
            }
            if !self.unsent.is_empty() {
                let _ = self.poll_send(cx)?; // answers of the session itself; whoever writes next goes on with the rest
            }
            match result? {
                0 => {} // no record was complete, or none had data
                read => return Poll::Ready(Ok(read)),
            }
        }
        Poll::Ready(Ok(0))
    }

    fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<usize> {
        if self.has_said_goodbye || self.is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let before = self.unsent.len();
        let scratch = Rc::clone(&self.scratch);
        let mut outgoing = scratch.outgoing.borrow_mut();
        for piece in bytes.chunks(PIECE) {
            let len = self.encrypt(piece, &mut outgoing)?;
            let mut rest = &outgoing[..len];
            if self.unsent.is_empty()
                && let Poll::Ready(written) = Pin::new(&mut self.socket).poll_write(cx, rest)
            {
                rest = &rest[written?..];
            }
            self.unsent.push(rest);
        }
        Ok(self.unsent.len().saturating_sub(before))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, self.unsent.rest()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn say_goodbye(&mut self) {
        if self.has_said_goodbye || self.is_broken {
            return;
        }
        self.has_said_goodbye = true;
        let UnbufferedStatus { state, .. } = self.session.process(&mut self.partial);
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = state {
            let mut alert = [0; 256];
            if let Ok(len) = traffic.queue_close_notify(&mut alert) {
                self.unsent.push(&alert[..len]);
            }
        }
    }

    fn give_up(&mut self) -> usize {
        let given_up = self.unsent.len();
        self.is_broken |= given_up > 0;
        self.unsent = Queue::default();
        given_up
    }
}

impl<S: Session> Tls<S> {
    /// The version that both sides agreed on; no other than these two is offered.
    pub fn version(&self) -> Version {
        match self.session.state().protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => Version::Tls12,
            _ => Version::Tls13,
        }
    }

    /// Lets the session take in ciphertext: what it decrypts goes to `into`, and what does not fit there is kept. Returns how
    /// many bytes went to `into`.
    fn take_in(&mut self, incoming: &mut [u8], into: &mut [u8]) -> io::Result<usize> {
        let (mut at, mut got) = (0, 0);
        let result = loop {
            let UnbufferedStatus { discard, state } = self.session.process(&mut incoming[at..]);
            let waits = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        let fits = record.payload.len().min(into.len() - got);
                        into[got..got + fits].copy_from_slice(&record.payload[..fits]);
                        got += fits;
                        self.unread.push(&record.payload[fits..]);
                    }
                    false
                }
                Ok(ConnectionState::EncodeTlsData(encode)) => {
                    append(encode, &mut self.unsent);
                    false
                }
                Ok(ConnectionState::TransmitTlsData(transmit)) => {
                    transmit.done(); // it is queued, and goes out before anything else
                    false
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.has_ended = true;
                    false
                }
                Ok(_) => true,
                Err(error) => break Err(error),
            };
            at += discard;
            if waits {
                break Ok(got);
            }
        };
        self.partial = incoming[at..].to_vec();
        if result.is_err() {
            self.tell_why();
        }
        result.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Queues the alert that says what the peer did wrong, the last thing that a session says. It must not be asked for more.
    fn tell_why(&mut self) {
        (self.has_ended, self.has_said_goodbye) = (true, true);
        let UnbufferedStatus { state, .. } = self.session.process(&mut self.partial);
        if let Ok(ConnectionState::EncodeTlsData(encode)) = state {
            append(encode, &mut self.unsent);
        }
    }

    /// Encrypts one piece into `outgoing`, behind what the session itself has to say; returns the length.
    fn encrypt(&mut self, piece: &[u8], outgoing: &mut [u8]) -> io::Result<usize> {
        let mut len = 0;
        loop {
            let UnbufferedStatus { state, .. } = self.session.process(&mut self.partial);
            match state {
                Ok(ConnectionState::EncodeTlsData(mut encode)) => {
                    len += encode.encode(&mut outgoing[len..]).map_err(io::Error::other)?;
                }
                Ok(ConnectionState::TransmitTlsData(transmit)) => transmit.done(),
                Ok(ConnectionState::PeerClosed) => self.has_ended = true,
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    return match traffic.encrypt(piece, &mut outgoing[len..]) {
                        Ok(written) => Ok(len + written),
                        Err(error @ (EncryptError::InsufficientSize(_) | EncryptError::EncryptExhausted)) => {
                            Err(io::Error::other(error))
                        }
                    };
                }
                Ok(_) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
    }
}

/// How much of the scratch may be filled by a read, so that what it decrypts to fits the reader, or is a record more.
fn incoming_room(kept: usize, wanted: usize, scratch: usize) -> io::Result<usize> {
    let room = wanted.max(kept + RECORD).min(scratch);
    if room <= kept {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a handshake message is too large"));
    }
    Ok(room)
}

/// Encodes what the session itself has to say.
fn append<D>(mut encode: EncodeTlsData<'_, D>, to: &mut Queue) {
    let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = encode.encode(&mut []) else {
        return;
    };
    let mut bytes = vec![0; required_size];
    if let Ok(len) = encode.encode(&mut bytes) {
        to.push(&bytes[..len]);
    }
}

impl<S: Session> AsyncRead for Tls<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(self.poll_receive(cx, into.initialize_unfilled()))?;
        into.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl<S: Session> AsyncWrite for Tls<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        let bytes = &bytes[..bytes.len().min(PIECE)];
        self.send(cx, bytes)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.say_goodbye();
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Bytes of ciphertext that are read or written at once.
const SCRATCH: usize = 64 * 1024;
/// A record with its header, at its largest (RFC 8446, 5.2; RFC 5246, 6.2.3).
const RECORD: usize = 5 + 16 * 1024 + 2048;
/// Bytes that are encrypted at once: with what that adds, and a KeyUpdate, they fit the scratch.
const PIECE: usize = 60 * 1024;
