//! Follows WebSocket framing (RFC 6455, section 5.2) by its headers alone, so that a frame of our own can go between two
//! frames of a stream. It never holds payload and never judges what it reads: that is the two sides' business.

/// Largest payload of a control frame (RFC 6455, section 5.5).
pub const MAX_CONTROL_PAYLOAD: usize = 125;

/// Largest control frame: 2 bytes of header, 4 of mask, 125 of payload.
pub const MAX_CONTROL_FRAME: usize = 2 + 4 + MAX_CONTROL_PAYLOAD;

/// The opcodes that Holdfast looks at.
pub mod opcode {
    pub const CLOSE: u8 = 0x8;
    pub const PING: u8 = 0x9;
    pub const PONG: u8 = 0xA;
}

/// The header of one frame, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub fin: bool,
    pub opcode: u8,
    /// As it was on the wire, whatever the direction demands.
    pub mask: Option<[u8; 4]>,
    pub payload: u64,
}

impl Header {
    pub fn is_data(&self) -> bool {
        self.opcode & 0x8 == 0
    }
}

/// What lies at the front of a stream's next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// `len` bytes of payload, or of a direction that is opaque. `message`: they end a message.
    Payload { len: usize, message: bool },
    /// A frame's header of `len` bytes; its payload follows. `message`: the frame has no payload and ends a message.
    Header { header: Header, len: usize, message: bool },
    /// A whole control frame of `len` bytes, `header_len` of them header: one of those that are wanted whole.
    Control { header: Header, header_len: usize, len: usize },
    /// The beginning of a header, or of a control frame that is wanted whole: to be given again with what follows it.
    Incomplete,
}

/// Follows one direction of a tunnel. The bytes given to [`Follower::next`] begin where the last call's ended.
#[derive(Clone, Debug, Default)]
pub struct Follower {
    /// Payload bytes of the current frame that are still to come.
    remaining: u64,
    /// Whether the current frame ends a message.
    ends_message: bool,
    /// Whether the current frame is part of a message, as opposed to a control frame.
    is_data: bool,
    opaque: bool,
}

impl Follower {
    /// Whether a frame may be put in here: the last one is complete.
    pub fn at_boundary(&self) -> bool {
        self.remaining == 0 && !self.opaque
    }

    /// Whether the payload that came last is part of a message. Bytes that are no framing count as such.
    pub fn is_data(&self) -> bool {
        self.is_data
    }

    /// Whether bytes came that cannot be framing (a 64-bit length with the top bit set). From there on nothing is known.
    pub fn is_opaque(&self) -> bool {
        self.opaque
    }

    /// Payload bytes of the current frame that are still to come.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// The header, and its length, of the frame that the next call of [`Follower::next`] with these bytes begins to pass. `None`
    /// inside a frame, before all of a header is there, and for a frame that is wanted whole.
    pub fn peek(&self, bytes: &[u8], whole_pongs: bool) -> Option<(Header, usize)> {
        if !self.at_boundary() {
            return None;
        }
        decode(bytes).filter(|(header, len)| !is_wanted_whole(header, *len, whole_pongs))
    }

    /// Says what the first of `bytes` are, and moves past them. Close frames are always wanted whole, Pongs if `whole_pongs`.
    pub fn next(&mut self, bytes: &[u8], whole_pongs: bool) -> Next {
        if self.opaque {
            return Next::Payload {
                len: bytes.len(),
                message: false,
            };
        }
        if self.remaining > 0 {
            let len = usize::try_from(self.remaining).map_or(bytes.len(), |remaining| remaining.min(bytes.len()));
            self.remaining -= len as u64;
            return Next::Payload {
                len,
                message: self.remaining == 0 && self.ends_message,
            };
        }
        let Some((header, header_len)) = decode(bytes) else {
            return Next::Incomplete;
        };
        if header.payload >> 63 != 0 {
            self.opaque = true;
            self.is_data = true;
            return Next::Payload {
                len: bytes.len(),
                message: false,
            };
        }
        if is_wanted_whole(&header, header_len, whole_pongs) {
            let len = header_len + header.payload as usize;
            return if bytes.len() >= len {
                Next::Control { header, header_len, len }
            } else {
                Next::Incomplete
            };
        }
        self.remaining = header.payload;
        self.is_data = header.is_data();
        self.ends_message = header.fin && self.is_data;
        Next::Header {
            header,
            len: header_len,
            message: self.ends_message && header.payload == 0,
        }
    }
}

