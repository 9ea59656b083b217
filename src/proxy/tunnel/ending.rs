//! How a tunnel ends: decided once, told once to each side, and then TCP.

use std::{task::Context, time::Duration};

use super::{
    Tunnel, other,
    side::{Out, Want},
};
use crate::proxy::{
    clock::{Tick, ticks},
    end::{Cause, Initiator},
    health,
    slot::{Orders, Peer},
    socket,
};

impl Tunnel {
    pub(super) fn obey(&mut self, cx: &mut Context<'_>, orders: Orders) {
        if let Some(cause) = orders.end {
            self.begin_end(Initiator::Holdfast, cause);
        }
        if orders.deadline {
            self.deadline(cx);
        }
        if orders.settle_in {
            // Keepalive is for tunnels that are quiet for long; what accepted sockets inherit, dialled ones must be told. A
            // socket that is gone cannot be, and need not.
            let _ = socket::keep_alive(self.endpoint.socket.tcp(), &self.worker.shared.settings.endpoint_keepalive);
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
    pub(super) fn set_patience(&mut self, peer: Peer, stalled: bool) {
        let settings = &self.worker.shared.settings;
        let keepalive = match peer {
            Peer::Client => &settings.client_keepalive,
            Peer::Endpoint => &settings.endpoint_keepalive,
        };
        let send = stalled.then_some(self.slot.of.rule.timeouts.send);
        // A socket that is gone has no patience to set.
        let _ = socket::set_patience(self.at(peer).socket.tcp(), keepalive, send);
        self.slot.leg(peer).patient.set(stalled);
    }

    /// Decides that the tunnel ends, why, and whom to tell.
    pub(super) fn begin_end(&mut self, initiator: Initiator, cause: Cause) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some((initiator, cause));
        health::ends(&self.worker.shared, &self.slot, initiator, cause, self.endpoint.said);
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
        let patience = self.slot.of.rule.timeouts.close_handshake;
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
    pub(super) fn give_up_stalled(&mut self) {
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
    pub(super) fn closed(&mut self, from: Peer, passed: bool) {
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
    pub(super) fn tell_endpoint(&mut self) {
        if let Some((Initiator::Holdfast | Initiator::Client, cause)) = self.ending
            && cause != Cause::Closed
        {
            self.endpoint.want_close(cause.codes().endpoint);
        }
    }

    /// A side has ended its TCP, or it broke.
    pub(super) fn note_end(&mut self, from: Peer) {
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
    pub(super) fn settle(&mut self, cx: &mut Context<'_>, quiet: bool) -> bool {
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
        if quiet && client_done && self.endpoint.ended && !self.client.is_queued() && !self.endpoint.is_queued() {
            // Both have said and heard everything: closing the sockets is all that is left, but TLS has a last word.
            let queued = self.client.say_goodbye(cx) + self.endpoint.say_goodbye(cx);
            self.worker.queue(queued);
            return queued == 0;
        }
        if client_done || self.is_over(Peer::Client) || self.lingering {
            let queued = self.client.shut_down(cx);
            self.worker.queue(queued);
        }
        // An endpoint that was told by a Close ends TCP itself, so that the waiting for late packets is on its ports.
        if self.lingering || (self.endpoint.out == Out::Open && self.is_over(Peer::Endpoint)) {
            let queued = self.endpoint.shut_down(cx);
            self.worker.queue(queued);
        }
        self.client.ended && self.endpoint.ended && !self.client.is_queued() && !self.endpoint.is_queued()
    }

    /// Whether nothing more can come for `to`: its source has ended and no Close of ours is on its way.
    pub(super) fn is_over(&mut self, to: Peer) -> bool {
        let (from, side) = self.sides(other(to));
        from.ended && side.wants.close.is_none()
    }

    /// The time for the Close frames is over, or that for TCP.
    pub(super) fn deadline(&mut self, cx: &mut Context<'_>) {
        if self.lingering {
            self.worker.unqueue(self.client.abandon() + self.endpoint.abandon());
            self.client.ended = true;
            self.endpoint.ended = true;
            return;
        }
        if self.is_owed() {
            return self.allow(Duration::from_secs(1));
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

    /// Whether a side may still take what was sent to it before the end: it has as long for that as for any other byte, unless
    /// a drain is over or memory is short.
    fn is_owed(&mut self) -> bool {
        let now = self.worker.clock.now();
        let is_drained = self.worker.drain_until.get().is_some_and(|until| now >= until);
        let is_short = self.worker.queued.get() > self.worker.shared.settings.queue_budget;
        let send = ticks(self.slot.of.rule.timeouts.send);
        let is_slow = |since: Tick| now.since(since) < send; // without a send timeout an end would have no bound
        let owed = |peer| self.side(peer).is_queued() && self.slot.leg(peer).stalled.get().is_some_and(is_slow);
        !is_drained && !is_short && [Peer::Client, Peer::Endpoint].into_iter().any(owed)
    }

    pub(super) fn allow(&mut self, time: Duration) {
        self.slot.deadline.set(Some(self.worker.clock.now().plus(time)));
    }
}

/// How long a side may take to end TCP once everything is said.
const LINGER: Duration = Duration::from_secs(2);
