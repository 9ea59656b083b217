//! One leg of a tunnel: its socket, what it is sending, and what is queued for it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::{frame::Follower, stream::Stream};

/// One leg.
#[derive(Debug)]
pub(super) struct Side {
    pub socket: Stream,
    /// Follows what this side sends.
    pub follower: Follower,
    /// The beginning of a frame that this side has not sent the rest of.
    carried: Option<Box<[u8]>>,
    /// What this side does not accept yet. With TLS the stream itself keeps that, encrypted.
    stash: Option<Box<Stash>>,
    pub wants: Want,
    pub out: Out,
    /// Whether nothing more comes from this side.
    pub ended: bool,
    /// Whether TCP gave up on this side, because its packets stopped.
    pub vanished: bool,
    shut_down: bool,
    /// The code of the Close frame that this side sent.
    pub said: Option<u16>,
    /// The code of the Close frame that this side was sent.
    pub told: Option<u16>,
}

/// Whether a side may be sent anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Out {
    Open,
    /// A Close has gone out, and after it nothing (RFC 6455, section 5.5.1).
    Closed,
    /// It is gone.
    Dead,
}

/// Frames of our own that are to go to a side at the next boundary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Want {
    pub ping: bool,
    pub close: Option<u16>,
}

impl Want {
    pub const NOTHING: Self = Self {
        ping: false,
        close: None,
    };
}

/// Exactly what a socket refused.
#[derive(Debug)]
struct Stash {
    bytes: Vec<u8>,
    written: usize,
}

impl Side {
    pub fn new(socket: Stream) -> Self {
        Self {
            socket,
            follower: Follower::default(),
            carried: None,
            stash: None,
            wants: Want::NOTHING,
            out: Out::Open,
            ended: false,
            vanished: false,
            shut_down: false,
            said: None,
            told: None,
        }
    }

    /// Wants a Close with `code`, if the side can still be told.
    pub fn want_close(&mut self, code: Option<u16>) {
        if self.out == Out::Open && code.is_some() {
            self.wants = Want {
                ping: false,
                close: code,
            };
        }
    }

