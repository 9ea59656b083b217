//! How much the sides of a tunnel send, and how large, where their rule limits it.
//!
//! The relay asks before a frame begins and tells of bytes that passed. A frame that is too much does not pass, not even its
//! header: the stream stays between two frames, and a Close goes there. A side that is to be slowed down is not read for a
//! while, and nothing is kept for it. A tunnel without limits has no meters, and pays a branch for that.

use super::{Tunnel, other, side::Out};
use crate::{
    proxy::{
        end::{Cause, Excess, Initiator},
        frame::{Header, MAX_CONTROL_PAYLOAD},
        metrics::Outcome,
        slot::{Peer, Slot},
        worker::READ,
    },
    routing::{
        rate::Used,
        tunnel_limits::{OnExceeded, SideLimits},
    },
};

/// The meters of both sides.
#[derive(Debug, Default)]
pub(super) struct Meters([Meter; 2]);

/// What one side has used of its limits.
#[derive(Debug, Default)]
struct Meter {
    messages: Used,
    bytes: Used,
    control_frames: Used,
    /// Payload of the message under way, as its frames' headers say.
    message: u64,
    /// Whether frames of that message are still to come.
    is_in_message: bool,
    delay: Option<Delay>,
}

/// A side is not read. Both on the worker's clock, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Delay {
    since: u64,
    until: u64,
}

impl Meters {
    /// Those for a tunnel, if its rule limits anything.
    pub fn of(slot: &Slot) -> Option<Box<Self>> {
        slot.of.rule.tunnel_limits().map(|_| Box::default())
    }

    fn of_side(&mut self, peer: Peer) -> &mut Meter {
        &mut self.0[peer as usize]
    }
}

/// The limits of what a side sends.
fn limits(slot: &Slot, from: Peer) -> Option<&SideLimits> {
    let limits = slot.of.rule.tunnel_limits()?;
    match from {
        Peer::Client => limits.from_client.as_ref(),
        Peer::Endpoint => limits.from_endpoint.as_ref(),
    }
}

impl Tunnel {
    /// Judges the frame whose header `rest` begins with. False: it does not pass, and a Close is wanted in its place.
    pub(super) fn admit(&mut self, from: Peer, rest: &[u8], now: u64) -> bool {
        let whole_pongs = self.slot.leg(from).outstanding.get() > 0;
        match self.side(from).follower.peek(rest, whole_pongs) {
            Some((header, len)) => self.judge(from, |meter, limits| meter.admit(limits, &header, len as u64, now)),
            None => true,
        }
    }

    /// The same for a Pong that is looked at as a whole, and is no answer to a ping of ours.
    pub(super) fn admit_pong(&mut self, from: Peer, len: usize, now: u64) -> bool {
        self.judge(from, |meter, limits| meter.admit_pong(limits, len as u64, now))
    }

    /// Notes that bytes of payload pass.
    pub(super) fn charge(&mut self, from: Peer, len: usize, now: u64) {
        self.judge(from, |meter, limits| meter.charge(limits, len as u64, now));
    }

    fn judge(&mut self, from: Peer, judge: impl FnOnce(&mut Meter, &SideLimits) -> Result<(), Excess>) -> bool {
        if self.at(other(from)).out != Out::Open {
            return true; // it does not pass anyway
        }
        let (Some(meters), Some(limits)) = (&mut self.meters, limits(&self.slot, from)) else {
            return true;
        };
        let Err(excess) = judge(meters.of_side(from), limits) else {
            return true;
        };
        if limits.is_dry_run {
            self.count(from, excess, Outcome::DryRun);
            return true;
        }
        if self.at(other(from)).wants.close.is_none() {
            self.count(from, excess, Outcome::Closed);
        }
        self.refuse(from, excess);
        false
    }

    /// Ends the tunnel because of what a side sent. The other side is told at once: what follows is not for it any more.
    fn refuse(&mut self, from: Peer, excess: Excess) {
        let cause = Cause::exceeded(excess, from);
        self.begin_end(Initiator::Holdfast, cause);
        let codes = cause.codes();
        let code = match other(from) {
            Peer::Client => codes.client,
            Peer::Endpoint => codes.endpoint,
        };
        self.side(other(from)).want_close(code);
    }

