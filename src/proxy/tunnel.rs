//! A tunnel: two sockets, the frames between them, and how that ends.
//!
//! Spawned by the upgrade once the client has its 101; runs in a task of its own that is as small as it can be, because an
//! idle tunnel costs what its task costs. It owns no buffer while both sides keep up: a read goes into the worker's scratch
//! and out at once, and only what a socket refused is kept. It has no timer: the sweep leaves orders in its slot.

mod side;

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::net::TcpStream;

use super::{
    end::{Cause, Initiator},
    frame::{self, Header, Next, opcode},
    slot::{Orders, Peer, Slot},
    socket,
    worker::{HEADROOM, READ, Worker},
};
use side::{Out, Side, Want};

/// How one tunnel ended, for its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub initiator: Initiator,
    pub cause: Cause,
    /// Whether a Close could not be sent because its receiver was in the middle of a frame.
    pub mid_frame: bool,
    /// What the client and the endpoint were told by a Close frame, whoever wrote it.
    pub told_client: Option<u16>,
    pub told_endpoint: Option<u16>,
    /// What they themselves said.
    pub client_said: Option<u16>,
    pub endpoint_said: Option<u16>,
}

/// The relay between two sockets.
#[derive(Debug)]
pub struct Tunnel {
    client: Side,
    endpoint: Side,
    slot: Rc<Slot>,
    worker: Rc<Worker>,
    ending: Option<(Initiator, Cause)>,
    /// The Close exchange is over or its time is: what is left is TCP.
    lingering: bool,
    mid_frame: bool,
    /// Bytes that came behind the handshakes, to be relayed first.
    early: Option<Box<Early>>,
}

/// What the two sides sent before the tunnel began.
#[derive(Debug, Default)]
pub struct Early {
    pub client: Vec<u8>,
    pub endpoint: Vec<u8>,
}

impl Tunnel {
    /// A tunnel between two connected sockets whose handshakes are over.
    pub fn new(client: TcpStream, endpoint: TcpStream, early: Early, slot: Rc<Slot>, worker: Rc<Worker>) -> Self {
        let early = (!early.client.is_empty() || !early.endpoint.is_empty()).then(|| Box::new(early));
        Self {
            client: Side::new(client),
            endpoint: Side::new(endpoint),
            slot,
            worker,
            ending: None,
            lingering: false,
            mid_frame: false,
            early,
        }
    }
}

impl Future for Tunnel {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.slot.set_waker(cx.waker());
        let orders = this.slot.take_orders();
        if orders != Orders::default() {
            this.obey(cx, orders);
        }
        if let Some(early) = this.early.take() {
            this.relay_early(cx, &early);
        }
        let mut budget = POLL_BUDGET;
        loop {
            this.flush(cx, Peer::Client);
            this.flush(cx, Peer::Endpoint);
            this.inject(cx, Peer::Client);
            this.inject(cx, Peer::Endpoint);
            let moved = this.relay(cx, Peer::Client) + this.relay(cx, Peer::Endpoint);
            budget = budget.saturating_sub(moved);
            if moved > 0 && budget > 0 {
                continue;
            }
            if this.ending.is_some() && this.settle(cx, moved == 0) {
                return Poll::Ready(());
            }
            if budget == 0 {
                cx.waker().wake_by_ref(); // others first
            }
            return Poll::Pending;
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let (initiator, cause) = self.ending.unwrap_or((Initiator::Holdfast, Cause::Internal));
        for side in [&mut self.client, &mut self.endpoint] {
            self.worker.unqueue(side.abandon());
        }
        self.worker.delist(&self.slot);
        self.worker.shared.recorder.ended(
            &self.worker,
            &self.slot,
            &End {
                initiator,
                cause,
                mid_frame: self.mid_frame,
                told_client: self.client.told,
                told_endpoint: self.endpoint.told,
                client_said: self.client.said,
                endpoint_said: self.endpoint.said,
            },
        );
    }
}

/// Relaying.
impl Tunnel {
    fn side(&mut self, peer: Peer) -> &mut Side {
        match peer {
            Peer::Client => &mut self.client,
            Peer::Endpoint => &mut self.endpoint,
        }
    }

