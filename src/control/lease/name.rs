//! Makes any text a legal name or label value: what is legal stays as it is, anything else is cut and made unique by a hash.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// A label's value: 63 characters at most.
pub(super) fn label(text: &str) -> String {
    let is_legal = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) && has_ends(text);
    if text.len() <= MOST_LABEL && is_legal(text) {
        return text.to_owned();
    }
    shortened(text, MOST_LABEL)
}

/// An object's name: a DNS subdomain of 253 characters at most.
pub(super) fn object(text: &str) -> String {
    let is_legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let mut parts = text.split('.');
    if text.len() <= MOST_NAME && parts.all(|part| part.chars().all(is_legal) && has_ends(part)) {
        return text.to_owned();
    }
    shortened(text, MOST_NAME)
}

fn has_ends(text: &str) -> bool {
    let is_end = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(is_end) && text.ends_with(is_end)
}

/// What can be kept of the text, and eight digits of its hash.
fn shortened(text: &str, most: usize) -> String {
    let kept: String = text
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(most - 1 - 2 * HASH)
        .collect();
    let mut name = kept.trim_matches('-').to_owned();
    if !name.is_empty() {
        name.push('-');
    }
    for byte in &Sha256::digest(text.as_bytes())[..HASH] {
        let _ = write!(name, "{byte:02x}"); // a String takes everything
    }
    name
}

const MOST_LABEL: usize = 63;
const MOST_NAME: usize = 253;
/// Bytes.
const HASH: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_legal_stays() {
        for text in ["holdfast", "holdfast-7c9d-2xk4v", "a.b-c", "0"] {
            assert_eq!((label(text), object(text)), (text.to_owned(), text.to_owned()));
        }
        assert_eq!(label("A_b"), "A_b");
        assert_eq!(label(&"a".repeat(63)), "a".repeat(63));
        assert_eq!(object(&"a".repeat(253)), "a".repeat(253));
    }

    #[test]
    fn what_is_not_becomes_so_and_stays_unique() {
        let texts = [
            "Node_1",
            "node-1.",
            "",
            "-",
            "a..b",
            "ä",
            &"a".repeat(254),
            &"a".repeat(255),
            "node 1",
        ];
        for make in [label as fn(&str) -> String, object] {
            let mut made: Vec<String> = texts.iter().map(|text| make(text)).collect();
            for name in &made {
                assert!(name.len() <= 253 && has_ends(name), "{name}");
                assert_eq!(&make(name), name, "a legal name stays");
            }
            made.sort();
            made.dedup();
            assert_eq!(made.len(), texts.len());
        }
        assert_eq!(label(&"a".repeat(64)).len(), 63);
        assert_eq!(object(&"a".repeat(254)).len(), 253);
        assert!(object("Node_1").starts_with("node-1-"));
    }
}