/// Whether a frame is to be looked at once all of it is there: one that is no longer than a control frame may be.
fn is_wanted_whole(header: &Header, header_len: usize, whole_pongs: bool) -> bool {
    let whole = header.opcode == opcode::CLOSE || (whole_pongs && header.opcode == opcode::PONG);
    whole && header_len <= 6 && header.payload <= MAX_CONTROL_PAYLOAD as u64
}

/// The header that `bytes` begin with and its length, if all of it is there.
fn decode(bytes: &[u8]) -> Option<(Header, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (payload, at) = match second & 0x7F {
        126 => (u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10),
        short => (u64::from(short), 2),
    };
    let (mask, len) = match second & 0x80 {
        0 => (None, at),
        _ => (Some(*bytes.get(at..)?.first_chunk()?), at + 4),
    };
    Some((
        Header {
            fin: first & 0x80 != 0,
            opcode: first & 0x0F,
            mask,
            payload,
        },
        len,
    ))
}

/// A control frame of our own, ready to be written. `mask`: towards an endpoint always, towards a client never.
pub fn control(opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) -> ControlFrame {
    let payload = &payload[..payload.len().min(MAX_CONTROL_PAYLOAD)];
    let mut bytes = [0; MAX_CONTROL_FRAME];
    bytes[0] = 0x80 | opcode;
    bytes[1] = payload.len() as u8;
    let mut at = 2;
    if let Some(key) = mask {
        bytes[1] |= 0x80;
        bytes[2..6].copy_from_slice(&key);
        at = 6;
    }
    bytes[at..at + payload.len()].copy_from_slice(payload);
    if let Some(key) = mask {
        unmask(&mut bytes[at..at + payload.len()], key);
    }
    ControlFrame {
        bytes,
        len: (at + payload.len()) as u8,
    }
}

/// A Close frame with a code and a reason.
pub fn close(code: u16, reason: &str, mask: Option<[u8; 4]>) -> ControlFrame {
    let mut payload = [0; MAX_CONTROL_PAYLOAD];
    let len = reason.len().min(MAX_CONTROL_PAYLOAD - 2);
    payload[..2].copy_from_slice(&code.to_be_bytes());
    payload[2..2 + len].copy_from_slice(&reason.as_bytes()[..len]);
    control(opcode::CLOSE, &payload[..2 + len], mask)
}

/// The bytes of one control frame.
#[derive(Clone, Debug)]
pub struct ControlFrame {
    bytes: [u8; MAX_CONTROL_FRAME],
    len: u8,
}

