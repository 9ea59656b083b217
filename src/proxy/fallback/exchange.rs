//! One plain request and its answer: how far they have come, and the record that is written when both are over.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{self, Frame, SizeHint};

use super::Body;
use crate::{
    proxy::{end::Cause, error::Reason, record::Attempt},
    routing::endpoint::Held,
};

/// What the gate, the service and the answer's body tell the one who waits for all three.
#[derive(Debug)]
pub(super) struct Exchange {
    /// How long the client may accept nothing of its answer; zero: for ever.
    pub send: Cell<Duration>,
    /// Whether hyper has taken the whole request.
    pub request_is_over: Cell<bool>,
    /// Whether it waits for more of the request's body.
    pub body_is_awaited: Cell<bool>,
    /// Whether hyper has taken the whole answer.
    answer_is_over: Cell<bool>,
    /// Whether some of it has not been accepted by the socket.
    pub is_unsent: Cell<bool>,
    cut: Cell<Option<Cut>>,
    record: RefCell<Option<Answered>>,
}

/// Why a request or its answer broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    ClientGone,
    ClientStalled,
    MalformedBody,
    EndpointGone,
    /// The file could not be read to its end.
    File,
}

impl Default for Exchange {
    fn default() -> Self {
        Self {
            send: Cell::new(SEND),
            request_is_over: Cell::default(),
            body_is_awaited: Cell::default(),
            answer_is_over: Cell::default(),
            is_unsent: Cell::default(),
            cut: Cell::default(),
            record: RefCell::default(),
        }
    }
}

impl Exchange {
    /// Both are over, and the connection can have another request.
    pub fn is_over(&self) -> bool {
        self.request_is_over.get() && self.answer_is_over.get() && !self.is_unsent.get()
    }

    /// Notes why it broke off; of several reasons the first was the cause.
    pub fn cut(&self, why: Cut) {
        if self.cut.get().is_none() {
            self.cut.set(Some(why));
        }
    }

    pub fn was_cut(&self) -> Option<Cut> {
        self.cut.get()
    }

    /// What a refusal says: of one that came because the request broke off, that.
    pub fn reason(&self, reason: Reason) -> Reason {
        match (self.cut.get(), reason) {
            (Some(Cut::MalformedBody), _) => Reason::MalformedRequest,
            (_, Reason::HandshakeTimeout) if self.body_is_awaited.get() => Reason::RequestTimeout,
            (_, reason) => reason,
        }
    }

    /// The answer has begun.
    pub fn answered(&self, attempt: Attempt, status: u16, by: Option<(Held, SocketAddr)>) {
        *self.record.borrow_mut() = Some(Answered {
            attempt: Some(attempt),
            status,
            by,
        });
    }

    /// Writes the record. `broken`: the connection broke, by what was noted or else by the client.
    pub fn finish(&self, broken: bool) {
        let Some(mut record) = self.record.borrow_mut().take() else {
            return;
        };
        let cut = self.cut.get().or(broken.then_some(Cut::ClientGone));
        if let (Some(attempt), Some(cut)) = (&mut record.attempt, cut) {
            attempt.cut = Some(cut.word());
        }
    }
}

impl Cut {
    fn word(self) -> &'static str {
        match self {
            Self::ClientGone => Reason::ClientGone.word(),
            Self::ClientStalled => Cause::ClientStalled.word(),
            Self::MalformedBody => Reason::MalformedRequest.word(),
            Self::EndpointGone => Cause::EndpointGone.word(),
            Self::File => Reason::StaticUnavailable.word(),
        }
    }
}

/// The record of an answer, written when it is dropped.
#[derive(Debug)]
struct Answered {
    attempt: Option<Attempt>,
    status: u16,
    by: Option<(Held, SocketAddr)>,
}

impl Drop for Answered {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            let by = self.by.as_ref().map(|(endpoint, address)| (endpoint, *address));
            attempt.passed(self.status, by);
        }
    }
}

/// An answer's body, which says when it is over.
pub(super) struct Told {
    body: Body,
    exchange: Rc<Exchange>,
}

impl Told {
    pub fn new(body: Body, exchange: &Rc<Exchange>) -> Self {
        Self {
            body,
            exchange: Rc::clone(exchange),
        }
    }
}

impl body::Body for Told {
    type Data = Bytes;
    type Error = <Body as body::Body>::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let told = self.get_mut();
        let frame = Pin::new(&mut told.body).poll_frame(cx);
        if let Poll::Ready(Some(Err(_))) = &frame {
            told.exchange.cut(match told.body {
                Body::Left(_) => Cut::EndpointGone,
                Body::Right(_) => Cut::File,
            });
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.exchange.answer_is_over.set(true);
    }
}

/// The built-in value of `timeouts.send`, for answers that belong to no rule.
const SEND: Duration = Duration::from_secs(60);