    /// Reads once into `into`. 0: nothing is there now, or nothing comes any more and `ended` says so.
    pub fn read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> usize {
        let read = match &mut self.socket {
            Stream::Plain(socket) => {
                let mut buffer = ReadBuf::new(into);
                let result = Pin::new(socket).poll_read(cx, &mut buffer);
                result.map_ok(|()| buffer.filled().len())
            }
            Stream::Tls(tls) => {
                let read = tls.poll_receive(cx, into);
                if tls.is_over() && self.out == Out::Open {
                    self.out = Out::Dead;
                }
                read
            }
        };
        match read {
            Poll::Pending => 0,
            Poll::Ready(Ok(read)) => {
                self.ended = read == 0;
                read
            }
            // TLS whose end was cut off is an attack only on those who have not been told of the end in another way.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof && self.said.is_some() => {
                self.ended = true;
                0
            }
            Poll::Ready(Err(error)) => {
                self.broke(&error);
                self.ended = true;
                0
            }
        }
    }

    /// Moves what is carried to the end of `headroom`; returns its length.
    pub fn take_carried(&mut self, headroom: &mut [u8]) -> usize {
        let Some(carried) = self.carried.take() else { return 0 };
        let start = headroom.len() - carried.len();
        headroom[start..].copy_from_slice(&carried);
        carried.len()
    }

    /// Keeps the beginning of a frame until its rest is there.
    pub fn carry(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.carried = Some(bytes.into());
        }
    }

    /// Sends bytes; returns how many of them had to be queued.
    pub fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> usize {
        if self.out != Out::Open {
            return 0;
        }
        if let Some(stash) = &mut self.stash {
            stash.bytes.reserve_exact(bytes.len()); // twice as much would be beyond the bound
            stash.bytes.extend_from_slice(bytes);
            return bytes.len();
        }
        let socket = match &mut self.socket {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => {
                return tls.send(cx, bytes).unwrap_or_else(|error| {
                    self.broke(&error);
                    0
                });
            }
        };
        let written = match Pin::new(socket).poll_write(cx, bytes) {
            Poll::Pending => 0,
            Poll::Ready(Ok(written)) => written,
            Poll::Ready(Err(error)) => {
                self.broke(&error);
                return 0;
            }
        };
        let rest = &bytes[written..];
        if !rest.is_empty() {
            self.stash = Some(Box::new(Stash {
                bytes: rest.to_vec(),
                written: 0,
            }));
        }
        rest.len()
    }

    /// Offers the queued bytes; returns how many were accepted or are pointless now.
    pub fn flush(&mut self, cx: &mut Context<'_>) -> usize {
        if self.out == Out::Dead {
            return self.abandon();
        }
        let before = self.queued();
        if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
            self.broke(&error);
            self.abandon();
            return before; // what went out before the error too
        }
        before - self.queued()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = match &mut self.socket {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => return tls.poll_send(cx),
        };
        while let Some(stash) = &mut self.stash {
            let written = ready!(Pin::new(&mut *socket).poll_write(cx, &stash.bytes[stash.written..]))?;
            stash.written += written;
            if stash.written == stash.bytes.len() {
                self.stash = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    pub fn is_queued(&self) -> bool {
        match &self.socket {
            Stream::Plain(_) => self.stash.is_some(),
            Stream::Tls(tls) => tls.unsent() > 0,
        }
    }

    /// Bytes queued for this side.
    pub fn queued(&self) -> usize {
        match &self.socket {
            Stream::Plain(_) => self.stash.as_ref().map_or(0, |stash| stash.bytes.len() - stash.written),
            Stream::Tls(tls) => tls.unsent(),
        }
    }

    /// Says to a side with TLS that nothing more comes; returns how many bytes of that were queued.
    pub fn say_goodbye(&mut self, cx: &mut Context<'_>) -> usize {
        let Stream::Tls(tls) = &mut self.socket else { return 0 };
        if self.out == Out::Dead || tls.unsent() > 0 {
            return 0;
        }
        tls.say_goodbye();
        match tls.poll_send(cx) {
            Poll::Ready(Err(_)) => {
                tls.give_up(); // whoever is gone needs no goodbye
                0
            }
            _ => tls.unsent(),
        }
    }

    /// Ends our direction once everything queued is out; returns how many bytes of that had to be queued themselves.
    pub fn shut_down(&mut self, cx: &mut Context<'_>) -> usize {
        if self.shut_down || self.is_queued() || self.out == Out::Dead {
            return 0;
        }
        let queued = self.say_goodbye(cx);
        if queued > 0 {
            return queued;
        }
        self.shut_down = true;
        if self.out == Out::Open {
            self.out = Out::Closed;
        }
        // A socket whose peer is gone cannot be shut down, and need not be.
        let _ = Pin::new(&mut self.socket).poll_shutdown(cx);
        0
    }

    /// Notes that the last frame sent was a Close with `code`.
    pub fn closed_with(&mut self, code: Option<u16>) {
        self.told = code;
        self.out = Out::Closed;
        self.wants = Want::NOTHING;
    }

    /// Sends nothing any more, and gives up what is queued; returns how many bytes that were.
    pub fn stop(&mut self) -> usize {
        if self.out == Out::Open {
            self.out = Out::Closed;
        }
        let freed = self.queued();
        if freed > 0 {
            self.told = None; // a Close would be the last of what was queued
        }
        match &mut self.socket {
            Stream::Plain(_) => self.stash = None,
            Stream::Tls(tls) => {
                tls.give_up();
            }
        }
        freed
    }

    /// The same for a side that is gone.
    pub fn abandon(&mut self) -> usize {
        let freed = self.stop();
        self.out = Out::Dead;
        freed
    }

    fn broke(&mut self, error: &io::Error) {
        self.vanished |= matches!(
            error.kind(),
            io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
        );
        self.out = Out::Dead;
    }
}
