//! Reads a request's head from a socket: strictly, within bounds, within a time.

use std::{io, ops::Range};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header, request};
use smallvec::SmallVec;
use tokio::{
    io::AsyncReadExt,
    time::{Instant, timeout_at},
};

use super::{error::Reason, stream::Stream};

/// A request's head.
#[derive(Debug)]
pub struct Head {
    pub parts: request::Parts,
    /// The same as it came, with its last empty line.
    pub raw: Bytes,
}

/// Why there is no head.
#[derive(Debug)]
pub enum NoHead {
    /// Nothing came at all: a port scan, a load balancer's look. Not worth an answer.
    Nothing,
    /// The client left in the middle.
    Gone,
    /// To be answered.
    Refused(Reason),
}

/// Reads one head. What comes behind it stays in `buffer`, which may already hold bytes.
pub async fn read(socket: &mut Stream, buffer: &mut BytesMut, deadline: Instant) -> Result<Head, NoHead> {
    let (mut seen, mut due, mut start) = (0_usize, 1, 0);
    loop {
        while buffer[start..].starts_with(b"\r\n") {
            start += 2; // empty lines before it are no end (RFC 9112, section 2.2)
        }
        // Not for every piece anew: one that comes byte by byte would cost the square of its length.
        if buffer.len() >= due || has_end(&buffer[start.max(seen.saturating_sub(3))..]) {
            if let Some(head) = parse(buffer).map_err(NoHead::Refused)? {
                return Ok(head);
            }
            due = 2 * buffer.len();
        }
        seen = buffer.len();
        if buffer.len() >= MAX_HEAD {
            return Err(NoHead::Refused(Reason::HeadersTooLarge));
        }
        buffer.reserve(FIRST_READ.max(buffer.len()));
        match timeout_at(deadline, socket.read_buf(buffer)).await {
            Err(_) if buffer.is_empty() => return Err(NoHead::Nothing),
            Err(_) => return Err(NoHead::Refused(Reason::RequestTimeout)),
            Ok(Ok(0) | Err(_)) if buffer.is_empty() => return Err(NoHead::Nothing),
            Ok(Ok(0)) => return Err(NoHead::Gone),
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(_)) => return Err(NoHead::Gone),
        }
    }
}

/// Whether an empty line is in there, however its end is written.
fn has_end(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|two| two == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

/// Parses the head that `buffer` begins with and takes it out. `None`: it is not complete.
pub fn parse(buffer: &mut BytesMut) -> Result<Option<Head>, Reason> {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let len = match request.parse_with_uninit_headers(buffer, &mut fields) {
        Ok(httparse::Status::Complete(len)) if len <= MAX_HEAD => len,
        Ok(httparse::Status::Complete(_)) | Err(httparse::Error::TooManyHeaders) => return Err(Reason::HeadersTooLarge),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Reason::MalformedRequest),
    };
    if has_bare_line_feed(&buffer[..len]) {
        return Err(Reason::MalformedRequest); // httparse takes one for the end of a line, others do not
    }
    let start = buffer.as_ptr() as usize;
    let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes()).map_err(|_| Reason::MalformedRequest)?;
    let target = span(start, request.path.unwrap_or_default().as_bytes());
    let version = if request.version == Some(0) {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    let fields = Fields::note(start, request.headers).ok_or(Reason::MalformedRequest)?;
    let raw = buffer.split_to(len).freeze();
    let uri = Uri::from_maybe_shared(raw.slice(target)).map_err(|_| Reason::MalformedRequest)?;
    let headers = fields.of(&raw).ok_or(Reason::MalformedRequest)?;
    let (mut parts, ()) = Request::new(()).into_parts();
    (parts.method, parts.uri, parts.version, parts.headers) = (method, uri, version, headers);
    check(&parts)?;
    Ok(Some(Head { parts, raw }))
}

fn has_bare_line_feed(head: &[u8]) -> bool {
    let mut before = 0;
    head.iter().any(|byte| {
        let is_bare = *byte == b'\n' && before != b'\r';
        before = *byte;
        is_bare
    })
}

/// Where the fields of a head stand in its buffer, so that their values can share it.
#[derive(Debug)]
pub struct Fields(SmallVec<[(HeaderName, Range<usize>); 24]>);

