//! What a client asked for, in normal form, so that two spellings of one address cannot reach different rules.
//!
//! The proxy calls [`host`] and [`path`] once per request, matches what they return, and sends the endpoint that same path.
//! Whatever an endpoint could read in another way than the table does is refused here, never repaired.

use std::{borrow::Cow, net::Ipv6Addr};

/// The host of an authority: lower case, without port and trailing dot; an IPv6 address in brackets, in its shortest form.
///
/// `None` if it is not a valid authority: empty, with user information, a port that is none, or characters that no host
/// name has. Borrowed if nothing had to change but the ends. Idempotent.
pub fn host(authority: &str) -> Option<Cow<'_, str>> {
    if authority.starts_with('[') {
        return ipv6_host(authority);
    }
    let (name, port) = match authority.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (authority, None),
    };
    if !port.is_none_or(is_port) {
        return None;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > MAX_NAME || !name.split('.').all(is_label) {
        return None;
    }
    Some(if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    })
}

/// The port of an authority that [`host`] has found valid, if it names one.
pub fn port(authority: &str) -> Option<u16> {
    let (_, port) = authority.rsplit_once(':')?;
    port.parse().ok() // what stands behind the last colon of an address in brackets is none
}

/// The normal form of a request path (RFC 3986, 6.2.2).
///
/// Unreserved characters are decoded, other escapes are in upper case, what may not stand in a path unescaped is escaped,
/// and dot segments are removed, however they are written. An escaped slash stays escaped and separates nothing. Empty
/// segments stay.
///
/// `None` if it is malformed or ambiguous: no leading slash; a broken escape; a control character or backslash, the former
/// escaped too; a step above the root; a step back over an empty segment, which endpoints that merge slashes read
/// differently; a dot segment next to an escaped slash or backslash (`..%2F`) or with parameters (`..;x`), which some
/// endpoints take for a step back.
///
/// Borrowed if it is in normal form already. Idempotent.
pub fn path(path: &str) -> Option<Cow<'_, str>> {
    let segments = path.strip_prefix('/')?;
    if segments.split('/').all(is_normal) {
        return Some(Cow::Borrowed(path));
    }
    let mut normal = String::with_capacity(path.len());
    let last = segments.matches('/').count();
    for (index, segment) in segments.split('/').enumerate() {
        let start = normal.len();
        normal.push('/');
        push_segment(&mut normal, segment)?;
        let written = &normal[start + 1..];
        if is_ambiguous(written) {
            return None;
        }
        let dots = dots(written);
        if dots == Dots::None {
            continue;
        }
        normal.truncate(start);
        if dots == Dots::Parent {
            let parent = normal.rfind('/')?;
            if parent + 1 == normal.len() {
                return None;
            }
            normal.truncate(parent);
        }
        if index == last {
            normal.push('/');
        }
    }
    Some(Cow::Owned(normal))
}

/// A name in the DNS has at most this many characters, a label of it 63.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// What a segment means by its dots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dots {
    None,
    Current,
    Parent,
}

/// An authority that starts with a bracket. Zones (`%eth0`) mean nothing to anybody but the client: refused.
fn ipv6_host(authority: &str) -> Option<Cow<'_, str>> {
    let end = authority.find(']')?;
    let (host, rest) = authority.split_at(end + 1);
    let port = rest.strip_prefix(':');
    if !rest.is_empty() && !port.is_some_and(is_port) {
        return None;
    }
    let address: Ipv6Addr = host[1..end].parse().ok()?;
    let shortest = format!("[{address}]");
    Some(if shortest == host {
        Cow::Borrowed(host)
    } else {
        Cow::Owned(shortest)
    })
}

/// RFC 3986 lets a port be empty.
fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && (port.is_empty() || port.parse::<u16>().is_ok())
}

/// Underscores are in no host name of the DNS, but in many of private networks.
fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL).contains(&label.len())
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Whether a segment is in normal form and unambiguous as it stands.
fn is_normal(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'%' {
            let Some(escape) = bytes.get(at + 1..at + 3) else {
                return false;
            };
            let in_upper_case = !escape.iter().any(u8::is_ascii_lowercase);
            if !in_upper_case || !decode(escape).is_some_and(|byte| !is_unreserved(byte) && !byte.is_ascii_control()) {
                return false;
            }
            at += 3;
        } else if is_literal(byte) {
            at += 1;
        } else {
            return false;
        }
    }
    dots(segment) == Dots::None && !is_ambiguous(segment)
}

