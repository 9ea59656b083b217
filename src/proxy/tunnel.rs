//! A tunnel: two sockets, the frames between them, and how that ends.
//!
//! Spawned by the upgrade once the client has its 101; runs in a task of its own that is as small as it can be, because an
//! idle tunnel costs what its task costs. It owns no buffer while both sides keep up: a read goes into the worker's scratch
//! and out at once, and only what a socket refused is kept. It has no timer: the sweep leaves orders in its slot, and `delay` wakes
//! it where a side was not read for a while.

mod control;
mod ending;
mod meter;
mod relay;
mod side;

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use super::{
    end::{Cause, Initiator},
    slot::{Orders, Peer, Slot},
    stream::Stream,
    worker::Worker,
};
use meter::Meters;
use side::Side;

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
    /// `None`: the rule limits nothing inside a tunnel.
    meters: Option<Box<Meters>>,
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
    /// A tunnel between two connections whose handshakes are over.
    pub fn new(client: Stream, endpoint: Stream, early: Early, slot: Rc<Slot>, worker: Rc<Worker>) -> Self {
        let early = (!early.client.is_empty() || !early.endpoint.is_empty()).then(|| Box::new(early));
        Self {
            client: Side::new(client),
            endpoint: Side::new(endpoint),
            meters: Meters::of(&slot),
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
        self.worker.slots.remove(&self.slot);
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

impl Tunnel {
    fn side(&mut self, peer: Peer) -> &mut Side {
        match peer {
            Peer::Client => &mut self.client,
            Peer::Endpoint => &mut self.endpoint,
        }
    }

    /// The same, to be looked at.
    fn at(&self, peer: Peer) -> &Side {
        match peer {
            Peer::Client => &self.client,
            Peer::Endpoint => &self.endpoint,
        }
    }

    /// The side that `from`'s bytes come from, and the one that they go to.
    fn sides(&mut self, from: Peer) -> (&mut Side, &mut Side) {
        match from {
            Peer::Client => (&mut self.client, &mut self.endpoint),
            Peer::Endpoint => (&mut self.endpoint, &mut self.client),
        }
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
        // With the two counts in front of it, this is all that the allocator has in its class of 384 bytes.
        assert!(size_of::<Slot>() <= 368, "{} B", size_of::<Slot>());
    }
}
