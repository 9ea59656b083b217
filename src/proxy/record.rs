//! One record for each request and each tunnel: an access line and all counters, at its finish or at its drop, so that no
//! path forgets.
//!
//! Lines go through a bounded queue to a writer of their own. Nobody reading them costs lines, which are counted, and never
//! makes a worker wait. Query values are not written: tokens live there.

mod line;

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    admission::Admitted,
    end::Initiator,
    error::Reason,
    limits::Limit,
    metrics::RuleMetrics,
    recent::Refusal,
    slot::{Opened, Slot},
    tls,
    tunnel::End,
    worker::Worker,
};
use crate::{
    routing::{Rule, RuleId, endpoint::Held, limits::Place},
    telemetry::{Lines, LogFormat},
};
use line::{Event, Line};

/// Writes access lines.
#[derive(Debug)]
pub struct Recorder {
    lines: Option<Lines>,
    format: LogFormat,
    /// Our own pod, where there is one.
    pod: Option<Box<str>>,
}

impl Recorder {
    /// `lines`: where access lines go; `None`: only counters are kept.
    pub fn new(lines: Option<Lines>, format: LogFormat, pod: Option<Box<str>>) -> Self {
        Self { lines, format, pod }
    }

    /// Whether lines are written, so that what only they need must be kept.
    pub fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    /// Access lines that nobody read in time.
    pub fn dropped(&self) -> u64 {
        self.lines.as_ref().map_or(0, Lines::dropped)
    }

    /// Records the end of a tunnel. Called once for each, by its drop.
    pub fn ended(&self, worker: &Worker, slot: &Slot, end: &End) {
        let age = slot.since.elapsed();
        slot.of.metrics.ended(end.initiator, end.cause, age);
        let shared = worker.shared.metrics.shared();
        shared.close_code(Initiator::Client, end.client_said);
        shared.close_code(Initiator::Endpoint, end.endpoint_said);
        worker
            .recent
            .ended(|| worker.shared.sequence.next(), slot, end, age, worker.clock.now());
        self.write(Event::Ended, |line| {
            line.id(slot.of.id);
            line.rule(&slot.of.rule.id);
            line.client(slot.of.client_address);
            line.endpoint(slot.of.endpoint_held.name(), slot.of.endpoint_address);
            line.target(&slot.of.target);
            line.number("holdfast.duration_seconds", "age", format_args!("{:.3}", age.as_secs_f64()));
            line.word("holdfast.end.initiator", "by", end.initiator.word());
            line.word("holdfast.end.cause", "cause", end.cause.word());
            line.code("holdfast.close.client.code", "client_saw", end.told_client);
            line.code("holdfast.close.client.received", "client_said", end.client_said);
            line.code("holdfast.close.endpoint.code", "endpoint_saw", end.told_endpoint);
            line.code("holdfast.close.endpoint.received", "endpoint_said", end.endpoint_said);
            if end.mid_frame {
                line.flag("holdfast.end.mid_frame", "mid_frame");
            }
            line.number("holdfast.bytes.to_endpoint", "in", slot.client.bytes.get());
            line.number("holdfast.bytes.to_client", "out", slot.endpoint.bytes.get());
            line.number("holdfast.messages.to_endpoint", "messages_in", slot.client.messages.get());
            line.number("holdfast.messages.to_client", "messages_out", slot.endpoint.messages.get());
            if let Some(rtt) = slot.client.round_trip.get() {
                line.number(
                    "holdfast.heartbeat.rtt_seconds",
                    "rtt",
                    format_args!("{:.3}", f64::from(rtt) / 1000.0),
                );
            }
            if end.cause.is_failure() {
                line.word("error.type", "", end.cause.word());
            }
        });
    }

    fn write(&self, event: Event, fill: impl FnOnce(&mut Line)) {
        let Some(lines) = &self.lines else { return };
        let mut line = Line::new(self.format, event, self.pod.as_deref());
        fill(&mut line);
        lines.send(line.finish());
    }
}

