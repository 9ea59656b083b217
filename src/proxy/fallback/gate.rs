//! The client's socket as hyper sees it for one request: the head that we have read, its body, and then nothing. What comes behind
//! them stays for us, so that every head on a connection is read by [`head`](crate::proxy::head) alone.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::exchange::{Cut, Exchange};
use crate::proxy::{body::Body, stream::Stream};

#[derive(Debug)]
pub(super) struct Gate {
    socket: Stream,
    head: Bytes,
    body: Body,
    /// What was read from the socket and not given to hyper.
    rest: BytesMut,
    /// Runs while the client accepts nothing.
    stall: Option<Pin<Box<Sleep>>>,
    exchange: Rc<Exchange>,
}

impl Gate {
    /// `early`: what came behind the head.
    pub fn new(socket: Stream, head: Bytes, body: Body, early: BytesMut, exchange: Rc<Exchange>) -> Self {
        Self {
            socket,
            head,
            body,
            rest: early,
            stall: None,
            exchange,
        }
    }

    /// The socket, and what came behind the request.
    pub fn into_parts(self) -> (Stream, BytesMut) {
        (self.socket, self.rest)
    }

    /// Reads more of the body straight into hyper's buffer; what is behind it is taken out again.
    fn poll_body(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            let before = into.filled().len();
            let read = Pin::new(&mut self.socket).poll_read(cx, into);
            self.exchange.body_is_awaited.set(read.is_pending());
            ready!(read)?;
            let bytes = &into.filled()[before..];
            if bytes.is_empty() {
                self.exchange.cut(Cut::ClientGone);
                return Poll::Ready(Ok(()));
            }
            let len = self.body.take(bytes).map_err(|_| self.malformed())?;
            self.rest.extend_from_slice(&bytes[len..]);
            into.set_filled(before + len);
        } else {
            let room = self.rest.len().min(into.remaining());
            let len = self.body.take(&self.rest[..room]).map_err(|_| self.malformed())?;
            into.put_slice(&self.rest[..len]);
            self.rest.advance(len);
        }
        Poll::Ready(Ok(()))
    }

    fn malformed(&self) -> io::Error {
        self.exchange.cut(Cut::MalformedBody);
        io::ErrorKind::InvalidData.into()
    }

    /// Nothing more of this request comes: looks whether the client is still there.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.exchange.request_is_over.set(true);
        if !self.rest.is_empty() {
            return Poll::Pending; // another request has come; nobody can look behind it
        }
        let mut next = [0; FIRST_READ];
        let mut next = ReadBuf::new(&mut next);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut next))?;
        if next.filled().is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.rest.extend_from_slice(next.filled());
        Poll::Pending
    }

    /// Ends an answer of which the client accepts nothing for too long.
    fn patient<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let limit = self.exchange.send.get();
        if limit == Duration::ZERO {
            return Poll::Pending;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(stall.as_mut().poll(cx));
        self.exchange.cut(Cut::ClientStalled);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Gate {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        if !gate.head.is_empty() {
            let len = gate.head.len().min(into.remaining());
            into.put_slice(&gate.head.split_to(len));
            return Poll::Ready(Ok(()));
        }
        if gate.body.is_over() {
            gate.poll_gone(cx)
        } else {
            gate.poll_body(cx, into)
        }
    }
}

impl AsyncWrite for Gate {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        gate.exchange.is_unsent.set(true);
        let written = Pin::new(&mut gate.socket).poll_write(cx, bytes);
        gate.patient(cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        let flushed = Pin::new(&mut gate.socket).poll_flush(cx);
        gate.exchange.is_unsent.set(flushed.is_pending()); // hyper flushes when its own buffer is empty
        gate.patient(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        gate.exchange.is_unsent.set(true);
        let written = Pin::new(&mut gate.socket).poll_write_vectored(cx, pieces);
        gate.patient(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

/// Bytes of a next request that are read while this one is answered.
const FIRST_READ: usize = 1024;
