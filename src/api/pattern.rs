//! The patterns of the schema's texts, and what they say in words.

/// A host, or a wildcard for the hosts below one.
pub(super) const HOSTNAME: &str = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// Labels with points between them.
pub(super) const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// An API group, which may be the core group.
pub(super) const GROUP: &str = r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A namespace.
pub(super) const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// A label that no number can be taken for.
pub(super) const RULE_NAME: &str = "^[a-z]([-a-z0-9]*[a-z0-9])?$";
/// A kind of object.
pub(super) const KIND: &str = "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$";
/// A token of RFC 9110: names of headers and cookies, subprotocols.
pub(super) const TOKEN: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";
/// A path that can stand in a cookie.
pub(super) const COOKIE_PATH: &str = "^/[!-:<-~]*$";
/// A host as in [`HOSTNAME`], or an origin as a browser writes it, with such a host.
pub(super) const ORIGIN: &str = concat!(
    r"^([a-z][-a-z0-9+.]*://(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*(:[0-9]{1,5})?",
    r"|(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)$",
);
/// What can be an address, perhaps with a prefix length; which ones are, is seen when they are read.
pub(super) const NETWORK: &str = "^[0-9a-fA-F:.]+(/[0-9]{1,3})?$";
/// A duration of GEP-2257.
pub(super) const DURATION: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
/// What a header field's value may be: printable ASCII, with spaces and tabs within.
pub(super) const HEADER_VALUE: &str = r"^[!-~]([\t -~]*[!-~])?$";
/// A path as a request has it, without a query.
pub(super) const REQUEST_PATH: &str = r##"^/[!"$->@-~]*$"##;
/// The same, or nothing.
pub(super) const REPLACEMENT: &str = r##"^(/[!"$->@-~]*)?$"##;
/// The name of a file that is not hidden.
pub(super) const FILE_NAME: &str = "^[A-Za-z0-9_][-A-Za-z0-9._]*$";
/// Such names with slashes between them.
pub(super) const FILE_PATH: &str = "^[A-Za-z0-9_][-A-Za-z0-9._]*(/[A-Za-z0-9_][-A-Za-z0-9._]*)*$";

/// What a text must be that has the pattern; `None` for patterns that are not of this API.
#[must_use]
pub fn pattern_in_words(pattern: &str) -> Option<&'static str> {
    let words = match pattern {
        HOSTNAME => "a host in lower case, without a port, perhaps with *. in front",
        SUBDOMAIN | GROUP => "a name of lower case letters, digits, - and . within",
        LABEL => "a name of lower case letters, digits and - within",
        RULE_NAME => "a name of lower case letters, digits and - that begins with a letter",
        KIND => "the kind of an object",
        TOKEN => "one word of letters, digits and !#$%&'*+-.^_`|~",
        COOKIE_PATH => "a path that begins with / and has no ; in it",
        HEADER_VALUE => "printable ASCII, with spaces and tabs only within",
        REQUEST_PATH => "a path that begins with / and has no ? or # in it",
        REPLACEMENT => "empty, or a path that begins with / and has no ? or # in it",
        FILE_NAME => "a file's name of letters, digits, -, _ and . that does not begin with . or -",
        FILE_PATH => "names of letters, digits, -, _ and . with / between them, none of which begins with . or -",
        ORIGIN => "a host in lower case, perhaps with *. in front, or an origin such as https://app.example.com:8443",
        NETWORK => "an address, or a network such as 10.0.0.0/8",
        DURATION => "a duration such as 90s, 1h30m or 250ms",
        _ => return None,
    };
    Some(words)
}
