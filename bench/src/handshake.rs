//! Both sides of the opening handshake (RFC 6455, 4), small: the client's head is as long as a browser's.

use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};

/// Longest head that either end reads.
pub const MAX_HEAD: usize = 8 * 1024;

/// What a client sends for a tunnel through the proxy at `host`.
pub fn request(host: &str) -> String {
    format!(
        "GET /echo HTTP/1.1\r\n\
         Host: {host}\r\n\
         Connection: Upgrade\r\n\
         Pragma: no-cache\r\n\
         Cache-Control: no-cache\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
         Upgrade: websocket\r\n\
         Origin: http://{host}\r\n\
         Sec-WebSocket-Version: 13\r\n\
         Accept-Encoding: gzip, deflate, br, zstd\r\n\
         Accept-Language: en-GB,en;q=0.9\r\n\
         Sec-WebSocket-Key: {KEY}\r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
         \r\n"
    )
}

/// The endpoint's answer to a whole request head; `None` if that is no WebSocket handshake.
pub fn answer(head: &[u8]) -> Option<String> {
    let key = header(head, "sec-websocket-key")?;
    Some(format!(
        "HTTP/1.1 101 Switching Protocols\r\n\
         Upgrade: websocket\r\n\
         Connection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\
         \r\n",
        accept(key)
    ))
}

/// Whether a whole response head completes the handshake of [`request`].
pub fn is_accepted(head: &[u8]) -> bool {
    head.starts_with(b"HTTP/1.1 101 ") && header(head, "sec-websocket-accept").is_some_and(|value| value == ACCEPT.as_bytes())
}

/// Where the head at the start of `bytes` ends.
pub fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        line[..colon]
            .eq_ignore_ascii_case(name.as_bytes())
            .then(|| line[colon + 1..].trim_ascii())
    })
}

fn accept(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

/// The example of RFC 6455, 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_sides_understand_each_other() {
        let request = request("127.0.0.1:80");
        assert_eq!(end_of_head(request.as_bytes()), Some(request.len()));
        assert!(is_accepted(answer(request.as_bytes()).unwrap().as_bytes()));
        assert!(!is_accepted(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"));
    }
}