/// The record of one request, from its head to its answer.
#[derive(Debug)]
pub struct Attempt {
    worker: Rc<Worker>,
    pub id: u64,
    started: Instant,
    /// Who is at the other end of the socket: the client or a load balancer.
    pub peer: SocketAddr,
    /// The client, as far as it can be known.
    pub client: SocketAddr,
    pub host: Box<str>,
    /// Without the query.
    pub path: Box<str>,
    pub scheme: &'static str,
    /// Of the client's own connection; `None`: it came without TLS.
    pub tls_version: Option<tls::Version>,
    pub request_id: Option<Box<str>>,
    pub user_agent: Option<Box<str>>,
    pub is_handshake: bool,
    /// What it holds of its route's connections; the tunnel's, if it becomes one.
    pub place: Option<Place>,
    /// The first limit that would have refused it, were it not a dry run.
    pub would_be_refused_by: Option<Limit>,
    /// Endpoints that have been sent the handshake.
    pub attempts: u8,
    /// What the dials of endpoints have taken.
    pub dialling: Duration,
    /// The word for why an answer that is not ours broke off.
    pub cut: Option<&'static str>,
    /// The page that the handshake comes from, where it is a foreign one.
    origin: Option<Box<str>>,
    /// Whether a proxy in front pings the client.
    pub client_is_pinged: bool,
    rule: Option<(Arc<Rule>, Arc<RuleMetrics>)>,
    answered: bool,
}

impl Attempt {
    /// A record for a request whose head may not even have come.
    pub fn new(worker: &Rc<Worker>, peer: SocketAddr, client: SocketAddr) -> Self {
        Self {
            worker: Rc::clone(worker),
            id: worker.next_id(),
            started: Instant::now(),
            peer,
            client,
            host: Box::default(),
            path: Box::default(),
            scheme: "http",
            tls_version: None,
            request_id: None,
            user_agent: None,
            is_handshake: true,
            place: None,
            would_be_refused_by: None,
            attempts: 0,
            dialling: Duration::ZERO,
            cut: None,
            origin: None,
            client_is_pinged: false,
            rule: None,
            answered: false,
        }
    }

    /// Notes which rule serves the request.
    pub fn matched(&mut self, rule: &Arc<Rule>) {
        self.rule = Some((Arc::clone(rule), self.worker.shared.metrics.rule(&rule.id)));
    }

    /// The handshake goes to one more endpoint.
    pub fn retried(&self, reason: &'static str) {
        self.metrics().retried(reason);
    }

    /// Counts and notes that the handshake comes from a foreign page.
    pub fn cross_origin(&mut self, origin: &str, passed: bool) {
        self.origin = Some(shortened(origin).into());
        let Some((rule, metrics)) = &self.rule else { return };
        let is_first = metrics.cross_origin(passed) == 0;
        if is_first && passed {
            tracing::warn!(
                route = %rule.id,
                origin = shortened(origin),
                "a page of another origin opens WebSockets with its user's cookies, as any page can; if the application does \
                 not check Origin itself, set spec.security.origins. Said once; the rest is in \
                 holdfast_cross_origin_handshakes_total"
            );
        }
    }

    /// When the request's head was complete.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The answer is ours, and a refusal. Returns the rule that it is for, if one was found.
    pub fn refused(mut self, reason: Reason) -> Option<Arc<Rule>> {
        self.refuse(reason);
        self.rule.take().map(|(rule, _)| rule)
    }

    /// The answer is no 101 and no refusal of ours: the endpoint's, or to a plain request what its rule says. Called when it is
    /// over, so that the record can say whether it was complete.
    pub fn passed(mut self, status: u16, by: Option<(&Held, SocketAddr)>) {
        self.answered = true;
        if self.is_handshake {
            self.metrics().handshake(status, "endpoint");
            self.remember(Refusal::OfEndpoint { status }, by);
        } else {
            self.metrics().fallback(status);
        }
        let event = if self.is_handshake { Event::Refused } else { Event::Answered };
        self.worker.shared.recorder.write(event, |line| {
            self.describe(line);
            if let Some((endpoint, address)) = by {
                line.endpoint(endpoint.name(), address);
            }
            line.number("http.response.status_code", "status", status);
            if self.is_handshake {
                line.word("error.type", "reason", "endpoint");
            }
            if let Some(cut) = self.cut {
                line.word("holdfast.answer.cut", "cut", cut);
            }
        });
    }