    /// The side that `from`'s bytes come from, and the one that they go to.
    fn sides(&mut self, from: Peer) -> (&mut Side, &mut Side) {
        match from {
            Peer::Client => (&mut self.client, &mut self.endpoint),
            Peer::Endpoint => (&mut self.endpoint, &mut self.client),
        }
    }

    /// Offers a side what is queued for it.
    fn flush(&mut self, cx: &mut Context<'_>, to: Peer) {
        if !self.side(to).is_queued() {
            return;
        }
        let worker = Rc::clone(&self.worker);
        let accepted = self.side(to).flush(cx);
        worker.unqueue(accepted);
        let queued = self.side(to).is_queued();
        let leg = self.slot.leg(to);
        if accepted > 0 {
            leg.life.set(worker.clock.now());
            leg.missed.set(0);
        }
        match (queued, accepted > 0 || leg.stalled.get().is_none()) {
            (true, true) => leg.stalled.set(Some(worker.clock.now())),
            (true, false) => {}
            (false, _) => leg.stalled.set(None),
        }
        if !queued && leg.patient.get() {
            self.set_patience(to, false);
        }
        self.slot.leg(other(to)).paused.set(queued);
    }

    /// Reads what `from` has sent, once, and passes it on. Returns the number of bytes.
    fn relay(&mut self, cx: &mut Context<'_>, from: Peer) -> usize {
        let worker = Rc::clone(&self.worker);
        let (source, dest) = self.sides(from);
        if source.ended || dest.is_queued() {
            return 0;
        }
        let mut scratch = worker.scratch.borrow_mut();
        let carried = source.take_carried(&mut scratch[..HEADROOM]);
        // Both directions together may leave no more behind than one read.
        let room = (READ - source.queued().min(READ - MIN_READ)) + HEADROOM;
        let read = source.read(cx, &mut scratch[HEADROOM..room]);
        let chunk = HEADROOM - carried..HEADROOM + read;
        if read == 0 {
            source.carry(&scratch[chunk]);
            if self.side(from).ended {
                self.note_end(from);
                return 1; // so that what follows from it is done in this poll
            }
            return 0;
        }
        let leg = self.slot.leg(from);
        leg.life.set(worker.clock.now());
        leg.missed.set(0);
        leg.bytes.set(leg.bytes.get() + read as u64);
        let messages = self.pass(cx, from, &scratch[chunk]);
        self.slot.metrics.relayed(worker.index, from, read as u64, messages);
        read
    }

    fn relay_early(&mut self, cx: &mut Context<'_>, early: &Early) {
        for (from, bytes) in [(Peer::Endpoint, &early.endpoint), (Peer::Client, &early.client)] {
            if !bytes.is_empty() {
                let leg = self.slot.leg(from);
                leg.bytes.set(leg.bytes.get() + bytes.len() as u64);
                let messages = self.pass(cx, from, bytes);
                self.slot
                    .metrics
                    .relayed(self.worker.index, from, bytes.len() as u64, messages);
            }
        }
    }

    /// Follows the frames of a chunk and sends it on, with what is to be put between two of them. Returns how many messages
    /// it completed.
    fn pass(&mut self, cx: &mut Context<'_>, from: Peer, chunk: &[u8]) -> u64 {
        let (mut sent, mut at, mut messages) = (0, 0, 0);
        let mut data = false;
        while at < chunk.len() {
            let wants = self.side(other(from)).wants;
            if wants != Want::NOTHING && self.side(from).follower.at_boundary() {
                self.send(cx, other(from), &chunk[sent..at]);
                sent = at;
                self.inject(cx, other(from));
            }
            let whole_pongs = self.slot.leg(from).outstanding.get() > 0;
            match self.side(from).follower.next(&chunk[at..], whole_pongs) {
                Next::Payload { len, message } => {
                    at += len;
                    data |= self.side(from).follower.is_data();
                    messages += u64::from(message);
                }
                Next::Header { header, len, message } => {
                    at += len;
                    data |= header.is_data();
                    messages += u64::from(message);
                    self.note_control(from, &header);
                }
                Next::Control { header, header_len, len } => {
                    let payload = &chunk[at + header_len..at + len];
                    let passes = self.take_control(from, &header, payload);
                    if !passes {
                        self.send(cx, other(from), &chunk[sent..at]);
                        sent = at + len;
                    }
                    at += len;
                    if header.opcode == opcode::CLOSE {
                        self.send(cx, other(from), &chunk[sent..at]);
                        sent = at;
                        self.closed(from, passes);
                    }
                }
                Next::Incomplete => break,
            }
        }
        self.send(cx, other(from), &chunk[sent..at]);
        self.side(from).carry(&chunk[at..]);
        if data {
            self.slot.last_message.set(self.worker.clock.now());
        }
        let leg = self.slot.leg(from);
        leg.messages.set(leg.messages.get() + messages);
        messages
    }

