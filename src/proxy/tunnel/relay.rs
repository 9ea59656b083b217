//! Bytes from one side to the other: read once, followed by their headers, written at once, kept only where refused.

use std::{rc::Rc, task::Context};

use super::{Early, Tunnel, other, side::Want};
use crate::proxy::{
    frame::{Next, opcode},
    slot::Peer,
    worker::{HEADROOM, READ},
};

impl Tunnel {
    /// Offers a side what is queued for it.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>, to: Peer) {
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
    pub(super) fn relay(&mut self, cx: &mut Context<'_>, from: Peer) -> usize {
        let worker = Rc::clone(&self.worker);
        let (source, dest) = self.sides(from);
        if source.ended || dest.is_queued() || self.is_delayed(from) {
            return 0;
        }
        let allowance = self.allowance(from);
        let source = self.side(from);
        let mut scratch = worker.scratch.borrow_mut();
        let carried = source.take_carried(&mut scratch[..HEADROOM]);
        // Both directions together may leave no more behind than one read.
        let room = (READ - source.queued().min(READ - MIN_READ)).min(allowance) + HEADROOM;
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
        self.pass_counted(cx, from, &scratch[chunk], read);
        read
    }

    pub(super) fn relay_early(&mut self, cx: &mut Context<'_>, early: &Early) {
        for (from, bytes) in [(Peer::Endpoint, &early.endpoint), (Peer::Client, &early.client)] {
            if !bytes.is_empty() {
                self.pass_counted(cx, from, bytes, bytes.len());
            }
        }
    }

    /// Passes a chunk on of which `fresh` bytes were not counted before.
    fn pass_counted(&mut self, cx: &mut Context<'_>, from: Peer, chunk: &[u8], fresh: usize) {
        let leg = self.slot.leg(from);
        leg.bytes.set(leg.bytes.get() + fresh as u64);
        let messages = self.pass(cx, from, chunk);
        self.slot.of.metrics.relayed(self.worker.index, from, fresh as u64, messages);
    }

    /// Follows the frames of a chunk and sends it on, with what is to be put between two of them. Returns how many messages
    /// it completed.
    pub(super) fn pass(&mut self, cx: &mut Context<'_>, from: Peer, chunk: &[u8]) -> u64 {
        let (mut sent, mut at, mut messages) = (0, 0, 0);
        let mut data = false;
        let metered = self.meters.is_some();
        let now = if metered { self.worker.clock.nanos() } else { 0 };
        while at < chunk.len() {
            let wants = self.side(other(from)).wants;
            if wants != Want::NOTHING && self.side(from).follower.at_boundary() {
                self.send(cx, other(from), &chunk[sent..at]);
                sent = at;
                self.inject(cx, other(from));
            }
            if metered && !self.admit(from, &chunk[at..], now) {
                continue; // a Close goes in here
            }
            let whole_pongs = self.slot.leg(from).outstanding.get() > 0;
            match self.side(from).follower.next(&chunk[at..], whole_pongs) {
                Next::Payload { len, message } => {
                    at += len;
                    data |= self.side(from).follower.is_data();
                    messages += u64::from(message);
                    if metered {
                        self.charge(from, len, now);
                    }
                }
                Next::Header { header, len, message } => {
                    at += len;
                    data |= header.is_data();
                    messages += u64::from(message);
                    self.note_control(from, &header);
                }
                Next::Control { header, header_len, len } => {
                    let payload = &chunk[at + header_len..at + len];
                    let mut passes = self.take_control(from, &header, payload);
                    if metered && passes && header.opcode == opcode::PONG {
                        passes = self.admit_pong(from, len, now);
                    }
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
        if metered {
            self.pace(from, now);
        }
        messages
    }

    /// Sends bytes to a side, or queues what it does not accept, or drops them if it takes nothing any more.
    pub(super) fn send(&mut self, cx: &mut Context<'_>, to: Peer, bytes: &[u8]) {
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

/// The least that is read at once, however much is queued in the other direction.
const MIN_READ: usize = 4 * 1024;