    fn count(&self, from: Peer, excess: Excess, outcome: Outcome) {
        self.slot.of.metrics.tunnel_limited(self.worker.index, from, excess, outcome);
    }

    /// Stops the reading of a side that owes more than it may, and has it taken up again when that is paid.
    pub(super) fn pace(&mut self, from: Peer, now: u64) {
        if !self.is_paced(from) {
            return;
        }
        let (Some(meters), Some(limits)) = (&mut self.meters, limits(&self.slot, from)) else {
            return;
        };
        let meter = meters.of_side(from);
        let (until, excess) = meter.paid_at(limits);
        if until <= now {
            return;
        }
        meter.delay = Some(Delay { since: now, until });
        self.slot.leg(from).delayed.set(true);
        self.worker.delays.add(until, &self.slot);
        self.count(from, excess, Outcome::Delayed);
    }

    /// Whether a side is not to be read for now.
    pub(super) fn is_delayed(&mut self, from: Peer) -> bool {
        let Some(delay) = self.meters.as_mut().and_then(|meters| meters.of_side(from).delay) else {
            return false;
        };
        let now = self.worker.clock.nanos();
        if now < delay.until && self.is_paced(from) {
            return true;
        }
        if let Some(meters) = &mut self.meters {
            meters.of_side(from).delay = None;
        }
        self.slot.leg(from).delayed.set(false);
        let took = now.saturating_sub(delay.since);
        self.slot.of.metrics.delayed(self.worker.index, from, took);
        false
    }

    /// Whether a side that owes too much is read no further. What ends for another reason is not slowed down: the client's Close
    /// comes behind what it sent before. The rest of a frame in which a side exceeded its rate is.
    fn is_paced(&self, from: Peer) -> bool {
        let Some(limits) = limits(&self.slot, from) else {
            return false;
        };
        let (source, dest) = (self.at(from), self.at(other(from)));
        let applies = match self.ending {
            None => limits.on_exceeded == OnExceeded::Delay,
            Some((_, cause)) => cause == Cause::exceeded(Excess::ByteRate, from),
        };
        applies && !limits.is_dry_run && dest.out == Out::Open && source.out != Out::Dead
    }

    /// How much may be read from a side at once, so that it does not come to owe much.
    pub(super) fn allowance(&mut self, from: Peer) -> usize {
        if self.meters.is_none() || !self.is_paced(from) {
            return READ;
        }
        let remaining = self.at(from).follower.remaining();
        let (Some(meters), Some(limits)) = (&mut self.meters, limits(&self.slot, from)) else {
            return READ;
        };
        let (meter, now) = (meters.of_side(from), self.worker.clock.nanos());
        let mut room = READ as u64;
        if let Some(rate) = &limits.messages {
            let leg = self.slot.leg(from);
            let size = leg.bytes.get().checked_div(leg.messages.get()).unwrap_or(SMALL);
            let whole = meter.messages.left(rate, now).max(1).saturating_mul(size.max(SMALL));
            room = room.min(whole.saturating_add(remaining));
        }
        if let Some(rate) = &limits.bytes {
            room = room.min(meter.bytes.left(rate, now).max(PIECE));
        }
        room as usize
    }
}

impl Meter {
    fn admit(&mut self, limits: &SideLimits, header: &Header, len: u64, now: u64) -> Result<(), Excess> {
        let begins_message = self.measure(header);
        let max_frame = match header.is_data() {
            true => limits.max_frame,
            false => limits.max_frame.map(|max| max.max(MAX_CONTROL_PAYLOAD as u64)),
        };
        if max_frame.is_some_and(|max| header.payload > max) {
            return Err(Excess::FrameTooLarge);
        }
        if header.is_data() && limits.max_message.is_some_and(|max| self.message > max) {
            return Err(Excess::MessageTooLarge);
        }
        if begins_message {
            self.admit_message(limits, now)?;
        }
        if is_control(header) {
            self.admit_control(limits, now)?;
        }
        self.charge(limits, len, now)
    }