    /// Sends bytes to a side, or queues what it does not accept, or drops them if it takes nothing any more.
    fn send(&mut self, cx: &mut Context<'_>, to: Peer, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let queued = self.side(to).send(cx, bytes);
        if queued > 0 {
            self.worker.queue(queued);
            let now = self.worker.clock.now();
            let leg = self.slot.leg(to);
            leg.stalled.set(leg.stalled.get().or(Some(now)));
            self.slot.leg(other(to)).paused.set(true);
        }
    }
}

/// Control frames.
impl Tunnel {
    /// Puts in the frames that are wanted towards `to`, if its stream is between two frames.
    fn inject(&mut self, cx: &mut Context<'_>, to: Peer) {
        let (from, side) = self.sides(other(to));
        let wants = side.wants;
        if wants == Want::NOTHING || !from.follower.at_boundary() || side.out != Out::Open {
            return;
        }
        let mask = (to == Peer::Endpoint).then(|| self.worker.mask());
        if let Some(code) = wants.close {
            let reason = self.ending.map_or("", |(_, cause)| cause.close_reason());
            self.send(cx, to, frame::close(code, reason, mask).as_ref());
            let side = self.side(to);
            side.closed_with(Some(code));
            self.allow(self.slot.rule.timeouts.close_handshake);
            return;
        }
        self.side(to).wants.ping = false;
        if !self.side(to).is_queued() {
            let leg = self.slot.leg(to);
            if leg.token.get() == 0 {
                leg.token.set(self.worker.token().max(1));
            }
            leg.outstanding.set(leg.outstanding.get().saturating_add(1));
            leg.pinged.set(self.worker.clock.now());
            leg.pinged_millis.set(self.worker.clock.millis());
            let ping = frame::control(opcode::PING, &leg.token.get().to_be_bytes(), mask);
            self.send(cx, to, ping.as_ref());
        }
    }

    /// Notes a control frame that passes.
    fn note_control(&mut self, from: Peer, header: &Header) {
        match header.opcode {
            opcode::PING => self.slot.leg(other(from)).foreign_ping.set(Some(self.worker.clock.now())),
            opcode::PONG => self.slot.leg(from).foreign_ping.set(None),
            _ => {}
        }
    }

    /// Looks at a whole Close or Pong. Returns whether it passes.
    fn take_control(&mut self, from: Peer, header: &Header, payload: &[u8]) -> bool {
        let mut own = [0; frame::MAX_CONTROL_PAYLOAD];
        let own = &mut own[..payload.len()];
        own.copy_from_slice(payload);
        if let Some(key) = header.mask {
            frame::unmask(own, key);
        }
        if header.opcode == opcode::CLOSE {
            // 1005: a Close without a code (RFC 6455, section 7.1.5).
            let code = own.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
            let passes = match self.ending {
                Some((Initiator::Holdfast, _)) => false,
                // A side that was told by a Close of ours answers that one.
                Some((_, cause)) if cause != Cause::Closed => self.side(from).told.is_none(),
                _ => true,
            };
            let side = self.side(from);
            side.said = side.said.or(Some(code));
            return passes;
        }
        let leg = self.slot.leg(from);
        if own != leg.token.get().to_be_bytes() {
            leg.foreign_ping.set(None);
            return true;
        }
        leg.outstanding.set(leg.outstanding.get().saturating_sub(1));
        leg.answers.set(true);
        leg.missed.set(0);
        let millis = self.worker.clock.millis().wrapping_sub(leg.pinged_millis.get());
        leg.round_trip.set(Some(millis));
        self.worker
            .shared
            .metrics
            .shared()
            .heartbeat_answered(from, Duration::from_millis(u64::from(millis)));
        false
    }
}

