//! WebSocket framing (RFC 6455, 5.2), as far as an echo needs it. No I/O.

pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;

/// Longest head: two bytes, a 64-bit length, a mask key.
pub const MAX_HEAD: usize = 14;

/// A frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub opcode: u8,
    /// `None` where the frame is not masked.
    pub key: Option<[u8; 4]>,
    /// Bytes of payload after the head.
    pub payload: usize,
    /// Bytes of the head itself.
    pub size: usize,
}

impl Head {
    /// The head at the start of `bytes`; `None` until all of it is there.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [first, second, rest @ ..] = bytes else { return None };
        let (payload, rest, length) = match second & 0x7f {
            126 => {
                let (length, rest) = rest.split_first_chunk::<2>()?;
                (usize::from(u16::from_be_bytes(*length)), rest, 2)
            }
            127 => {
                let (length, rest) = rest.split_first_chunk::<8>()?;
                let payload = usize::try_from(u64::from_be_bytes(*length)).unwrap_or(usize::MAX);
                (payload, rest, 8)
            }
            short => (usize::from(short), rest, 0),
        };
        let key = match second & 0x80 {
            0 => None,
            _ => Some(*rest.first_chunk::<4>()?),
        };
        let size = 2 + length + if key.is_some() { 4 } else { 0 };
        Some(Self {
            opcode: first & 0x0f,
            key,
            payload,
            size,
        })
    }

    /// Writes an unmasked, final head of `opcode` so that it ends at `end`, and says where it starts. The head that it
    /// replaces there was masked, and so four bytes longer.
    pub fn write_before(bytes: &mut [u8], end: usize, opcode: u8, payload: usize) -> usize {
        let head = unmasked(opcode, payload);
        let start = end - head.len();
        bytes[start..end].copy_from_slice(&head);
        start
    }
}

/// A client's binary message of `payload` bytes. Its mask key is zero, which spares both ends the masking and is
/// nothing to a proxy, which passes payloads as they are.
pub fn message(payload: usize) -> Vec<u8> {
    let mut bytes = unmasked(BINARY, payload);
    bytes[1] |= 0x80;
    bytes.extend([0; 4]);
    bytes.extend((0..payload).map(|i| i as u8));
    bytes
}

/// A client's Close with code 1000.
pub fn close() -> Vec<u8> {
    let mut bytes = vec![0x80 | CLOSE, 0x80 | 2, 0, 0, 0, 0];
    bytes.extend(1000_u16.to_be_bytes());
    bytes
}

fn unmasked(opcode: u8, payload: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAX_HEAD);
    bytes.push(0x80 | opcode);
    match payload {
        0..126 => bytes.push(payload as u8),
        126..0x1_0000 => {
            bytes.push(126);
            bytes.extend((payload as u16).to_be_bytes());
        }
        _ => {
            bytes.push(127);
            bytes.extend((payload as u64).to_be_bytes());
        }
    }
    bytes
}

/// Follows the frames of a stream whatever pieces it arrives in, without keeping payloads.
#[derive(Debug, Default)]
pub struct Follower {
    head: [u8; MAX_HEAD],
    have: usize,
    left: usize,
    opcode: u8,
    payload: usize,
}

/// What a piece of a stream completed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Completed {
    /// Whole data messages.
    pub messages: u32,
    /// The payload of the last of them.
    pub payload: usize,
    pub close: bool,
}

impl Follower {
    pub fn follow(&mut self, mut bytes: &[u8]) -> Completed {
        let mut completed = Completed::default();
        while !bytes.is_empty() {
            if self.left == 0 {
                self.head[self.have] = bytes[0];
                self.have += 1;
                bytes = &bytes[1..];
                let Some(head) = Head::parse(&self.head[..self.have]) else {
                    continue;
                };
                self.have = 0;
                self.opcode = head.opcode;
                self.payload = head.payload;
                self.left = head.payload;
            }
            let here = self.left.min(bytes.len());
            self.left -= here;
            bytes = &bytes[here..];
            if self.left == 0 {
                self.complete(&mut completed);
            }
        }
        completed
    }

    fn complete(&self, completed: &mut Completed) {
        match self.opcode {
            CLOSE => completed.close = true,
            control if control > CLOSE => {}
            _ => {
                completed.messages += 1;
                completed.payload = self.payload;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_every_length() {
        for payload in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
            let bytes = message(payload);
            for cut in 0..bytes.len() - payload {
                assert_eq!(Head::parse(&bytes[..cut]), None);
            }
            let head = Head::parse(&bytes).unwrap();
            assert_eq!((head.opcode, head.key, head.payload), (BINARY, Some([0; 4]), payload));
            assert_eq!(head.size + payload, bytes.len());
        }
    }

    #[test]
    fn an_answer_fits_before_its_payload() {
        for payload in [0, 125, 126, 65_535, 65_536] {
            let mut bytes = message(payload);
            let head = Head::parse(&bytes).unwrap();
            let start = Head::write_before(&mut bytes, head.size, BINARY, payload);
            let answer = Head::parse(&bytes[start..]).unwrap();
            assert_eq!((start, answer.key, answer.payload), (4, None, payload));
        }
    }

    #[test]
    fn any_pieces_complete_the_same() {
        let stream = [message(300), close(), message(0), message(70_000)].concat();
        for piece in [1, 2, 3, 7, 300, 100_000] {
            let mut follower = Follower::default();
            let (mut messages, mut closes) = (0, 0);
            for bytes in stream.chunks(piece) {
                let completed = follower.follow(bytes);
                messages += completed.messages;
                closes += u32::from(completed.close);
            }
            assert_eq!((messages, closes), (3, 1), "pieces of {piece}");
        }
    }
}