impl AsRef<[u8]> for ControlFrame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Applies a masking key (RFC 6455, section 5.3); doing it twice undoes it.
pub fn unmask(payload: &mut [u8], key: [u8; 4]) {
    for (byte, mask) in payload.iter_mut().zip(key.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as a peer might write it, however little sense it makes.
    #[derive(Clone, Debug)]
    struct Wire {
        first: u8,
        mask: Option<[u8; 4]>,
        payload: Vec<u8>,
        wide: bool,
    }

    impl Wire {
        fn bytes(&self) -> Vec<u8> {
            let len = self.payload.len();
            let mut out = vec![self.first];
            let mask_bit = if self.mask.is_some() { 0x80 } else { 0 };
            if self.wide || len > 0xFFFF {
                out.push(mask_bit | 127);
                out.extend((len as u64).to_be_bytes());
            } else if len > 125 {
                out.push(mask_bit | 126);
                out.extend((len as u16).to_be_bytes());
            } else {
                out.push(mask_bit | len as u8);
            }
            out.extend(self.mask.iter().flatten());
            out.extend(&self.payload);
            out
        }
    }

    fn wire() -> impl Strategy<Value = Wire> {
        let len = prop_oneof![4 => 0..200usize, 1 => 65_000..66_500usize];
        (any::<u8>(), any::<Option<[u8; 4]>>(), len, any::<bool>(), any::<u8>()).prop_map(|(first, mask, len, wide, fill)| Wire {
            first,
            mask,
            payload: vec![fill; len],
            wide,
        })
    }

    /// Runs a stream through a follower in the given pieces, carrying what is incomplete as a tunnel does; returns the
    /// headers, the offsets of the boundaries and the count of messages.
    fn follow(stream: &[u8], cuts: &[usize], whole_pongs: bool) -> (Vec<Header>, Vec<usize>, usize) {
        let mut follower = Follower::default();
        let (mut headers, mut boundaries, mut messages) = (Vec::new(), Vec::new(), 0);
        let mut edges: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
        edges.push(stream.len());
        edges.sort_unstable();
        let mut at = 0;
        for edge in edges {
            while at < edge {
                let (len, message) = match follower.next(&stream[at..edge], whole_pongs) {
                    Next::Payload { len, message } => (len, message),
                    Next::Header { header, len, message } => {
                        headers.push(header);
                        (len, message)
                    }
                    Next::Control { header, len, .. } => {
                        headers.push(header);
                        (len, false)
                    }
                    Next::Incomplete => {
                        assert!(edge - at < MAX_CONTROL_FRAME, "what is carried is bounded");
                        break;
                    }
                };
                at += len;
                messages += usize::from(message);
                if follower.at_boundary() {
                    boundaries.push(at);
                }
            }
        }
        assert_eq!(at, stream.len(), "every byte is consumed");
        (headers, boundaries, messages)
    }

    proptest! {
        #[test]
        fn any_split_of_any_stream_has_the_same_frames_and_boundaries(
            frames in prop::collection::vec(wire(), 1..6),
            cuts in prop::collection::vec(any::<usize>(), 0..40),
            whole_pongs in any::<bool>(),
        ) {
            let (mut stream, mut ends) = (Vec::new(), Vec::new());
            for frame in &frames {
                stream.extend(frame.bytes());
                ends.push(stream.len());
            }
            let (headers, boundaries, messages) = follow(&stream, &cuts, whole_pongs);
            prop_assert_eq!(boundaries, ends);
            prop_assert_eq!(messages, frames.iter().filter(|frame| frame.first & 0x88 == 0x80).count());
            prop_assert_eq!(headers.len(), frames.len());
            for (header, frame) in headers.iter().zip(&frames) {
                prop_assert_eq!(header.mask, frame.mask);
                prop_assert_eq!(header.payload, frame.payload.len() as u64);
                prop_assert_eq!((header.fin, header.opcode), (frame.first & 0x80 != 0, frame.first & 0x0F));
            }
        }

        #[test]
        fn any_bytes_at_all_are_consumed_or_carried(stream in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut follower = Follower::default();
            let mut rest = &stream[..];
            while !rest.is_empty() {
                match follower.next(rest, true) {
                    Next::Payload { len, .. } | Next::Header { len, .. } | Next::Control { len, .. } => {
                        prop_assert!(len > 0);
                        rest = &rest[len..];
                    }
                    Next::Incomplete => {
                        prop_assert!(rest.len() < MAX_CONTROL_FRAME);
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn a_length_with_the_top_bit_makes_the_direction_opaque() {
        let mut follower = Follower::default();
        let bytes = [0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 1, 7];
        assert_eq!(follower.next(&bytes, true), Next::Payload { len: 11, message: false });
        assert_eq!(follower.next(&[0x88, 0], true), Next::Payload { len: 2, message: false });
        assert!(follower.is_opaque() && !follower.at_boundary());
    }

    #[test]
    fn a_close_longer_than_a_control_frame_may_be_is_not_waited_for() {
        let mut follower = Follower::default();
        let header = Header {
            fin: true,
            opcode: opcode::CLOSE,
            mask: None,
            payload: 126,
        };
        assert_eq!(
            follower.next(&[0x88, 126, 0, 126, 1], true),
            Next::Header {
                header,
                len: 4,
                message: false
            }
        );
    }

    #[test]
    fn own_frames_are_read_back_as_they_were_meant() {
        for mask in [None, Some([1, 2, 3, 4])] {
            let frame = close(1012, "drain", mask);
            let bytes = frame.as_ref();
            let header = Header {
                fin: true,
                opcode: opcode::CLOSE,
                mask,
                payload: 7,
            };
            let header_len = if mask.is_some() { 6 } else { 2 };
            assert_eq!(
                Follower::default().next(bytes, false),
                Next::Control {
                    header,
                    header_len,
                    len: bytes.len()
                }
            );
            let mut payload = bytes[header_len..].to_vec();
            if let Some(key) = mask {
                unmask(&mut payload, key);
            }
            assert_eq!(payload, b"\x03\xf4drain");
        }
        assert_eq!(close(1001, &"x".repeat(500), None).as_ref().len(), 2 + MAX_CONTROL_PAYLOAD);
    }
}
