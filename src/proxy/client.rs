//! Who the client is: the peer of the socket, or whom a trusted proxy speaks for.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use bytes::{Buf, BytesMut};
use http::HeaderMap;
use ipnet::IpNet;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{head::tokens, headers::X_FORWARDED_FOR};

/// Which peers may say who the client is.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    pub proxies: Vec<IpNet>,
    /// Whether every connection begins with a PROXY protocol header.
    pub proxy_protocol: bool,
}

impl Trust {
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.proxies.iter().any(|network| network.contains(&address))
    }

    /// The client of a request: from the right, the first address of `X-Forwarded-For` that is no trusted proxy.
    pub fn client(&self, source: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        if !self.trusts(source.ip()) {
            return source;
        }
        let hops: Vec<&str> = tokens(headers, &X_FORWARDED_FOR).collect();
        let mut client = source;
        for hop in hops.iter().rev() {
            let Some(address) = address(hop) else { break };
            client = address;
            if !self.trusts(address.ip()) {
                break;
            }
        }
        client
    }
}

/// Whether an address is one that load balancers inside a network have.
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xC0 == 64)
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// An element of `X-Forwarded-For`: an address, perhaps with a port or in brackets.
pub fn address(hop: &str) -> Option<SocketAddr> {
    if let Ok(ip) = hop.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, 0));
    }
    hop.parse().ok()
}

