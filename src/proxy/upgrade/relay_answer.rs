//! Passes an endpoint's own answer to a handshake, body included, and ends the connection behind it.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::proxy::{
    answer,
    head::{single, tokens},
    headers,
    stream::Stream,
    upstream::Answer,
};

/// How the end of a body is known (RFC 9112, section 6.3).
#[derive(Debug, PartialEq, Eq)]
enum Body {
    Length(u64),
    Chunked(Chunks),
    UntilEnd,
}

/// Passes the answer, `finish` done to its fields. The connection cannot serve another request: what came behind this one may
/// have been meant as frames.
pub async fn pass(mut client: Stream, mut endpoint: Stream, answer: Answer, finish: impl FnOnce(&mut HeaderMap)) {
    let mut body = Body::of(answer.status, &answer.headers);
    let head = write_head(answer.status, answer.headers, &body, finish);
    let passed = async {
        client.write_all(&head).await.ok()?;
        let mut piece = answer.rest.to_vec();
        loop {
            let len = body.take(&piece);
            client.write_all(&piece[..len]).await.ok()?;
            if body.is_over() {
                return Some(());
            }
            piece.resize(PIECE, 0);
            let read = timeout(QUIET, endpoint.read(&mut piece)).await.ok()?.ok()?;
            if read == 0 {
                return (body == Body::UntilEnd).then_some(());
            }
            piece.truncate(read);
        }
    };
    if passed.await.is_some() {
        answer::linger(client).await;
    }
}

fn write_head(status: StatusCode, mut fields: HeaderMap, body: &Body, finish: impl FnOnce(&mut HeaderMap)) -> Vec<u8> {
    headers::remove_hop_by_hop(&mut fields);
    finish(&mut fields);
    let received = format!("holdfast; received-status={}", status.as_u16());
    if let Ok(value) = received.parse() {
        fields.append(answer::PROXY_STATUS, value);
    }
    let mut out = Vec::with_capacity(512);
    answer::write_status(&mut out, status.as_u16(), status.canonical_reason().unwrap_or(""));
    if matches!(body, Body::Chunked(_)) {
        headers::write_field(&mut out, &header::TRANSFER_ENCODING, b"chunked");
        fields.remove(header::CONTENT_LENGTH);
    }
    headers::write(&mut out, &fields);
    out.extend_from_slice(b"Connection: close\r\n\r\n");
    out
}

impl Body {
    fn of(status: StatusCode, fields: &HeaderMap) -> Self {
        if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
            return Self::Length(0);
        }
        if tokens(fields, &header::TRANSFER_ENCODING)
            .last()
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
        {
            return Self::Chunked(Chunks::default());
        }
        match single(fields, &header::CONTENT_LENGTH).and_then(|length| length.parse().ok()) {
            Some(length) => Self::Length(length),
            None => Self::UntilEnd,
        }
    }

    /// How many of `bytes` belong to the body, which moves past them.
    fn take(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Length(left) => {
                let len = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= len as u64;
                len
            }
            Self::Chunked(chunks) => chunks.take(bytes),
            Self::UntilEnd => bytes.len(),
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.state == State::Over,
            Self::UntilEnd => false,
        }
    }
}

/// Follows chunked coding (RFC 9112, section 7.1) to its end, without changing it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Chunks {
    state: State,
    size: u64,
    /// Whether the current trailer line has a character.
    line: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Extension,
    Data,
    DataEnd,
    Trailer,
    Over,
}

impl Chunks {
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Over {
            let byte = bytes[at];
            match self.state {
                State::Data => {
                    let len = usize::try_from(self.size).map_or(bytes.len() - at, |size| size.min(bytes.len() - at));
                    self.size -= len as u64;
                    at += len;
                    if self.size == 0 {
                        self.state = State::DataEnd;
                    }
                    continue;
                }
                State::Size | State::Extension if byte == b'\n' => {
                    self.line = false;
                    self.state = if self.size == 0 { State::Trailer } else { State::Data };
                }
                State::Size => match char::from(byte).to_digit(16) {
                    Some(digit) => self.size = self.size.saturating_mul(16).saturating_add(u64::from(digit)),
                    None => self.state = State::Extension,
                },
                State::DataEnd if byte == b'\n' => self.state = State::Size,
                State::Trailer if byte == b'\n' => {
                    if !self.line {
                        self.state = State::Over;
                    }
                    self.line = false;
                }
                State::Trailer => self.line |= byte != b'\r',
                State::Extension | State::DataEnd | State::Over => {}
            }
            at += 1;
        }
        at
    }
}

/// Bytes that are passed at once.
const PIECE: usize = 16 * 1024;

/// How long an endpoint may be silent in the middle of its answer.
const QUIET: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_chunked_coding_is_found_however_it_is_cut() {
        let text = b"5;x=y\r\nhello\r\nA\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\nGARBAGE";
        let end = text.len() - b"GARBAGE".len();
        for cut in 0..end {
            let mut chunks = Chunks::default();
            assert_eq!(chunks.take(&text[..cut]), cut);
            assert_ne!(chunks.state, State::Over, "{cut}");
            assert_eq!(cut + chunks.take(&text[cut..]), end);
            assert_eq!(chunks.state, State::Over);
        }
    }
}