    fn admit_pong(&mut self, limits: &SideLimits, len: u64, now: u64) -> Result<(), Excess> {
        self.admit_control(limits, now)?;
        self.charge(limits, len, now)
    }

    fn admit_message(&mut self, limits: &SideLimits, now: u64) -> Result<(), Excess> {
        let Some(rate) = &limits.messages else { return Ok(()) };
        if limits.on_exceeded == OnExceeded::Delay && !limits.is_dry_run {
            self.messages.owe(rate, 1, now);
            return Ok(());
        }
        match self.messages.take(rate, 1, now) {
            true => Ok(()),
            false => Err(Excess::MessageRate),
        }
    }

    fn admit_control(&mut self, limits: &SideLimits, now: u64) -> Result<(), Excess> {
        match &limits.control_frames {
            Some(rate) if !self.control_frames.take(rate, 1, now) => Err(Excess::ControlFlood),
            _ => Ok(()),
        }
    }

    fn charge(&mut self, limits: &SideLimits, len: u64, now: u64) -> Result<(), Excess> {
        let Some(rate) = &limits.bytes else { return Ok(()) };
        let allowed = match limits.is_dry_run {
            true => self.bytes.take(rate, len, now),
            false => self.bytes.owe(rate, len, now) || limits.on_exceeded == OnExceeded::Delay,
        };
        match allowed {
            true => Ok(()),
            false => Err(Excess::ByteRate),
        }
    }

    /// Adds a frame to the message that it is part of; whether it begins one. Frames in an order that makes no sense are not
    /// ours to judge, but none is free.
    fn measure(&mut self, header: &Header) -> bool {
        if !header.is_data() {
            return false;
        }
        let begins = header.opcode != 0 || !self.is_in_message;
        let before = if begins { 0 } else { self.message };
        self.message = before.saturating_add(header.payload);
        self.is_in_message = !header.fin;
        begins
    }

    /// The moment from which nothing is owed, and of what the most is.
    fn paid_at(&self, limits: &SideLimits) -> (u64, Excess) {
        let messages = limits.messages.as_ref().map_or(0, |rate| self.messages.paid_at(rate));
        let bytes = limits.bytes.as_ref().map_or(0, |rate| self.bytes.paid_at(rate));
        if messages > bytes {
            (messages, Excess::MessageRate)
        } else {
            (bytes, Excess::ByteRate)
        }
    }
}

/// Whether a frame costs its receiver work and brings nothing of a message. Of those that are not looked at as a whole, a Close
/// is too long to be one.
fn is_control(header: &Header) -> bool {
    !header.is_data() || (header.payload == 0 && !header.fin)
}