/// Ending.
impl Tunnel {
    fn obey(&mut self, cx: &mut Context<'_>, orders: Orders) {
        if let Some(cause) = orders.end {
            self.begin_end(Initiator::Holdfast, cause);
        }
        if orders.deadline {
            self.deadline(cx);
        }
        if orders.settle_in {
            // Keepalive is for tunnels that are quiet for long; what accepted sockets inherit, dialled ones must be told. A
            // socket that is gone cannot be, and need not.
            let _ = socket::keep_alive(&self.endpoint.socket, &self.worker.shared.settings.endpoint_keepalive);
        }
        if let Some(peer) = orders.stalled {
            self.set_patience(peer, true);
        }
        if self.ending.is_none() {
            self.client.wants.ping |= orders.ping_client;
            self.endpoint.wants.ping |= orders.ping_endpoint;
        }
    }

    /// Tells TCP whether a leg is stalled, so that it does not end a slow reader as one that is gone.
    fn set_patience(&mut self, peer: Peer, stalled: bool) {
        let settings = &self.worker.shared.settings;
        let keepalive = match peer {
            Peer::Client => &settings.client_keepalive,
            Peer::Endpoint => &settings.endpoint_keepalive,
        };
        let send = stalled.then_some(self.slot.rule.timeouts.send);
        let side = match peer {
            Peer::Client => &self.client,
            Peer::Endpoint => &self.endpoint,
        };
        // A socket that is gone has no patience to set.
        let _ = socket::set_patience(&side.socket, keepalive, send);
        self.slot.leg(peer).patient.set(stalled);
    }