impl Fields {
    /// Notes parsed fields of a head that begins at address `start`. `None`: a name is none.
    pub fn note(start: usize, fields: &[httparse::Header<'_>]) -> Option<Self> {
        let noted = fields.iter().map(|field| {
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            Some((name, span(start, field.value)))
        });
        noted.collect::<Option<_>>().map(Self)
    }

    /// The fields, their values as parts of `raw`. `None`: a value is none.
    pub fn of(self, raw: &Bytes) -> Option<HeaderMap> {
        let mut headers = HeaderMap::with_capacity(self.0.len());
        for (name, value) in self.0 {
            headers.append(name, HeaderValue::from_maybe_shared(raw.slice(value)).ok()?);
        }
        Some(headers)
    }
}

/// Where `part` stands in what begins at address `start`.
fn span(start: usize, part: &[u8]) -> Range<usize> {
    let from = part.as_ptr() as usize - start;
    from..from + part.len()
}

/// What two readers of one head could take for two different things is refused (RFC 9112, sections 3.2 and 6.3).
pub fn check(parts: &request::Parts) -> Result<(), Reason> {
    let hosts = parts.headers.get_all(header::HOST).iter().count();
    let host_missing = hosts == 0 && parts.version == Version::HTTP_11;
    if hosts > 1 || host_missing || !has_one_length(parts) {
        return Err(Reason::MalformedRequest);
    }
    Ok(())
}

/// Whether there is one answer to where the body ends: one length in digits, or chunks and no other coding.
fn has_one_length(parts: &request::Parts) -> bool {
    let has = |name: &HeaderName| parts.headers.contains_key(name);
    match (has(&header::CONTENT_LENGTH), has(&header::TRANSFER_ENCODING)) {
        (false, false) => true,
        (true, false) => single(&parts.headers, &header::CONTENT_LENGTH)
            .is_some_and(|length| length.bytes().all(|byte| byte.is_ascii_digit()) && length.parse::<u64>().is_ok()),
        (false, true) => {
            let coding = single(&parts.headers, &header::TRANSFER_ENCODING);
            parts.version == Version::HTTP_11 && coding.is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
        }
        (true, true) => false,
    }
}

/// The value of a header that may come once; `None` where it is absent, repeated or not ASCII.
pub fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    value.to_str().ok()
}

/// The tokens of a comma-separated header, over all its lines.
pub fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|token| token.trim_matches([' ', '\t']))
        .filter(|token| !token.is_empty())
}

/// Bytes of a head.
pub const MAX_HEAD: usize = 32 * 1024;

/// Header fields of a head.
pub const MAX_FIELDS: usize = 100;

/// Space for the first read: most heads fit.
const FIRST_READ: usize = 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<Option<Head>, Reason> {
        parse(&mut BytesMut::from(text.as_bytes()))
    }

    #[test]
    fn a_head_is_taken_out_and_the_rest_stays() {
        let mut buffer = BytesMut::from(&b"GET /a?b HTTP/1.1\r\nHost: x\r\nCookie: a\r\nCookie: b\r\n\r\n\x81\x00"[..]);
        let head = parse(&mut buffer).unwrap().unwrap();
        assert_eq!(head.parts.uri.path_and_query().unwrap(), "/a?b");
        assert_eq!(head.parts.headers.get_all("cookie").iter().count(), 2);
        assert_eq!(&buffer[..], b"\x81\x00");
        assert!(head.raw.ends_with(b"\r\n\r\n"));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\nGET / HTTP/1.1\r\n\r\n",
        ] {
            assert!(matches!(parsed(head), Err(Reason::MalformedRequest)), "{head:?}");
        }
    }

    #[test]
    fn too_many_fields_are_too_large() {
        let fields = "A: b\r\n".repeat(MAX_FIELDS);
        assert!(matches!(
            parsed(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")),
            Err(Reason::HeadersTooLarge)
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&mut BytesMut::from(&bytes[..]));
        }

        #[test]
        fn a_head_is_the_same_however_it_is_cut(cut in 0..80usize) {
            let text = b"GET /chat?x=1 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nX-Y: 1, 2\r\n\r\nrest";
            let cut = cut.min(text.len() - 5);
            let mut buffer = BytesMut::from(&text[..cut]);
            let early = parse(&mut buffer).unwrap();
            prop_assert!(early.is_none() && buffer.len() == cut);
            buffer.extend_from_slice(&text[cut..]);
            let head = parse(&mut buffer).unwrap().unwrap();
            prop_assert_eq!(head.parts.headers.len(), 3);
            prop_assert_eq!(&buffer[..], b"rest");
        }
    }
}
