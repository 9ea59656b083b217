//! What a client asked for, in normal form, so that two spellings of one address cannot reach different rules.

use std::borrow::Cow;

/// The host of an authority: lower case, without port and trailing dot. `None`: not a valid authority.
pub fn host(_authority: &str) -> Option<Cow<'_, str>> {
    None
}

/// The normal form of a request path (RFC 3986, 6.2.2): unreserved characters decoded, other escapes in upper case, dot
/// segments removed. `None`: malformed, or it climbs above the root.
pub fn path(_path: &str) -> Option<Cow<'_, str>> {
    None
}
