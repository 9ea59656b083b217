//! What the picks of one rule leave for the next one. Read and written by many threads at once, without a lock.

use std::{
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwapOption;

use super::{at, total};
use crate::routing::{persistence::Tokens, rendezvous, route::Rule};

/// Whose turn it is, the hashes of the backends, and which cookie names which endpoint: all made at the first use.
///
/// Belongs to the one [`Rule`] that it is a field of. Turns start anywhere, so that the replicas, and the tables that
/// follow one another, do not all begin with the first endpoint.
#[derive(Default)]
pub struct Cursor {
    places: OnceLock<Places>,
    tokens: ArcSwapOption<Tokens>,
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Places {
    turn: AtomicU64,
    backends: Box<[Place]>,
}

#[derive(Debug)]
struct Place {
    hash: u64,
    turn: AtomicU64,
}

impl Cursor {
    /// One that comes to the same next turns, and takes none from this one.
    pub(super) fn copy(&self) -> Self {
        let turn = |turn: &AtomicU64| AtomicU64::new(turn.load(Ordering::Relaxed));
        let copy = Self::default();
        if let Some(places) = self.places.get() {
            let backends = places.backends.iter().map(|place| Place {
                hash: place.hash,
                turn: turn(&place.turn),
            });
            let _ = copy.places.set(Places {
                turn: turn(&places.turn),
                backends: backends.collect(),
            });
        }
        copy
    }

    /// Where the next turn falls among the weights laid end to end.
    ///
    /// As many turns in a row as the weights add up to, once divided by what they have in common, give each backend
    /// exactly its share, well mixed.
    pub(super) fn next_backend(&self, rule: &Rule, weights: &[(usize, u32)]) -> Option<usize> {
        let common = weights.iter().fold(0, |common, &(_, weight)| gcd(common, u64::from(weight)));
        let turns = total(weights).checked_div(common)?;
        let step = (turns * 618 / 1_000..=turns).find(|&step| gcd(step, turns) == 1)?;
        let turn = self.places(rule).turn.fetch_add(1, Ordering::Relaxed) % turns;
        let place = u128::from(turn) * u128::from(step) % u128::from(turns) * u128::from(common);
        at(weights, u64::try_from(place).ok()?)
    }

    /// The next turn among the endpoints of a backend.
    pub(super) fn next_endpoint(&self, rule: &Rule, backend: usize) -> u64 {
        let place = self.places(rule).backends.get(backend);
        place.map_or(0, |place| place.turn.fetch_add(1, Ordering::Relaxed))
    }

    /// The hash of a backend's Service port.
    pub(super) fn hash_of(&self, rule: &Rule, backend: usize) -> u64 {
        self.places(rule).backends.get(backend).map_or(0, |place| place.hash)
    }

    pub(in crate::routing) fn tokens(&self) -> &ArcSwapOption<Tokens> {
        &self.tokens
    }

    fn places(&self, rule: &Rule) -> &Places {
        self.places.get_or_init(|| Places {
            turn: anywhere(),
            backends: (0..rule.backends.len())
                .map(|backend| Place {
                    hash: service_hash(rule, backend),
                    turn: anywhere(),
                })
                .collect(),
        })
    }
}

/// A Service port may be there twice: then the second one is another member.
fn service_hash(rule: &Rule, backend: usize) -> u64 {
    let service = &rule.backends[backend].service;
    let same = rule.backends[..backend]
        .iter()
        .filter(|other| other.service == *service)
        .count();
    rendezvous::hash("service", format!("{service}#{same}").as_bytes())
}

fn anywhere() -> AtomicU64 {
    AtomicU64::new(fastrand::u32(..).into())
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
