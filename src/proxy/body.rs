//! Where a body ends (RFC 9112, sections 6.3 and 7.1), followed without holding or changing it.
//!
//! `fallback` asks it how much of what a client sends belongs to a request, `upgrade` how much of what an endpoint sends belongs to
//! its answer. It is as strict as heads are: bytes whose end two readers could see at two places have none.

use http::{HeaderMap, StatusCode, header, request};

use super::head::{single, tokens};

/// How the end of a body is known.
#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes are left.
    Length(u64),
    Chunked(Chunks),
    /// Where its connection ends.
    UntilEnd,
}

/// The chunked coding is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Body {
    /// That of a request whose head has been checked.
    pub fn of_request(parts: &request::Parts) -> Self {
        if parts.headers.contains_key(header::TRANSFER_ENCODING) {
            return Self::Chunked(Chunks::default());
        }
        Self::Length(length(&parts.headers).unwrap_or(0))
    }

    /// That of an answer to anything but HEAD.
    pub fn of_answer(status: StatusCode, fields: &HeaderMap) -> Self {
        if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
            return Self::Length(0);
        }
        if tokens(fields, &header::TRANSFER_ENCODING)
            .last()
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
        {
            return Self::Chunked(Chunks::default());
        }
        length(fields).map_or(Self::UntilEnd, Self::Length)
    }

    /// How many of `bytes` belong to the body, which moves past them.
    ///
    /// # Errors
    /// They cannot.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        match self {
            Self::Length(left) => {
                let len = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= len as u64;
                Ok(len)
            }
            Self::Chunked(chunks) => chunks.take(bytes),
            Self::UntilEnd => Ok(bytes.len()),
        }
    }

    pub fn is_over(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.state == State::Over,
            Self::UntilEnd => false,
        }
    }
}

fn length(fields: &HeaderMap) -> Option<u64> {
    single(fields, &header::CONTENT_LENGTH)?.parse().ok()
}

/// Follows chunked coding to its end.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    state: State,
    /// Bytes of the chunk that are to come.
    size: u64,
    /// Bytes of the current line that are neither size nor data.
    line: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// In front of a size.
    #[default]
    Start,
    Size,
    /// Behind it; no digits come any more.
    Padding,
    Extension,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    /// At the beginning of a line behind the last chunk.
    Trailer,
    TrailerLine,
    TrailerLineFeed,
    LastLineFeed,
    Over,
}

impl Chunks {
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Over {
            if self.state == State::Data {
                let len = usize::try_from(self.size).map_or(bytes.len() - at, |size| size.min(bytes.len() - at));
                self.size -= len as u64;
                at += len;
                if self.size == 0 {
                    self.state = State::DataReturn;
                }
                continue;
            }
            self.state = self.after(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    /// The state behind one byte that is not data. A line ends with both its characters, and with nothing else.
    fn after(&mut self, byte: u8) -> Result<State, Malformed> {
        let digit = char::from(byte).to_digit(16);
        Ok(match (self.state, byte) {
            (State::Start | State::Size, _) if digit.is_some() => {
                let size = self.size.checked_mul(16).ok_or(Malformed)?;
                self.size = size + u64::from(digit.unwrap_or_default());
                State::Size
            }
            (State::Size | State::Padding | State::Extension, b'\r') => State::SizeLineFeed,
            (State::Size | State::Padding, b' ' | b'\t') => self.within_line(State::Padding)?,
            (State::Size | State::Padding, b';') => State::Extension,
            (State::SizeLineFeed, b'\n') => {
                self.line = 0;
                if self.size == 0 { State::Trailer } else { State::Data }
            }
            (State::DataReturn, b'\r') => State::DataLineFeed,
            (State::DataLineFeed, b'\n') => State::Start,
            (State::Trailer, b'\r') => State::LastLineFeed,
            (State::TrailerLine, b'\r') => State::TrailerLineFeed,
            (State::TrailerLineFeed, b'\n') => State::Trailer, // `line` goes on: trailers are bounded as a whole
            (State::LastLineFeed, b'\n') => State::Over,
            (State::Extension, 1..) if byte != b'\n' => self.within_line(State::Extension)?,
            (State::Trailer | State::TrailerLine, 1..) if byte != b'\n' => self.within_line(State::TrailerLine)?,
            _ => return Err(Malformed),
        })
    }

    fn within_line(&mut self, state: State) -> Result<State, Malformed> {
        self.line += 1;
        if self.line > MAX_LINE { Err(Malformed) } else { Ok(state) }
    }
}

/// Bytes of what nobody reads: the extensions of one chunk, or all trailers.
const MAX_LINE: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn followed(text: &[u8]) -> Result<(usize, bool), Malformed> {
        let mut chunks = Chunks::default();
        let taken = chunks.take(text)?;
        Ok((taken, chunks.state == State::Over))
    }

    #[test]
    fn the_end_of_chunked_coding_is_found_however_it_is_cut() {
        let text = b"5;x=y\r\nhello\r\n0A \r\n0123456789\r\n00\r\nTrailer: 1\r\nMore: 2\r\n\r\nGARBAGE";
        let end = text.len() - b"GARBAGE".len();
        for cut in 0..end {
            let mut chunks = Chunks::default();
            assert_eq!(chunks.take(&text[..cut]), Ok(cut));
            assert_ne!(chunks.state, State::Over, "{cut}");
            assert_eq!(chunks.take(&text[cut..]).map(|len| cut + len), Ok(end));
            assert_eq!(chunks.state, State::Over);
        }
    }

    #[test]
    fn what_two_readers_could_see_end_at_two_places_has_no_end() {
        for text in [
            &b"\r\n"[..],
            b";x\r\n",
            b" 5\r\nhello",
            b"+5\r\nhello",
            b"0x5\r\nhello",
            b"5\nhello\r\n0\r\n\r\n",
            b"5;a\nhello",
            b"5;a\rb\r\nhello",
            b"5;a\0b\r\nhello",
            b"5 5\r\nhello",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhello\r0\r\n\r\n",
            b"0\r\n\n",
            b"0\r\nA: b\n\r\n",
            b"0\r\nA: b\rC: d\r\n\r\n",
            b"10000000000000000\r\n",
            b"g\r\n",
        ] {
            assert_eq!(followed(text), Err(Malformed), "{:?}", String::from_utf8_lossy(text));
        }
        assert_eq!(followed(b"FFFFFFFFFFFFFFFF\r\n"), Ok((18, false)));
        let endless = [&b"5;"[..], &[b'x'; 2 * MAX_LINE]].concat();
        assert_eq!(followed(&endless), Err(Malformed));
    }

    #[test]
    fn a_length_is_so_many_bytes_and_no_more() {
        let mut body = Body::Length(5);
        assert_eq!((body.take(b"abc"), body.is_over()), (Ok(3), false));
        assert_eq!((body.take(b"defgh"), body.is_over()), (Ok(2), true));
        assert_eq!(body.take(b"x"), Ok(0));
    }
}