    /// Decides that the tunnel ends, why, and whom to tell.
    fn begin_end(&mut self, initiator: Initiator, cause: Cause) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some((initiator, cause));
        let codes = cause.codes();
        match cause {
            Cause::Reset | Cause::ClientVanished => self.endpoint.want_close(codes.endpoint),
            Cause::Memory => self.give_up_stalled(),
            _ => {}
        }
        self.client.want_close(codes.client);
        if self.client.ended {
            self.endpoint.want_close(codes.endpoint);
        }
        let patience = self.slot.rule.timeouts.close_handshake;
        match self.worker.drain_until.get() {
            // During a drain a boundary may come as late as the window's end.
            Some(until) if cause == Cause::Drain => self
                .slot
                .deadline
                .set(Some(until.max(self.worker.clock.now().plus(patience)))),
            _ => self.allow(patience),
        }
    }

    /// Frees what is queued for the stalled side; it is in the middle of something and can only be cut.
    fn give_up_stalled(&mut self) {
        for peer in [Peer::Client, Peer::Endpoint] {
            if self.side(peer).is_queued() {
                let freed = self.side(peer).abandon();
                self.worker.unqueue(freed);
                self.slot.leg(peer).stalled.set(None);
                self.slot.leg(other(peer)).paused.set(false);
                self.mid_frame = true;
            }
        }
        if self.client.out == Out::Dead {
            self.endpoint.want_close(Cause::Memory.codes().endpoint);
        }
    }

    /// A side's Close has gone by, or stopped here because the tunnel is ending anyway.
    fn closed(&mut self, from: Peer, passed: bool) {
        if passed {
            let said = self.side(from).said;
            let to = self.side(other(from));
            if to.out == Out::Open {
                to.closed_with(said);
            }
            let initiator = match from {
                Peer::Client => Initiator::Client,
                Peer::Endpoint => Initiator::Endpoint,
            };
            self.begin_end(initiator, Cause::Closed);
        } else if from == Peer::Client {
            self.tell_endpoint();
        }
    }

    /// The client has answered our Close, or is gone: now the endpoint is told.
    fn tell_endpoint(&mut self) {
        if let Some((Initiator::Holdfast | Initiator::Client, cause)) = self.ending
            && cause != Cause::Closed
        {
            self.endpoint.want_close(cause.codes().endpoint);
        }
    }

    /// A side has ended its TCP, or it broke.
    fn note_end(&mut self, from: Peer) {
        let side = self.side(from);
        let (said, vanished) = (side.said.is_some(), side.vanished);
        if !said {
            let (initiator, cause) = match (from, vanished) {
                (Peer::Client, false) => (Initiator::Client, Cause::Reset),
                (Peer::Client, true) => (Initiator::Holdfast, Cause::ClientVanished),
                (Peer::Endpoint, false) => (Initiator::Endpoint, Cause::EndpointGone),
                (Peer::Endpoint, true) => (Initiator::Holdfast, Cause::EndpointVanished),
            };
            self.begin_end(initiator, cause);
        }
        match (from, self.ending) {
            (Peer::Client, _) => self.tell_endpoint(),
            // The endpoint ended TCP without answering the client's Close; the answer is its own code, as RFC 6455, 5.5.1 suggests.
            (Peer::Endpoint, Some((Initiator::Client, Cause::Closed))) => {
                let answer = self
                    .client
                    .said
                    .filter(|code| matches!(code, 1000 | 1001 | 3000..=4999))
                    .unwrap_or(1000);
                self.client.want_close(Some(answer));
            }
            _ => {}
        }
    }

    /// Ends what can be ended of TCP, and says whether nothing is left to wait for. `quiet`: nothing is there to be read.
    fn settle(&mut self, cx: &mut Context<'_>, quiet: bool) -> bool {
        // A Close that is wanted towards a side whose stream will never reach a boundary again is not going to be sent.
        for to in [Peer::Client, Peer::Endpoint] {
            let (from, side) = self.sides(other(to));
            let never = (from.ended && !from.follower.at_boundary()) || from.follower.is_opaque();
            if side.wants.close.is_some() && never && side.out == Out::Open {
                side.wants = Want::NOTHING;
                self.mid_frame = true;
            }
        }
        let client_done = self.client.out == Out::Closed && (self.client.said.is_some() || self.client.ended);
        if quiet && client_done && self.endpoint.ended && !self.client.is_queued() {
            return true; // both have said and heard everything: closing the sockets is all that is left
        }
        if client_done || self.is_over(Peer::Client) || self.lingering {
            self.client.shut_down(cx);
        }
        // An endpoint that was told by a Close ends TCP itself, so that the waiting for late packets is on its ports.
        if self.lingering || (self.endpoint.out == Out::Open && self.is_over(Peer::Endpoint)) {
            self.endpoint.shut_down(cx);
        }
        self.client.ended && self.endpoint.ended && !self.client.is_queued() && !self.endpoint.is_queued()
    }

    /// Whether nothing more can come for `to`: its source has ended and no Close of ours is on its way.
    fn is_over(&mut self, to: Peer) -> bool {
        let (from, side) = self.sides(other(to));
        from.ended && side.wants.close.is_none()
    }

    /// The time for the Close frames is over, or that for TCP.
    fn deadline(&mut self, cx: &mut Context<'_>) {
        if self.lingering {
            self.worker.unqueue(self.client.abandon() + self.endpoint.abandon());
            self.client.ended = true;
            self.endpoint.ended = true;
            return;
        }
        self.lingering = true;
        // A client that has not answered by now will not; the endpoint need not suffer for it.
        self.tell_endpoint();
        self.inject(cx, Peer::Endpoint);
        self.mid_frame |= self.client.wants.close.is_some() || self.endpoint.wants.close.is_some();
        for side in [&mut self.client, &mut self.endpoint] {
            side.wants = Want::NOTHING;
            self.worker.unqueue(side.stop());
        }
        self.allow(LINGER);
    }

    fn allow(&mut self, time: Duration) {
        self.slot.deadline.set(Some(self.worker.clock.now().plus(time)));
    }
}

fn other(peer: Peer) -> Peer {
    match peer {
        Peer::Client => Peer::Endpoint,
        Peer::Endpoint => Peer::Client,
    }
}

/// Bytes that one poll may move before other tasks get their turn.
const POLL_BUDGET: usize = 128 * 1024;

/// The least that is read at once, however much is queued in the other direction.
const MIN_READ: usize = 4 * 1024;

/// How long a side may take to end TCP once everything is said.
const LINGER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_tunnel_is_its_task_and_its_slot_and_both_are_small() {
        assert!(
            size_of::<Tunnel>() <= 256,
            "{} B: a task is as large as its future",
            size_of::<Tunnel>()
        );
        assert!(size_of::<Slot>() <= 384, "{} B", size_of::<Slot>());
    }
}