/// Reads a PROXY protocol header, version 1 or 2, and returns whom it names; `None`: nobody (a health check of the proxy
/// itself). What comes behind it stays in `buffer`.
///
/// # Errors
/// `InvalidData` where there is no such header; whatever the socket says.
pub async fn read_proxy_header(
    socket: &mut TcpStream,
    buffer: &mut BytesMut,
    deadline: Instant,
) -> io::Result<Option<SocketAddr>> {
    loop {
        match parse_proxy_header(buffer) {
            Ok(Some((len, source))) => {
                buffer.advance(len);
                return Ok(source);
            }
            Ok(None) => {}
            Err(Malformed) => return Err(io::ErrorKind::InvalidData.into()),
        }
        buffer.reserve(MAX_PROXY_HEADER);
        match timeout_at(deadline, socket.read_buf(buffer)).await {
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(read) => {
                if read? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}

/// Whether bytes begin as a PROXY protocol header does.
pub fn is_proxy_header(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PROXY ") || bytes.starts_with(&V2_SIGNATURE)
}

/// No PROXY protocol header.
#[derive(Debug, PartialEq, Eq)]
struct Malformed;

/// The length of the header that `bytes` begin with, and whom it names; `None`: more bytes are needed.
fn parse_proxy_header(bytes: &[u8]) -> Result<Option<(usize, Option<SocketAddr>)>, Malformed> {
    let v2 = bytes.iter().zip(&V2_SIGNATURE).all(|(a, b)| a == b);
    let v1 = bytes.iter().zip(b"PROXY ").all(|(a, b)| a == b);
    match (bytes.is_empty(), v2, v1) {
        (true, ..) => Ok(None),
        (_, true, _) => parse_v2(bytes),
        (_, _, true) => parse_v1(bytes),
        _ => Err(Malformed),
    }
}

/// `PROXY TCP4 source destination source-port destination-port\r\n`, at most 107 bytes.
fn parse_v1(bytes: &[u8]) -> Result<Option<(usize, Option<SocketAddr>)>, Malformed> {
    let window = &bytes[..bytes.len().min(107)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < 107 { Ok(None) } else { Err(Malformed) };
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| Malformed)?;
    let words: Vec<&str> = line.split(' ').collect();
    let source = match words[..] {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family @ ("TCP4" | "TCP6"), source, _, port, _] => {
            let ip: IpAddr = source.parse().map_err(|_| Malformed)?;
            if ip.is_ipv4() != (family == "TCP4") {
                return Err(Malformed);
            }
            Some(SocketAddr::new(ip, port.parse().map_err(|_| Malformed)?))
        }
        _ => return Err(Malformed),
    };
    Ok(Some((end + 2, source)))
}

/// 12 bytes of signature, version and command, family, length, addresses; what follows them (TLVs) is skipped.
fn parse_v2(bytes: &[u8]) -> Result<Option<(usize, Option<SocketAddr>)>, Malformed> {
    let Some(fixed) = bytes.first_chunk::<16>() else {
        return Ok(None);
    };
    let len = 16 + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if fixed[12] >> 4 != 2 || len > MAX_PROXY_HEADER {
        return Err(Malformed);
    }
    let Some(body) = bytes.get(16..len) else { return Ok(None) };
    let port = |at: usize| {
        body.get(at..at + 2)
            .map(|port| u16::from_be_bytes([port[0], port[1]]))
            .ok_or(Malformed)
    };
    let source = match (fixed[12] & 0xF, fixed[13] >> 4) {
        (0, _) => None, // LOCAL
        (1, 1) => {
            let ip: [u8; 4] = *body.first_chunk().ok_or(Malformed)?;
            Some(SocketAddr::new(Ipv4Addr::from(ip).into(), port(8)?))
        }
        (1, 2) => {
            let ip: [u8; 16] = *body.first_chunk().ok_or(Malformed)?;
            Some(SocketAddr::new(Ipv6Addr::from(ip).into(), port(32)?))
        }
        (1, _) => None, // UNSPEC and UNIX
        _ => return Err(Malformed),
    };
    Ok(Some((len, source)))
}

const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of a PROXY protocol header with all that may be attached to it.
const MAX_PROXY_HEADER: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trust(networks: &[&str]) -> Trust {
        Trust {
            proxies: networks.iter().map(|network| network.parse().unwrap()).collect(),
            proxy_protocol: false,
        }
    }

    fn client(trust: &Trust, source: [u8; 4], lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, line.parse().unwrap());
        }
        trust.client((source, 1).into(), &headers).ip().to_string()
    }

    #[test]
    fn forwarded_for_is_read_from_the_right_and_only_through_trusted_proxies() {
        let nobody = trust(&[]);
        assert_eq!(client(&nobody, [10, 0, 0, 1], &["1.1.1.1"]), "10.0.0.1");
        let inside = trust(&["10.0.0.0/8"]);
        assert_eq!(client(&inside, [10, 0, 0, 1], &["6.6.6.6, 1.1.1.1"]), "1.1.1.1");
        assert_eq!(client(&inside, [10, 0, 0, 1], &["6.6.6.6", "1.1.1.1, 10.9.9.9"]), "1.1.1.1");
        assert_eq!(client(&inside, [10, 0, 0, 1], &["10.1.1.1"]), "10.1.1.1");
        assert_eq!(client(&inside, [10, 0, 0, 1], &["unknown, 10.1.1.1"]), "10.1.1.1");
        assert_eq!(client(&inside, [10, 0, 0, 1], &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(client(&inside, [8, 8, 8, 8], &["1.1.1.1"]), "8.8.8.8");
    }

    #[test]
    fn version_1_and_2_name_the_source() {
        let v1 = b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\nGET";
        assert_eq!(
            parse_proxy_header(v1),
            Ok(Some((v1.len() - 3, Some("203.0.113.7:4711".parse().unwrap()))))
        );
        assert_eq!(parse_proxy_header(b"PROXY UNKNOWN\r\n"), Ok(Some((15, None))));
        let mut v2 = V2_SIGNATURE.to_vec();
        v2.extend([0x21, 0x11, 0, 15, 203, 0, 113, 7, 10, 0, 0, 1, 0x12, 0x67, 0, 80, 4, 0, 0]);
        assert_eq!(
            parse_proxy_header(&v2),
            Ok(Some((31, Some("203.0.113.7:4711".parse().unwrap()))))
        );
        for cut in 0..v2.len() {
            assert_eq!(parse_proxy_header(&v2[..cut]), Ok(None), "{cut}");
        }
        for bad in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP4 1.2.3.4\r\n",
        ] {
            assert_eq!(parse_proxy_header(bad), Err(Malformed));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(tail in prop::collection::vec(any::<u8>(), 0..200), v1 in any::<bool>()) {
            let mut bytes = if v1 { b"PROXY ".to_vec() } else { V2_SIGNATURE.to_vec() };
            bytes.extend(tail);
            if let Ok(Some((len, _))) = parse_proxy_header(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }
    }
}
