//! Our own answers: a refusal as bytes on a raw connection, or as a response where hyper speaks.

use std::{fmt::Write as _, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header, request};
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

use super::{error::Reason, filter, headers, select::authority, stream::Stream};
use crate::routing::{Rule, target};

/// The answer that says `reason`, with the place where TLS is spoken if it sends the client there: a status, `Proxy-Status` (RFC
/// 9209) and one line of text. It passes the filters of `rule`.
pub fn response(reason: Reason, location: Option<HeaderValue>, rule: Option<&Rule>) -> Response<Full<Bytes>> {
    let answer = reason.answer();
    let mut response = Response::new(Full::new(Bytes::from(format!("{}\n", answer.text))));
    *response.status_mut() = answer.status;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(error) = answer.proxy_error {
        let status = format!("holdfast; error={error}; details=\"{}\"", answer.word);
        if let Ok(status) = HeaderValue::from_str(&status) {
            fields.insert(PROXY_STATUS, status);
        }
    }
    if let Some(seconds) = reason.retry_after() {
        fields.insert(header::RETRY_AFTER, HeaderValue::from(spread(seconds)));
    }
    match reason {
        Reason::MethodNotAllowed => {
            fields.insert(header::ALLOW, HeaderValue::from_static("GET"));
        }
        Reason::UpgradeRequired | Reason::UnsupportedVersion => {
            fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            fields.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        Reason::RedirectedToHttps => {
            if let Some(location) = location {
                fields.insert(header::LOCATION, location);
            }
        }
        _ => {}
    }
    if let Some(rule) = rule {
        filter::change_answer(rule, response.headers_mut());
    }
    response
}

/// Those who were refused together are not to come back together.
fn spread(seconds: u32) -> u32 {
    seconds.saturating_add(fastrand::u32(0..=seconds.min(MAX_SPREAD)))
}

/// The same address with TLS, on its usual port: which one leads here, only the outside knows.
pub fn location(scheme: &str, parts: &request::Parts) -> Option<HeaderValue> {
    url(scheme, &target::host(authority(parts)?)?, parts)
}

/// The same address with TLS, on the port that the client named: it came to where TLS is spoken.
pub fn same_port(scheme: &str, parts: &request::Parts) -> Option<HeaderValue> {
    let authority = authority(parts)?;
    target::host(authority)?;
    url(scheme, authority, parts)
}

fn url(scheme: &str, authority: &str, parts: &request::Parts) -> Option<HeaderValue> {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    location_of(&format!("{scheme}://{authority}{path}"))
}

/// A reference as the value of `Location`: what stands in it as it came and no field can hold is escaped (RFC 3986, section 2.1).
pub fn location_of(reference: &str) -> Option<HeaderValue> {
    let mut value = String::with_capacity(reference.len());
    for byte in reference.bytes() {
        if byte.is_ascii_graphic() {
            value.push(char::from(byte));
        } else {
            let _ = write!(value, "%{byte:02X}"); // a String takes everything
        }
    }
    HeaderValue::try_from(value).ok()
}

/// What a refusal's `Connection` says: it ends the connection, and may name what to upgrade to.
pub fn connection(headers: &HeaderMap) -> &'static str {
    if headers.contains_key(header::UPGRADE) {
        "upgrade, close"
    } else {
        "close"
    }
}

/// Writes a refusal and ends the connection in order.
pub async fn refuse(mut socket: Stream, reason: Reason, location: Option<HeaderValue>, rule: Option<&Rule>) {
    let response = response(reason, location, rule);
    let text = reason.answer().text;
    let mut out = Vec::with_capacity(512);
    write_status(
        &mut out,
        response.status().as_u16(),
        response.status().canonical_reason().unwrap_or(""),
    );
    headers::write(&mut out, response.headers());
    let connection = connection(response.headers());
    out.extend_from_slice(
        format!(
            "Connection: {connection}\r\nContent-Length: {}\r\n\r\n{text}\n",
            text.len() + 1
        )
        .as_bytes(),
    );
    if timeout(LINGER, socket.write_all(&out))
        .await
        .is_ok_and(|written| written.is_ok())
    {
        linger(socket).await;
    }
}

/// Ends our direction, then reads and drops what still comes until the peer ends its own: closing a socket with unread bytes
/// resets it, and the peer would lose the answer.
pub async fn linger(mut socket: Stream) {
    if socket.shutdown().await.is_err() {
        return;
    }
    let mut sink = [0; 1024];
    tokio::select! {
        () = sleep(LINGER) => {}
        () = async { while socket.read(&mut sink).await.is_ok_and(|read| read > 0) {} } => {}
    }
}

/// Appends a status line.
pub fn write_status(out: &mut Vec<u8>, status: u16, phrase: &str) {
    out.extend_from_slice(format!("HTTP/1.1 {status} {phrase}\r\n").as_bytes());
}

pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Seconds that `Retry-After` is longer than it would have to be, at most.
const MAX_SPREAD: u32 = 10;

/// How long a refused client may take to end its side.
const LINGER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_holds_what_was_asked_for_however_it_was_written() {
        for (target, told) in [
            ("/caf\u{e9}?q=\u{e4}", "https://a.test/caf%C3%A9?q=%C3%A4"),
            ("/a%20b?c=%2F", "https://a.test/a%20b?c=%2F"),
        ] {
            let uri = http::Uri::from_maybe_shared(Bytes::copy_from_slice(target.as_bytes())).unwrap();
            let parts = http::Request::builder()
                .uri(uri)
                .header("host", "a.test:80")
                .body(())
                .unwrap();
            assert_eq!(location("https", &parts.into_parts().0).unwrap(), told);
        }
    }
}
