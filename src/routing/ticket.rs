//! The keys of TLS session tickets that replicas share, so that a client resumes with whichever replica it comes back to.
//!
//! The control plane takes them from a Secret; the proxy encrypts with the current one and decrypts with each of the three. No
//! replica looks at a clock for that: a key is known to all as the next one long before it encrypts.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwapOption;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// One key. Its bytes are wiped when it is dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKey {
    bytes: Zeroizing<[u8; TicketKey::LEN]>,
    name: [u8; TicketKey::NAME],
}

impl TicketKey {
    /// Bytes of a key: for AES-256.
    pub const LEN: usize = 32;
    /// Bytes of its name.
    pub const NAME: usize = 16;

    pub fn new(bytes: Zeroizing<[u8; Self::LEN]>) -> Self {
        let digest = Sha256::new().chain_update(NAMING).chain_update(bytes.as_slice()).finalize();
        let mut name = [0; Self::NAME];
        name.copy_from_slice(&digest[..Self::NAME]);
        Self { bytes, name }
    }

    /// What goes before each ticket, so that its key is found. It tells nothing of the key.
    pub fn name(&self) -> &[u8; Self::NAME] {
        &self.name
    }

    /// The key itself: for the one who encrypts, and the one who writes the Secret.
    pub fn bytes(&self) -> &[u8; Self::LEN] {
        &self.bytes
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").finish_non_exhaustive()
    }
}

/// The keys of one period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketKeys {
    /// Encrypts after the next rotation. Other replicas may have rotated already.
    pub next: Option<TicketKey>,
    /// Encrypts.
    pub current: TicketKey,
    /// Has encrypted before the last rotation.
    pub previous: Option<TicketKey>,
}

impl TicketKeys {
    /// The key of this name.
    pub fn named(&self, name: &[u8]) -> Option<&TicketKey> {
        let others = self.previous.iter().chain(&self.next);
        std::iter::once(&self.current).chain(others).find(|key| key.name == name)
    }
}

/// Where the control plane puts the keys and the proxy reads them. Empty: each replica has keys of its own.
pub type Tickets = Arc<ArcSwapOption<TicketKeys>>;

/// Sets the name apart from anything else that could be made of the same bytes.
const NAMING: &[u8] = b"holdfast: the name of a ticket key\0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_its_name_and_never_shown() {
        let key = |byte| TicketKey::new(Zeroizing::new([byte; 32]));
        let keys = TicketKeys {
            next: Some(key(3)),
            current: key(2),
            previous: None,
        };
        assert_eq!(keys.named(key(2).name()), Some(&keys.current));
        assert_eq!(keys.named(key(3).name()), keys.next.as_ref());
        assert_eq!(keys.named(key(1).name()), None);
        let shown = format!("{keys:?}");
        assert!(!shown.contains('2') && !shown.contains("bytes"), "{shown}");
    }
}
