//! Query strings, read as browsers write them (`application/x-www-form-urlencoded`).

use std::borrow::Cow;

/// The value of the first parameter called `name`; empty if it has no `=`.
///
/// Names and values are compared decoded: `+` is a space, and an escape that is none stands for itself.
pub fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, [u8]>> {
    query?
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(found, _)| *decoded(found) == *name.as_bytes())
        .map(|(_, value)| decoded(value))
}

fn decoded(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'+' | b'%')) {
        return Cow::Borrowed(bytes);
    }
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, behind)) = rest.split_first() {
        let (byte, behind) = match (byte, behind) {
            (b'+', _) => (b' ', behind),
            (b'%', [high, low, after @ ..]) => match escaped(*high, *low) {
                Some(byte) => (byte, after),
                None => (byte, behind),
            },
            _ => (byte, behind),
        };
        plain.push(byte);
        rest = behind;
    }
    Cow::Owned(plain)
}

fn escaped(high: u8, low: u8) -> Option<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_parameter_of_a_name_decoded() {
        let query = Some("a=1&b=x+y%20z&&a=2&c&d=&e=%zz%4&%66=%C3%A4&g=a=b&plus=%2B&=none");
        for (name, expected) in [
            ("a", Some("1")),
            ("b", Some("x y z")),
            ("c", Some("")),
            ("d", Some("")),
            ("e", Some("%zz%4")),
            ("f", Some("ä")),
            ("g", Some("a=b")),
            ("plus", Some("+")),
            ("", Some("none")),
            ("A", None),
            ("missing", None),
        ] {
            assert_eq!(parameter(query, name).as_deref(), expected.map(str::as_bytes), "{name}");
        }
        assert_eq!(parameter(None, "a"), None);
        assert_eq!(parameter(Some(""), ""), None);
        assert_eq!(parameter(Some("a=%ff"), "a").as_deref(), Some(&[0xff][..]));
    }

    #[test]
    fn a_plain_value_is_borrowed() {
        assert!(matches!(parameter(Some("room=7"), "room"), Some(Cow::Borrowed(b"7"))));
    }
}
