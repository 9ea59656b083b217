//! Session tickets: encrypted with the key that replicas share, where there is one, else with one of this process.
//!
//! A ticket is the name of its key, a nonce, and the session under AES-256-GCM-SIV, which a nonce that comes twice by chance
//! does not break, however many tickets many replicas make with one key. It costs no memory here, and is bound by rustls to
//! the host that was asked for. What cannot be decrypted means a full handshake.

use std::sync::Arc;

use ::aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::{crypto::aws_lc_rs, server::ProducesTickets};

use crate::routing::{TicketKey, Tickets};

/// Makes tickets and takes them back.
#[derive(Debug)]
pub(super) struct Ticketer {
    shared: Tickets,
    /// While there are no shared keys. What it has made stays good when there are.
    own: Arc<dyn ProducesTickets>,
}

impl Ticketer {
    /// # Errors
    /// When the process has no source of randomness.
    pub fn new(shared: Tickets) -> Result<Self, rustls::Error> {
        Ok(Self {
            shared,
            own: aws_lc_rs::Ticketer::new()?,
        })
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        match &*self.shared.load() {
            Some(keys) => seal(&keys.current, plain),
            None => self.own.encrypt(plain),
        }
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let name = ticket.get(..TicketKey::NAME)?;
        match self.shared.load().as_ref().and_then(|keys| keys.named(name)) {
            Some(key) => open(key, ticket),
            None => self.own.decrypt(ticket),
        }
    }
}

fn seal(key: &TicketKey, plain: &[u8]) -> Option<Vec<u8>> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).ok()?;
    let mut body = plain.to_vec();
    let nonce_of = Nonce::assume_unique_for_key(nonce);
    aead(key)?
        .seal_in_place_append_tag(nonce_of, Aad::from(key.name()), &mut body)
        .ok()?;
    Some([&key.name()[..], &nonce, &body].concat())
}

fn open(key: &TicketKey, ticket: &[u8]) -> Option<Vec<u8>> {
    let (nonce, body) = ticket.get(TicketKey::NAME..)?.split_first_chunk::<{ NONCE_LEN }>()?;
    let mut body = body.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let plain = aead(key)?.open_in_place(nonce, Aad::from(key.name()), &mut body).ok()?;
    Some(plain.to_vec())
}

fn aead(key: &TicketKey) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM_SIV, key.bytes()).ok().map(LessSafeKey::new)
}

/// Seconds that a ticket is good for, at least: one period of rotation, for its key decrypts as long again as it encrypts.
const LIFETIME: u32 = 12 * 3600;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;
    use crate::routing::TicketKeys;

    fn key(byte: u8) -> TicketKey {
        TicketKey::new(Zeroizing::new([byte; 32]))
    }

    fn keys(next: u8, current: u8, previous: u8) -> Option<Arc<TicketKeys>> {
        Some(Arc::new(TicketKeys {
            next: Some(key(next)),
            current: key(current),
            previous: Some(key(previous)),
        }))
    }

    fn ticketer(keys: Option<Arc<TicketKeys>>) -> Ticketer {
        let shared = Tickets::default();
        shared.store(keys);
        Ticketer::new(shared).unwrap()
    }

    #[test]
    fn a_ticket_is_good_with_the_replica_before_and_after_a_rotation_and_not_two_later() {
        let plain = b"a session";
        let ticket = ticketer(keys(3, 2, 1)).encrypt(plain).unwrap();
        for (keys, is_good) in [
            (keys(2, 1, 0), true), // a replica that has not heard of the rotation yet
            (keys(3, 2, 1), true),
            (keys(4, 3, 2), true),
            (keys(5, 4, 3), false),
            (None, false),
        ] {
            assert_eq!(ticketer(keys).decrypt(&ticket).as_deref(), is_good.then_some(&plain[..]));
        }
    }

    #[test]
    fn tickets_of_before_the_keys_came_stay_good() {
        let ticketer = ticketer(None);
        let ticket = ticketer.encrypt(b"early").unwrap();
        ticketer.shared.store(keys(3, 2, 1));
        assert_eq!(ticketer.decrypt(&ticket).as_deref(), Some(&b"early"[..]));
        let later = ticketer.encrypt(b"late").unwrap();
        assert!(later.starts_with(key(2).name()));
        assert_ne!(later, ticketer.encrypt(b"late").unwrap(), "no two are the same");
    }

    proptest! {
        #[test]
        fn what_was_tampered_with_is_no_ticket(at in 0..200usize, bit in 0..8_u32, cut in 0..80usize) {
            let ticketer = ticketer(keys(3, 2, 1));
            let ticket = ticketer.encrypt(&[7; 120]).unwrap();
            let mut other = ticket.clone();
            let at = at.min(other.len() - 1);
            other[at] ^= 1_u8 << bit;
            prop_assert_eq!(ticketer.decrypt(&other), None);
            prop_assert_eq!(ticketer.decrypt(&ticket[..ticket.len() - 1 - cut]), None);
        }
    }
}