/// Appends the normal form of a segment's characters.
fn push_segment(normal: &mut String, segment: &str) -> Option<()> {
    let bytes = segment.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let (byte, escaped) = match byte {
            b'%' => (decode(bytes.get(at + 1..at + 3)?)?, true),
            _ => (byte, false),
        };
        at += if escaped { 3 } else { 1 };
        if byte.is_ascii_control() || (byte == b'\\' && !escaped) || (matches!(byte, b'?' | b'#') && !escaped) {
            return None;
        }
        if is_unreserved(byte) || (!escaped && is_literal(byte)) {
            normal.push(char::from(byte));
        } else {
            normal.push('%');
            normal.push(char::from(HEX[usize::from(byte >> 4)]));
            normal.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    Some(())
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// The byte of two hex digits.
fn decode(digits: &[u8]) -> Option<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let &[high, low] = digits else { return None };
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// Means the same escaped or not.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// May stand in a segment as it is (`pchar`, but for escapes).
const fn is_literal(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
        )
}

fn dots(segment: &str) -> Dots {
    match segment {
        "." => Dots::Current,
        ".." => Dots::Parent,
        _ => Dots::None,
    }
}

/// Whether an endpoint that decodes escaped separators, or drops parameters, would see a dot segment where there is none.
fn is_ambiguous(segment: &str) -> bool {
    segment.contains('.')
        && dots(segment) == Dots::None
        && segment
            .split("%2F")
            .flat_map(|piece| piece.split("%5C"))
            .any(|piece| dots(piece.split(';').next().unwrap_or_default()) != Dots::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_borrowed(result: Option<Cow<'_, str>>) {
        assert!(matches!(result, Some(Cow::Borrowed(_))), "{result:?}");
    }

    #[test]
    fn hosts() {
        for (authority, expected) in [
            ("chat.example.com", "chat.example.com"),
            ("Chat.EXAMPLE.com", "chat.example.com"),
            ("chat.example.com:8080", "chat.example.com"),
            ("chat.example.com:", "chat.example.com"),
            ("chat.example.com.", "chat.example.com"),
            ("CHAT.example.com.:443", "chat.example.com"),
            ("localhost:0", "localhost"),
            ("my_pod-1.ns", "my_pod-1.ns"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[::1]", "[::1]"),
            ("[::1]:8080", "[::1]"),
            ("[::1]:", "[::1]"),
            ("[0:0:0::0:1]", "[::1]"),
            ("[2001:DB8::A]:1", "[2001:db8::a]"),
            ("[::ffff:192.0.2.1]", "[::ffff:192.0.2.1]"),
        ] {
            assert_eq!(host(authority).as_deref(), Some(expected), "{authority}");
            assert_eq!(host(expected).as_deref(), Some(expected), "again: {authority}");
        }
    }

    #[test]
    fn ports() {
        for (authority, expected) in [
            ("a", None),
            ("a:", None),
            ("a:80", Some(80)),
            ("[::1]", None),
            ("[::1]:", None),
            ("[::1]:8443", Some(8443)),
        ] {
            assert_eq!(port(authority), expected, "{authority}");
        }
    }

    #[test]
    fn what_is_no_host() {
        let long_label = "a".repeat(64);
        let long_name = ["a".repeat(63).as_str(); 4].join(".");
        for authority in [
            "",
            ".",
            ":80",
            "..",
            "a..b",
            ".a",
            "a..",
            "user@host",
            "user:pw@host:80",
            "a b",
            " a",
            "a ",
            "a\t",
            "a\0",
            "a\n",
            "a:b",
            "a:80x",
            "a:-1",
            "a:+1",
            "a:65536",
            "a:80:90",
            "a:99999999999999999999",
            "a/b",
            "a\\b",
            "*",
            "*.example.com",
            "a%41",
            "a?b",
            "a#b",
            "a,b",
            "a;b",
            "exämple.com",
            "пример.рф",
            "::1",
            "[::1",
            "::1]",
            "[]",
            "[::1]x",
            "[::1]8080",
            "[::1]:x",
            "[::1%25eth0]",
            "[fe80::1%eth0]",
            "[v1.a]",
            "[127.0.0.1]",
            "[::1]:80:80",
            "[[::1]]",
            &long_label,
            &long_name,
        ] {
            assert_eq!(host(authority), None, "{authority:?}");
        }
    }

    #[test]
    fn a_host_in_normal_form_costs_no_allocation() {
        for authority in ["chat.example.com", "chat.example.com.:80", "[::1]:80", "[2001:db8::1]"] {
            assert_borrowed(host(authority));
        }
    }

    #[test]
    fn paths() {
        for (given, expected) in [
            ("/", "/"),
            ("/chat", "/chat"),
            ("/chat/", "/chat/"),
            ("/CHAT", "/CHAT"),
            ("/%63hat", "/chat"),
            ("/%7Euser/%2D%5f", "/~user/-_"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2Fb", "/a%2Fb"),
            ("/a%5cb", "/a%5Cb"),
            ("/a%3ab", "/a%3Ab"),
            ("/a:b", "/a:b"),
            ("/a%20b", "/a%20b"),
            ("/a b", "/a%20b"),
            ("/a\"<>^`{|}[]", "/a%22%3C%3E%5E%60%7B%7C%7D%5B%5D"),
            ("/ä", "/%C3%A4"),
            ("/%c3%a4", "/%C3%A4"),
            ("/%ff", "/%FF"),
            ("/%252e%252e/", "/%252e%252e/"),
            ("/%3F%23", "/%3F%23"),
            ("/.", "/"),
            ("/./", "/"),
            ("/a/.", "/a/"),
            ("/a/./b", "/a/b"),
            ("/a/..", "/"),
            ("/a/../", "/"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/../c", "/a/c"),
            ("/a/b/../../c", "/c"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a/%2e/b", "/a/b"),
            ("//", "//"),
            ("//a//b/", "//a//b/"),
            ("/a//./b", "/a//b"),
            ("/a//b/../c", "/a//c"),
            ("/a/..//b", "//b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/..a/b..", "/..a/b.."),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/a;..", "/a;.."),
            ("/a%2Fb..", "/a%2Fb.."),
            ("/!$&'()*+,;=:@-._~", "/!$&'()*+,;=:@-._~"),
        ] {
            assert_eq!(path(given).as_deref(), Some(expected), "{given}");
            assert_borrowed(path(expected));
        }
    }

    #[test]
    fn what_is_no_path() {
        for given in [
            "",
            "a",
            "*",
            "chat/",
            "http://a/b",
            "/%",
            "/%2",
            "/%zz",
            "/%2g",
            "/a%",
            "/%+1",
            "/%é1",
            "/\0",
            "/%00",
            "/a\nb",
            "/%0a",
            "/%0D",
            "/%1f",
            "/%7f",
            "/\x7f",
            "/\t",
            "/a\\b",
            "/\\..\\b",
            "/a?b",
            "/a#b",
            "/..",
            "/../",
            "/../a",
            "/a/../..",
            "/a/../../b",
            "/%2e%2e",
            "/./..",
            "/a//..",
            "//..",
            "//../a",
            "/a//../b",
            "/a/..%2f",
            "/a/..%2Fb",
            "/a/b%2f..",
            "/a/%2e%2e%2fb",
            "/a/..%5cb",
            "/a/b%5C.",
            "/a/.%2Fb",
            "/a%2f..%2Fb",
            "/a/..;/b",
            "/a/..;x=1/b",
            "/a/.;/b",
            "/a/%2e%2e;/b",
            "/a/x%2F..;b",
        ] {
            assert_eq!(path(given), None, "{given:?}");
        }
    }

    #[test]
    fn a_path_never_grows_by_more_than_its_escapes() {
        let long = "/é".repeat(10_000);
        assert_eq!(path(&long).map(|path| path.len()), Some(70_000));
    }
}
