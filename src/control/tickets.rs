//! The keys of session tickets that replicas share: three in a Secret, which the leader fills and rotates.
//!
//! The Secret has the entries `next`, `current` and `previous`, 32 bytes each, and `rotated`, the time of the last rotation. In a
//! folder it is a file of type holdfast.dev/tickets, which is read and never written. Whatever becomes of the Secret, the last
//! good keys stay in effect.

mod keeper;
mod rotation;

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::ByteString;
use zeroize::Zeroizing;

pub(super) use keeper::{Keeper, keep, target, watched};

use crate::routing::{TicketKey, TicketKeys};

/// What the Secret has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) keys: Arc<TicketKeys>,
    /// When they were rotated last, in seconds since 1970; 0: it does not say.
    pub(super) rotated: i64,
}

/// Reads the entries of the Secret. `None`: it has no keys yet.
///
/// # Errors
/// Which entry is no key.
pub(super) fn read(data: &BTreeMap<String, ByteString>) -> Result<Option<Stored>, String> {
    let key = |entry: &str| {
        let Some(ByteString(bytes)) = data.get(entry).filter(|ByteString(bytes)| !bytes.is_empty()) else {
            return Ok(None);
        };
        let bytes: &[u8; TicketKey::LEN] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| format!("{entry} has {} bytes; a key has {}", bytes.len(), TicketKey::LEN))?;
        Ok::<_, String>(Some(TicketKey::new(Zeroizing::new(*bytes))))
    };
    let (next, current, previous) = (key(NEXT)?, key(CURRENT)?, key(PREVIOUS)?);
    let Some(current) = current else {
        return match next.or(previous) {
            Some(_) => Err(format!("{CURRENT} is missing")),
            None => Ok(None),
        };
    };
    let rotated = data
        .get(ROTATED)
        .and_then(|ByteString(text)| std::str::from_utf8(text).ok()?.parse::<Timestamp>().ok())
        .map_or(0, Timestamp::as_second);
    let keys = TicketKeys { next, current, previous };
    Ok(Some(Stored {
        keys: Arc::new(keys),
        rotated,
    }))
}

const NEXT: &str = "next";
const CURRENT: &str = "current";
const PREVIOUS: &str = "previous";
const ROTATED: &str = "rotated";

/// The type of the Secret.
pub(super) const SECRET: &str = "holdfast.dev/tickets";

#[cfg(test)]
mod tests {
    use super::*;

    fn data(entries: &[(&str, &[u8])]) -> BTreeMap<String, ByteString> {
        let entry = |(name, bytes): &(&str, &[u8])| ((*name).to_owned(), ByteString(bytes.to_vec()));
        entries.iter().map(entry).collect()
    }

    #[test]
    fn three_keys_are_read_and_what_is_none_is_named() {
        assert_eq!(read(&data(&[])), Ok(None));
        assert_eq!(read(&data(&[("current", b"")])), Ok(None));
        let all = data(&[
            ("next", &[3; 32]),
            ("current", &[2; 32]),
            ("previous", &[1; 32]),
            ("rotated", b"2026-01-01T00:00:00Z"),
        ]);
        let stored = read(&all).unwrap().unwrap();
        assert_eq!(stored.keys.current.bytes(), &[2; 32]);
        assert_eq!(stored.keys.next.as_ref().unwrap().bytes(), &[3; 32]);
        assert_eq!(stored.rotated, 1_767_225_600);
        let one = read(&data(&[("current", &[2; 32])])).unwrap().unwrap();
        assert_eq!((one.keys.next.as_ref(), one.rotated), (None, 0));
        for (entries, fault) in [
            (&[("current", &[2_u8; 16][..])][..], "current has 16 bytes; a key has 32"),
            (&[("next", &[2; 32])], "current is missing"),
        ] {
            assert_eq!(read(&data(entries)), Err(fault.to_owned()));
        }
    }
}
