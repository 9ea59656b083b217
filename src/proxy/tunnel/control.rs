//! Control frames: the Pings and Closes that Holdfast puts between two frames, and those of the two sides that it looks at.

use std::{task::Context, time::Duration};

use super::{
    Tunnel, other,
    side::{Out, Want},
};
use crate::proxy::{
    end::{Cause, Initiator},
    frame::{self, Header, opcode},
    slot::Peer,
};

impl Tunnel {
    /// Puts in the frames that are wanted towards `to`, if its stream is between two frames.
    pub(super) fn inject(&mut self, cx: &mut Context<'_>, to: Peer) {
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
            self.allow(self.slot.of.rule.timeouts.close_handshake);
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
    pub(super) fn note_control(&mut self, from: Peer, header: &Header) {
        match header.opcode {
            opcode::PING => self.slot.leg(other(from)).foreign_ping.set(Some(self.worker.clock.now())),
            opcode::PONG => self.slot.leg(from).foreign_ping.set(None),
            _ => {}
        }
    }

    /// Looks at a whole Close or Pong. Returns whether it passes.
    pub(super) fn take_control(&mut self, from: Peer, header: &Header, payload: &[u8]) -> bool {
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