    /// The client has its 101; what is known goes into the tunnel's slot. `None` is a defect: no rule was matched.
    pub fn opened(
        mut self,
        endpoint: Held,
        address: SocketAddr,
        subprotocol: Option<&str>,
        admitted: Admitted,
    ) -> Option<Opened> {
        self.answered = true;
        let elapsed = self.started.elapsed();
        let (rule, metrics) = self.rule.clone()?;
        metrics.opened(elapsed);
        self.worker.shared.recorder.write(Event::Opened, |line| {
            self.describe(line);
            line.endpoint(endpoint.name(), address);
            line.number("http.response.status_code", "status", 101);
            if let Some(subprotocol) = subprotocol {
                line.text("holdfast.subprotocol", "subprotocol", subprotocol);
            }
            line.number(
                "holdfast.handshake.duration_seconds",
                "handshake",
                format_args!("{:.4}", elapsed.as_secs_f64()),
            );
        });
        Some(Opened {
            id: self.id,
            rule,
            metrics,
            endpoint_held: endpoint,
            client_address: self.client,
            client_is_pinged: self.client_is_pinged,
            endpoint_address: address,
            admitted,
            place: self.place.take(),
            // Empty where no line is written.
            target: match self.worker.shared.recorder.is_on() {
                true => self.target().into_boxed_str(),
                false => Box::default(),
            },
            tls_version: self.tls_version,
            would_be_refused_by: self.would_be_refused_by,
            attempts: self.attempts,
        })
    }

    /// The counts of its rule.
    pub fn metrics(&self) -> Arc<RuleMetrics> {
        match &self.rule {
            Some((_, metrics)) => Arc::clone(metrics),
            None => self.worker.shared.metrics.unrouted(),
        }
    }

    fn refuse(&mut self, reason: Reason) {
        self.answered = true;
        let answer = reason.answer();
        if self.is_handshake {
            self.metrics().handshake(answer.status.as_u16(), answer.word);
            self.remember(Refusal::Ours(reason), None);
        } else {
            self.metrics().fallback(answer.status.as_u16());
        }
        self.worker.shared.recorder.write(Event::Refused, |line| {
            self.describe(line);
            line.number("http.response.status_code", "status", answer.status.as_u16());
            line.word("error.type", "reason", answer.word);
        });
    }

    /// Keeps a refusal for those who ask what ended lately.
    fn remember(&self, refusal: Refusal, by: Option<(&Held, SocketAddr)>) {
        let Worker { recent, shared, .. } = &*self.worker;
        recent.refused(|| shared.sequence.next(), self, refusal, by);
    }

    /// Its rule, once one was found.
    pub fn rule(&self) -> Option<&RuleId> {
        self.rule.as_ref().map(|(rule, _)| &rule.id)
    }

    /// Host and path in one, as much of them as is kept.
    pub fn target(&self) -> String {
        format!("{}{}", shortened(&self.host), shortened(&self.path))
    }

    fn describe(&self, line: &mut Line) {
        line.id(self.id);
        if let Some((rule, _)) = &self.rule {
            line.rule(&rule.id);
        }
        line.client(self.client);
        if self.peer.ip() != self.client.ip() {
            line.word("network.peer.address", "peer", &self.peer.ip().to_string());
        }
        line.text("server.address", "host", shortened(&self.host));
        line.word("url.scheme", "", self.scheme);
        if let Some(version) = self.tls_version {
            line.word("tls.protocol.version", "tls", version.word());
        }
        line.text("url.path", "path", shortened(&self.path));
        if let Some(origin) = &self.origin {
            line.text("holdfast.cross_origin", "origin", origin);
        }
        if let Some(request_id) = &self.request_id {
            line.text("http.request.id", "request", shortened(request_id));
        }
        if let Some(user_agent) = &self.user_agent {
            line.text("user_agent.original", "agent", shortened(user_agent));
        }
        if let Some(limit) = self.would_be_refused_by {
            line.word("holdfast.limit.dry_run", "dry_run", limit.word());
        }
        if self.attempts > 1 {
            line.number("holdfast.handshake.attempts", "attempts", self.attempts);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.answered {
            self.refuse(match std::thread::panicking() {
                true => Reason::Internal, // whoever is left reads nothing, but it is not the client's doing
                false => Reason::ClientGone,
            });
        }
    }
}

/// Text from outside, as much of it as a record may hold.
pub fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

/// Bytes of one text from outside in a record.
const MAX_TEXT: usize = 256;
