//! A TLS handshake, from a fresh socket to a stream or to the reason why there is none.

use std::{future::poll_fn, io, pin::Pin, rc::Rc, sync::Arc, task::ready, time::Duration};

use rustls::{Error, InvalidMessage};
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use super::{Acceptor, Connection as _, Session, Tls, ToClient, gate::Step};

/// How a handshake went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    Completed,
    /// There is no certificate for the host that the client asked for, or it asked for none and there is no default one.
    NoCertificate,
    /// The two sides have no version, cipher, curve or application protocol in common.
    NothingInCommon,
    /// The client ended the handshake by an alert: most often it does not trust the certificate.
    Rejected,
    /// What the client sent is no TLS.
    NotTls,
    /// What the client sent is not right.
    ProtocolError,
    /// The client left.
    ClientGone,
    /// It took too long.
    TimedOut,
}

impl Handshake {
    pub const ALL: [Self; 8] = [
        Self::Completed,
        Self::NoCertificate,
        Self::NothingInCommon,
        Self::Rejected,
        Self::NotTls,
        Self::ProtocolError,
        Self::ClientGone,
        Self::TimedOut,
    ];

    /// As in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::NoCertificate => "no_certificate",
            Self::NothingInCommon => "nothing_in_common",
            Self::Rejected => "rejected",
            Self::NotTls => "not_tls",
            Self::ProtocolError => "protocol_error",
            Self::ClientGone => "client_gone",
            Self::TimedOut => "timed_out",
        }
    }
}

/// A connection, and the host that its client asked for.
pub type Accepted = (Box<Tls<ToClient>>, Option<Rc<str>>);

/// Why there is no connection.
#[derive(Debug)]
pub struct Failed {
    pub outcome: Handshake,
    /// The socket of a client that speaks HTTP without TLS, and what it has said.
    pub plain: Option<(TcpStream, Vec<u8>)>,
}

impl From<Handshake> for Failed {
    fn from(outcome: Handshake) -> Self {
        Self { outcome, plain: None }
    }
}

impl Acceptor {
    /// Does the handshake on a fresh socket. `early`: what was read from it before.
    ///
    /// # Errors
    /// Why there is no connection; the client has been told by an alert where there is one for it.
    pub async fn accept(&self, socket: TcpStream, early: &[u8], deadline: Instant) -> Result<Accepted, Failed> {
        let session = ToClient::new(Arc::clone(&self.config)).map_err(|error| outcome(&error))?;
        let mut tls = Box::new(Tls::new(socket, session, Rc::clone(&self.scratch), early));
        match timeout_at(deadline, tls.shake_hands(self)).await {
            Ok(Ok(name)) => Ok((tls, name)),
            Ok(Err(Handshake::NotTls)) if speaks_http(&tls.partial) => Err(Failed {
                outcome: Handshake::NotTls,
                plain: Some((tls.socket, tls.partial)),
            }),
            Ok(Err(outcome)) => Err(outcome.into()),
            Err(_) => Err(Handshake::TimedOut.into()),
        }
    }
}

impl Tls<ToClient> {
    async fn shake_hands(&mut self, acceptor: &Acceptor) -> Result<Option<Rc<str>>, Handshake> {
        let (mut name, mut has_begun) = (None, false);
        loop {
            while !has_record(&self.partial) {
                self.read_more().await.map_err(|error| broken(&error))?;
            }
            if speaks_http(&self.partial) && name.is_none() {
                return Err(Handshake::NotTls); // an alert would tell such a client nothing
            }
            if has_begun {
                acceptor.gate.pass(Step::Later).await;
            } else {
                // Who begins later than that is gone by the time it is done: in a storm that would be everybody.
                let pass = timeout(MAX_WAIT, acceptor.gate.pass(Step::First)).await;
                pass.map_err(|_| Handshake::TimedOut)?;
                has_begun = true;
            }
            let mut incoming = std::mem::take(&mut self.partial);
            let result = self.take_in(&mut incoming, &mut []);
            name = acceptor.take_asked().or(name);
            // Everything is sent before anything is waited for: the client waits too.
            let sent = poll_fn(|cx| self.poll_send(cx)).await;
            result.map_err(|error| broken(&error))?;
            sent.map_err(|_| Handshake::ClientGone)?;
            if !self.session.state().is_handshaking() {
                return Ok(name);
            }
            if self.has_ended {
                return Err(Handshake::ClientGone);
            }
            if !self.partial.is_empty() {
                self.read_more().await.map_err(|error| broken(&error))?; // a record that was not enough
            }
        }
    }
}

impl<S: Session> Tls<S> {
    /// Reads more of what is not complete.
    ///
    /// # Errors
    /// Those of the socket, `UnexpectedEof` at its end, and `InvalidData` where more is not complete than may wait.
    pub(super) async fn read_more(&mut self) -> io::Result<()> {
        if self.partial.len() >= MAX_FLIGHT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a flight is too large"));
        }
        let scratch = Rc::clone(&self.scratch);
        let read = poll_fn(|cx| {
            let mut incoming = scratch.incoming.borrow_mut();
            let mut buffer = ReadBuf::new(&mut incoming[..MAX_FLIGHT]);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
            self.partial.extend_from_slice(buffer.filled());
            std::task::Poll::Ready(io::Result::Ok(buffer.filled().len()))
        });
        match read.await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Whether bytes begin with a whole record, or with something that is none: then the session is asked.
pub(super) fn has_record(bytes: &[u8]) -> bool {
    match *bytes {
        [kind, ..] if !(20..=23).contains(&kind) => true,
        [_, _, _, high, low, ref payload @ ..] => payload.len() >= usize::from(u16::from_be_bytes([high, low])),
        _ => false,
    }
}

/// Whether bytes begin as a request does, or as a PROXY protocol header. No record of TLS begins with these.
fn speaks_http(bytes: &[u8]) -> bool {
    matches!(bytes, [b'A'..=b'Z' | b'\r', ..])
}

fn broken(error: &io::Error) -> Handshake {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => outcome(error),
        None if error.kind() == io::ErrorKind::InvalidData => Handshake::ProtocolError,
        None => Handshake::ClientGone,
    }
}

fn outcome(error: &Error) -> Handshake {
    match error {
        Error::General(_) => Handshake::NoCertificate, // the acceptor found none; the session has no better word for it
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Handshake::NothingInCommon,
        Error::AlertReceived(_) => Handshake::Rejected,
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => Handshake::NotTls,
        _ => Handshake::ProtocolError,
    }
}

/// How long a handshake may wait for its first step: half of the time that it has.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Bytes of a flight that may wait for their rest.
const MAX_FLIGHT: usize = 32 * 1024;