/// Bytes of a small message, for a side that has sent none.
const SMALL: u64 = 16;
/// The least that is read at once of a side whose bytes are paced: less would be paid for in wake-ups.
const PIECE: u64 = 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        proxy::frame::{Follower, Next, opcode},
        routing::rate::Rate,
    };

    /// A frame of a client: its first byte, and how long it is.
    type Sent = (u8, usize);

    fn stream(frames: &[Sent]) -> Vec<u8> {
        let mut out = Vec::new();
        for (first, len) in frames {
            out.push(*first);
            match len {
                len @ 0..=125 => out.push(0x80 | *len as u8),
                len => {
                    out.push(0x80 | 126);
                    out.extend((*len as u16).to_be_bytes());
                }
            }
            out.extend([0; 4]);
            out.resize(out.len() + len, 7);
        }
        out
    }

    /// How many bytes of a stream pass before its first frame that does not, and why that does not, as the relay follows it.
    fn follow(limits: &SideLimits, stream: &[u8], cuts: &[usize]) -> (usize, Option<Excess>) {
        let (mut meter, mut follower, mut at, mut verdict) = (Meter::default(), Follower::default(), 0, None);
        let mut edges: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
        edges.push(stream.len());
        edges.sort_unstable();
        for edge in edges {
            while at < edge {
                if follower.at_boundary() && verdict.is_some() {
                    return (at, verdict); // the Close goes here
                }
                if let Some((header, len)) = follower.peek(&stream[at..edge], false)
                    && let Err(excess) = meter.admit(limits, &header, len as u64, 0)
                {
                    return (at, Some(excess));
                }
                match follower.next(&stream[at..edge], false) {
                    Next::Header { len, .. } => at += len,
                    Next::Control { len, .. } => at += len,
                    Next::Payload { len, .. } => {
                        verdict = verdict.or(meter.charge(limits, len as u64, 0).err());
                        at += len;
                    }
                    Next::Incomplete => break,
                }
            }
        }
        (at, verdict)
    }

    fn first() -> impl Strategy<Value = u8> {
        let opcode = prop_oneof![6 => 0..3u8, 1 => Just(opcode::PING), 1 => Just(opcode::PONG), 1 => Just(opcode::CLOSE)];
        (any::<bool>(), opcode).prop_map(|(fin, opcode)| u8::from(fin) << 7 | opcode)
    }

    fn rate() -> impl Strategy<Value = Option<Rate>> {
        prop::option::of((1..1000u32).prop_map(|burst| Rate::new(1, Duration::from_secs(1), burst)))
    }

    fn limits() -> impl Strategy<Value = SideLimits> {
        let size = || prop::option::of(0..400u64);
        let count = prop::option::of((1..8u32).prop_map(|burst| Rate::new(1, Duration::from_secs(1), burst)));
        (count.clone(), rate(), count, size(), size()).prop_map(|(messages, bytes, control_frames, max_frame, max_message)| {
            SideLimits {
                messages,
                bytes,
                control_frames,
                max_frame,
                max_message,
                ..SideLimits::default()
            }
        })
    }

    proptest! {
        #[test]
        fn any_chunking_of_a_stream_has_the_same_verdict(
            frames in prop::collection::vec((first(), 0..300usize), 1..12),
            limits in limits(),
            cuts in prop::collection::vec(any::<usize>(), 0..60),
        ) {
            let stream = stream(&frames);
            let whole = follow(&limits, &stream, &[]);
            prop_assert_eq!(follow(&limits, &stream, &cuts), whole);
            let mut ends = vec![0];
            for frame in &frames {
                ends.push(ends[ends.len() - 1] + self::stream(&[*frame]).len());
            }
            prop_assert!(ends.contains(&whole.0), "a Close would go into a frame, at {}", whole.0);
        }

        #[test]
        fn what_passes_is_within_every_limit(
            frames in prop::collection::vec((first(), 0..300usize), 1..12),
            limits in limits(),
        ) {
            let (passed, _) = follow(&limits, &stream(&frames), &[]);
            let mut at = 0;
            let (mut messages, mut message, mut controls, mut is_in_message) = (0, 0, 0, false);
            for (first, len) in frames {
                at += stream(&[(first, len)]).len();
                if at > passed {
                    break;
                }
                let (fin, opcode) = (first & 0x80 != 0, first & 0xF);
                if opcode == opcode::CLOSE && len <= 125 {
                    continue;
                }
                controls += u64::from(opcode > 7 || (!fin && len == 0));
                if opcode <= 7 {
                    let begins = opcode != 0 || !is_in_message;
                    (messages, message) = if begins { (messages + 1, len) } else { (messages, message + len) };
                    is_in_message = !fin;
                    prop_assert!(limits.max_message.is_none_or(|max| message as u64 <= max));
                }
                let max_frame = limits.max_frame.map(|max| if opcode > 7 { max.max(125) } else { max });
                prop_assert!(max_frame.is_none_or(|max| len as u64 <= max));
            }
            let within = |rate: &Option<Rate>, units| rate.is_none_or(|rate| units <= Used::default().left(&rate, 0));
            prop_assert!(within(&limits.messages, messages) && within(&limits.control_frames, controls));
        }
    }

    #[test]
    fn a_length_that_is_no_framing_is_too_large() {
        let limits = SideLimits {
            max_message: Some(1000),
            ..SideLimits::default()
        };
        let stream = [0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 7];
        assert_eq!(follow(&limits, &stream, &[]), (0, Some(Excess::MessageTooLarge)));
        assert_eq!(follow(&SideLimits::default(), &stream, &[]), (stream.len(), None));
    }
}
